"""A file is whole, or the earlier one is still there."""

from __future__ import annotations

import errno
import math
import os
import random
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.artifacts import atomic_path, read_json, write_json
from dear.data.formats import read_queries, write_queries
from dear.errors import DataError
from dear.records import Query

FULL = Path("/dev/full")


def write_and_fail(path: Path, failure: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise failure


def write_to_full_disk(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.symlink_to(FULL)
        temporary.write_bytes(b"x" * 100_000)


def write_nothing(path: Path) -> None:
    with atomic_path(path):
        pass


def read_another(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(Path("/absent/in").read_bytes())


needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")


def test_success_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for content, before in (("first", None), ("second", "first")):
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent  # a rename must not cross file systems
            temporary.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert os.listdir(path.parent) == ["file.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


@pytest.mark.parametrize("failure", [RuntimeError("stop"), KeyboardInterrupt(), DataError("bad")])
def test_failure_keeps_the_earlier_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(type(failure)):
        write_and_fail(path, failure)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["file.txt"]


@needs_full_device
@pytest.mark.parametrize("earlier", [True, False])
def test_full_disk_while_writing(tmp_path: Path, earlier: bool) -> None:
    path = tmp_path / "file.txt"
    if earlier:
        path.write_text("earlier")
    with pytest.raises(DataError) as caught:
        write_to_full_disk(path)
    kept = "; the earlier file is kept" if earlier else ""
    assert str(caught.value) == f"{path}: cannot be written: {os.strerror(errno.ENOSPC)}{kept}"
    assert os.listdir(tmp_path) == (["file.txt"] if earlier else [])
    assert FULL.is_char_device()


def test_a_pipe_is_written_in_place_and_stays_one(tmp_path: Path) -> None:
    # not /dev/null: were this to fail as root, the machine would lose it
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_queries(pipe, [Query(id="1", text="?")])
        assert read.result(timeout=100) == '{"_id": "1", "text": "?"}\n'
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["queries.jsonl", "queries.jsonl.gz"])
def test_writers_that_run_out_of_room_keep_the_earlier_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    earlier, more = [Query(id="1", text="earlier")], random.Random(0)
    write_queries(path, earlier)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DataError) as caught:
            write_queries(path, (Query(id=str(i), text=str(more.random())) for i in range(9000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    reason = os.strerror(errno.EFBIG)
    assert str(caught.value) == f"{path}: cannot be written: {reason}; the earlier file is kept"
    assert read_queries(path) == {"1": earlier[0]}
    assert os.listdir(tmp_path) == [name]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"below\.txt: cannot be written: .*file is no folder"):
        write_json(tmp_path / "file" / "below.txt", {})
    with pytest.raises(DataError, match=r"is a folder"):
        write_json(tmp_path, {})
    with pytest.raises(DataError, match=r"cannot be written: File name too long"):
        write_json(tmp_path / ("n" * 300), {})
    with pytest.raises(DataError, match=r"other: cannot be written: No such file"):
        write_nothing(tmp_path / "other")
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_about_another_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"out: cannot be written: .*/absent/in"):
        read_another(tmp_path / "out")


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "real.json") == {"a": 1}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values))
def test_json_identity(tmp_path_factory: pytest.TempPathFactory, obj: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "identity.json"
    write_json(path, obj)
    assert read_json(path) == obj


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1,\n "b" 2}', ":2: broken JSON: Expecting ':' delimiter (column 6)"),
        (b"", ":1: broken JSON"),
        (b"[1]", ":1: expected a JSON object, got list"),
        (b'{"a":\n"\xff"}', ":2: not UTF-8"),
        (b"[" * 100_000, ": broken JSON"),
    ],
)
def test_broken_json(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}{problem}")


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: cannot be read: No such file"):
        read_json(tmp_path / "absent")


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"])
def test_what_json_cannot_hold(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_json(tmp_path / "x.json", {"a": value})
    assert os.listdir(tmp_path) == []
