"""Whole plans: what fits, what would help, how long it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_training
from dear.cli.main import main
from dear.errors import ConfigError
from dear.plan.cards import CARDS, GIB, Card, find_card
from dear.plan.memory import training_memory, weigh
from dear.plan.planning import LORA, Assumed, changes, plan
from dear.plan.work import MS_MARCO_QUERIES, STRATEGIES, Setup, padded_width, steps_of
from dear.recipes import Recipe, load_recipe, parse_recipe

LLAMA_3B = "meta-llama/Llama-3.2-3B"
TEACHER = "family/llama2-13b-rankllama-teacher"


def recipe_of(base: str = LLAMA_3B, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "plan",
        "model": {"base": base},
        "data": [{"collection": "not-here"}],
        "train": {"groups_per_step": 32, "accumulate": 4, "epochs": 2},
    }
    for path, value in changes.items():
        table, _, key = path.partition("__")
        values[table] = {**values[table], key: value} if key else value
    return parse_recipe(values)


def setup_of(devices: int = 1, **changes: Any) -> Setup:
    return Setup.of(recipe_of(**changes), devices=devices)


def test_full_training_keeps_four_copies_of_every_weight() -> None:
    setup = setup_of()
    memory = training_memory(setup)
    parameters = weigh(setup).shape.parameters
    assert memory.weights == memory.gradients == 4 * parameters
    assert memory.optimiser == 8 * parameters
    assert memory.total == sum(memory.parts().values()) - memory.overlapping


def test_an_adapter_has_the_only_gradients() -> None:
    setup = setup_of().with_lora(LORA)
    weighed, memory = weigh(setup), training_memory(setup)
    assert memory.gradients == weighed.trainable < memory.weights / 20
    assert memory.optimiser == 2 * memory.gradients
    assert memory.weights == pytest.approx(2 * weighed.shape.parameters, rel=0.05)


def test_four_bits_are_a_quarter_of_sixteen() -> None:
    whole = training_memory(setup_of().with_lora(LORA))
    small = training_memory(replace(setup_of().with_lora(LORA), quantise="nf4"))
    shape = weigh(setup_of()).shape
    # peft makes the embedding float32
    saved = shape.linear * (2 - 0.5625) - 2 * shape.embedding
    assert whole.weights - small.weights == pytest.approx(saved, rel=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_more_devices_hold_less_each(strategy: Any) -> None:
    found = [training_memory(replace(setup_of(devices=n), strategy=strategy)) for n in (2, 4, 8)]
    states = [m.gradients + m.optimiser for m in found]
    assert states[0] == pytest.approx(2 * states[1], rel=0.01)
    assert states[1] == pytest.approx(2 * states[2], rel=0.01)
    whole = strategy == "zero2"
    assert (found[0].weights == found[2].weights) == whole


def test_distributed_data_parallel_shares_nothing_but_work() -> None:
    one, four = training_memory(setup_of(1)), training_memory(setup_of(4))
    assert four.weights == one.weights
    assert four.optimiser == one.optimiser
    assert four.activations < one.activations


def test_offloading_moves_and_loses_nothing() -> None:
    here = replace(setup_of(4), strategy="fsdp2")
    there = training_memory(replace(here, cpu_offload=True))
    memory = training_memory(here)
    assert there.host == memory.weights + memory.gradients + memory.optimiser
    assert there.total == memory.total - there.host


@pytest.mark.parametrize("card", ["rtx-4090", "h200"])
def test_a_plan_fits_or_says_what_would(card: str) -> None:
    made = plan(load_recipe("family/dear-3b-reranker-ce-v1"), find_card(card), 1)
    assert made.fits == (made.memory.total <= made.card.memory)
    assert bool(made.remedies) == (not made.fits)
    if not made.fits:
        assert any(r.fits for r in made.remedies)
        alone = [c.what for c in changes(made.setup)]
        assert [r.what for r in made.remedies[: len(alone)]] == alone


def test_a_remedy_needs_what_the_changed_recipe_needs() -> None:
    name = "family/dear-8b-reranker-ce-lora-v1"
    made = plan(load_recipe(name), find_card("rtx-4090"), 1)
    remedy = next(r for r in made.remedies if "accumulate" in r.options)
    change = remedy.options.removeprefix("--set ")
    again = plan(load_recipe(name, [change]), find_card("rtx-4090"), 1)
    assert again.memory == remedy.memory
    assert again.fits == remedy.fits


def test_a_teacher_of_13b_scores_on_24_gb_in_4_bits_alone() -> None:
    made = plan(load_recipe(TEACHER), find_card("l4"), 1)
    fits = {dtype: memory.fits(made.card) for dtype, memory in made.scoring.items()}
    assert fits == {"bfloat16": False, "int8": True, "int4": True}
    assert not made.fits


def test_time_falls_with_cards_and_grows_with_work() -> None:
    recipe, card = recipe_of(), find_card("h100")

    def hours(devices: int = 1, **assumed: Any) -> float:
        made = plan(recipe, card, devices, Assumed(**assumed))
        return next(s.seconds for s in made.stages if s.name == "train")

    once = hours(queries=1000)
    assert hours(queries=2000) == pytest.approx(2 * once)
    assert hours(queries=1000, training_share=0.9) == pytest.approx(once / 2)
    # shorter passes are padded less
    assert once / 5 < hours(4, queries=1000) <= once / 4
    assert hours(queries=1000, mean_tokens=50) < once


def test_seconds_by_hand() -> None:
    """6 operations a weight and token in full training, at 45 % of the sheet's peak."""
    recipe = recipe_of("meta-llama/Llama-2-7b-hf", groups={"size": 8})
    made = plan(recipe, find_card("a100-80gb"), 1, Assumed(queries=1000))
    stage = next(s for s in made.stages if s.name == "train")
    width = padded_width(8 * 8, 101, 231)
    by_hand = 6 * made.shape.working * 2 * 1000 * 8 * width / (312e12 * 0.45)
    assert stage.seconds == pytest.approx(by_hand, rel=0.05)  # attention's products are beside it


def test_the_price_is_that_of_all_cards() -> None:
    made = plan(recipe_of(), find_card("h100"), 4, Assumed(queries=1000, price_per_hour=2.5))
    assert made.price == pytest.approx(made.seconds / 3600 * 4 * 2.5)
    assert plan(recipe_of(), find_card("h100"), 4).price is None


def test_examples_are_counted_where_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "examples.jsonl").write_text("{}\n{}\n\n{}\n")
    recipe = parse_recipe(
        {
            "name": "lists",
            "kind": "listwise",
            "model": {"base": LLAMA_3B},
            "data": [{"lists": [str(lists)]}],
            "train": {"groups_per_step": 2, "epochs": 2},
        }
    )
    made = plan(recipe, find_card("h200"), 1)
    assert (made.examples.count, made.steps) == (3, 4)
    assert "counted" in made.examples.source
    unknown = plan(recipe_of(), find_card("h200"), 1)
    assert unknown.examples.count == MS_MARCO_QUERIES
    assert "not here" in unknown.examples.source
    assert plan(recipe_of(), find_card("h200"), 1, Assumed(queries=7)).examples.count == 7


def test_steps_are_the_trainers() -> None:
    assert steps_of(setup_of(), 33) == 2 * 2
    assert steps_of(setup_of(train__max_steps=5), 33) == 5


def test_a_pass_holds_its_share_of_a_step() -> None:
    assert (setup_of(1).groups, setup_of(1).passes) == (8, 4)
    assert (setup_of(4).groups, setup_of(4).passes) == (2, 4)
    assert (setup_of(64).groups, setup_of(64).passes) == (1, 1)


def test_cards_are_named_or_refused() -> None:
    assert find_card("h200").memory == 141 * GIB
    assert all(isinstance(card, Card) and card.rate > 1e13 for card in CARDS.values())
    with pytest.raises(ConfigError, match="did you mean 'h100'"):
        find_card("h10")


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_training.save_llama(tmp_path / "base")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f'name = "tiny"\n[model]\nbase = "{base}"\n[[data]]\ncollection = "not-here"\n'
    )
    capsys.readouterr()
    file = tmp_path / "plan.json"
    words = ["plan", str(recipe), "--gpu", "l4", "--gpus", "2", "--queries", "100"]
    assert main([*words, "--price-per-hour", "1", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    for word in ("weights", "optimiser", "fits", "train", "cost", "not measured", "--queries"):
        assert word in shown
    found = json.loads(file.read_text())
    assert (
        found["training_bytes"]["total"]
        == sum(
            size
            for part, size in found["training_bytes"].items()
            if part not in ("overlapping", "total", "host")
        )
        - found["training_bytes"]["overlapping"]
    )
    assert found["examples"] == 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "h10"], "did you mean 'h100'"),
        (["--gpus", "0"], "--gpus"),
        (["--gpu", "cpu", "--gpus", "2"], "one process"),
        (["--json", "/dev/null/x.json"], "is no folder"),
        (["--set", "model.base=nobody/has-this"], "nobody/has-this"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "nano/student-ce", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
