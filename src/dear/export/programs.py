"""The programs that use exports, as their users start them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import dear
from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.files import quiet
from dear.export.frame import whole_length
from dear.export.score_template import SCORE_TEMPLATE, render
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.scoring.batching import token_batches
from dear.scoring.encoding import Pair
from dear.scoring.opening import PairModel, open_model
from dear.scoring.scorer import Scorer

BATCH_TOKENS = 2048


class Ours:
    """DeAR itself: for a checkpoint, and for the graphs that only it runs as they are meant."""

    def __init__(self, model: Path | PairModel) -> None:
        self.model = open_model(model) if isinstance(model, Path) else model
        computing: dict[str, str] = getattr(self.model, "computing", {})
        self.name = f"dear {dear.__version__}, {computing.get('engine', 'PyTorch')}"

    def read(self, pairs: Sequence[Pair]) -> list[list[int]]:
        model: Any = self.model
        if isinstance(model, Scorer):
            return [one.ids for one in model.encoder.encode(pairs)]
        queries = model.encode([model.query_prompt + query for query, _ in pairs])
        passages = model.encode([model.passage_prompt + passage for _, passage in pairs])
        return [[*a.ids, *b.ids] for a, b in zip(queries, passages, strict=True)]

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        return self.model.score(pairs)


class Transformers:
    """transformers alone: AutoModelForSequenceClassification on padded batches.

    A pair is read through the folder's score template where there is one, as vLLM reads it; else
    as two texts.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"transformers {transformers.__version__}"
        with quiet():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype="auto", trust_remote_code=False, local_files_only=True
            ).eval()
        contract = ScoringContract.load(folder)
        assert contract is not None  # the writer saves it
        self._contract = contract
        path = folder / SCORE_TEMPLATE
        self._template = path.read_text(encoding="utf-8") if path.is_file() else None

    def read(self, pairs: Sequence[Pair]) -> list[list[int]]:
        return [list(ids) for ids in self._encoded(pairs)["input_ids"]]

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        encoded = self._encoded(pairs)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        scores = np.empty(len(pairs), dtype=np.float32)
        with quiet(), torch.inference_mode():
            for rows in token_batches(lengths, BATCH_TOKENS):
                batch = {name: [column[i] for i in rows] for name, column in encoded.items()}
                inputs = self._tokenizer.pad(batch, return_tensors="pt")
                scores[rows] = self._model(**inputs).logits[:, 0].float().numpy()
        return scores

    def _encoded(self, pairs: Sequence[Pair]) -> dict[str, list[Any]]:
        most: dict[str, Any] = {
            "truncation": "longest_first",
            "max_length": whole_length(self._tokenizer, self._contract),
        }
        with quiet():
            if self._template is not None:
                texts = [render(self._template, *pair) for pair in pairs]
                return dict(self._tokenizer(texts, **most))
            prompt, prefix = PAIR_PROMPTS[self._contract.prompt], self._contract.query_prefix
            both = [prompt.render(prefix + query, passage) for query, passage in pairs]
            return dict(self._tokenizer([q for q, _ in both], [p for _, p in both], **most))


class CrossEncoders:
    """sentence-transformers' CrossEncoder, opened and asked as its own documents show."""

    def __init__(self, folder: Path) -> None:
        import sentence_transformers

        self.name = f"sentence-transformers {sentence_transformers.__version__}"
        with quiet():
            self._model = sentence_transformers.CrossEncoder(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                device="cpu",
                model_kwargs={"dtype": "auto"},
            )

    def read(self, pairs: Sequence[Pair]) -> list[list[int]]:
        with quiet():
            prompt = self._model.prompts.get(self._model.default_prompt_name or "")
            found = [self._model.preprocess([pair], prompt=prompt) for pair in pairs]
        return [one["input_ids"][0].tolist() for one in found]

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        with quiet():
            found = self._model.predict(list(pairs), show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)
