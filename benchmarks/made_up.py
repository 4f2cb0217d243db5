"""Models of the published shapes with random weights, and texts of made-up words, for benchmarks
on machines that hold neither weights nor data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parallel import word_tokenizer

from dear.checkpoints.contract import CARD, DType
from dear.checkpoints.files import quiet
from dear.checkpoints.hardware import pick_attention
from dear.checkpoints.heads import bare_model
from dear.data.groups import Group
from dear.plan.shapes import PUBLISHED, base_config
from dear.recipes import Recipe
from dear.records import Candidates, Passage, Query
from dear.scoring.encoding import Encoded
from dear.scoring.loading import ScoringModel
from dear.scoring.tensors import collate
from dear.train.examples import Example

SHAPES = {
    "3b": "meta-llama/Llama-3.2-3B",
    "8b": "meta-llama/Llama-3.1-8B",
    "13b": "meta-llama/Llama-2-13b-hf",
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
}
TINY |= {"intermediate_size": 128, "num_key_value_heads": 2, "vocab_size": 512}
TINY |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "initializer_range": 0.2}

WORDS = [f"w{i}" for i in range(400)]


def tiny_base(size: str, folder: Path) -> str:
    """The folder, with a tiny configuration of the published base's kind in it."""
    name = SHAPES[size]
    type(base_config(name))(**PUBLISHED[name] | TINY).save_pretrained(folder)
    return str(folder)


def make_model(base: str, device: torch.device, dtype: DType) -> ScoringModel:
    """A one-logit model of the base's shape, its random weights made on the device."""
    from transformers import AutoModelForSequenceClassification

    config = base_config(base)
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            config,
            dtype=getattr(torch, dtype),
            attn_implementation=pick_attention(device),
            trust_remote_code=False,
        )
    return ScoringModel(
        model=model.eval(),
        tokenizer=word_tokenizer(WORDS),
        contract=replace(CARD, dtype=dtype),
        name=base,
        revision="random",
        device=device,
    )


def as_it_comes(model: ScoringModel) -> Any:
    """transformers' own model over the same weights, without a hook or a pooling of ours."""
    bare = bare_model(model.model)
    with torch.device("meta"):
        other = type(bare)(copy.deepcopy(bare.config))
    for mine, theirs in zip(bare.modules(), other.modules(), strict=True):
        theirs._parameters, theirs._buffers = mine._parameters, mine._buffers
    # ours computes in float32
    weight = bare.score.weight.detach().to(getattr(torch, model.contract.dtype), copy=True)
    other.score = torch.nn.Linear(weight.shape[1], 1, bias=False, device="meta")
    other.score.weight = torch.nn.Parameter(weight, requires_grad=False)
    return other.eval()


def make_candidates(queries: int, depth: int) -> list[Candidates]:
    """Made-up words in MS MARCO's lengths: 101 tokens a pair, of eight the longest has 160."""
    dice = np.random.default_rng(0)

    def text(words: float) -> str:
        return " ".join(dice.choice(WORDS, max(1, min(400, int(words)))))

    return [
        Candidates(
            query=Query(id=f"q{q}", text=text(8)),
            passages=tuple(
                Passage(id=f"{q}-{i}", text=text(dice.lognormal(4.37, 0.4))) for i in range(depth)
            ),
            scores=tuple(float(-i) for i in range(depth)),
        )
        for q in range(queries)
    ]


def plain_scores(plain: Any, encoded: Sequence[Encoded], model: ScoringModel, batch: int) -> Any:
    found = []
    for at in range(0, len(encoded), batch):
        ids, mask, _ = collate(encoded[at : at + batch], pad_id=model.tokenizer.pad_token_id)
        with torch.inference_mode():
            out = plain(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        found.append(out.logits[:, 0].float().cpu())
    return torch.cat(found).numpy()


def save(model: ScoringModel, folder: Path) -> Path:
    with quiet():
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    return folder


def full_examples(recipe: Recipe) -> list[Example]:
    """The groups of one step, with a teacher's scores, their texts longer than the contract."""
    dice = np.random.default_rng(1)
    size = recipe.groups.size
    ids = tuple(map(str, range(size)))
    return [
        Example(
            Group(
                query_id=f"q{g}",
                passage_ids=ids,
                grades=(1, *[0] * (size - 1)),
                teacher=tuple(dice.normal(0, 2, size).tolist()),
            ),
            " ".join(dice.choice(WORDS, 300)),
            tuple(" ".join(dice.choice(WORDS, 300)) for _ in ids),
        )
        for g in range(recipe.train.groups_per_step)
    ]
