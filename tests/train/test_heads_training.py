"""Attention heads weighted by `dear train`: the folder that it leaves is a listwise model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lists import lists, save_language_model

from dear.backends.local import open_local
from dear.cli.main import main
from dear.data.formats import write_lists
from dear.errors import ConfigError
from dear.listwise.loading import load_list_model
from dear.listwise.reader import ListReader
from dear.recipes import Recipe, parse_recipe
from dear.records import Candidates
from dear.train.attention_heads import train_heads
from listwise_calls import rank_listwise


def recipe(base: str, **heads: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny-heads",
            "kind": "heads",
            "model": {"base": base},
            "data": [{"lists": ["examples.jsonl"]}],
            "heads": {"max_words": 8, "max_window": 8, "strength": 1.0} | heads,
        }
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_language_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def folder(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("heads") / "heads"
    train_heads(recipe(base), found, examples=lists(40, seed=1))
    return found


def test_fitted_heads_beat_all_heads_alike_on_other_lists(base: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fitted = train_heads(
        recipe(base),
        tmp_path / "heads",
        examples=[*lists(60, seed=1), *lists(1, size=9)],
        held_out=lists(30, seed=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (fitted.lists, fitted.rejected) == (60, 1)
    assert seen == [(i, 120) for i in range(1, 121)]
    assert fitted.tau is not None
    assert fitted.plain_tau is not None
    # a passage of more words that the query holds: tokens that attend to their like tell it
    assert fitted.tau > max(0.2, fitted.plain_tau)
    written = json.loads((tmp_path / "heads" / "dear_training.json").read_text())
    assert written["metrics"]["dev_tau"] == fitted.tau


def test_the_folder_opens_as_a_listwise_model_read_by_attention(folder: Path, base: str) -> None:
    model = load_list_model(folder, dtype="float32")
    assert model.heads is not None
    assert model.contract.learnt == "attention"
    reader = ListReader(model)
    assert reader.reading == "attention"
    by_hand = ListReader(
        replace(load_list_model(base, contract=model.contract, dtype="float32")),
        reading="attention",
        heads=model.heads,
    )
    prompts = [model.contract.template.render(e.query, e.passages) for e in lists(4, seed=3)]
    assert [a.order for a in reader.read(prompts)] == [a.order for a in by_hand.read(prompts)]


def test_candidates_are_ranked_through_the_backend(folder: Path) -> None:
    backend = open_local(str(folder), dtype="float32", device="cpu")
    some = [
        Candidates(query=e.query, passages=e.passages, scores=(0.0,) * len(e.passages))
        for e in lists(3, seed=4)
    ]
    rankings, report = rank_listwise(some, backend, prompt=backend.template)
    assert report.cost.mended_windows == report.unreadable == 0
    assert [set(r.passage_ids) for r in rankings] == [{p.id for p in c.passages} for c in some]


def test_a_list_without_scores_teaches_its_order(base: str, tmp_path: Path) -> None:
    scored = lists(20, seed=1)
    plain = [replace(e, scores=None) for e in scored]
    # the scores of these lists are their places from the end: the same lesson
    for name, examples in (("scored", scored), ("plain", plain)):
        train_heads(recipe(base), tmp_path / name, examples=examples)
    one, two = (load_list_model(tmp_path / n).heads for n in ("scored", "plain"))
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(one.weights, two.weights)


def test_the_command_fits_and_says_what_it_is_worth(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lists(tmp_path / "train.jsonl", lists(12, seed=1))
    write_lists(tmp_path / "dev.jsonl", lists(6, seed=2))
    toml = tmp_path / "heads.toml"
    toml.write_text(
        f"""name = "h"
kind = "heads"
model.base = "{base}"
data = [{{ lists = ["{tmp_path}/train.jsonl"] }}]
heads = {{ max_words = 8, dev = ["{tmp_path}/dev.jsonl"] }}
"""
    )
    command = ["train", str(toml), "--output", str(tmp_path / "out")]
    assert main(command) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "heads in" in out
    assert "weighted on 12 lists" in out
    assert "(all heads alike: " in out
    assert main(command) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {}}, r"\[train\] does not apply to heads models"),
        ({"listwise": {}}, r"\[listwise\] does not apply to heads models"),
        ({"model": {"base": "x", "lora": {}}}, "weights of heads need a `base` alone"),
        ({"data": [{"collection": "c"}]}, r"data\.0\.collection does not apply to heads"),
        ({"heads": {"strength": 0}}, r"heads\.strength"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    values = recipe("x").to_dict()
    kept = {k: values[k] for k in ("name", "kind", "data")} | {"model": {"base": "x"}}
    with pytest.raises(ConfigError, match=message):
        parse_recipe(kept | changes)


def test_lists_that_are_all_too_long_are_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no list of 2 passages or fewer"):
        train_heads(recipe(base, max_window=2), tmp_path / "heads", examples=lists(3))
