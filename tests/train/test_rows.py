"""Training from rows: the same examples as from a collection and a run, the same loss from disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dear.artifacts import read_json
from dear.checkpoints.files import TRAINING_FILE
from dear.data import passage_table
from dear.data.collections import Collection, open_collection
from dear.data.example_table import Example
from dear.data.formats import (
    write_beir,
    write_run,
    write_tevatron,
    write_tevatron_corpus,
    write_tevatron_ids,
)
from dear.data.formats.training import TrainingIds, TrainingRow
from dear.data.labels import read_labels
from dear.errors import ConfigError, DataError
from dear.label import FirstStage, label_with
from dear.recipes import DataRecipe, GroupsRecipe, load_recipe, parse_recipe
from dear.records import Ranking
from dear.train.examples import ExampleTable, fingerprint, load_examples
from dear.train.pointwise import train
from tiny_training import recipe, same, weights, write_labels


def rows_of(tiny: Collection) -> list[TrainingRow]:
    """The collection's training queries: what is relevant, and the rest of their candidates."""
    queries, corpus, run = tiny.queries(), tiny.corpus, tiny.run("bm25", "train")
    rows = []
    for name, grades in tiny.judgements("train").items():
        relevant = [p for p, grade in grades.items() if grade > 0]
        rows.append(
            TrainingRow(
                query=queries[name],
                positives=tuple(corpus[p] for p in relevant),
                negatives=tuple(corpus[p] for p in run[name].passage_ids if p not in relevant),
            )
        )
    return rows


@pytest.fixture
def rows(tiny: Collection, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.jsonl"
    write_tevatron(path, rows_of(tiny))
    return path


@pytest.fixture
def flat(tiny: Collection) -> Collection:
    """The collection with every relevant passage graded 1, as rows have them."""
    grades = {
        q: {p: min(1, g) for p, g in row.items()} for q, row in tiny.judgements("train").items()
    }
    other = Collection.from_parts("tiny", tiny.corpus, tiny.queries(), {"train": grades})
    other.run = tiny.run  # type: ignore[method-assign]
    return other


@pytest.mark.parametrize("negatives", ["random", "hardest", "spread"])
@pytest.mark.parametrize("taught", [False, True])
def test_rows_give_the_examples_of_a_collection_and_a_run(
    flat: Collection, rows: Path, labels: str, negatives: str, taught: bool, tmp_path: Path
) -> None:
    groups = GroupsRecipe(size=5, positives=2, per_query=2, negatives=negatives)
    with_labels = (labels,) if taught else ()
    one = load_examples(
        [DataRecipe(collection="tiny", labels=with_labels)],
        groups,
        seed=3,
        with_labels=taught,
        collections={"tiny": flat},
    )
    two = load_examples(
        [DataRecipe(rows=str(rows), labels=with_labels)], groups, seed=3, with_labels=taught
    )
    three = load_examples(
        [DataRecipe(rows=str(rows), labels=with_labels)],
        groups,
        seed=3,
        with_labels=taught,
        tables=tmp_path / "t",
        in_memory=3,
    )
    assert isinstance(three, ExampleTable)
    assert isinstance(two, list)
    assert len(two) == 36
    assert two == list(three) == one
    assert fingerprint(one) == fingerprint(two) == fingerprint(three)


def test_a_run_beside_rows_gives_the_examples_of_the_run(
    tiny: Collection, flat: Collection, tmp_path: Path
) -> None:
    write_run(tmp_path / "mine.trec", tiny.run("bm25", "train"), tag="x")
    write_tevatron_corpus(tmp_path / "corpus.jsonl", tiny.corpus.values())
    bare = tmp_path / "tiny-ids.jsonl"
    write_tevatron_ids(
        bare,
        [
            TrainingIds(
                query=r.query, positive_ids=tuple(p.id for p in r.positives), negative_ids=()
            )
            for r in rows_of(tiny)
        ],
    )
    groups = GroupsRecipe(size=5, rank_from=2, rank_to=8)
    one = load_examples(
        [DataRecipe(collection="tiny")],
        groups,
        seed=3,
        with_labels=False,
        collections={"tiny": flat},
    )
    two = load_examples(
        [
            DataRecipe(
                rows=str(bare),
                corpus=str(tmp_path / "corpus.jsonl"),
                run=str(tmp_path / "mine.trec"),
                negatives_from="run",
            )
        ],
        groups,
        seed=3,
        with_labels=False,
    )
    assert [replace(e, group=replace(e.group, query_id="")) for e in two] == [
        replace(e, group=replace(e.group, query_id="")) for e in one
    ]
    with pytest.raises(ConfigError, match="beside rows it must be a run's file"):
        load_examples(
            [DataRecipe(rows=str(bare), negatives_from="run", run="gone")],
            groups,
            seed=3,
            with_labels=False,
        )


def test_training_from_disk_is_training_from_memory(
    bert: str, labels: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(bert, data=[{"rows": str(rows), "labels": [labels]}], loss__alpha=0.5)
    options: dict[str, Any] = {"seed": 42, "with_labels": True}
    memory = load_examples(made.data, made.groups, **options)
    disk = load_examples(made.data, made.groups, **options, tables=tmp_path / "t", in_memory=1)
    assert isinstance(disk, ExampleTable)
    one = train(made, tmp_path / "one", examples=memory)
    two = train(made, tmp_path / "two", examples=disk)
    assert one.loss == two.loss
    assert one.pairs == two.pairs
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    curves = [
        read_json(tmp_path / name / TRAINING_FILE)["metrics"]["loss_curve"]
        for name in ("one", "two")
    ]
    assert [c["loss"] for c in curves[0]] == [c["loss"] for c in curves[1]]


def test_a_table_that_is_there_is_not_drawn_again(rows: Path, tmp_path: Path) -> None:
    sources = [DataRecipe(rows=str(rows))]
    options: dict[str, Any] = {"with_labels": False, "tables": tmp_path / "t", "in_memory": 1}
    load_examples(sources, GroupsRecipe(size=4), seed=1, **options)
    table = next((tmp_path / "t").glob("*.arrow"))
    before = table.stat().st_mtime_ns
    load_examples(sources, GroupsRecipe(size=4), seed=1, **options)
    assert table.stat().st_mtime_ns == before
    load_examples(sources, GroupsRecipe(size=4), seed=2, **options)
    load_examples(sources, GroupsRecipe(size=5), seed=1, **options)
    assert len(list((tmp_path / "t").glob("*.arrow"))) == 3
    # other rows under the same name
    kept = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join(kept[:5]), encoding="utf-8")
    few = load_examples(sources, GroupsRecipe(size=4), seed=1, **options)
    assert len(few) == 5


def test_examples_on_disk_are_those_that_would_be_drawn_now(
    tiny: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the files that they come from has changed, even where its size has not."""
    monkeypatch.setenv("DEAR_DATA", str(tmp_path / "data"))
    corpus, labels, run = tmp_path / "corpus.jsonl", tmp_path / "labels", tmp_path / "mine.trec"
    held_out = tmp_path / "data" / "dl19"
    texts, records = dict(tiny.corpus), rows_of(tiny)
    rows = tmp_path / "tiny-ids.jsonl"
    write_tevatron_ids(
        rows,
        [
            TrainingIds(
                query=r.query,
                positive_ids=tuple(p.id for p in r.positives),
                negative_ids=tuple(p.id for p in r.negatives),
            )
            for r in records
        ],
    )
    ranked = dict(tiny.run("bm25", "train"))
    changes = 0

    def write(text: str, factor: float, *, backwards: bool, tested: int) -> None:
        nonlocal changes
        shutil.rmtree(labels, ignore_errors=True)
        changed = texts | {p.id: replace(p, text=text) for p in records[0].positives}
        write_tevatron_corpus(corpus, changed.values())
        write_labels(labels, tiny, factor=factor, corpus=changed)
        write_run(run, {q: _turned(r) if backwards else r for q, r in ranked.items()}, tag="x")
        write_beir(
            held_out,
            corpus=tiny.corpus.values(),
            queries=[replace(records[tested].query, id="t")],
            judgements={"test": {"t": {"p0-0": 1}}},
        )
        changes += 1
        for path in (corpus, run, *labels.iterdir()):
            os.utime(path, ns=(0, 10**18 + changes))

    def drawn(tables: str, **options: Any) -> list[Example]:
        source: dict[str, Any] = {"negatives_from": "run", "exclude": ("dl19",)} | options
        source |= {} if source["negatives_from"] == "rows" else {"run": str(run)}
        found = load_examples(
            [
                DataRecipe(
                    rows=str(rows),
                    corpus=str(corpus),
                    labels=(str(labels),),
                    **source,
                )
            ],
            GroupsRecipe(size=4, rank_to=6),
            seed=1,
            with_labels=True,
            tables=tmp_path / tables,
            in_memory=1,
        )
        assert isinstance(found, ExampleTable)
        return list(found)

    before: list[list[Example]] = []
    files = {"text": "w1 w2 w3", "factor": 1.0, "backwards": False, "tested": 5}
    for change in ({}, {"text": "w3 w2 w1"}, {"factor": 2.0}, {"backwards": True}, {"tested": 6}):
        files |= change
        write(**files)  # type: ignore[arg-type]
        found = drawn("kept")
        assert found == drawn(f"fresh-{changes}")
        assert found not in before
        before.append(found)
    for options in ({"label_scale": 3.0}, {"negatives_from": "rows"}, {"queries": 5}):
        found = drawn("kept", **options)
        assert found == drawn(f"fresh-{options}", **options)
        assert found not in before
        before.append(found)


def _turned(ranking: Ranking) -> Ranking:
    """The same passages, last first."""
    return replace(ranking, passage_ids=ranking.passage_ids[::-1])


def test_what_is_left_out_is_said(
    tiny: Collection,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = list(tiny.queries("train").values())[:3]
    write_beir(
        tmp_path / "data" / "dl19",
        corpus=tiny.corpus.values(),
        queries=[replace(q, id=f"t{i}", text=f"{q.text.upper()}?") for i, q in enumerate(asked)],
        judgements={"test": {f"t{i}": {"p0-0": 1} for i in range(3)}},
    )
    monkeypatch.setenv("DEAR_DATA", str(tmp_path / "data"))
    options: dict[str, Any] = {"seed": 1, "with_labels": False, "collections": {"tiny": tiny}}
    with caplog.at_level(logging.WARNING):
        found = load_examples(
            [DataRecipe(rows=str(rows), exclude=("dl19",))], GroupsRecipe(size=4), **options
        )
    texts = {q.text for q in asked}
    assert not texts & {e.query for e in found}
    assert "asked by dl19" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        other = load_examples(
            [DataRecipe(collection="tiny", exclude=("present",))], GroupsRecipe(size=4), **options
        )
    assert [e.query for e in other] == [e.query for e in found]
    assert "of a test collection" in caplog.text


@pytest.mark.parametrize(
    ("titles", "same"),
    [(("", ""), True), (("", "half"), True), (("One", "ONE"), True), (("One", "Another"), False)],
)
def test_the_same_text_is_no_negative_in_a_run_either(
    tiny: Collection, titles: tuple[str, str], same: bool
) -> None:
    name = next(iter(tiny.judgements("train")))
    grades = tiny.judgements("train")[name]
    relevant = next(p for p, grade in grades.items() if grade > 0)
    twin = next(p for p in tiny.run("bm25", "train")[name].passage_ids if not grades.get(p))
    corpus = dict(tiny.corpus)
    corpus[twin] = replace(corpus[twin], title=titles[1], text=f"{corpus[relevant].text.upper()} !")
    if titles[1] == "half":  # the first words as a title are the same passage
        first, rest = corpus[twin].text.split(" ", 1)
        corpus[twin] = replace(corpus[twin], title=first, text=rest)
    corpus[relevant] = replace(corpus[relevant], title=titles[0])
    other = Collection.from_parts("tiny", corpus, tiny.queries(), {"train": {name: {relevant: 1}}})
    other.run = tiny.run  # type: ignore[method-assign]

    def drawn(**values: Any) -> set[str]:
        found = load_examples(
            [DataRecipe(collection="tiny")],
            GroupsRecipe(size=30, **values),
            seed=1,
            with_labels=False,
            collections={"tiny": other},
        )
        return {p for e in found for p in e.group.passage_ids}

    assert (twin not in drawn()) == same
    assert drawn(drop_same_text=False) == drawn() | {twin}


@pytest.mark.parametrize("on_disk", [False, True])
def test_labels_of_rows_are_for_the_passages_that_training_reads(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    if on_disk:
        monkeypatch.setattr(passage_table, "SMALL_BYTES", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = open_collection(f"rows:{rows}")
    run = opened.run("rows", "train")
    label_with(opened, [run], FirstStage([run]), tmp_path / "l")
    assert len(read_labels(tmp_path / "l")) == sum(map(len, run.values()))
    found = load_examples(
        [DataRecipe(rows=str(rows), labels=(str(tmp_path / "l"),))],
        GroupsRecipe(size=5),
        seed=1,
        with_labels=True,
    )
    for example in found:
        own = run[example.group.query_id.removeprefix("tiny/")]
        scores = dict(zip(own.passage_ids, own.scores, strict=True))
        assert example.group.teacher == tuple(scores[p] for p in example.group.passage_ids)
        texts = tuple(opened.corpus[p].full_text for p in example.group.passage_ids)
        assert example.passages == texts


def test_a_missing_label_of_rows_is_an_error_with_the_count(
    tiny: Collection, rows: Path, tmp_path: Path
) -> None:

    folder = write_labels(tmp_path / "l", tiny, leave_out=5)
    with pytest.raises(DataError, match=r"^[1-5] of \d+ pairs .* have no label"):
        load_examples(
            [DataRecipe(rows=str(rows), labels=(folder,))],
            GroupsRecipe(size=6),
            seed=1,
            with_labels=True,
            tables=tmp_path / "t",
            in_memory=2,
        )
    assert not list((tmp_path / "t").glob("*.arrow"))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "data.0.collection: Field required"),
        ({"collection": "x", "corpus": "y"}, "data.0.corpus: applies to `rows` only"),
        ({"rows": "r", "collection": "x"}, "data.0.collection: does not apply to `rows`"),
        ({"rows": "r", "judged": False}, "data.0.judged: does not apply to `rows`"),
        ({"rows": "r", "run": "x"}, "data.0.run: say what it is for"),
        ({"rows": "r", "negatives_from": "run"}, "data.0.run: Field required"),
        ({"rows": "r", "negatives_from": "runs", "run": "x"}, "data.0.negatives_from: Input"),
    ],
)
def test_keys_that_mean_nothing_beside_each_other(source: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_recipe({"name": "x", "model": {"base": "b"}, "data": [source]})


def test_a_recipe_file_trains_from_rows(bert: str, rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        f"""
name = "rows"
[model]
base = {json.dumps(bert)}
[[data]]
rows = {json.dumps(str(rows))}
queries = 6
[contract]
max_query_tokens = 8
max_passage_tokens = 24
[groups]
size = 4
negatives = "random"
[loss]
alpha = 0.0
[train]
groups_per_step = 4
autocast = false
""",
        encoding="utf-8",
    )
    trained = train(load_recipe(path), tmp_path / "out")
    assert trained.pairs == 24
