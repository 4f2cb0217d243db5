"""A listwise model in two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_lists import list_recipe, lists, save_language_model
from two_processes import together

from dear.recipes import Recipe
from dear.train.listwise import train_lists
from tiny_training import distance, weights

LORA = {"rank": 4, "alpha": 8.0}


def run(made: Recipe, folder: Path) -> None:
    train_lists(made, folder, examples=lists(11, 4), held_out=lists(4, 4, seed=1))


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dear_training.json").read_text())["metrics"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_learn_the_lists_of_one(tmp_path: Path, strategy: str) -> None:
    base = save_language_model(tmp_path / "base")
    made = list_recipe(
        base,
        model={"base": base, "lora": LORA},
        train__accumulate=2,
        train__log_steps=1,
        parallel__strategy=strategy,
    )
    run(made, tmp_path / "one")
    together(tmp_path, run, made, tmp_path / "two")
    one, two = report(tmp_path / "one"), report(tmp_path / "two")
    assert [e["loss"] for e in two["loss_curve"]] == pytest.approx(
        [e["loss"] for e in one["loss_curve"]], abs=1e-4
    )
    assert [e["eval_ndcg"] for e in two["dev_curve"]] == pytest.approx(
        [e["eval_ndcg"] for e in one["dev_curve"]]
    )
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-4
