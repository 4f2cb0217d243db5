"""Collections: real ones, people's own folders, and other libraries' catalogues."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dear.data.collections import COLLECTIONS, Collection, list_collections, open_collection
from dear.data.formats import read_run, write_beir, write_corpus, write_queries
from dear.errors import ConfigError, DataError, MissingExtra
from dear.records import Passage, Query, Ranking, gather

CORPUS = {i: Passage(id=i, text=f"text {i}", title=f"title {i}") for i in "abc"}
QUERIES = {i: Query(id=i, text=f"query {i}") for i in ("1", "2", "3")}
JUDGEMENTS = {"train": {"1": {"a": 1}}, "test": {"2": {"a": 0, "b": 2}}}
RUN = {"3": Ranking(query_id="3", passage_ids=("c", "a"), scores=(2.0, 1.0))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "mine"
    write_beir(
        place,
        corpus=CORPUS.values(),
        queries=QUERIES.values(),
        judgements=JUDGEMENTS,
        runs={"extra": {"my.bm25": RUN}},
    )
    return place


# ---- the real ones: counts as their READMEs state them ----

COUNTS = {
    "nfcorpus": (3633, 3237, {"train": (2590, 110575), "dev": (324, 11385), "test": (323, 12334)}),
    "scifact": (5183, 1109, {"train": (809, 919), "test": (300, 339)}),
    "noveleval": (420, 21, {"test": (21, 420)}),
    "dl19": (12788, 43, {"test": (43, 9260)}),
    "dl21": (10553, 53, {"test": (53, 10828)}),
    "dl22": (16660, 76, {}),
    "cranfield": (1400, 225, {"test": (225, 1837)}),
    "cacm": (3204, 64, {"test": (52, 796)}),
    "vaswani": (11426, 93, {"test": (93, 2083)}),
    "insuranceqa": (
        27413,
        16889,
        {"train": (12889, 21325), "dev": (2000, 3354), "test": (2000, 3308)},
    ),
    "medquad": (16350, 14345, {"train": (12205, 13954), "dev": (761, 841), "test": (1379, 1564)}),
}
GRADES = {
    ("nfcorpus", "test"): {1: 11758, 2: 576},
    ("noveleval", "test"): {0: 290, 1: 40, 2: 90},
    ("dl19", "test"): {0: 5158, 1: 1601, 2: 1804, 3: 697},
    ("dl21", "test"): {0: 4338, 1: 3063, 2: 2341, 3: 1086},
    ("cranfield", "test"): {0: 225, 1: 363, 2: 734, 3: 387, 4: 128},
}


@pytest.fixture
def registered(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAR_DATA", os.pathsep.join(["/absent", str(shared_data)]))


def test_the_catalogue_counts_what_the_folders_hold() -> None:
    """dl22's judgements are missing here, and dl19 to dl22 are candidates of a large corpus."""
    for name, (documents, _, splits) in COUNTS.items():
        entry = COLLECTIONS[name]
        if not name.startswith("dl"):
            assert entry.documents == documents + 3 * (name == "vaswani")  # three are empty
        for split, (queries, judgements) in splits.items():
            known = entry.splits[split]
            assert (known.queries, known.judgements) == (queries, judgements)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", COUNTS)
def test_real_collection(name: str) -> None:
    collection = open_collection(name)
    documents, queries, splits = COUNTS[name]
    assert collection.name == name
    assert len(collection.corpus) == documents
    assert len(collection.queries()) == queries
    judged = {split for split in collection.splits if collection.has_judgements(split)}
    assert judged == set(splits)
    for split, (asked, pairs) in splits.items():
        judgements = collection.judgements(split)
        assert (len(judgements), sum(map(len, judgements.values()))) == (asked, pairs)
        assert set(collection.queries(split)) == set(judgements)
        if (name, split) in GRADES:
            grades = Counter(g for of_query in judgements.values() for g in of_query.values())
            assert grades == GRADES[name, split]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "name", ["dl19", "dl21", "dl22", "noveleval", "cacm", "vaswani", "scifact"]
)
def test_every_ranked_passage_of_a_real_run_has_its_text(name: str) -> None:
    collection = open_collection(name)
    runs = collection.runs("test")
    assert "bm25" in runs
    queries = collection.queries()
    for run in runs:
        rankings = collection.run(run, "test")
        assert 0 < len(rankings) <= len(queries)
        for ranking in rankings.values():
            assert 0 < len(gather(ranking, queries, collection.corpus).passages) <= 100


def test_real_reranked_runs(shared_data: Path) -> None:
    paths = sorted((shared_data / "rankllm-listwise-responses" / "runs").glob("*.trec.gz"))
    assert paths
    for path in paths:
        run = read_run(path)
        assert len(run) == 43
        assert {len(ranking) for ranking in run.values()} == {100}


@pytest.mark.usefixtures("registered")
def test_dl22_has_queries_through_its_runs_and_no_judgements() -> None:
    dl22 = open_collection("dl22")
    assert dl22.splits == ("test",)
    assert len(dl22.queries("test")) == 76
    assert not dl22.has_judgements("test")
    with pytest.raises(DataError, match="dl22: no judgements for split 'test'; there are: none"):
        dl22.judgements("test")


@pytest.mark.usefixtures("registered")
def test_list_collections(shared_data: Path) -> None:
    listed = {one.entry.name: one for one in list_collections()}
    assert list(listed) == list(COLLECTIONS)
    assert listed["pydocs"].present
    assert listed["pydocs"].folder is None
    assert listed["scifact"].folder == shared_data / "scifact"
    assert {name for name, one in listed.items() if one.present} == {"pydocs", *COUNTS}


def test_absent_collections_are_listed_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEAR_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "cacm").mkdir(parents=True)  # a folder without a corpus is none
    assert [one.entry.name for one in list_collections() if one.present] == ["pydocs"]
    looked = re.escape(str(Path("data/cacm")))
    with pytest.raises(ConfigError, match=f"'cacm' is not on this machine: looked for {looked}"):
        open_collection("cacm")
    write_corpus(tmp_path / "data" / "cacm" / "corpus.jsonl", CORPUS.values())
    assert open_collection("cacm").name == "cacm"


def test_pydocs_opens_by_name() -> None:
    pydocs = open_collection("pydocs")
    assert pydocs.name == "pydocs"
    assert pydocs.splits == ("train", "dev", "test")
    assert pydocs.has_judgements("test")


# ---- people's own folders ----


def test_beir_folder(folder: Path) -> None:
    mine = open_collection(folder)
    assert (mine.name, mine.folder) == ("mine", folder)
    assert mine.corpus == CORPUS
    assert mine.queries() == QUERIES
    assert mine.splits == ("train", "test", "extra")
    assert {split: mine.judgements(split) for split in ("train", "test")} == JUDGEMENTS
    assert set(mine.queries("train")) == {"1"}
    assert set(mine.queries("extra")) == {"3"}  # of the run
    assert set(mine.runs("extra")) == {"my.bm25"}
    assert mine.runs("test") == {}
    assert mine.run("my.bm25", "extra") == RUN
    assert open_collection(f"{folder}/").name == "mine"


def test_wrong_splits_and_runs_say_what_there_is(folder: Path) -> None:
    mine = open_collection(folder)
    with pytest.raises(DataError, match="mine: no split 'tset'; there are: train, test, extra"):
        mine.queries("tset")
    with pytest.raises(DataError, match=r"for split 'extra'; there are: train, test$"):
        mine.judgements("extra")
    with pytest.raises(DataError, match=r"no run 'my.bm26' .*did you mean 'my.bm25'"):
        mine.run("my.bm26", "extra")
    with pytest.raises(DataError, match="no run 'bm25' for split 'test'; it has none"):
        mine.run("bm25", "test")
    with pytest.raises(DataError, match=r"no run 'runs/x\.trec' .*, and no such file;"):
        mine.run("runs/x.trec", "test")


def test_nothing_is_read_before_it_is_asked_for(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("broken")
    (folder / "qrels" / "train.tsv").write_text("broken")
    mine = open_collection(folder)
    assert mine.queries("test")
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: broken JSON"):
        _ = mine.corpus
    with pytest.raises(DataError, match=r"train\.tsv:1: expected 4 fields"):
        mine.queries("train")


def test_reads_once(folder: Path) -> None:
    mine = open_collection(folder)
    first = mine.corpus, mine.queries(), mine.judgements("test")
    for path in folder.rglob("*.*"):
        path.unlink()
    assert (mine.corpus, mine.queries(), mine.judgements("test")) == first
    assert mine.corpus is first[0]


def test_gz_folder(tmp_path: Path) -> None:
    write_beir(
        tmp_path,
        corpus=CORPUS.values(),
        queries=QUERIES.values(),
        judgements=JUDGEMENTS,
        runs={"test": {"bm25": RUN}},
        compress=True,
    )
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".gz"}
    packed = open_collection(tmp_path)
    assert packed.corpus == CORPUS
    assert packed.judgements("test") == JUDGEMENTS["test"]
    assert packed.run("bm25", "test") == RUN


def test_corpus_and_queries_alone(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", CORPUS.values())
    write_queries(tmp_path / "queries.jsonl", QUERIES.values())
    bare = open_collection(tmp_path)
    assert bare.splits == ()
    assert bare.queries("test") == bare.queries() == QUERIES
    assert not bare.has_judgements("test")


def test_plain_text_folders(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("one\n\nthree\n")
    (tmp_path / "queries.txt").write_text("what?\n")
    lines = open_collection(tmp_path)
    assert lines.corpus["3"].text == "three"
    assert lines.queries() == {"1": Query(id="1", text="what?")}
    (tmp_path / "corpus.tsv").write_text("d1\tTitle\tText\n")
    (tmp_path / "queries.tsv").write_text("q1\twho?\n")
    tables = open_collection(tmp_path)
    assert tables.corpus == {"d1": Passage(id="d1", title="Title", text="Text")}
    assert list(tables.queries()) == ["q1"]
    (tmp_path / "docs" / "corpus").mkdir(parents=True)
    (tmp_path / "docs" / "corpus" / "note.md").write_text("# Note\ntext")
    documents = open_collection(tmp_path / "docs")
    assert documents.corpus == {"note.md": Passage(id="note.md", title="Note", text="text")}
    with pytest.raises(DataError, match=r"docs: holds no queries: expected queries\.jsonl"):
        documents.queries()


def test_judged_queries_without_text(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as stream:
        stream.write("99\ta\t1\n")
    (folder / "qrels" / "dev.tsv").write_text("98\ta\t1\n")
    mine = open_collection(folder)
    with caplog.at_level(logging.WARNING):
        assert set(mine.queries("test")) == {"2"}
    assert "1 of 2 queries of split test have no text, such as 99" in caplog.text
    with pytest.raises(DataError, match="no query of split 'dev' has a text"):
        mine.queries("dev")


def test_oddly_named_run_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "runs" / "bm25.trec").write_text("q Q0 a 1 1 t\n")
    mine = open_collection(folder)
    assert mine.splits == ("train", "test", "extra")
    assert "bm25.trec is not called NAME.SPLIT.trec" in caplog.text


def test_from_parts() -> None:
    parts = Collection.from_parts("parts", CORPUS, QUERIES, JUDGEMENTS, {"dev": ["3"]})
    assert parts.corpus is CORPUS
    assert parts.splits == ("train", "dev", "test")
    assert set(parts.queries("dev")) == {"3"}
    assert parts.judgements("test") == JUDGEMENTS["test"]
    parts.judgements("test")["2"]["b"] = 7  # a caller's change does not reach the parts
    assert JUDGEMENTS["test"]["2"]["b"] == 2


def test_what_is_no_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no folder 'scifct'; did you mean 'scifact'\?"):
        open_collection("scifct")
    with pytest.raises(ConfigError, match=r"no folder '\./scifct'"):
        open_collection("./scifct")
    with pytest.raises(ConfigError, match="no collection and no folder"):
        open_collection(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no corpus: expected corpus\.jsonl"):
        open_collection(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is a file; a collection is a folder"):
        open_collection("file")


def test_an_empty_folder_does_not_hide_a_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pydocs").mkdir()
    assert open_collection("pydocs").folder is None
    folder.rename(tmp_path / "cacm")
    assert open_collection("cacm").corpus == CORPUS


# ---- other libraries' catalogues ----


@pytest.fixture(scope="module", autouse=True)
def ir_datasets_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # its import makes folders there
        patch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.mktemp("ir_datasets")))
        yield


@pytest.fixture
def irds_id(tmp_path: Path) -> Iterator[str]:
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("a\ttext a\nb\ttext b\n")
    (tmp_path / "queries.tsv").write_text("1\twhat?\n")
    (tmp_path / "qrels.txt").write_text("1 0 a 2\n1 1 a 1\n1 0 b 0\n")
    dataset = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels.txt"),
    )
    name = "dear-test/local/dev"
    ir_datasets.registry.register(name, dataset)
    yield name
    ir_datasets.registry._registered.pop(name)


@pytest.mark.parametrize("prefix", ["irds:", ""])
def test_ir_datasets(irds_id: str, prefix: str) -> None:
    collection = open_collection(prefix + irds_id)
    assert collection.name == irds_id
    assert len(collection.corpus) == 2
    assert dict(collection.corpus) == {
        "a": Passage(id="a", text="text a"),
        "b": Passage(id="b", text="text b"),
    }
    assert collection.corpus.get("absent") is None
    assert "absent" not in collection.corpus
    assert collection.queries("dev") == {"1": Query(id="1", text="what?")}
    assert collection.judgements("dev") == {"1": {"a": 2, "b": 0}}


def test_unknown_ir_datasets_id() -> None:
    pytest.importorskip("ir_datasets")
    with pytest.raises(ConfigError, match="ir_datasets knows no data set 'no/such/id'"):
        open_collection("irds:no/such/id")
    with pytest.raises(ConfigError, match="no folder 'no/such', and ir_datasets knows no"):
        open_collection("no/such")


def test_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"^ir-datasets is not installed: .*\[irds\]"):
        open_collection("irds:beir/scifact/test")
    with pytest.raises(MissingExtra, match=r"no folder 'beir/scifact/test'; .*\[irds\]"):
        open_collection("beir/scifact/test")
    with pytest.raises(MissingExtra, match=r"datasets is not installed: .*\[hub\]"):
        open_collection("hf:BeIR/scifact")


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = tmp_path / "hub" / "small"
    place.mkdir(parents=True)
    jsonl(place / "corpus.jsonl", [{"_id": i, "title": "", "text": f"text {i}"} for i in "ab"])
    jsonl(place / "queries.jsonl", [{"_id": "1", "text": "what?"}])
    judged = {"query-id": "1", "corpus-id": "a", "score": 1}
    jsonl(place / "dev.jsonl", [judged])
    jsonl(place / "test.jsonl", [judged | {"score": 2}])
    (place / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: corpus\n  data_files:\n  - split: corpus\n    path: corpus.jsonl\n"
        "- config_name: queries\n  data_files:\n  - split: queries\n    path: queries.jsonl\n"
        "- config_name: default\n  data_files:\n"
        "  - split: validation\n    path: dev.jsonl\n  - split: test\n    path: test.jsonl\n"
        "---\n"
    )
    return place


def test_hugging_face_data_set(hub_folder: Path) -> None:
    collection = open_collection(f"hf:{hub_folder}")
    assert collection.name == "small"
    assert collection.splits == ("dev", "test")
    assert collection.corpus == {i: Passage(id=i, text=f"text {i}") for i in "ab"}
    assert collection.queries("test") == {"1": Query(id="1", text="what?")}
    assert collection.judgements("dev") == {"1": {"a": 1}}
    assert collection.judgements("test") == {"1": {"a": 2}}


def test_hugging_face_faults(hub_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^hf:absent/set: ") as caught:
        open_collection("hf:absent/set")
    assert "\n" not in str(caught.value)
    jsonl(hub_folder / "queries.jsonl", [{"_id": "1", "text": " "}])
    with pytest.raises(DataError, match=r"hf:.*small/queries/queries:1: 'text' is empty"):
        open_collection(f"hf:{hub_folder}").queries()
    readme = hub_folder / "README.md"
    readme.write_text(readme.read_text().replace("config_name: queries", "config_name: asked"))
    with pytest.raises(DataError, match=r"no configuration 'queries' .* it has: corpus, asked"):
        open_collection(f"hf:{hub_folder}")
