"""Which queries a run covers, and that nothing learns from test queries without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import dear, good

from dear.errors import DataError
from dear.recipes import DataRecipe, GroupsRecipe
from dear.train.examples import load_examples

WORDS = "queries to train on are judged test queries"


def test_retrieve_says_which_queries_it_searched_for(mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    of_test = good("retrieve", mine, "--output", run)
    assert "; queries of split test (8 of the collection's 24)\n" in of_test
    shutil.rmtree(mine / "qrels")
    shutil.rmtree(mine / "runs")
    assert "; all queries\n" in good("retrieve", mine, "--output", run)


def test_labels_of_test_queries_are_told_of(animals: Path, tmp_path: Path) -> None:
    words = ("label", animals, "--run", "bm25", "--model", "first-stage")
    done = dear(*words, "--split", "test", "--output", tmp_path / "test")
    assert done.status == 0
    assert f"warning: animals: 8 of 8 {WORDS}, such as sleep-otter: " in done.err
    assert WORDS not in dear(*words, "--split", "train", "--output", tmp_path / "train").err


def test_training_on_test_queries_is_told_of(
    animals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def drawn(**values: object) -> int:
        caplog.clear()
        source = DataRecipe(collection=str(animals), run="bm25", **values)  # type: ignore[arg-type]
        return len(load_examples([source], GroupsRecipe(size=2), seed=0, with_labels=False))

    assert drawn(split="train")
    assert WORDS not in caplog.text
    assert drawn(split="test", queries=3)
    assert f"animals: 3 of 3 {WORDS}" in caplog.text
    assert f'exclude = ["{animals}"] leaves them out' in caplog.text
    with pytest.raises(DataError, match="no query has"):
        drawn(split="test", exclude=(str(animals),))
