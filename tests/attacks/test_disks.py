"""Disks that can not be written, other owners' files, two writers at once, clocks that jump."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ceilings import attack_python, proof_only
from command_line import (
    FOOD,
    Done,
    dear,
    first_stage,
    write_animals,
    write_recipe,
    write_reranker,
)
from test_servers import RIGHT, serving

from dear.data.formats import write_run
from disks import small_disk
from kills import in_a_process

NOBODY = 65534


def several(said: str, prepare: Callable[..., None], given: Any, commands: list[list[str]]) -> None:
    """Commands one after the other in a forked process, after `prepare(given)`; how they ended is
    written to `said`, which is opened before."""
    with open(said, "w", encoding="utf-8") as file:
        prepare(given)
        json.dump([vars_of(dear(*words)) for words in commands], file)
    os._exit(0)  # what other libraries do at the end of a process is no matter of ours


def vars_of(done: Done) -> dict[str, Any]:
    return {"status": done.status, "out": done.out, "err": done.err}


def ended(
    place: Path, prepare: Callable[..., None], given: Any, commands: Sequence[Sequence[object]]
) -> list[Done]:
    place.mkdir(parents=True, exist_ok=True)
    said = place / "said.json"
    words = [[*map(str, one), "--quiet"] for one in commands]
    assert in_a_process(several, str(said), prepare, given, words) == 0
    return [Done(**one) for one in json.loads(said.read_text(encoding="utf-8"))]


def one_line(done: Done, *expected: str) -> None:
    assert done.status == 2, done
    assert len(done.err.splitlines()) == 1, done.err
    assert "Traceback" not in done.err
    for words in expected:
        assert words in done.err


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Inputs that everybody may read; pytest's own folders are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="dear-attack-"))
    folder.chmod(0o755)
    animals, model = write_animals(folder / "animals"), write_reranker(folder / "model")
    write_run(folder / "run.trec", first_stage("test"), "x")
    write_run(folder / "best.trec", {q: r.top(5) for q, r in first_stage("test").items()}, "x")
    (folder / "passages.txt").write_text("\n".join(f"The {a} eats {f}." for a, f in FOOD.items()))
    done = dear("label", animals, "--run", "bm25", "--model", model, "-o", folder / "labels")
    assert done.status == 0, done.err
    write_recipe(folder / "r.toml", base=model, collection=animals, labels=folder / "labels")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def reading(root: Path) -> list[list[object]]:
    """Commands that write nothing."""
    named = ["--model", root / "model", "--dtype", "float32"]
    return [
        ["rerank", "what eats krill", root / "passages.txt", *named],
        ["evaluate", root / "animals", "--run", root / "run.trec"],
        ["compare", root / "animals", root / "run.trec", root / "best.trec"],
        ["collections"],
    ]


def writing(root: Path, to: Path) -> list[list[object]]:
    """Commands that write below a folder."""
    animals, model = root / "animals", root / "model"
    named = ["--model", model, "--dtype", "float32"]
    return [
        ["rank", animals, "--run", "bm25", *named, "-o", to / "rank" / "out.trec"],
        ["retrieve", animals, "-o", to / "retrieve" / "out.trec"],
        ["label", animals, "--run", "bm25", *named, "-o", to / "labels"],
        ["train", root / "r.toml", "-o", to / "train"],
        ["reason", animals, "--run", "bm25", "--teacher", model, "-o", to / "reason"],
        ["export", model, "-o", to / "export", "--dtype", "float32"],
        [
            *("calibrate", model, "--collection", animals, "--dtype", "float32", "-o", to / "cal"),
            *("--unjudged", "irrelevant", "--probability", "isotonic"),
        ],
        ["report", to / "report" / "r.html", animals, "--run", root / "run.trec"],
        [
            *("rank", animals, "--run", "bm25", "--listwise", "http://127.0.0.1:9/v1#m"),
            *("-o", to / "lists" / "out.trec"),
        ],
        ["distill", animals, "--recipe", "quick", "-o", to / "distill"],
    ]


def without_cache(_: str) -> None:
    os.environ["DEAR_CACHE"] = "/proc/nowhere"
    os.environ["HOME"] = "/proc/nowhere"
    os.environ["XDG_CACHE_HOME"] = "/proc/nowhere"


def as_nobody(warm: list[list[str]]) -> None:
    """Not root any more; what is imported late is imported before, as its files may be root's."""
    for words in warm:
        dear(*words)
    without_cache("")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def nothing(_: Any) -> None: ...


def test_no_home_and_no_cache_disturb_nobody(root: Path, tmp_path: Path) -> None:
    usual = ended(tmp_path, nothing, None, reading(root))
    assert [done.status for done in usual] == [0, 0, 0, 0], usual
    assert ended(tmp_path, without_cache, "", reading(root)) == usual
    # what writes, writes where it was told
    done = ended(tmp_path, without_cache, "", writing(root, tmp_path / "out")[:7])
    assert [one.status for one in done] == [0] * 7, done


def test_a_read_only_disk_can_be_read_and_says_so_when_written(root: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        shutil.copytree(root, disk / "in")
        for name in ("labels", "export", "train"):
            (disk / name).mkdir()
        write_recipe(
            disk / "in" / "r.toml",
            base=disk / "in" / "model",
            collection=disk / "in" / "animals",
            labels=disk / "in" / "labels",
        )
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        place = disk / "in"
        for done in ended(tmp_path, nothing, None, reading(place)):
            assert done.status == 0, done
        for done in ended(tmp_path, nothing, None, writing(place, tmp_path / "out")[:4]):
            assert done.status == 0, done
        for done in ended(tmp_path, nothing, None, writing(place, disk)):
            one_line(done, "Read-only file system")


def test_another_user_reads_what_is_open_and_is_refused_elsewhere(
    root: Path, tmp_path: Path
) -> None:
    theirs = root / "theirs"
    theirs.mkdir()
    os.chmod(theirs, 0o755)
    secret = root / "secret.trec"
    secret.write_text("x")
    secret.chmod(0o600)
    mine = Path(tempfile.mkdtemp(prefix="dear-attack-"))
    mine.chmod(0o777)
    warm = [*reading(root), *writing(root, tmp_path / "warm")[:-2]]
    commands = [
        *reading(root),
        *writing(root, mine)[:4],
        *writing(root, theirs)[:-1],
        ["evaluate", root / "animals", "--run", secret],
        # to go on with what is another's
        ["label", root / "animals", "--run", "bm25", "--split", "dev", "--model", root / "model",
         "-o", root / "labels"],
    ]  # fmt: skip
    try:
        done = ended(tmp_path, as_nobody, [list(map(str, words)) for words in warm], commands)
    finally:
        shutil.rmtree(mine)
        shutil.rmtree(theirs)
    for one in done[:8]:
        assert one.status == 0, one
    if os.geteuid() == 0:
        for one in done[8:]:
            one_line(one, "Permission denied")


# Two at once


@pytest.fixture(scope="module")
def usual(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Done], Any]:
    """How commands that read end, and what those that write leave."""
    folder = tmp_path_factory.mktemp("usual")
    commands = [*reading(root)[:3], *writing(root, folder / "out")[:8]]
    done = ended(folder, nothing, None, commands)
    assert [one.status for one in done] == [0] * 11, done
    return done, results(folder / "out")


def results(to: Path) -> dict[str, Any]:
    """What `writing` leaves, without times."""
    from dear.data.labels import read_labels

    found: dict[str, Any] = {
        str(path.relative_to(to)): path.read_bytes()
        for pattern in ("*/*.trec", "*/*.safetensors", "*/examples.jsonl", "*/calibration.json")
        for path in to.glob(pattern)
    }
    if (to / "labels").is_dir():
        found["labels"] = read_labels(to / "labels").scores
    if (to / "export").is_dir():
        found["export"] = json.loads((to / "export" / "dear_export.json").read_text())["graph"]
    return found


def test_two_writers_leave_what_one_does(
    root: Path, usual: tuple[list[Done], Any], tmp_path: Path
) -> None:
    """Each command twice at once, again and again: one is refused in a line, or both are whole."""
    expected = usual[1]
    assert len(expected) == 7, sorted(expected)
    both = tmp_path / "both"
    with ThreadPoolExecutor(2) as pool:
        words = writing(root, both)[:8]
        turns = pool.map(lambda n: ended(tmp_path / n, nothing, None, words), ("1", "2"))
    for first, second in zip(*turns, strict=True):
        assert {first.status, second.status} in ({0}, {0, 2}), (first, second)
        for done in (first, second):
            if done.status:
                one_line(done, "")
    assert results(both) == expected
    assert [path for path in both.rglob("*") if path.name.endswith(".tmp")] == []


def test_two_at_one_ledger_pay_once(root: Path, tmp_path: Path) -> None:
    def slow(_handler: Any, _body: Any) -> Any:
        time.sleep(0.2)
        return RIGHT

    with serving(slow) as server:
        words = ["rank", root / "animals", "--run", "bm25", "--listwise", f"{server.url}/v1#m"]
        words += ["--window", 10, "--step", 5, "-o", tmp_path / "out.trec"]
        with ThreadPoolExecutor(2) as pool:
            turns = pool.map(lambda n: ended(tmp_path / n, nothing, None, [words]), ("1", "2"))
        first, second = sorted((done for turn in turns for done in turn), key=lambda d: d.status)
        assert len(server.asked) <= 32
    assert first.status == 0, first
    if second.status:  # else it began when the first had ended
        one_line(second, "another process is writing answers here")


# Clocks


def jumping(step: float) -> None:
    """Every look at the clock is ten years from the one before, back and forth, or `step` on."""
    now, now_ns, looks = time.time, time.time_ns, iter(range(10**9))

    def shift() -> float:
        n = next(looks)
        return step * n if step else (315_360_000.0 if n % 2 else -315_360_000.0)

    time.time = lambda: now() + shift()
    time.time_ns = lambda: now_ns() + int(shift() * 1e9)


def durations(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from durations(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from durations(inner, key)
    elif isinstance(value, float | int) and ("second" in key or key.endswith("_s")):
        yield key, value


@pytest.mark.parametrize("step", [0.0, pytest.param(-3600.0, marks=proof_only)])
def test_a_clock_that_jumps_changes_no_result(
    step: float, root: Path, usual: tuple[list[Done], Any], tmp_path: Path
) -> None:
    commands = [*reading(root)[:3], *writing(root, tmp_path / "out")[:8]]
    done = ended(tmp_path, jumping, step, commands)
    assert [one.status for one in done] == [0] * 11, done
    assert done[:3] == usual[0][:3]
    assert results(tmp_path / "out") == usual[1]
    notes = list((tmp_path / "out").rglob("*.json"))
    found = [pair for note in notes for pair in durations(json.loads(note.read_text()))]
    assert len(found) >= 3
    for key, seconds in found:
        assert seconds >= 0, (key, seconds)
        assert seconds < 3600 or "per" in key, (key, seconds)
    # the same again, with caches that were written under the odd clock
    again = ended(tmp_path, nothing, None, [*commands[:3], commands[6]])
    assert again[:3] == usual[0][:3]
    assert again[3].status == 0, again[3]


def test_what_has_changed_is_seen_under_any_clock(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from dear.digests import file_digest, file_digests
now = time.time_ns
path = Path(sys.argv[1])
found = []
for years in (10, -10, 0, 40, -40):
    time.time_ns = lambda: now() + years * 31_536_000 * 10**9
    for text in "ab":
        path.write_text(text)
        os.utime(path, (1, 1))
        found.append(file_digest(path) == file_digests([path])[0])
        found.append(file_digests([path])[0])
assert len(set(found)) == 3, found
"""
    os.environ["DEAR_CACHE"] = str(tmp_path / "cache")
    try:
        ended = attack_python(code, tmp_path / "a.txt", seconds=10, mebibytes=400)
    finally:
        del os.environ["DEAR_CACHE"]
    assert ended.status == 0, ended.err
