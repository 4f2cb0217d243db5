"""Every option of a recipe reaches the training; transformers' own schedules are an oracle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lists import list_recipe, lists, save_language_model
from transformers import get_scheduler

from dear.data.collections import Collection
from dear.recipes import Recipe
from dear.train.examples import load_examples
from dear.train.listwise import train_lists
from dear.train.pointwise import contract_of, train
from dear.train.start import objective_of, training_arguments
from tiny_training import recipe, save_bert, save_reranker

RATE = 1e-2


def scheduled(name: str, warmup: int, steps: int, rate: float = RATE) -> list[float]:
    """Of each step, by transformers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def curve_of(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "dear_training.json").read_text())["metrics"]["loss_curve"]  # type: ignore[no-any-return]


def learning_rates(folder: Path) -> list[float]:
    return [entry["learning_rate"] for entry in curve_of(folder)]


@pytest.mark.parametrize(
    ("scheduler", "warmup", "steps"),
    [("linear", 0.3, 2), ("cosine", 4, 4)],
)
def test_the_learning_rate_follows_its_schedule(
    scheduler: str, warmup: float, steps: int, bert: str, tiny: Collection, tmp_path: Path
) -> None:
    """warmup: a share of the six steps below 1, else steps."""
    made = recipe(
        bert,
        train__max_steps=6,
        train__learning_rate=RATE,
        train__scheduler=scheduler,
        train__warmup=warmup,
        train__log_steps=1,
    )
    train(made, tmp_path / "out", collections={"tiny": tiny})
    assert learning_rates(tmp_path / "out") == pytest.approx(scheduled(scheduler, steps, 6))


def test_the_learning_rate_of_lists_follows_its_schedule(tmp_path: Path) -> None:
    base = save_language_model(tmp_path / "lm")
    made = list_recipe(
        base, train__warmup=0.5, train__log_steps=1, train__learning_rate=RATE, train__epochs=3
    )
    train_lists(made, tmp_path / "out", examples=lists(8, 3))
    assert learning_rates(tmp_path / "out") == pytest.approx(scheduled("cosine", 3, 6))


ARGUMENTS: dict[str, Any] = {
    "epochs": 3,
    "max_steps": 2,
    "learning_rate": 2e-2,
    "groups_per_step": 6,
    "accumulate": 2,
    "warmup": 2,
    "scheduler": "constant",
    "weight_decay": 0.9,
    "max_grad_norm": 0.1,
    "seed": 43,
    "gradient_checkpointing": True,
}
EXAMPLES: dict[str, Any] = {
    "groups__size": 4,
    "groups__positives": 2,
    "groups__per_query": 2,
    "groups__negatives": "random",
    "groups__rank_from": 4,
    "groups__rank_to": 5,
    "groups__shuffle_positives": False,
    "groups__min_margin": 2.0,
    "data__label_scale": 3.0,
    "data__judged": False,
    "data__queries": 9,
    "data__split": "dev",
}
OBJECTIVE: dict[str, Any] = {
    "main": ["ranknet"],
    "alpha": 0.9,
    "temperature": 5.0,
    "terms": [{"name": "kl", "options": {"temperature": 5.0}}],
}
CONTRACT: dict[str, Any] = {
    "prompt": "plain",
    "max_query_tokens": 1,
    "max_passage_tokens": 6,
    "append_eos": True,
}
"""Another value of each option of [train], [groups] and [[data]], [loss], [contract]."""

ELSEWHERE = {
    "train": {
        *("eval_steps", "save_steps", "patience", "log_steps", "head_learning_rate"),
        *("autocast", "activation_offload", "report_to"),
    },
    "groups": {"drop_same_text"},
    "data": {
        *("collection", "rows", "corpus", "negatives_from", "run"),
        *("labels", "label_weights", "exclude"),
    },
    "loss": set(),
    "contract": set(),
}
"""Options that other tests change: test_pointwise.py, test_examples.py, test_rows.py."""


@pytest.mark.parametrize("option", ARGUMENTS)
def test_the_trainer_is_told_what_train_says(option: str, tmp_path: Path) -> None:
    def told(made: Recipe) -> dict[str, Any]:
        return training_arguments(made, tmp_path).to_dict()  # type: ignore[no-untyped-call]

    assert told(recipe("base", **{f"train__{option}": ARGUMENTS[option]})) != told(recipe("base"))


@pytest.mark.parametrize("option", EXAMPLES)
def test_examples_are_drawn_as_groups_and_data_say(
    option: str, labels: str, tiny: Collection
) -> None:
    def drawn(option: str = "", value: Any = None) -> Any:
        table, _, name = option.partition("__")
        source = {"collection": "tiny", "labels": [labels]}
        source |= {name: value} if table == "data" else {}
        options = {option: value} if table == "groups" else {}
        made = recipe("base", labels, data=[source], **options)
        with_labels = source.get("split") != "dev"  # it has none
        return load_examples(
            made.data, made.groups, seed=1, with_labels=with_labels, collections={"tiny": tiny}
        )

    assert drawn(option, EXAMPLES[option]) != drawn()


def test_objective_and_contract_are_what_the_recipe_says() -> None:
    objectives = [recipe("b"), *(recipe("b", **{f"loss__{o}": v}) for o, v in OBJECTIVE.items())]
    contracts = [recipe("b"), *(recipe("b", **{f"contract__{o}": v}) for o, v in CONTRACT.items())]
    assert len({str(objective_of(made.loss)) for made in objectives}) == len(objectives)
    assert len({contract_of(made).fingerprint for made in contracts}) == len(contracts)


def test_no_option_is_forgotten_here() -> None:
    here: dict[str, set[str]] = {
        "train": {*ARGUMENTS},
        "groups": {o.partition("__")[2] for o in EXAMPLES if o.startswith("groups")},
        "data": {o.partition("__")[2] for o in EXAMPLES if o.startswith("data")},
        "loss": {*OBJECTIVE},
        "contract": {*CONTRACT},
    }
    made = recipe("base")
    for name, options in here.items():
        table = made.data[0] if name == "data" else getattr(made, name)
        assert {field.name for field in dataclasses.fields(table)} == options | ELSEWHERE[name]


def test_the_seed_decides_groups_their_order_and_a_new_head(
    tiny: Collection, labels: str, tmp_path: Path
) -> None:
    """Each by itself: where nothing else is left to chance, another seed gives another loss."""
    bert, with_head = save_bert(tmp_path / "bert"), save_reranker(tmp_path / "head")

    def differs(base: str, *, steps: int, drawn: bool = False) -> bool:
        found = []
        for seed in (42, 43):
            made = recipe(
                base,
                labels,
                train__seed=seed,
                train__max_steps=steps,
                train__groups_per_step=18 // steps,
                train__warmup=0,
                train__log_steps=1,
            )
            given = load_examples(
                made.data, made.groups, seed=1, with_labels=True, collections={"tiny": tiny}
            )
            folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            train(made, folder, examples=None if drawn else given, collections={"tiny": tiny})
            found.append(curve_of(folder)[-1]["loss"])
        return abs(found[0] - found[1]) > 1e-4

    assert not differs(with_head, steps=1)
    assert differs(with_head, steps=1, drawn=True)
    assert differs(with_head, steps=2)
    assert differs(bert, steps=1)
