"""A bi-encoder teacher: query and passage embedded apart, trained against in-batch negatives.

Cheap to train (each passage is a negative for every other query of its batch) and cheap to label
with (each text is embedded once), so it is the teacher that fits a laptop.
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
from dear.losses import Objective, Term
from dear.losses.listwise import softmax_cross_entropy
from dear.recipes import PairRecipe
from dear.scoring.batching import collate, token_batches
from dear.scoring.encoding import Encoded
from dear.scoring.loading import load_tokenizer
from dear.train.examples import Example
from dear.train.start import set_dropout
from dear.train.trainer import GroupTrainer

SCALE = 20.0
"""Cosine to logit, as in sentence-transformers' MultipleNegativesRankingLoss."""


def start_biencoder(recipe: PairRecipe) -> tuple[Any, Any]:
    """(model without a head, tokenizer) of the recipe's base."""
    if recipe.model.lora is not None or recipe.model.layers:
        raise ConfigError("a biencoder is trained whole: leave out model.lora and model.layers")
    source = locate(recipe.model.base)
    model, _ = read_pretrained(
        AutoModel,
        source,
        dtype=getattr(torch, recipe.model.dtype),
        attn_implementation="eager" if not torch.cuda.is_available() else "sdpa",
    )
    if recipe.model.dropout is not None:
        set_dropout(model, recipe.model.dropout)
    return model, load_tokenizer(source)


def contrastive_objective(recipe: PairRecipe) -> Objective:
    """ConfigError for anything but cross-entropy: the batch's other passages have no labels."""
    loss = recipe.loss
    if loss.terms or tuple(loss.main) != ("ce",) or loss.alpha:
        raise ConfigError('a biencoder trains with loss.main = ["ce"] and loss.alpha = 0')
    return Objective((Term("ce"),))


class TextCollator:
    """Examples to tensors: queries (B, T), the batch's different passages (P, T), and which of
    these are relevant (B, P) or may stand as negatives (B, P) for each query."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        columns: dict[str, int] = {}
        for example in examples:
            for passage in example.passages:
                columns.setdefault(passage, len(columns))
        grades = torch.zeros(len(examples), len(columns))
        for b, example in enumerate(examples):
            for passage, grade in zip(example.passages, example.group.grades, strict=True):
                grades[b, columns[passage]] = grade
        query_ids, query_mask = self._encode([e.query for e in examples])
        passage_ids, passage_mask = self._encode(list(columns))
        return {
            "query_ids": query_ids,
            "query_mask": query_mask,
            "passage_ids": passage_ids,
            "passage_mask": passage_mask,
            "grades": grades,
            "rows": torch.arange(len(examples)),  # the Trainer counts groups by it
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
    """GroupTrainer whose scores are similarities to all passages of the batch."""

    def parts(self, inputs: Any) -> list[Any]:
        return [inputs]

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Softmax cross-entropy of the relevant passages against all others of the batch."""
        queries = embed(model, inputs["query_ids"], inputs["query_mask"], self.budget)
        passages = embed(model, inputs["passage_ids"], inputs["passage_mask"], self.budget)
        scores = SCALE * queries @ passages.T
        everything = torch.ones_like(scores, dtype=torch.bool)
        loss = softmax_cross_entropy(scores, inputs["grades"], everything)
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
