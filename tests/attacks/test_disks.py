"""Disks that can not be written, other owners' files, two writers at once, clocks that jump."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    FOOD,
    Done,
    dear,
    first_stage,
    write_animals,
    write_recipe,
    write_reranker,
)

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


def vars_of(done: Done) -> dict[str, Any]:
    return {"status": done.status, "out": done.out, "err": done.err}


def ended(
    place: Path, prepare: Callable[..., None], given: Any, commands: Sequence[Sequence[object]]
) -> list[Done]:
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
    warm = [
        list(map(str, words)) for words in [*reading(root), *writing(root, tmp_path / "warm")[:-1]]
    ]
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
