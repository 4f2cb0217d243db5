"""Files that ask for more than they are, that name others, and that nothing can parse."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from tests.attacks.ceilings import attack_dear, attack_python

from dear.artifacts import inside
from dear.data import formats as f
from dear.data.origins import first_stage_of, read_origin, write_origin
from dear.digests import Inputs, file_digest, file_input
from dear.errors import DataError

READ_ALL = """
import sys
from pathlib import Path
from dear.artifacts import read_json, read_toml
from dear.data import formats as f
from dear.data.formats.beir import read_answers
from dear.data.training_rows import file_rows
from dear.errors import DearError

readers = {
    "corpus": f.read_corpus, "queries": f.read_queries, "run": f.read_run, "qrels": f.read_qrels,
    "passages": f.read_passages, "corpus tsv": f.read_corpus_tsv, "corpus txt": f.read_corpus_txt,
    "queries tsv": f.read_queries_tsv, "lists": lambda p: list(f.read_lists(p)),
    "rankgpt": lambda p: list(f.read_rankgpt(p)), "rank_llm": lambda p: list(f.read_rank_llm(p)),
    "answers": read_answers, "tevatron": lambda p: list(f.read_tevatron(p)),
    "json": read_json, "toml": read_toml,
}
names = sys.argv[2:] or readers
for name in names:
    try:
        readers[name](Path(sys.argv[1]))
        print(name, "read")
    except DearError as error:
        assert len(str(error)) < 3000 and "\\n" not in str(error), str(error)[:200]
        print(name, "refused", str(error)[-120:])
"""


def refused_by_all(path: Path, *readers: str, seconds: float = 60, mebibytes: float = 900) -> str:
    ended = attack_python(READ_ALL, path, *readers, seconds=seconds, mebibytes=mebibytes)
    assert ended.status == 0, ended.err[-2000:]
    assert " read\n" not in ended.out, ended.out
    return ended.out


def bomb(path: Path, piece: bytes, times: int) -> Path:
    """gzip members, one behind the other: as one stream of `times` pieces."""
    path.write_bytes(gzip.compress(piece) * times)
    return path


MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("line", b"a" * 16 * MIB),
        ("blank", b"\n" * 16 * MIB),
        ("returns", b"\r" * 16 * MIB),
        ("rows", b'{"_id": "a", "text": "b"}\n' * (16 * MIB // 26)),
        ("zeros", b"\0" * 16 * MIB),
    ],
)
def test_three_megabytes_that_unpack_to_three_gigabytes(
    tmp_path: Path, name: str, piece: bytes
) -> None:
    path = bomb(tmp_path / "corpus.jsonl.gz", piece, 192)
    readers = ["corpus", "run", "passages"] if name == "line" else ["passages"]
    said = refused_by_all(path, *readers)
    assert "--line-mib" in said or "--expansion" in said


def test_a_bomb_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    bomb(tmp_path / "corpus.jsonl.gz", b"a" * 16 * MIB, 192)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "otters"}\n')
    words = ["retrieve", tmp_path, "--output", tmp_path / "run.trec"]
    attack_dear(*words, seconds=20, mebibytes=900).line("corpus.jsonl.gz:1", "64 MiB", "--line-mib")
    said = attack_dear("--line-mib", 1, *words, seconds=20, mebibytes=500).line("1 MiB")
    assert "--line-mib 2" in said


def test_what_is_meant_is_read(tmp_path: Path) -> None:
    row = json.dumps({"_id": "p", "text": "x " * MIB}) + "\n"
    path = tmp_path / "corpus.jsonl"
    path.write_text(row)
    code = "import sys; from dear.data.formats import *; print(len(read_corpus(sys.argv[1])))"
    assert attack_python(code, path, seconds=5, mebibytes=500).out == "1\n"
    many = tmp_path / "many.jsonl.gz"
    many.write_bytes(
        gzip.compress(b"".join(b'{"_id": "p%d", "text": "otters"}\n' % i for i in range(100_000)))
    )
    assert attack_python(code, many, seconds=10, mebibytes=500).out == "100000\n"


@pytest.mark.parametrize("value", ["0", "-1", "x", "9" * 5000, "", "1.5", "²"])
def test_limits_that_are_none(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "p", "text": "x"}\n')
    monkeypatch.setenv("DEAR_LINE_MIB", value)
    from dear.errors import ConfigError

    with pytest.raises(ConfigError, match="DEAR_LINE_MIB"):
        f.read_corpus(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_without_an_end(tmp_path: Path, suffix: str) -> None:
    sparse = tmp_path / f"corpus.jsonl{suffix}"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    refused_by_all(sparse, "corpus", "run", "json", "toml", seconds=20, mebibytes=600)
    if not suffix:
        refused_by_all(Path("/dev/zero"), "corpus", "json", seconds=20, mebibytes=600)
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").touch()
    os.truncate(folder / "a.txt", 1 << 40)
    code = (
        "import sys; from dear.data.formats import read_document_folder as read\n"
        "from dear.errors import DataError\n"
        "try: read(sys.argv[1])\nexcept DataError as error: print(error)"
    )
    assert "larger than 64 MiB" in attack_python(code, folder, seconds=5, mebibytes=500).out


def test_damaged_streams(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"_id": "p", "text": "x"}\n' * 1000)
    for i, damaged in enumerate(
        [whole[: len(whole) // 2], whole[:10], whole[:3], whole[:30] + b"\xff" * 50, b"\x1f\x8b"]
    ):
        path = tmp_path / f"{i}.gz"
        path.write_bytes(damaged)
        refused_by_all(path, "corpus", "run", "passages", seconds=5, mebibytes=300)


DEEP = 100_000
NUMBERS = "9" * 5000

BROKEN = {
    "deep list": "[" * DEEP,
    "closed deep list": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * DEEP,
    "deep in a row": '{"_id": "p", "text": ' + "[" * DEEP + "]" * DEEP + "}",
    "digits": f'{{"_id": {NUMBERS}, "text": "x", "query": "q"}}',
    "digits in a list": f"[{NUMBERS}]",
    "a run's digits": f"q Q0 d {NUMBERS} {NUMBERS} t",
    "a grade's digits": f"q 0 d {NUMBERS}",
    "infinite": '{"_id": 1e999, "text": "x"}',
    "a control character": '{"_id": "a\\u0000b", "text": "x", "query": "q"}',
    "an escape": '{"_id": "a\\u001b[2J", "text": "x", "query": "q"}',
    "turned round": '{"_id": "a\\u202eb", "text": "x", "query": "q"}',
    "deep toml": "a = " + "[" * DEEP,
    "deep toml keys": ".".join("a" * 5000) + " = 1",
    "toml digits": f"a = {NUMBERS}",
    "surrogate": '{"_id": "p", "text": "\\ud800"}',
    "deep surrogate": '{"_id": "\\ud800", "text": ' + "[" * 900 + "]" * 900 + "}",
}


def test_what_nothing_can_parse(tmp_path: Path) -> None:
    for number, text in enumerate(BROKEN.values()):
        (tmp_path / str(number)).write_text(text)
    code = f"""
import sys, os
whole = sys.argv[1]
for file in sorted(os.listdir(whole), key=int):
    print("file", file)
    sys.argv[1:] = [os.path.join(whole, file)]
    exec({READ_ALL!r})
"""
    ended = attack_python(code, tmp_path, seconds=30, mebibytes=500)
    assert ended.status == 0, ended.err[-2000:]
    for number, name in enumerate(BROKEN):
        said = ended.out.partition(f"file {number}\n")[2].partition("file ")[0]
        taken = {line.removesuffix(" read") for line in said.splitlines() if line.endswith(" read")}
        # text is text, whatever it says; in TOML that list is the name of a table
        right = {"toml"} if name == "digits in a list" else set()
        if (
            name in ("infinite", "a control character", "an escape", "turned round")
            or "surrogate" in name
        ):
            right = {"json"}  # a value like any other, where it is no id
        assert not taken - {"passages", "corpus txt"} - right, (name, taken)


@pytest.mark.parametrize("bad", ["a\0b", "a\x1b[2J", "a\u202eb", "a\nb", "a\tb", "a\x85b"])
def test_no_run_and_no_label_has_such_ids(tmp_path: Path, bad: str) -> None:
    from dear.records import Ranking

    path = tmp_path / "out"
    for query, passage in ((bad, "p"), ("q", bad)):
        ranking = Ranking(query_id=query, passage_ids=(passage,), scores=(1.0,))
        with pytest.raises(DataError):
            f.write_run(path, {query: ranking}, "t")
        with pytest.raises(DataError):
            f.write_qrels(path, {query: {passage: 1}})
        with pytest.raises(DataError):
            f.write_beir_qrels(path, {query: {passage: 1}})
        for line in (f"{query} Q0 {passage} 1 1.0 t\n", f"{query} 0 {passage} 1\n"):
            path.write_bytes(line.encode())
            with pytest.raises(DataError):
                (f.read_run if "Q0" in line else f.read_qrels)(path)
        path.unlink()
    assert not path.exists()


def test_labels_refuse_such_ids(tmp_path: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    from dear.data.labels import Stamp, open_store, read_labels

    stamp = Stamp(collection="c", teacher="t", revision="r", fingerprint="f")
    with open_store(tmp_path, stamp) as store:
        with pytest.raises(DataError, match="control character"):
            store.append([("q", "a\x1b[2J")], np.ones(1, dtype=np.float32))
        store.append([("q", "good")], np.ones(1, dtype=np.float32))
    assert len(read_labels(tmp_path)) == 1
    shard = next(tmp_path.glob("*.parquet"))
    table = pq.read_table(shard)
    bad = table.set_column(1, "passage_id", [["a\x1b[2J"]])
    pq.write_table(bad, shard)
    with pytest.raises(DataError, match="control characters"):
        read_labels(tmp_path)


def test_parquet_that_claims_more_than_it_is(tmp_path: Path) -> None:
    make = """
import sys, pyarrow as pa, pyarrow.parquet as pq
rows = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), 50_000_000), ["x" * 1000])
pq.write_table(pa.table({"text": rows}), sys.argv[1], compression="zstd")
pq.write_table(pa.table({"text": ["x" * 40_000_000]}), sys.argv[2], compression="zstd")
"""
    rows, long = tmp_path / "rows.parquet", tmp_path / "long.parquet"
    # in another process: a child's highest memory counts from its parent's
    assert attack_python(make, rows, long, seconds=60, mebibytes=2000).status == 0
    assert rows.stat().st_size < 50_000_000 / 8
    read = """
import sys
from pathlib import Path
from dear.data.training_rows import file_rows
from dear.errors import DataError
try:
    print(sum(1 for _ in file_rows(Path(sys.argv[1]))))
except DataError as error:
    print(error)
"""
    assert "claims" in attack_python(read, rows, seconds=15, mebibytes=500).out
    assert "--expansion" in attack_python(read, long, seconds=15, mebibytes=500).out


def test_a_note_reads_no_other_file(tmp_path: Path) -> None:
    """A run from elsewhere, with a note that names a file beside its folder."""
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    secret = tmp_path / "mine" / "x"
    secret.write_text("my secret words stand here\n")
    corpus = tmp_path / "collection"
    (corpus / "qrels").mkdir(parents=True)
    (corpus / "corpus.jsonl").write_text('{"_id": "p", "text": "otters"}\n')
    (corpus / "queries.jsonl").write_text('{"_id": "q", "text": "otters"}\n')
    (corpus / "qrels" / "test.tsv").write_text("q\tp\t1\n")
    run = tmp_path / "theirs" / "run.trec"
    run.write_text("q Q0 p 1 1.0 t\n")
    link = tmp_path / "theirs" / "link.trec"
    link.symlink_to(secret)
    for first in ("../mine/x", str(secret), "link.trec", "../mine/../mine/x", "../mine", "\0", 7):
        note = {"format": "dear-run/1", "sha256": file_digest(run), "model": "m"}
        (tmp_path / "theirs" / "run.trec.json").write_text(
            json.dumps({**note, "first_stage": first})
        )
        ended = attack_dear("evaluate", corpus, "--run", run, seconds=15, mebibytes=500)
        assert "secret words" not in ended.out + ended.err, first
        assert "Traceback" not in ended.err
        assert ended.status == 0 or ended.line()


def test_a_first_stage_elsewhere_is_known_by_its_content(tmp_path: Path) -> None:
    for name in ("first", "ranked"):
        (tmp_path / name).mkdir()
    first, run = tmp_path / "first" / "bm25.trec", tmp_path / "ranked" / "run.trec"
    first.write_text("q Q0 d 1 1.0 t\n")
    run.write_text("q Q0 d 1 2.0 t\n")
    inputs = Inputs({"run": file_input(first)}, complete=False)
    write_origin(run, {"model": "m"}, first_stage=first, inputs=inputs)
    assert first_stage_of(run, read_origin(run), {}) == (first, None)
    first.write_text("q Q0 d 1 1.5 t\n")
    found, said = first_stage_of(run, read_origin(run), {})
    assert found is None
    assert said is not None
    assert "--first-stage" in said
    # below the run's own folder a change is said, and no more
    own = tmp_path / "ranked" / "bm25.trec"
    own.write_text("q Q0 d 1 1.0 t\n")
    write_origin(run, {"model": "m"}, first_stage=own, inputs=inputs)
    assert first_stage_of(run, read_origin(run), {})[0] == own


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "/etc", "a/../..", "link", "loop", "a\0b"])
def test_members_stay_inside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    with pytest.raises(DataError, match="inside"):
        inside(folder, name)
    assert inside(folder, "a/b") == folder / "a/b"
    from dear.data.labels import read_labels

    (folder / "ensemble.json").write_text(json.dumps({"members": {name: 1.0, "a": 1.0}}))
    with pytest.raises(DataError, match="inside"):
        read_labels(folder)


@pytest.mark.parametrize("weight", ["x", None, True, 1e999, [1], 10**400])
def test_weights_that_are_none(tmp_path: Path, weight: object) -> None:
    from dear.data.labels import read_labels

    (tmp_path / "ensemble.json").write_text(json.dumps({"members": {"a": weight}}))
    with pytest.raises(DataError):
        read_labels(tmp_path)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("env", [ASCII, {"PYTHONIOENCODING": "ascii"}])
def test_an_ascii_locale(tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "späte Ötter"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "p漢", "text": "Ötter 漢 ✓"}\n', encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "qü", "text": "Ötter"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("qü\tp漢\t1\n", encoding="utf-8")
    run = folder / "läufe" / "erster.trec"
    ended = attack_dear("retrieve", folder, "--output", run, seconds=30, mebibytes=800, env=env)
    assert ended.status == 0, ended.err
    assert run.read_text(encoding="utf-8").startswith("qü Q0 p漢 1 ")
    again = folder / "zweiter.trec"
    again.write_text(run.read_text(encoding="utf-8"), encoding="utf-8")
    for words in (
        ["evaluate", folder, "--run", run, "--per-query", "--json", folder / "zahlen.json"],
        ["compare", folder, run, again, "--ids"],
        ["report", folder / "bericht.html", folder, "--run", run],
        ["collections"],
    ):
        ended = attack_dear(*words, seconds=30, mebibytes=800, env=env)
        assert ended.status == 0, (words, ended.err)


def test_a_folder_of_documents_shows_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("my secret words")
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("otters")
    (folder / "again.txt").symlink_to(folder / "a.txt")
    assert set(f.read_document_folder(folder)) == {"a.txt", "again.txt"}
    (folder / "link.txt").symlink_to("../secret")
    with pytest.raises(DataError, match="link out of the folder"):
        f.read_document_folder(folder)


def test_names_of_documents_are_ids(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"a b.txt", b"a\x1b[2J.txt", b"\xff.txt", "漢\u202e.txt".encode(), b"a\nb.txt"):
        Path(os.fsdecode(folder + b"/" + name)).write_text("otters")
    ids = set(f.read_document_folder(tmp_path))
    expected = {"a%20b.txt", "a%1B[2J.txt", "%FF.txt", "漢%E2%80%AE.txt", "a%0Ab.txt"}
    assert ids == expected
