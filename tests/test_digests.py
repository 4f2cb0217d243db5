"""Digests: the same for equal content, remembered by what the file system says, never believed
where it may be wrong; and what is said where inputs differ."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear import digests
from dear.digests import (
    Input,
    Inputs,
    file_digest,
    files_digest,
    lines_digest,
    remembered,
    value_differences,
    watch,
)
from dear.errors import DataError

LONG_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "digests"


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Files that are made now count as old enough to be remembered: ctime cannot be set."""

    def let() -> None:
        monkeypatch.setattr(digests, "RACY_NS", -60 * 10**9)

    return let


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files whose content is read from now on."""
    found: list[str] = []
    read = digests._read

    def spy(path: Path, *rest: object) -> str:
        found.append(path.name)
        return read(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(digests, "_read", spy)
    return found


def test_a_files_digest_is_its_sha256(tmp_path: Path) -> None:
    for size in (0, 1, (1 << 20) - 1, 1 << 20, 3_000_000):
        data = os.urandom(size)
        (tmp_path / "f").write_bytes(data)
        assert file_digest(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_a_known_file_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: Callable[[], None]
) -> None:
    old()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = {name: tmp_path / name for name in ("a", "b")}
    read = reads(monkeypatch)
    first = files_digest(files)
    assert sorted(read) == ["a", "b"]
    assert files_digest(files) == first
    assert len(read) == 2
    (tmp_path / "b").write_text("c")
    assert files_digest(files) != first
    assert read[2:] == ["b"]


@pytest.mark.parametrize("change", ["content", "touched", "replaced", "time set back"])
def test_whatever_becomes_of_a_file_its_digest_is_right(
    tmp_path: Path, old: Callable[[], None], change: str
) -> None:
    """Same size, and even the same mtime: the file system still says that it changed."""
    old()
    path = tmp_path / "f"
    path.write_bytes(b"before")
    os.utime(path, (LONG_AGO, LONG_AGO))
    file_digest(path)
    time.sleep(0.02)  # a tick of the file system's clock
    new = b"after!"
    if change == "touched":
        os.utime(path)
        new = b"before"
    elif change == "replaced":
        (tmp_path / "g").write_bytes(new)
        (tmp_path / "g").replace(path)
    else:
        path.write_bytes(new)
    if change in ("replaced", "time set back"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert file_digest(path) == hashlib.sha256(new).hexdigest()


def test_a_young_file_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again under the same time stamp."""
    (tmp_path / "f").write_text("x")
    read = reads(monkeypatch)
    file_digest(tmp_path / "f")
    os.utime(tmp_path / "f", (LONG_AGO, LONG_AGO))  # its ctime is still young
    file_digest(tmp_path / "f")
    file_digest(tmp_path / "f")
    assert read == ["f", "f", "f"]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, old: Callable[[], None]
) -> None:
    old()
    path = tmp_path / "f"
    path.write_text("one")

    def compute() -> str:
        path.write_text("longer")
        return "of something in between"

    assert remembered("what", [path], compute) == "of something in between"
    assert remembered("what", [path], lambda: "right") == "right"
    assert remembered("what", [path], lambda: "not asked") == "right"
    assert remembered("other", [path], lambda: "another") == "another"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: b"[]",
        lambda data: b'{"format": "dear-digests/1"}',
        lambda data: data.replace(b"dear-digests/1", b"dear-digests/9"),
        lambda data: data.replace(hashlib.sha256(b"x").hexdigest().encode(), b"0" * 64),
    ],
)
def test_a_damaged_cache_is_not_believed(
    tmp_path: Path, cache: Path, old: Callable[[], None], damage: Callable[[bytes], bytes]
) -> None:
    old()
    (tmp_path / "f").write_text("x")
    right = file_digest(tmp_path / "f")
    (entry,) = cache.glob("*.json")
    assert right in entry.read_text()
    entry.write_bytes(damage(entry.read_bytes()))
    assert file_digest(tmp_path / "f") == right
    assert right in entry.read_text()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: Callable[[], None]
) -> None:
    old()
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("DEAR_CACHE", str(tmp_path / "no folder" / "cache"))
    (tmp_path / "f").write_text("x")
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"x").hexdigest()


def test_files_that_are_gone_are_forgotten(
    tmp_path: Path, cache: Path, old: Callable[[], None]
) -> None:
    old()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        file_digest(tmp_path / name)
    (tmp_path / "a").unlink()
    (tmp_path / "c").write_text("c")
    file_digest(tmp_path / "c")
    (entry,) = cache.glob("*.json")
    known = json.loads(json.loads(entry.read_bytes())["entries"])
    assert sorted(json.loads(key)[1] for key in known) == ["b", "c"]
    with pytest.raises(DataError, match="a: cannot be read"):
        file_digest(tmp_path / "a")


_WRITER = """
import sys
from pathlib import Path
from dear import digests
digests.RACY_NS = -60 * 10**9
folder = Path(sys.argv[1])
for turn in range(30):
    for i in range(10):
        path = folder / f"{sys.argv[2]}-{i}"
        path.write_text(f"{turn}{sys.argv[2]}{i}")
        found = digests.file_digest(path)
        import hashlib
        assert found == hashlib.sha256(path.read_bytes()).hexdigest(), (path, turn)
"""


def test_many_writers_do_not_disturb_each_other(tmp_path: Path, cache: Path) -> None:
    environment = {**os.environ, "DEAR_CACHE": str(cache.parent)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), name],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert len(list(cache.iterdir())) == 1  # nothing half-written is left


def test_reading_much_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib
    from collections.abc import Iterator

    seen: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def show(_what: str, _unit: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr(digests, "SHOWN_BYTES", 1 << 21)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(2 << 20))
    token = watch.set(show)
    try:
        file_digest(tmp_path / "a")
        files_digest({name: tmp_path / name for name in ("a", "b")})
    finally:
        watch.reset(token)
    assert seen[-1] == (4, 4)
    assert [done for done, _ in seen[2:]] == [1, 2, 3, 4]


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_other_lines_have_another_digest(one: list[str], other: list[str]) -> None:
    assert (lines_digest(one) == lines_digest(other)) == (one == other)


def test_names_count_and_the_order_of_files_does_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    a, b = tmp_path / "a", tmp_path / "b"
    assert files_digest({"x": a, "y": b}) == files_digest({"y": b, "x": a})
    assert files_digest({"x": a, "y": b}) != files_digest({"x": b, "y": a})


# -- what differs --------------------------------------------------------------------------


def inputs(**digests: str) -> Inputs:
    return Inputs({kind: Input(digest, f"my {kind}") for kind, digest in digests.items()})


def test_the_same_inputs_do_not_differ_whatever_they_are_called() -> None:
    there = Inputs({"run": Input("1", "old/run.trec")})
    assert not there.changes(Inputs({"run": Input("1", "new/run.trec")}))


def test_what_differs_is_named_in_one_line() -> None:
    there = inputs(texts="1", run="2", labels="3") | {
        "recipe": Input.of_values({"train": {"epochs": 1}, "name": "r"})
    }
    now = inputs(texts="1", run="9", judgements="4") | {
        "recipe": Input.of_values({"train": {"epochs": 2}, "name": "r"})
    }
    changes = there.changes(now)
    assert set(changes.by_kind) == {"run", "labels", "judgements", "recipe"}
    assert str(changes) == (
        "run (my run) changed; judgements: none there, 'my judgements' now; "
        "recipe.train.epochs: 1 there, 2 now; labels: 'my labels' there, none now"
    )
    other = Inputs({"run": Input("2", "a.trec")}).changes(Inputs({"run": Input("3", "b.trec")}))
    assert str(other) == "run: 'a.trec' there, 'b.trec' now"


def test_what_was_not_written_down_is_unverified_and_not_the_same() -> None:
    changes = Inputs.from_dict(None).changes(inputs(texts="1", run="2"))
    assert not changes
    assert changes.unverified == ("texts", "run")
    half = Inputs({"texts": Input("1")}, complete=False).changes(inputs(texts="9", run="2"))
    assert set(half.by_kind) == {"texts"}
    assert half.unverified == ("run",)


@pytest.mark.parametrize(
    ("answer", "differs", "unverified"),
    [(True, False, ("base",)), (False, True, ()), (None, True, ())],
)
def test_a_digest_of_an_earlier_version_is_compared_as_that_version_did(
    answer: bool | None, differs: bool, unverified: tuple[str, ...]
) -> None:
    asked: list[str] = []

    def former(digest: str) -> bool | None:
        asked.append(digest)
        return answer

    changes = Inputs({"base": Input("short")}).changes(
        Inputs({"base": Input("long", former=former)})
    )
    assert asked == ["short"]
    assert bool(changes) is differs
    assert changes.unverified == unverified


@given(
    st.dictionaries(
        st.sampled_from(["texts", "run", "labels"]),
        st.builds(
            Input,
            st.text(min_size=1, max_size=3),
            st.text(max_size=3),
            st.none() | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
        ),
    )
)
def test_inputs_are_read_as_they_were_written(by_kind: dict[str, Input]) -> None:
    written = json.loads(json.dumps(Inputs(by_kind).to_dict()))
    read = Inputs.from_dict(written)
    assert read == Inputs(by_kind)
    assert read.digest == Inputs(by_kind).digest
    assert {k: read[k].values for k in read} == {k: i.values for k, i in by_kind.items()}


def test_differences_of_values_name_the_whole_way_to_them() -> None:
    there = {"train": {"epochs": 1, "seed": 2}, "only": 1}
    now = {"train": {"epochs": 1, "seed": 3}, "data": [1]}
    assert value_differences(there, now) == [
        "data: None there, [1] now",
        "only: 1 there, None now",
        "train.seed: 2 there, 3 now",
    ]
