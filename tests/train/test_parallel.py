"""Several processes at one training learn what one process learns, and write as it does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_batches import example
from transformers.training_args import OptimizerNames
from two_processes import together

import dear.train.pointwise
from dear.data.collections import Collection
from dear.errors import ConfigError
from dear.recipes import Recipe
from dear.train.examples import Example
from dear.train.parallel import GROUPS, WEIGHT, ShareCollator
from dear.train.pointwise import train
from dear.train.processes import scored_together
from tiny_training import collection, distance, recipe, same, weights

DEV = {"collection": "tiny", "queries": 6, "top_k": 12}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dear_training.json").read_text())["metrics"]  # type: ignore[no-any-return]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in report(folder)["loss_curve"]]


def uneven() -> list[Example]:
    """11 groups of 2 to 6 passages: with 4 a step the last one is short, and of 5 in 2 passes
    some pass has one group for two processes."""
    return [example(2 + i % 5, i, ties=i % 2 == 0) for i in range(11)]


def run(made: Recipe, folder: Path, examples: Sequence[Example] | None, sgd: bool = False) -> None:
    """One training, in this process or in the one of several that this is."""
    before = dear.train.pointwise.training_arguments
    if sgd:
        # Adam makes whole steps of rounding errors where a gradient is 0 (the bias of the keys)

        def with_sgd(*args: Any) -> Any:
            arguments = before(*args)
            arguments.optim = OptimizerNames.SGD
            return arguments

        dear.train.pointwise.training_arguments = with_sgd
    try:
        train(made, folder, examples=examples, collections={"tiny": collection()})
    finally:
        dear.train.pointwise.training_arguments = before


def stopped(made: Recipe, folder: Path, examples: Sequence[Example] | None, step: int) -> None:
    """A training whose processes all end after a step, its checkpoint written."""

    class Stop(Exception):
        pass

    inner = dear.train.trainer.Flow.on_save

    def on_save(flow: Any, args: Any, state: Any, control: Any, **options: Any) -> None:
        inner(flow, args, state, control, **options)
        if state.global_step >= step:
            raise Stop

    dear.train.trainer.Flow.on_save = on_save  # type: ignore[method-assign]
    try:
        with pytest.raises(Stop):
            run(made, folder, examples)
    finally:
        dear.train.trainer.Flow.on_save = inner  # type: ignore[method-assign]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("groups", [1, 2, 4, 5])
def test_every_group_is_dealt_out_once(processes: int, groups: int) -> None:
    dealt: list[int] = []
    for rank in range(processes):
        batch = ShareCollator(lambda some: {"rows": list(some)}, rank, processes)(range(groups))
        assert batch[GROUPS] == groups
        assert batch["rows"], "a process without a batch would leave the others waiting"
        dealt += batch["rows"] if batch[WEIGHT] else []
    assert sorted(dealt) == list(range(groups))


def test_alone_everything_is_scored_here() -> None:
    parts = [[1.0, 2.0], [], [3.0]]
    for by_all in (False, True):
        found = scored_together(lambda xs: xs, parts, torch.device("cpu"), by_all=by_all)
        assert found == parts


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train__groups_per_step": 5, "train__accumulate": 5},
        {"train__groups_per_step": 4, "train__accumulate": 2},
    ],
    ids=["short last step", "a process without a group", "accumulate"],
)
def test_two_processes_learn_what_one_does(
    bert: str, tmp_path: Path, strategy: str, change: dict[str, Any]
) -> None:
    made = recipe(
        bert,
        loss={"main": ["ranknet"], "alpha": 0.3},
        train__learning_rate=3e-2,
        parallel__strategy=strategy,
        **change,
    )
    run(made, tmp_path / "one", uneven(), sgd=True)
    together(tmp_path, run, made, tmp_path / "two", uneven(), True)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-5
    assert report(tmp_path / "two")["processes"] == 2
    start = recipe(bert, train__learning_rate=1e-12)
    run(start, tmp_path / "start", uneven())
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "start")) > 1e-3


ZERO = [
    pytest.param(
        name,
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
        ],
    )
    for name in ("zero2", "zero3")
]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", *ZERO])
def test_an_adapter_with_its_head_and_dev(
    llama: str, labels: str, tmp_path: Path, strategy: str
) -> None:
    made = recipe(
        llama,
        labels,
        model={"base": llama, "lora": LORA},
        dev=DEV,
        parallel__strategy=strategy,
        train__epochs=3,
        train__eval_steps=2,
        train__learning_rate=1e-3,
        train__head_learning_rate=3e-3,
    )
    run(made, tmp_path / "one", None)
    together(tmp_path, run, made, tmp_path / "two", None)
    one, two = report(tmp_path / "one"), report(tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-4
    assert [e["eval_ndcg"] for e in two["dev_curve"]] == pytest.approx(
        [e["eval_ndcg"] for e in one["dev_curve"]]
    )
    assert two["best_step"] == one["best_step"]
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", *ZERO])
def test_a_training_goes_on_in_another_number_of_processes(
    llama: str, labels: str, tmp_path: Path, strategy: str
) -> None:
    made = recipe(
        llama,
        labels,
        parallel__strategy=strategy,
        train__learning_rate=1e-3,
        train__save_steps=3,
        train__log_steps=1,
    )
    run(made, tmp_path / "one", None)
    changing = tmp_path / "changing"
    stopped(made, changing, None, 3)
    together(tmp_path, stopped, made, changing, None, 6)
    assert (changing / "steps" / "checkpoint-6" / "WHOLE").exists()
    run(made, changing, None)
    assert report(changing)["resumed_from_step"] == 6
    assert losses(changing) == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert distance(weights(tmp_path / "one"), weights(changing)) < 1e-4


def test_two_processes_are_the_same_twice_with_dropout_and_a_stop(
    llama: str, labels: str, tmp_path: Path
) -> None:
    made = recipe(llama, labels, model__dropout=0.2, train__save_steps=3)
    together(tmp_path, run, made, tmp_path / "one", None)
    together(tmp_path, stopped, made, tmp_path / "two", None, 6)
    together(tmp_path, run, made, tmp_path / "two", None)
    assert report(tmp_path / "two")["resumed_from_step"] == 6
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


def refused(made: Recipe, folder: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        train(made, folder, collections={"tiny": collection()})


def test_all_processes_raise_what_the_first_one_does(
    bert: str, labels: str, tmp_path: Path, tiny: Collection
) -> None:
    made = recipe(bert, labels)
    train(made, tmp_path / "out", collections={"tiny": tiny})
    together(tmp_path, refused, made, tmp_path / "out", "this training is finished")
    one = recipe(bert, kind="biencoder", loss={"main": ["ce"], "alpha": 0.0})
    together(tmp_path, refused, one, tmp_path / "b", "a biencoder trains in one process")
