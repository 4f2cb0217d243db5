"""A language model that was never trained to rank, read as a teacher.

"likelihood": mean log-probability of the query's tokens given the passage (UPR, Sachan et al.
2022).  "yes-no": log-odds of yes against no as the next token (monoT5, Nogueira et al. 2020;
Qwen3-Reranker).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dear.checkpoints.contract import DType, fingerprint_of
from dear.checkpoints.layers import NO_LIMIT, own_length
from dear.checkpoints.threads import exclusive, tokenize
from dear.errors import ConfigError, nearest
from dear.notices import warn
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS
from dear.scoring.batching import Progress, in_batches, pick_batch_tokens, require_finite
from dear.scoring.encoding import Encoded, Pair
from dear.scoring.loading import count_parameters, load_reader
from dear.scoring.template import TextTemplate
from dear.scoring.tensors import collate

MAX_QUERY_TOKENS = 256
MAX_PASSAGE_TOKENS = 1024
"""Tokens of a zero-shot prompt's texts, unless somebody says else."""


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
    max_query_tokens, max_passage_tokens: the prompt is read as one text, as these models saw it
        in their own training, and loses the ends of query and passage beyond these limits. They
        are lowered to what the model's own length leaves, and what is cut is told.
    instruction: what a prompt with a place for it asks for; its own where None.
    The vocabulary's logits are float32 in any case.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        prompt: str = "upr",
        max_query_tokens: int | None = None,
        max_passage_tokens: int | None = None,
        instruction: str | None = None,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
    ) -> None:
        if prompt not in ZERO_SHOT_PROMPTS:
            raise ConfigError(f"no prompt {prompt!r}{nearest(prompt, ZERO_SHOT_PROMPTS)}")
        self.prompt = ZERO_SHOT_PROMPTS[prompt]
        if instruction is not None:
            if "{instruction}" not in self.prompt.prompt:
                raise ConfigError(f"{prompt}: this prompt takes no instruction")
            self.prompt = dataclasses.replace(self.prompt, instruction=instruction)
        self.limits = {
            "query": MAX_QUERY_TOKENS if max_query_tokens is None else max_query_tokens,
            "passage": MAX_PASSAGE_TOKENS if max_passage_tokens is None else max_passage_tokens,
        }
        if min(self.limits.values()) < 1:
            raise ConfigError(f"{prompt}: the limits of query and passage must be 1 or more")
        auto = AutoModelForSeq2SeqLM if self.prompt.seq2seq else AutoModelForCausalLM
        reader = load_reader(name, auto, dtype=dtype, device=device, revision=revision)
        self.name = f"{prompt}:{name}"
        self.revision = reader.revision
        self.model, self.tokenizer, self.device = reader.model, reader.tokenizer, reader.device
        self.parameters = count_parameters(self.model)
        self.batch_tokens = pick_batch_tokens(batch_tokens, self.device)
        self.contract = {
            "kind": "zero-shot",
            **dataclasses.asdict(self.prompt),
            "max_query_tokens": self.limits["query"],
            "max_passage_tokens": self.limits["passage"],
            "dtype": reader.dtype,
        }
        if not self.prompt.instruction:
            del self.contract["instruction"]
        self.fingerprint = fingerprint_of(self.contract)
        self.tokens_scored = 0
        self._counting = threading.Lock()
        self._cut_was_told = False
        self._text = TextTemplate(self.tokenizer, [self.prompt.prompt])
        self._target = TextTemplate(self.tokenizer, [self.prompt.target])
        self._longest = own_length(reader.source, self.tokenizer, self.model.config, NO_LIMIT)
        self._first = self._opening()
        self._answers = self._answer_ids() if self.prompt.read == "yes-no" else []

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,): mean log-probability of a query token in nats, or log-odds of yes.

        The likelihood of a blank query, which has no tokens to score, is 0 for every passage.
        """
        if not pairs:
            return np.empty(0, dtype=np.float32)
        asked = self._ask(pairs)
        with self._counting:
            self.tokens_scored += sum(map(len, asked))
        scores = in_batches(asked, self.batch_tokens, self._forward, progress)
        require_finite(self.name, scores, pairs)
        return scores

    def _ask(self, pairs: Sequence[Pair]) -> list[_Asked]:
        rows = [
            {"instruction": self.prompt.instruction, "query": q, "passage": p} for q, p in pairs
        ]
        query_limit = {"query": self.limits["query"]}
        targets = [
            ([], False) if not query.strip() else target
            for (query, _), target in zip(
                pairs, self._target.encode_cut(rows, limits=query_limit), strict=True
            )
        ]
        last = [self.tokenizer.eos_token_id] if self.prompt.seq2seq else []
        longest = max((len(ids) for ids, _ in targets), default=0)
        room = self._longest - len(self._first) - len(last) - longest
        prompts = self._text.encode_cut(rows, room, self.limits)
        asked = [
            _Asked([*self._first, *prompt, *last, *target], len(target))
            for (prompt, _), (target, _) in zip(prompts, targets, strict=True)
        ]
        cut = sum(a or b for (_, a), (_, b) in zip(prompts, targets, strict=True))
        if cut and not self._cut_was_told:
            self._cut_was_told = True
            warn(
                f"{self.name}: {cut:,} of {len(pairs):,} pairs are cut, to "
                f"{self.limits['passage']} tokens of the passage (max_passage_tokens), "
                f"{self.limits['query']} of the query and {self._longest:,} in all"
            )
        return asked

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        batch = tokenize(self.tokenizer, texts, add_special_tokens=False, verbose=False)
        return list(batch["input_ids"])

    def _opening(self) -> list[int]:
        """The bos token, where the tokenizer itself would put one in front."""
        bos = self.tokenizer.bos_token_id
        opens = bos is not None and tokenize(self.tokenizer, "a")["input_ids"][:1] == [bos]
        return [bos] if opens and not self.prompt.seq2seq else []

    def _answer_ids(self) -> list[int]:
        yes, no = self._tokens([self.prompt.yes, self.prompt.no])
        if not yes or not no or yes[0] == no[0]:
            raise ConfigError(
                f"{self.name}: the tokenizer does not tell {self.prompt.yes!r} from "
                f"{self.prompt.no!r} by their first token"
            )
        return [yes[0], no[0]]

    def _forward(self, asked: Sequence[_Asked]) -> NDArray[np.float32]:
        ids, mask, _ = collate(
            [Encoded(a.ids, [0] * len(a)) for a in asked], pad_id=self.tokenizer.pad_token_id
        )
        ids, mask = ids.to(self.device), mask.to(self.device)
        with exclusive(self.model), torch.inference_mode():
            if self.prompt.seq2seq:
                scores = self._odds(self._first_output(ids, mask))
            else:
                body = getattr(self.model, self.model.base_model_prefix)
                hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                if self.prompt.read == "yes-no":
                    row = torch.arange(len(asked), device=self.device)
                    scores = self._odds(hidden[row, mask.sum(-1) - 1])
                else:
                    scores = self._likelihoods(asked, ids, hidden)
        return scores.cpu().numpy().astype(np.float32, copy=False)

    def _likelihoods(
        self, asked: Sequence[_Asked], ids: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Only the positions in front of a scored token go through the vocabulary."""
        counts = torch.tensor([a.target for a in asked], device=self.device)
        row = torch.arange(len(asked), device=self.device).repeat_interleave(counts)
        places = [i for a in asked for i in range(len(a) - a.target - 1, len(a) - 1)]
        place = torch.tensor(places, dtype=torch.int64, device=self.device)
        logs = self._logits(hidden[row, place]).log_softmax(-1)
        found = logs.gather(-1, ids[row, place + 1].unsqueeze(-1)).squeeze(-1)
        sums = torch.zeros(len(asked), dtype=torch.float32, device=self.device)
        return sums.index_add_(0, row, found) / counts.clamp(min=1)

    def _odds(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._logits(hidden, self._answers)
        return logits[:, 0] - logits[:, 1]

    def _logits(self, hidden: torch.Tensor, tokens: list[int] | None = None) -> torch.Tensor:
        """float32 (n, tokens) logits; bfloat16 turns close scores into ties."""
        head = self.model.get_output_embeddings()
        rows: Any = slice(None) if tokens is None else tokens
        bias = None if head.bias is None else head.bias[rows].float()
        logits = torch.nn.functional.linear(hidden.float(), head.weight[rows].float(), bias)
        config = self.model.config.get_text_config()
        logits = logits * getattr(config, "logit_scale", 1.0)  # Cohere
        logits = logits / getattr(config, "logits_scaling", 1.0)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _first_output(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, hidden) what the vocabulary's head reads for the first output token."""
        start = self.model.config.decoder_start_token_id
        if start is None:
            start = self.tokenizer.pad_token_id
        seen: list[torch.Tensor] = []
        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            self.model(
                input_ids=ids,
                attention_mask=mask,
                decoder_input_ids=torch.full((len(ids), 1), start, device=self.device),
                use_cache=False,
            )
        finally:
            handle.remove()
        return seen[0][:, 0]
