"""A language model that was never trained to rank, read as a teacher.

"likelihood": mean log-probability of the query's tokens given the passage (UPR, Sachan et al.
2022).  "yes-no": log-odds of yes against no as the next token (monoT5, Nogueira et al. 2020;
Qwen3-Reranker).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.errors import BackendError, ConfigError, excerpt, nearest
from dear.models.contract import DType
from dear.models.encoding import Encoded, Pair
from dear.models.family import locate
from dear.models.loading import (
    load_tokenizer,
    pick_attention,
    pick_device,
    pick_dtype,
    reading,
    revision_of,
)
from dear.models.scorer import Progress, collate, default_batch_tokens, token_batches
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS, ZeroShotPrompt


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt in tokens; the last `target` of them are scored (likelihood only)."""

    ids: list[int]
    target: int

    def __len__(self) -> int:
        return len(self.ids)


class ZeroShot:
    """Scores pairs with a causal or encoder-decoder language model as it comes.

    prompt: a key of ZERO_SHOT_PROMPTS.
    max_query_tokens, max_passage_tokens: each text is cut to its own limit.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        prompt: str = "upr",
        max_query_tokens: int = 64,
        max_passage_tokens: int = 256,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        if prompt not in ZERO_SHOT_PROMPTS:
            raise ConfigError(f"no prompt {prompt!r}{nearest(prompt, ZERO_SHOT_PROMPTS)}")
        self.prompt: ZeroShotPrompt = ZERO_SHOT_PROMPTS[prompt]
        self.limits = (max_query_tokens, max_passage_tokens)
        source = locate(name)
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.tokenizer = load_tokenizer(source)
        auto = AutoModelForSeq2SeqLM if self.prompt.seq2seq else AutoModelForCausalLM
        with reading(source.path):
            self.model: Any = auto.from_pretrained(
                source.path,
                gguf_file=source.gguf_file,
                revision=source.revision,
                dtype=getattr(torch, self.dtype),
                attn_implementation=pick_attention(),
                trust_remote_code=False,
            )
        self.model.to(self.device).eval()
        self.name = f"{prompt}:{name}"
        self.revision = revision_of(source, self.model)
        self.batch_tokens = batch_tokens or default_batch_tokens(self.device)
        if self.prompt.read == "yes-no":
            self._answers = [self._first_token(a) for a in (self.prompt.yes, self.prompt.no)]

    @property
    def contract(self) -> dict[str, Any]:
        """How the model is asked: what a label file is stamped with."""
        return {
            "kind": "zero-shot",
            **dataclasses.asdict(self.prompt),
            "max_query_tokens": self.limits[0],
            "max_passage_tokens": self.limits[1],
            "dtype": self.dtype,
        }

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.contract, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,): mean log-probability of a query token in nats, or log-odds of yes."""
        asked = [self._ask(*pair) for pair in pairs]
        scores = np.empty(len(pairs), dtype=np.float32)
        done = 0
        for batch in token_batches([len(a) for a in asked], self.batch_tokens):
            scores[batch] = self._forward([asked[i] for i in batch])
            done += len(batch)
            if progress is not None:
                progress(done, len(pairs))
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            query, passage = pairs[int(bad[0])]
            raise BackendError(
                f"{self.name}: score {scores[bad[0]]} for query {excerpt(query)}, passage "
                f"{excerpt(passage)}"
            )
        return scores

    def _ask(self, query: str, passage: str) -> _Asked:
        query = self._cut(query, self.limits[0])
        before, body, after, target = self.prompt.render(query, passage)
        ids = self._tokens(before, special=True)
        ids += self._tokens(body)[: self.limits[1]]
        ids += self._tokens(after)
        scored = self._tokens(target) if target else []
        if self.prompt.seq2seq and self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return _Asked(ids + scored, len(scored))

    def _cut(self, text: str, limit: int) -> str:
        ids = self._tokens(text)
        return text if len(ids) <= limit else str(self.tokenizer.decode(ids[:limit]))

    def _tokens(self, text: str, *, special: bool = False) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if special and not self.prompt.seq2seq and self._opens_with_bos():
            ids.insert(0, self.tokenizer.bos_token_id)
        return ids

    def _opens_with_bos(self) -> bool:
        """Whether the tokenizer itself would put a bos token in front."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    def _first_token(self, answer: str) -> int:
        ids = self._tokens(answer)
        if not ids:
            raise ConfigError(f"{self.name}: the tokenizer makes no token of {answer!r}")
        return ids[0]

    def _forward(self, asked: Sequence[_Asked]) -> NDArray[np.float32]:
        pad = self.tokenizer.pad_token_id
        ids, mask, _ = collate([Encoded(a.ids, [0] * len(a)) for a in asked], pad_id=pad)
        ids, mask = ids.to(self.device), mask.to(self.device)
        with torch.inference_mode():
            if self.prompt.seq2seq:
                return self._odds(self._first_output(ids, mask))
            hidden = self.model.model(
                input_ids=ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
            if self.prompt.read == "yes-no":
                last = mask.sum(-1) - 1
                return self._odds(self._logits(hidden[torch.arange(len(last)), last]))
            return self._likelihoods(asked, ids, hidden)

    def _likelihoods(
        self, asked: Sequence[_Asked], ids: torch.Tensor, hidden: torch.Tensor
    ) -> NDArray[np.float32]:
        """Only the positions in front of a scored token go through the vocabulary."""
        rows, places = [], []
        for row, a in enumerate(asked):
            rows += [row] * a.target
            places += range(len(a) - a.target - 1, len(a) - 1)
        row, place = torch.tensor(rows), torch.tensor(places)
        wanted = ids[row, place + 1]
        logs = self._logits(hidden[row, place]).log_softmax(-1)
        found = logs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        sums = torch.zeros(len(asked)).index_add_(0, row, found.cpu())
        counts = torch.tensor([max(a.target, 1) for a in asked])
        return (sums / counts).numpy().astype(np.float32)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]

    def _first_output(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        start = torch.full((len(ids), 1), self.model.config.decoder_start_token_id)
        out = self.model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=start.to(self.device)
        )
        return out.logits[:, 0].float()  # type: ignore[no-any-return]

    def _odds(self, logits: torch.Tensor) -> NDArray[np.float32]:
        yes, no = self._answers
        return (logits[:, yes] - logits[:, no]).cpu().numpy().astype(np.float32)
