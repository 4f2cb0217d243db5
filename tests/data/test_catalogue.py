"""The catalogue of collections, held against ir_datasets' own; and opening by name."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from dear.data import catalogue
from dear.data.catalogue import COLLECTIONS, FAMILIES, CollectionEntry, Split, find_entry
from dear.data.collections import open_collection
from dear.data.folders import locate
from dear.data.formats import write_beir
from dear.data.formats.beir import read_answers, write_answers
from dear.errors import ConfigError, DataError, MissingExtra
from dear.evaluate.answers import answer_cutoff
from dear.evaluate.metrics import parse_measures
from dear.records import Passage, Query

CORPUS = {i: Passage(id=i, text=f"text {i}") for i in "abc"}
QUERIES = {i: Query(id=i, text=f"query {i}") for i in "12"}


@pytest.fixture(scope="module", autouse=True)
def ir_datasets_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # its import makes folders there
        patch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.mktemp("ir_datasets")))
        yield


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEAR_DATA", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


# ---- the table ----


def test_the_benchmarks_are_there() -> None:
    names = {
        *("msmarco", "dl19", "dl20", "dl21", "dl22", "noveleval", "nq-open"),
        *("trec-covid", "nfcorpus", "webis-touche2020", "dbpedia-entity", "scifact"),
        *("signal1m", "trec-news", "robust04", "nq", "hotpotqa", "fiqa", "arguana", "quora"),
        *("scidocs", "fever", "climate-fever", "bioasq"),
        *("cranfield", "cacm", "vaswani", "medquad", "insuranceqa", "pydocs"),
    }
    assert names <= set(COLLECTIONS)
    assert {family: len(parts) for family, parts in FAMILIES.items()} == {
        "cqadupstack": 12,
        "bright": 12,
    }


def test_no_two_share_a_name() -> None:
    names = Counter(n for entry in COLLECTIONS.values() for n in entry.names)
    names.update(list(FAMILIES))
    assert max(names.values()) == 1
    assert all(name == name.lower().replace("_", "-") for name in names)


@pytest.mark.parametrize("entry", COLLECTIONS.values(), ids=lambda e: e.name)
def test_an_entry_says_what_is_needed(entry: CollectionEntry) -> None:
    assert all((entry.description, entry.licence, entry.group, entry.first_stage))
    assert entry.depth > 0
    if answer_cutoff(entry.main_measure) is None:
        assert [m.name for m in parse_measures([entry.main_measure])] == [entry.main_measure]
    assert entry.min_grade == (2 if entry.name.startswith("dl") else 1)
    if entry.opener == "folder":
        assert entry.documents
        assert entry.splits
        # whoever cannot download it is told what to do
        assert entry.access or ((entry.irds or entry.hub) and not entry.restricted)


def test_groups_and_families_stand_together() -> None:
    for of in ("group", "family"):
        seen = [getattr(entry, of) for entry in COLLECTIONS.values()]
        runs = [one for one, before in zip(seen, [None, *seen], strict=False) if one != before]
        named = [one for one in runs if one is not None]
        assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        *(("touche", "webis-touche2020"), ("covid", "trec-covid"), ("dl-19", "dl19")),
        *(("DL19", "dl19"), ("TREC_COVID", "trec-covid"), ("trec-dl-2020", "dl20")),
        *(("bright/biology", "bright-biology"), ("msmarco-dev", "msmarco")),
    ],
)
def test_aliases(typed: str, name: str) -> None:
    found = find_entry(typed)
    assert found is not None
    assert found.name == name


# ---- what ir_datasets says about the same ----


@pytest.fixture(scope="module")
def metadata() -> Any:
    pytest.importorskip("ir_datasets")
    return json.loads((files("ir_datasets") / "etc" / "metadata.json").read_text())


def counted(metadata: Any, dataset_id: str, what: str) -> int | None:
    found = metadata.get(dataset_id, {}).get(what, {})
    while "_ref" in found:
        found = metadata[found["_ref"]][what]
    return found.get("count")


BY_IRDS = [
    (entry, name, split)
    for entry in COLLECTIONS.values()
    for name, split in entry.splits.items()
    if split.irds
]


@pytest.mark.parametrize(("entry", "name", "split"), BY_IRDS, ids=lambda x: getattr(x, "irds", ""))
def test_ids_and_counts_are_those_of_ir_datasets(
    entry: CollectionEntry, name: str, split: Split, metadata: Any
) -> None:
    import ir_datasets

    assert split.irds is not None
    assert split.irds in ir_datasets.registry
    assert counted(metadata, split.irds, "docs") == entry.documents
    assert counted(metadata, split.irds, "qrels") == split.judgements
    # of the 250 topics of Robust 2004, one has no relevant document and is left out
    asked = 250 if entry.name == "robust04" else split.queries
    assert counted(metadata, split.irds, "queries") == asked


# ---- opening ----


def folder(place: Path) -> Path:
    write_beir(
        place,
        corpus=CORPUS.values(),
        queries=QUERIES.values(),
        judgements={"test": {"1": {"a": 1}}},
    )
    return place


def test_a_local_folder_wins_under_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAR_DATA", os.pathsep.join([str(tmp_path / "no"), str(tmp_path / "mine")]))
    folder(tmp_path / "mine" / "touche")
    for name in ("touche", "webis-touche2020", "Touche2020"):
        opened = open_collection(name)
        assert (opened.name, opened.corpus) == ("webis-touche2020", CORPUS)
        assert opened.folder == tmp_path / "mine" / "touche"


def test_facts_come_by_name_by_folder_and_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAR_DATA", str(tmp_path))
    place = folder(tmp_path / "dl20")
    other = folder(tmp_path / "other")
    for spec in ("dl20", "dl-20", place):
        opened = open_collection(spec)
        assert (opened.min_grade, opened.main_measure) == (2, "nDCG@10")
    assert open_collection(other).min_grade == 1
    assert open_collection("pydocs").main_measure == "nDCG@10"
    pytest.importorskip("ir_datasets")
    assert open_collection("irds:msmarco-passage/trec-dl-2019/judged").min_grade == 2
    assert open_collection("irds:msmarco-passage/dev/small").main_measure == "MRR@10"


def test_a_family_names_its_members() -> None:
    with pytest.raises(ConfigError, match="'bright' is 12 collections; name one: bright-biology, "):
        open_collection("bright")


def test_what_nobody_may_download_says_how_to_get_it() -> None:
    assert locate(COLLECTIONS["bioasq"]).source == "by hand"
    with pytest.raises(ConfigError, match=r"'bioasq' is not on this machine: .*register at bioasq"):
        open_collection("bioasq")
    # ir_datasets can read it, but not get it
    assert locate(COLLECTIONS["robust04"]).source == "by hand"


def test_an_unknown_name_gets_the_nearest_or_the_list() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'touche'\?"):
        open_collection("touch")
    with pytest.raises(ConfigError, match=r"'qqqq'; `dear collections` lists those known by name"):
        open_collection("qqqq")


def test_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    pytest.importorskip("datasets")
    assert locate(COLLECTIONS["fiqa"]).source == "hub"
    assert locate(COLLECTIONS["dl19"]).source == "extra"
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert locate(COLLECTIONS["fiqa"]).source == "extra"
    with pytest.raises(MissingExtra, match=r"'fiqa' is not on this machine: .*\[irds\]"):
        open_collection("fiqa")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry `tiny` with two splits, which ir_datasets reads from files in this folder."""
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("a\ttext a\nb\ttext b\n")
    splits = {}
    for place, split in enumerate(("dev", "test"), 1):
        (tmp_path / f"{split}.tsv").write_text(f"{place}\twhat?\n")
        (tmp_path / f"{split}.qrels").write_text(f"{place} 0 a 2\n")
        dataset = ir_datasets.create_dataset(
            docs_tsv=str(tmp_path / "docs.tsv"),
            queries_tsv=str(tmp_path / f"{split}.tsv"),
            qrels_trec=str(tmp_path / f"{split}.qrels"),
        )
        monkeypatch.setitem(ir_datasets.registry._registered, f"dear-tiny/{split}", dataset)
        splits[split] = Split(irds=f"dear-tiny/{split}")
    entry = CollectionEntry(
        name="tiny", description="d", licence="l", group="g", splits=splits, min_grade=2
    )
    monkeypatch.setitem(catalogue._BY_NAME, "tiny", entry)
    return tmp_path


def test_ir_datasets_gives_all_splits_in_one(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = open_collection("tiny")
    assert "'tiny' is not on this machine" in caplog.text
    assert (opened.name, opened.splits, opened.min_grade) == ("tiny", ("dev", "test"), 2)
    assert set(opened.corpus) == {"a", "b"}
    assert set(opened.queries()) == {"1", "2"}
    assert set(opened.queries("test")) == {"2"}
    assert opened.judgements("dev") == {"1": {"a": 2}}
    assert not opened.has_answers


def test_what_ir_datasets_does_not_find_is_one_line(tiny: Path) -> None:
    (tiny / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"ir_datasets: .* needs .*test\.tsv") as caught:
        open_collection("tiny").queries()
    assert "\n" not in str(caught.value)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ir_datasets")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    opened = open_collection("arguana")
    for read in (opened.queries, lambda: list(opened.corpus), lambda: opened.judgements("test")):
        with pytest.raises(
            DataError, match=r"'beir/arguana' is not downloaded, and .* to public\.ukp"
        ) as met:
            read()
        assert "\n" not in str(met.value)


# ---- answers ----


def test_answers_of_a_folder(tmp_path: Path) -> None:
    place = folder(tmp_path / "mine")
    assert not open_collection(place).has_answers
    with pytest.raises(DataError, match=r"mine: has no answers \(answers\.jsonl\)"):
        _ = open_collection(place).answers
    answers = {"1": ("Robert Gray", "Gray"), "2": ("42",)}
    write_answers(place / "answers.jsonl.gz", answers)
    assert open_collection(place).answers == answers


def test_answers_of_ir_datasets() -> None:
    pytest.importorskip("ir_datasets")
    assert open_collection("nq-open").has_answers
    assert not open_collection("beir/nq").has_answers


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "1"}', "no 'answers'"),
        ('{"_id": "1", "answers": []}', "'answers' is empty"),
        ('{"_id": "1", "answers": "x"}', "'answers' must be a list"),
        ('{"_id": "1", "answers": [" "]}', "an answer must be text that is not blank"),
        ('{"_id": "1", "answers": [3]}', "an answer must be text"),
        ('{"_id": "0", "answers": ["x"]}', "query id '0'"),
    ],
)
def test_faults_in_answers(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"_id": "0", "answers": ["x"]}\n' + line + "\n")
    with pytest.raises(DataError, match=f"answers.jsonl:2: .*{message}"):
        read_answers(path)
    with pytest.raises(DataError, match="query '1' has no answer"):
        write_answers(path, {"1": ()})
