"""A training on this machine's processor: planned where no card is named, and in minutes."""

from __future__ import annotations

import pytest

from dear.cli.main import main
from dear.plan.cards import GIB, SMALL, Card, here
from dear.plan.cpu import training_minutes
from dear.recipes import GradientRecipe, HeadsRecipe, load_recipe

CPU = Card(name="cpu", memory=8 * GIB, rate=100e9, bandwidth=20e9)


def recipe(*changes: str) -> GradientRecipe:
    found = load_recipe("nano/student-ce", changes)
    assert not isinstance(found, HeadsRecipe)
    return found


def test_minutes_grow_with_the_work_and_shrink_with_the_rate() -> None:
    minutes = training_minutes(recipe(), 800, cpu=CPU)
    # 6 operations for a weight and a token: 10.6M weights multiply, 12,800 pairs of 101 tokens
    assert minutes == pytest.approx(6 * 10.6e6 * 12_800 * 101 / 75e9 / 60, rel=0.15)
    assert training_minutes(recipe(), 1600, cpu=CPU) == pytest.approx(2 * minutes)
    assert training_minutes(recipe("train.epochs=1"), 800, cpu=CPU) == pytest.approx(minutes / 2)
    assert training_minutes(recipe(), 800, mean_tokens=50, cpu=CPU) < 0.6 * minutes
    faster = Card(name="cpu", memory=8 * GIB, rate=400e9, bandwidth=20e9)
    assert training_minutes(recipe(), 800, cpu=faster) == pytest.approx(minutes / 4)
    one = training_minutes(recipe("train.max_steps=1"), 800, cpu=CPU)
    assert one == pytest.approx(minutes / 200)


def test_a_small_model_is_planned_for_this_processor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["plan", "nano/student-ce", "--queries", "100"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("nano-student-ce on 1 x cpu ")
    assert "no card is named and there is no GPU here" in err
    assert "by LLaMA-2-13B" not in out
    assert here(SMALL + 1) == "h100"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert here(1) == "h100"
