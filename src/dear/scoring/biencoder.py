"""A bi-encoder read as a reranker: the similarity of two embeddings."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dear.checkpoints.composite import encoder_class
from dear.checkpoints.contract import DType, fingerprint_of
from dear.checkpoints.files import model_json
from dear.checkpoints.layers import own_length
from dear.checkpoints.registry import Source, known_embedder, locate
from dear.checkpoints.sentence_transformers import (
    ModuleEntry,
    settings_of,
    stored_prompt,
    transformer_entry,
    transformer_settings,
    transformer_source,
)
from dear.checkpoints.sentence_transformers_modules import (
    Stack,
    mean_stack,
    pooling_of,
    read_stack,
)
from dear.checkpoints.threads import exclusive, tokenize
from dear.checkpoints.tokenizer import lower_cased
from dear.errors import ConfigError, nearest
from dear.notices import say
from dear.scoring.batching import (
    ANY_SHAPE,
    ONE_LENGTH,
    Progress,
    in_batches,
    pick_batch_tokens,
    require_finite,
)
from dear.scoring.company import (
    LONG,
    READ_PADDING,
    SHORT,
    depends_on_company,
    require_computing,
    tell,
)
from dear.scoring.dual import SIMILARITIES, DualScorer, Vector, compared
from dear.scoring.encoding import Encoded, Pair, encode_texts
from dear.scoring.loading import Reader, count_parameters, load_reader
from dear.scoring.queue import Scored
from dear.scoring.tensors import collate

MAX_TOKENS = 256
"""Where a text is cut if its folder does not say."""

_INSTRUCTED = re.compile(r"Instruct: (.*)\n(Query: ?)", re.DOTALL)
"""The query prompt of embedders that are told what to look for."""


@dataclass(frozen=True, slots=True)
class _Text(Encoded):
    """prompt: how many of the first tokens are a prompt's."""

    prompt: int = 0


class BiEncoder:
    """Similarity of two embeddings: cosine in [-1, 1] unless the folder says dot, euclidean or
    manhattan (the last two negative, so that higher is better).

    Pooling, dense layers, norms, prompts, similarity and length are read from the files that
    sentence-transformers writes; prompts of public embedders that keep them in their model card
    are known by name. Mean pooling, cosine and 256 tokens where nothing is said.
    instruction: what to look for, for models whose query prompt is `Instruct: …\\nQuery:`.
    ConfigError for a module that is not read here.
    """

    kind = "biencoder"

    def __init__(
        self,
        name: str | Path,
        *,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
        instruction: str | None = None,
    ) -> None:
        source = locate(name, revision=revision)
        entry = transformer_entry(source)
        reader = _read(source, entry, dtype, device)
        if not require_computing(str(name), dtype, reader.dtype, lambda: _first_pass(reader)):
            reader = _read(source, entry, "float32", device)
        self.name = f"{self.kind}:{name}"
        self.revision = reader.revision
        self.model, self.tokenizer, self.device = reader.model, reader.tokenizer, reader.device
        settings = transformer_settings(source, entry)
        if settings.get("do_lower_case"):
            self.tokenizer = lower_cased(self.tokenizer)
        self.stack = (read_stack(source) or _old_stack(source)).to(self.device)
        self.parameters = count_parameters(self.model) + count_parameters(self.stack)
        self.batch_tokens = pick_batch_tokens(batch_tokens, self.device)
        pooling = self.stack.pooling
        self.pooling = "+".join(_POOLING_NAMES.get(mode, mode) for mode in pooling.modes)
        self.max_tokens = own_length(source, self.tokenizer, self.model.config, entry=entry)
        if not settings:
            self.max_tokens = min(self.max_tokens, MAX_TOKENS)
        self.query_prompt, self.passage_prompt = _prompts(source, str(name), instruction)
        self.similarity = str(settings_of(source).get("similarity_fn_name") or "cosine")
        self.similarity = {"dot_product": "dot"}.get(self.similarity, self.similarity)
        if self.similarity not in SIMILARITIES:
            raise ConfigError(
                f"{name}: no similarity {self.similarity!r}{nearest(self.similarity, SIMILARITIES)}"
            )
        self.contract = {
            "kind": self.kind,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
            "dtype": reader.dtype,
        }
        # what came later is left out where it says nothing, so that old labels stay what they are
        dense = [type(part).__name__ for part in self.stack.parts if count_parameters(part)]
        if dense:
            self.contract["modules"] = dense
        if self.similarity != "cosine":
            self.contract["similarity"] = self.similarity
        if not pooling.include_prompt:
            self.contract["include_prompt"] = False
        self.fingerprint = fingerprint_of(self.contract)
        self._prompt_tokens = self._count_prompts() if not pooling.include_prompt else {}
        self._grid = ANY_SHAPE
        if self.model.config.model_type in READ_PADDING or depends_on_company(
            self._forward, self.encode([SHORT, LONG]), exact=reader.dtype == "float32"
        ):
            self._grid = ONE_LENGTH
            tell(self.name)
        self.dual = DualScorer[Vector](
            encode=self.encode,
            represent=self._embed,
            compare=partial(compared, self.similarity),
            query_prompt=self.query_prompt,
            passage_prompt=self.passage_prompt,
        )
        self.tokens_scored = 0
        self._counting = threading.Lock()
        say(
            f"{self.name}: {self.similarity} of {self.pooling}-pooled embeddings"
            + "".join(f" behind {kind}" for kind in dense)
            + f", {self.max_tokens:,} tokens; prompts {self.query_prompt!r} and "
            f"{self.passage_prompt!r}"
        )

    def prepare(self, pairs: Sequence[Pair], progress: Progress | None = None) -> None:
        """Embed every text of `pairs` and keep it; see `DualScorer.prepare`."""
        self.dual.prepare(pairs, progress)

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,) similarities."""
        return self.score_read(pairs, progress).scores

    def score_read(self, pairs: Sequence[Pair], progress: Progress | None = None) -> Scored:
        """The same, with what was read of each pair; see `DualScorer.score_read`."""
        found = self.dual.score_read(pairs, progress)
        require_finite(self.name, found.scores, pairs)
        return found

    def embed(
        self, texts: Sequence[str], progress: Progress | None = None, total: int | None = None
    ) -> NDArray[np.float32]:
        """float32 (n, dimensions) embeddings in the order given, of length 1 under cosine.

        progress: called in proportion to `total`, the number of texts where None.
        """
        return self._embed(texts, self.encode(texts), progress, total)

    def _embed(
        self,
        texts: Sequence[str],
        encoded: Sequence[Encoded],
        progress: Progress | None,
        total: int | None,
    ) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.model.config.get_text_config().hidden_size), dtype=np.float32)
        with self._counting:
            self.tokens_scored += sum(map(len, encoded))
        with_prompts = [
            _Text(one.ids, one.types, one.cut, self._prompt_length(text))
            for one, text in zip(encoded, texts, strict=True)
        ]
        forward, budget = self._forward, self.batch_tokens
        return in_batches(with_prompts, budget, forward, progress, total, self._grid)

    def encode_queries(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """`embed` behind the prompt of queries."""
        return self.embed([self.query_prompt + text for text in texts], progress)

    def encode_passages(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """`embed` behind the prompt of passages."""
        return self.embed([self.passage_prompt + text for text in texts], progress)

    def _prompt_length(self, text: str) -> int:
        """Tokens of the prompt that a text begins with, where prompts are not pooled."""
        found = (n for prompt, n in self._prompt_tokens.items() if text.startswith(prompt))
        return max(found, default=0)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One Encoded a text; one pad token for a text of which nothing is left."""
        return encode_texts(self.tokenizer, texts, self.max_tokens)

    def cut_pairs(self, pairs: Sequence[Pair]) -> list[bool]:
        """Which pairs have a passage that is longer than the model reads it."""
        return self.dual.cut_pairs(pairs)

    def pooled(
        self, ids: torch.Tensor, mask: torch.Tensor, prompt: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 (B, dimensions), of length 1 under cosine; padding on the right.

        prompt: int (B,), tokens of a prompt that may not be pooled.
        """
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors: torch.Tensor = self.stack(hidden, mask, prompt)
        cosine = self.similarity == "cosine"
        return torch.nn.functional.normalize(vectors, dim=-1) if cosine else vectors

    def _forward(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        ids, mask, _ = collate(encoded, pad_id=self.tokenizer.pad_token_id)
        prompt = torch.tensor([getattr(one, "prompt", 0) for one in encoded], device=self.device)
        with exclusive(self.model), torch.inference_mode():
            vectors = self.pooled(ids.to(self.device), mask.to(self.device), prompt)
        return vectors.cpu().numpy()

    def _count_prompts(self) -> dict[str, int]:
        """Prompt → its tokens, a special token at its end left out, as it is not there in use."""
        found = {}
        for prompt in filter(None, (self.query_prompt, self.passage_prompt)):
            ids = tokenize(self.tokenizer, prompt)["input_ids"]
            found[prompt] = len(ids) - (ids[-1] in self.tokenizer.all_special_ids)
        return found


_POOLING_NAMES = {"lasttoken": "last"}
"""As contracts have called them since before there were others."""


def _read(source: Source, entry: ModuleEntry, dtype: DType, device: str) -> Reader:
    return load_reader(
        transformer_source(source, entry),
        encoder_class(source, entry),
        dtype=dtype,
        device=device,
        stamped=source,
    )


def _first_pass(reader: Reader) -> None:
    inputs = reader.tokenizer(SHORT, return_tensors="pt")
    ids, mask = (inputs[key].to(reader.device) for key in ("input_ids", "attention_mask"))
    with torch.inference_mode():
        reader.model(input_ids=ids, attention_mask=mask)


def _old_stack(source: Source) -> Stack:
    """Of a folder without a modules.json: the pooling that is there all the same, or the mean."""
    config = model_json(source, "1_Pooling/config.json")
    return Stack([pooling_of(source, config)]) if config else mean_stack()


def _prompts(source: Source, name: str, instruction: str | None) -> tuple[str, str]:
    """What goes before queries and before passages."""
    query = stored_prompt(source, "query")
    passage = stored_prompt(source, "document", "passage", "corpus")
    known = known_embedder(source)
    if not query and not passage and known is not None:
        query, passage = known.query_prompt, known.passage_prompt
    if instruction is not None:
        if not _INSTRUCTED.fullmatch(query):
            raise ConfigError(f"{name}: its query prompt {query!r} has no place for an instruction")
        query = _INSTRUCTED.sub(lambda m: f"Instruct: {instruction}\n{m.group(2)}", query)
    return query, passage
