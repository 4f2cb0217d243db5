"""Judgements of passages that the corpus does not hold: said or refused wherever the two meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import CORPUS, JUDGEMENTS, QUERIES, dear, first_stage, good, refused

from dear.data import judged
from dear.data.collections import Collection, open_collection
from dear.data.formats import write_beir
from dear.errors import DataError
from dear.records import Judgements, Passage


def folder_with(folder: Path, judgements: dict[str, Judgements]) -> Path:
    """The animals, with other judgements, in a folder of its own."""
    runs = {split: {"bm25": first_stage(split)} for split in ("train", "test")}
    write_beir(
        folder, corpus=CORPUS.values(), queries=QUERIES.values(), judgements=judgements, runs=runs
    )
    return folder


def renamed(judgements: Judgements, queries: int | None = None) -> Judgements:
    """The passages of the first queries under ids that the corpus does not have."""
    names = list(judgements)[:queries]
    return {
        q: {(f"{p}.txt" if q in names else p): g for p, g in grades.items()}
        for q, grades in judgements.items()
    }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Every judged passage has an id that no passage of the corpus has."""
    return folder_with(tmp_path / "elsewhere", {s: renamed(j) for s, j in JUDGEMENTS.items()})


def test_judgements_of_another_corpus_are_refused_wherever_they_meet_it(
    elsewhere: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'kind = "pointwise"\nname = "r"\n[model]\nbase = "minilm-l6"\n'
        f'[[data]]\ncollection = "{elsewhere}"\nrun = "bm25"\nsplit = "train"\n'
    )
    run = elsewhere / "runs" / "bm25.test.trec"
    label = ("label", elsewhere, "--run", "bm25", "--model", "first-stage")
    commands = {
        "test": [
            ("evaluate", elsewhere, "--run", "bm25"),
            ("compare", elsewhere, "bm25", _copy(run, tmp_path / "other.trec")),
            ("report", tmp_path / "report.md", elsewhere, "--run", "bm25"),
            ("retrieve", elsewhere, "--output", out),
        ],
        "train": [
            (*label, "--judged", "train", "--output", out),
            ("train", recipe, "--output", out),
            ("distill", elsewhere, "--output", out, "--recipe", "quick"),
        ],
    }
    for split, several in commands.items():
        fact = {"test": "sleep", "train": "eat"}[split]
        for words in several:
            done = dear(*words)
            assert done.status == 2, words
            line = done.err.splitlines()[-1]
            assert "no passage that is judged relevant (8) is in the corpus" in line, words
            assert f"'otter-{fact}.txt' is not; the nearest id is 'otter-{fact}'" in line, words


def _copy(run: Path, to: Path) -> Path:
    to.write_bytes(run.read_bytes())
    return to


def test_some_that_are_missing_are_counted_and_measured_without(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "some", {"test": renamed(JUDGEMENTS["test"], 2)})
    done = dear("evaluate", folder, "--run", "bm25")
    assert done.status == 0
    assert (
        "warning: some, test: 2 of 8 passages that are judged relevant are not in the corpus, "
        "such as 'otter-sleep.txt'" in done.err
    )
    whole = folder_with(tmp_path / "whole", {"test": JUDGEMENTS["test"]})
    assert "judged relevant" not in dear("evaluate", whole, "--run", "bm25").err


def test_a_pool_of_candidates_is_no_fault(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAR_DATA", str(shared_data))
    done = dear("evaluate", "dl19", "--run", "bm25")
    assert done.status == 0
    said = [line for line in done.err.splitlines() if "judged relevant" in line]
    assert len(said) == 1, done.err
    assert "1,546 of 4,102" in said[0]
    assert "warning" not in said[0]


def test_a_large_corpus_is_read_only_where_nothing_is_found(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged, "SMALL", 0)
    sound = folder_with(tmp_path / "sound", {"test": renamed(JUDGEMENTS["test"], 2)})
    (sound / "corpus.jsonl").write_text("not read\n")
    assert good("evaluate", sound, "--run", "bm25")
    assert "nearest id" in refused("evaluate", elsewhere, "--run", "bm25")
    monkeypatch.setattr(judged, "LARGE", 0)
    done = dear("evaluate", elsewhere, "--run", "bm25")
    assert done.status == 0
    assert "no run holds a passage that is judged relevant: judged are such as" in done.err


def test_either_may_be_read_first() -> None:
    def collection() -> Collection:
        return Collection.from_parts(
            "c", {"a": Passage(id="a", text="x")}, {}, {"test": {"q": {"b": 1, "a": 0}}}
        )

    corpus_first, judgements_first = collection(), collection()
    assert corpus_first.corpus
    with pytest.raises(DataError, match="'b' is not; the nearest id is 'a'"):
        corpus_first.judgements("test")
    judgements_first.judgements("test")
    for _ in range(2):
        with pytest.raises(DataError, match="'b' is not"):
            assert judgements_first.corpus


def test_judged_documents_are_those_of_the_passages(animals: Path, tmp_path: Path) -> None:
    good("split", animals, "--output", tmp_path / "passages", "--model", "words")
    opened = open_collection(tmp_path / "passages")
    assert opened.corpus
    assert opened.judgements("test")
