"""A title is the beginning of its passage: written into the text, it changes no result.

Every command runs over one collection twice: as it is, and with the first words of each text as
its title.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import (
    CORPUS,
    JUDGEMENTS,
    QUERIES,
    SPLITS,
    first_stage,
    good,
)
from tiny_lists import save_language_model

from dear.data.formats import read_lists, read_run, write_beir, write_run
from dear.data.labels import read_labels

Command = Callable[[Path, Path], object]


@pytest.fixture(scope="module")
def titled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("titled") / "animals"
    corpus = []
    for passage in CORPUS.values():
        first, second, *rest = passage.text.split(" ")
        corpus.append(replace(passage, title=f"{first} {second}", text=" ".join(rest)))
    assert [p.full_text for p in corpus] == [p.text for p in CORPUS.values()]
    write_beir(
        folder,
        corpus=corpus,
        queries=QUERIES.values(),
        judgements=JUDGEMENTS,
        runs={split: {"bm25": first_stage(split)} for split in SPLITS},
    )
    return folder


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{save_language_model(tmp_path_factory.mktemp('lists') / 'tiny')}"


@pytest.fixture
def twice(animals: Path, titled: Path, tmp_path: Path) -> Callable[[Command], None]:
    """Asserts that a command's result is the same over both collections."""

    def check(command: Command) -> None:
        found = []
        for collection in (animals, titled):
            folder = tmp_path / collection.parent.name
            folder.mkdir()
            found.append(command(collection, folder))
        assert found[0] == found[1]

    return check


def test_pairs(twice: Callable[[Command], None], reranker: Path) -> None:
    def command(animals: Path, folder: Path) -> object:
        words = ("rank", animals, "--run", "bm25", "--model", reranker, "--dtype", "float32")
        good(*words, "-o", folder / "out.trec")
        return read_run(folder / "out.trec")

    twice(command)


def test_lists(twice: Callable[[Command], None], lists: str) -> None:
    def command(animals: Path, folder: Path) -> object:
        words = ("rank", animals, "--run", "bm25", "--listwise", f"{lists}#attention")
        good(*words, "--window", 4, "--step", 2, "--top-k", 6, "-o", folder / "out.trec")
        return read_run(folder / "out.trec")

    twice(command)


def test_labels(twice: Callable[[Command], None], reranker: Path) -> None:
    def command(animals: Path, folder: Path) -> object:
        words = ("label", animals, "--run", "bm25", "--model", reranker, "--dtype", "float32")
        good(*words, "-o", folder / "labels")
        return read_labels(folder / "labels").scores

    twice(command)


def test_checks(twice: Callable[[Command], None], reranker: Path) -> None:
    def command(animals: Path, _folder: Path) -> object:
        words = ("check", reranker, animals, "--run", "bm25", "--queries", 3, "--depth", 6)
        return json.loads(good(*words, "--dtype", "float32", "--json", "-"))["lines"]

    twice(command)


def test_lists_to_learn_from(twice: Callable[[Command], None], reranker: Path) -> None:
    def command(animals: Path, folder: Path) -> object:
        words = ("reason", animals, "--run", "bm25", "--teacher", reranker, "--dtype", "float32")
        good(*words, "-o", folder / "set", "--size", "4-6")
        made = list(read_lists(folder / "set" / "examples.jsonl"))
        assert made
        # a quote does not go on behind a title
        return [([p.id for p in e.passages], e.scores, e.order) for e in made]

    twice(command)


def test_what_is_shown(twice: Callable[[Command], None], tmp_path: Path) -> None:
    best = {}
    for query, ranking in first_stage("test").items():
        best[query] = replace(ranking, passage_ids=ranking.passage_ids[::-1])
    write_run(tmp_path / "other.trec", best, "other")
    twice(lambda animals, _: good("compare", animals, "bm25", tmp_path / "other.trec"))


def test_passages_of_a_file(reranker: Path, tmp_path: Path) -> None:
    words = ("rerank", "how does the owl sleep", "--model", reranker, "--json")
    shown = []
    for name, split in (("whole", 0), ("titled", 2)):
        lines = []
        for passage in CORPUS.values():
            of_text = passage.text.split(" ")
            title, text = " ".join(of_text[:split]), " ".join(of_text[split:])
            lines.append(json.dumps({"_id": passage.id, "title": title, "text": text}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        shown.append(json.loads(good(*words, tmp_path / f"{name}.jsonl")))
    assert shown[0] == shown[1]
