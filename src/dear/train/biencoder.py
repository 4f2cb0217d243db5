"""A bi-encoder, teacher or student: query and passage embedded apart.

Judgements teach it against in-batch negatives (each passage is a negative for every other query of
its batch), a teacher's labels by the scores of each query's own passages. Each text is embedded
once, so it is the cheapest model to train, to label and to rank with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from dear.artifacts import write_json
from dear.checkpoints.registry import locate
from dear.checkpoints.threads import tokenize
from dear.checkpoints.weights import read_pretrained
from dear.errors import ConfigError
from dear.losses import Objective, find_loss
from dear.losses.listwise import softmax_cross_entropy
from dear.recipes import PairRecipe
from dear.scoring.batching import token_batches
from dear.scoring.encoding import Encoded
from dear.scoring.loading import load_tokenizer, pick_layers
from dear.scoring.tensors import collate
from dear.train.batches import group_losses
from dear.train.examples import Example
from dear.train.start import objective_of, set_dropout
from dear.train.trainer import GroupTrainer

SCALE = 20.0
"""Cosine to logit, as in sentence-transformers' MultipleNegativesRankingLoss."""


def start_biencoder(recipe: PairRecipe) -> tuple[Any, Any]:
    """(model without a head, tokenizer) of the recipe's base."""
    if recipe.model.lora is not None:
        raise ConfigError("a biencoder is trained whole: leave out model.lora")
    source = locate(recipe.model.base)
    model, _ = read_pretrained(
        AutoModel,
        source,
        dtype=getattr(torch, recipe.model.dtype),
        attn_implementation="eager" if not torch.cuda.is_available() else "sdpa",
    )
    if recipe.model.layers:
        pick_layers(model, recipe.model.layers)
    if recipe.model.dropout is not None:
        set_dropout(model, recipe.model.dropout)
    return model, load_tokenizer(source)


def contrastive_objective(recipe: PairRecipe) -> Objective:
    """The recipe's objective. ConfigError for a loss of judgements other than cross-entropy, which
    alone is taken over the batch."""
    objective = objective_of(recipe.loss)
    for term in objective.terms:
        if find_loss(term.loss).targets == "judgements" and term.loss != "ce" and term.weight:
            raise ConfigError(
                f'a biencoder learns from judgements by "ce" alone, not {term.loss!r}'
            )
    return objective


class TextCollator:
    """Examples to tensors: queries (B, T), the batch's different passages (P, T), and which of
    these are relevant (B, P) for each query, the others being its negatives.

    Also, as in GroupCollator, each query's own passages (B, N): rows into the B x P scores end to
    end, grades, the teacher's scores, and which are present.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        columns: dict[str, int] = {}
        for example in examples:
            for passage in example.passages:
                columns.setdefault(passage, len(columns))
        width = max(len(e.passages) for e in examples)
        relevant = torch.zeros(len(examples), len(columns))
        rows = torch.zeros(len(examples), width, dtype=torch.int64)
        present = torch.zeros(len(examples), width, dtype=torch.bool)
        grades, teacher = torch.zeros(2, len(examples), width)
        for b, example in enumerate(examples):
            n = len(example.passages)
            own = torch.tensor([columns[passage] for passage in example.passages])
            grades[b, :n] = torch.tensor(example.group.grades, dtype=torch.float32)
            relevant[b, own] = grades[b, :n]
            rows[b, :n] = b * len(columns) + own
            present[b, :n] = True
            if example.group.teacher is not None:
                teacher[b, :n] = torch.tensor(example.group.teacher, dtype=torch.float32)
        query_ids, query_mask = self._encode([e.query for e in examples])
        passage_ids, passage_mask = self._encode(list(columns))
        return {
            "query_ids": query_ids,
            "query_mask": query_mask,
            "passage_ids": passage_ids,
            "passage_mask": passage_mask,
            "relevant": relevant,
            "rows": rows,
            "present": present,
            "grades": grades,
            "teacher": teacher,
        }

    def _encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = tokenize(
            self.tokenizer,
            texts,
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=False,
        )
        encoded = [Encoded(list(ids), [0] * len(ids)) for ids in batch["input_ids"]]
        ids, mask, _ = collate(encoded, pad_id=self.tokenizer.pad_token_id)
        return ids, mask


class ContrastiveTrainer(GroupTrainer):
    """GroupTrainer whose scores are similarities, to all passages of the batch."""

    def parts(self, inputs: Any) -> list[Any]:
        return [inputs]

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy of the relevant passages against all others of the batch, and the
        teacher's losses over each query's own passages."""
        queries = embed(model, inputs["query_ids"], inputs["query_mask"], self.budget)
        passages = embed(model, inputs["passage_ids"], inputs["passage_mask"], self.budget)
        scores = SCALE * queries @ passages.T  # (B, P)
        loss = scores.new_zeros(())
        for term in self.objective.terms:
            if term.loss == "ce" and term.weight:
                everything = torch.ones_like(scores, dtype=torch.bool)
                loss = loss + term.weight * softmax_cross_entropy(
                    scores, inputs["relevant"], everything
                )
        if self.objective.needs_teacher:
            taught = Objective(tuple(t for t in self.objective.terms if t.loss != "ce"))
            loss = loss + group_losses(taught, scores.flatten(), inputs).mean()
        share = len(queries) * self.passes_in_step / self.groups_in_step
        self.require_finite(loss)
        return (loss * share, {"scores": scores}) if return_outputs else loss * share


def embed(model: Any, ids: torch.Tensor, mask: torch.Tensor, budget: int | None) -> torch.Tensor:
    """float32 (B, hidden) mean-pooled embeddings of length 1; texts of like length together."""
    lengths = mask.sum(-1).tolist()
    batches = token_batches(lengths, budget) if budget else [list(range(len(lengths)))]
    parts = []
    for rows in batches:
        at = torch.tensor(rows, device=ids.device)
        width = max(lengths[row] for row in rows)
        kept = mask[at, :width]
        hidden = model(input_ids=ids[at, :width], attention_mask=kept).last_hidden_state.float()
        weights = kept.unsqueeze(-1).float()
        parts.append((hidden * weights).sum(1) / weights.sum(1))
    order = torch.tensor([row for rows in batches for row in rows], device=ids.device)
    return torch.nn.functional.normalize(torch.cat(parts)[order.argsort()], dim=-1)


def write_modules(folder: Path, max_tokens: int, hidden: int) -> None:
    """The files by which sentence-transformers, and `biencoder:`, read pooling and length."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "sentence_transformers.models"
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    text = [
        {"idx": i, "name": str(i), "path": path, "type": f"{prefix}.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": max_tokens, "do_lower_case": False},
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
    )
    (folder / "2_Normalize").mkdir(exist_ok=True)
