"""Signals at any moment of any long command: one line, nothing left behind, and it goes on."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ceilings import attack_python, proof_only
from command_line import FOOD, first_stage, write_animals, write_recipe, write_reranker
from test_servers import RIGHT, serving

from dear.data.formats import write_run
from kills import in_a_process

When = float | Path | None
"""Seconds until a signal; a file that someone makes when it is time; None for no signal."""


def send(number: int, when: float | Path) -> None:
    """The signal to this process, when it is time."""
    if isinstance(when, Path):
        while not when.exists():
            time.sleep(0.005)
    else:
        time.sleep(when)
    os.kill(os.getpid(), number)


def child(words: list[str], said: str, number: int, when: When, environ: dict[str, str]) -> None:
    """`dear` in a forked process that sends itself a signal."""
    from dear.cli.main import main

    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    os.environ.update(environ)
    for stream in (1, 2):
        os.dup2(os.open(f"{said}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if when is not None:
        threading.Thread(target=send, args=(number, when), daemon=True).start()
    started = time.monotonic()
    status = main(words)
    Path(f"{said}.seconds").write_text(str(time.monotonic() - started))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # nothing of the test runner's is to end here


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str
    seconds: float


def ran(words: list[object], where: Path, number: int = 0, when: When = None) -> Ran:
    where.mkdir(parents=True, exist_ok=True)
    environ = {"DEAR_CACHE": str(where / "cache"), "HF_HUB_OFFLINE": "1"}
    status = in_a_process(child, [*map(str, words), "--quiet"], str(where / "said"), number, when,
                          environ)  # fmt: skip
    out, err = ((where / f"said.{n}").read_text() for n in (1, 2))
    seconds = 0.0 if status < 0 else float((where / "said.seconds").read_text())
    return Ran(status, out, err, seconds)


@dataclass(frozen=True)
class Command:
    """words: what is typed to write below a folder.  result: what it leaves there, without times.
    goes_on: what the line says."""

    words: Callable[[Path], list[object]]
    result: Callable[[Path, Ran], Any]
    goes_on: bool


def files(*names: str) -> Callable[[Path, Ran], Any]:
    return lambda folder, _: {name: (folder / name).read_bytes() for name in names}


def labels(folder: Path, _: Ran) -> Any:
    from dear.data.labels import read_labels

    return read_labels(folder / "out").scores


def values(name: str, *keys: str) -> Callable[[Path, Ran], Any]:
    def read(folder: Path, _: Ran) -> Any:
        found = json.loads((folder / name).read_text())
        return {key: found[key] for key in keys}

    return read


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    root = tmp_path_factory.mktemp("inputs")
    animals, model = write_animals(root / "animals"), write_reranker(root / "model")
    write_run(root / "run.trec", first_stage("test"), "x")
    (root / "passages.txt").write_text("\n".join(f"The {a} eats {f}." for a, f in FOOD.items()))
    made = ran(["label", animals, "--run", "bm25", "--model", model, "-o", root / "labels"], root)
    assert made.status == 0, made.err
    recipe = write_recipe(root / "r.toml", base=model, collection=animals, labels=root / "labels")
    named = ("--model", model, "--dtype", "float32")
    sets = [
        f'teacher.zero_shot="biencoder:{model}"', f'teacher.model.base="{model}"',
        f'student.model.base="{model}"', "student.model.layers=[]", "student.groups.size=4",
        "test.top_k=6",
    ]  # fmt: skip
    return {
        "rank": Command(
            lambda to: ["rank", animals, "--run", "bm25", *named, "-o", to / "out.trec"],
            files("out.trec"),
            False,
        ),
        "rerank": Command(
            lambda _: ["rerank", "what eats krill", root / "passages.txt", *named, "--json"],
            lambda _, done: json.loads(done.out)["results"],
            False,
        ),
        "label": Command(
            lambda to: [
                *("label", animals, "--run", "bm25", "--split", "dev", *named, "-o", to / "out")
            ],
            labels,
            True,
        ),
        "train": Command(
            lambda to: ["train", recipe, "-o", to / "out"], files("out/model.safetensors"), True
        ),
        "reason": Command(
            lambda to: [
                *("reason", animals, "--run", "bm25", "--teacher", model, "--dtype", "float32"),
                *("-o", to / "out", "--size", "4-6", "--examples", 5),
            ],
            files("out/examples.jsonl", "out/messages.jsonl", "out/dear-cot.jsonl"),
            True,
        ),
        "export": Command(
            lambda to: ["export", model, "-o", to / "out", "--dtype", "float32"],
            values("out/dear_export.json", "graph", "parameters", "inputs"),
            False,
        ),
        "calibrate": Command(
            lambda to: [
                *("calibrate", model, "--collection", animals, "--dtype", "float32"),
                *("--unjudged", "irrelevant", "--probability", "isotonic", "-o", to / "out"),
            ],
            files("out/calibration.json"),
            False,
        ),
        "report": Command(
            lambda to: [
                *("report", to / "r.html", animals, "--run", root / "run.trec", "--also"),
                to / "r.md",
            ],
            lambda to, _: [
                (to / name).read_text().replace(str(to), "") for name in ("r.html", "r.md")
            ],
            False,
        ),
        "evaluate": Command(
            lambda _: ["evaluate", animals, "--run", root / "run.trec"],
            lambda _, done: done.out,
            False,
        ),
        "distill": Command(
            lambda to: [
                *("distill", animals, "--recipe", "quick"),
                *(word for one in sets for word in ("--set", one)),
                *("-o", to / "out"),
            ],
            lambda _, done: re.findall(r"^(.*?) +([01]\.\d{4}) ", done.out, re.MULTILINE),
            True,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, float]]:
    """Of a command: what it leaves, and seconds; each is run once."""
    known: dict[str, tuple[Any, float]] = {}

    def of(name: str) -> tuple[Any, float]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            done = ran(commands[name].words(folder), folder)
            assert done.status == 0, done.err
            known[name] = commands[name].result(folder, done), done.seconds
        return known[name]

    return of


def left_behind(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.endswith(".tmp")]


def hit(name: str, command: Command, folder: Path, number: int, delay: float, expected: Any) -> int:
    """A signal after `delay`, then the same command once more; the status of the first."""
    first = ran(command.words(folder), folder, number, delay)
    if number == signal.SIGKILL:
        assert first.status in (0, -number), first.err
    elif first.status != 0 and first.status != -number:  # before the command, after it: by itself
        assert first.status == 128 + number, first.err
        again = "goes on from here" if command.goes_on else "begins anew"
        said = f"dear: ended by {signal.Signals(number).name}; the same command {again}\n"
        assert first.err == said
    if number != signal.SIGKILL:
        assert left_behind(folder) == []
    last = ran(command.words(folder), folder)
    assert last.status == 0, (name, delay, last.err)
    assert "Traceback" not in last.err
    assert left_behind(folder) == []
    assert command.result(folder, last) == expected, (name, delay)
    return first.status


NAMES = ("rank", "rerank", "label", "train", "reason", "export", "calibrate", "report", "evaluate",
         "distill")  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=proof_only) if n in ("rerank", "evaluate") else n for n in NAMES]
)
def test_sigterm_in_the_middle(
    name: str,
    commands: dict[str, Command],
    undisturbed: Callable[[str], tuple[Any, float]],
    tmp_path: Path,
) -> None:
    expected, seconds = undisturbed(name)
    status = 0
    for share in (0.5, 0.2, 0.05):  # the first time it took longer: nothing was in memory
        if status == 0:
            to = tmp_path / str(share)
            status = hit(name, commands[name], to, signal.SIGTERM, share * seconds, expected)
    assert status == 128 + signal.SIGTERM, "it had ended before"


@proof_only
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_signals_at_random_moments(
    name: str,
    number: int,
    commands: dict[str, Command],
    undisturbed: Callable[[str], tuple[Any, float]],
    tmp_path: Path,
) -> None:
    expected, seconds = undisturbed(name)
    draw = random.Random(f"{name} {number}")
    for turn in range(6):
        folder = tmp_path / str(turn)
        hit(name, commands[name], folder, number, draw.random() * seconds, expected)


def test_a_listwise_ranking_goes_on_where_its_ledger_is(
    commands: dict[str, Command], tmp_path: Path
) -> None:
    animals = commands["evaluate"].words(tmp_path)[1]
    asked_twice = tmp_path / "asked"

    def slow(_handler: Any, _body: Any) -> Any:
        if len(server.asked) >= 2:  # however long it took to load all of it
            asked_twice.touch()
        time.sleep(0.4)
        return RIGHT

    with serving(slow) as server:
        words = ["rank", animals, "--run", "bm25", "--listwise", f"{server.url}/v1#m"]
        words += ["--window", 10, "--step", 5, "-o", tmp_path / "out.trec"]
        first = ran(words, tmp_path, signal.SIGTERM, asked_twice)
        asked = len(server.asked)
        assert (first.status, 0 < asked < 32) == (143, True), (first, asked)
        assert first.err == "dear: ended by SIGTERM; the same command goes on from here\n"
        last = ran(words, tmp_path)
        assert last.status == 0, last.err
        # those that were on their way when it ended are asked again
        assert len(server.asked) <= 32 + 8
    assert len((tmp_path / "out.trec").read_text().splitlines()) == 8 * 24


HANDLED = """
import os, signal, sys, time, weakref
from pathlib import Path
from dear.artifacts import atomic_path
from dear.cli import main as program
from dear.cli.main import main
number = getattr(signal, sys.argv[1])
# whoever started the tests may have had SIGHUP ignored (nohup), and a shell SIGINT
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
def send(): os.kill(os.getpid(), number)
def work():
{work}
program._invoke = lambda words: work() or 0
sys.exit(main(["export", "--quiet"]))
"""


def handled(work: str, *words: object) -> Any:
    """The command line with other work to do."""
    lines = "".join(f"    {line}\n" for line in work.strip().splitlines())
    return attack_python(HANDLED.format(work=lines), *words, seconds=10, mebibytes=400)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_in_the_middle_of_a_file_leaves_the_earlier_one(
    name: str, status: int, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("earlier")
    work = """
with atomic_path(Path(sys.argv[2]) / "a.txt") as path:
    path.write_text("half")
    send(); time.sleep(30)
"""
    ended = handled(work, name, tmp_path)
    said = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert (ended.status, ended.err) == (status, f"dear: {said}; the same command begins anew\n")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "earlier"}


def test_a_second_signal_waits_until_files_are_in_order(tmp_path: Path) -> None:
    work = """
unlink = Path.unlink
Path.unlink = lambda path, **how: (send(), time.sleep(0.05), unlink(path, **how))
with atomic_path(Path(sys.argv[2]) / "a.txt") as path:
    path.write_text("half")
    send(); time.sleep(30)
"""
    ended = handled(work, "SIGTERM", tmp_path)
    assert (ended.status, len(ended.err.splitlines())) == (143, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_python_drops_comes_again() -> None:
    work = """
class Freed:
    def __del__(self): send(); time.sleep(0.01)
Freed(); time.sleep(30)
"""
    ended = handled(work, "SIGTERM")
    assert ended.status == 143
    assert ended.err == "dear: ended by SIGTERM; the same command begins anew\n"


def test_who_swallows_the_first_is_ended_by_a_later_one() -> None:
    work = """
program.CLEANING_S = 0.1
for _ in range(3):
    try:
        send(); time.sleep(5)
    except BaseException: time.sleep(0.2)
send(); time.sleep(30)
"""
    assert handled(work, "SIGTERM").status == 143


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """nohup."""
    work = "time.sleep(0.01); send(); time.sleep(0.1); Path(sys.argv[2], 'done').touch()"
    code = HANDLED.replace("def send", "signal.signal(number, signal.SIG_IGN)\ndef send")
    ended = attack_python(
        code.format(work=f"    {work}"), "SIGHUP", tmp_path, seconds=10, mebibytes=400
    )
    assert (ended.status, (tmp_path / "done").exists()) == (0, True)


WRITES = """
import os, signal, sys, time
from pathlib import Path
from dear.artifacts import atomic_path
folder = Path(sys.argv[1])
with atomic_path(folder / "out.trec") as path:
    path.write_text("x" * 1000)
    (folder / "ready").touch()
    {then}
"""


def test_what_a_killed_writer_left_is_collected_and_nothing_else(tmp_path: Path) -> None:
    from dear.artifacts import atomic_path

    killed = WRITES.format(then="os.kill(os.getpid(), signal.SIGKILL)")
    assert attack_python(killed, tmp_path, seconds=10, mebibytes=400).status == -9
    mine = [".notes.20261201.tmp", ".a.0123456789ab.tmp", "a.dear.tmp", ".x.0123456789ab.dear.tmp~"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    assert len(left_behind(tmp_path)) == 4
    with atomic_path(tmp_path / "other.trec") as path:
        path.write_text("y")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*mine, "ready", "other.trec"}


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    from dear.artifacts import atomic_path

    waits = WRITES.format(then="time.sleep(1.5)")
    writer = threading.Thread(
        target=lambda: ended.append(attack_python(waits, tmp_path, seconds=10, mebibytes=400))
    )
    ended: list[Any] = []
    writer.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    for _ in range(5):
        with atomic_path(tmp_path / "other.trec") as path:
            path.write_text("y")
    writer.join()
    assert ended[0].status == 0, ended[0].err
    assert (tmp_path / "out.trec").read_text() == "x" * 1000
    assert left_behind(tmp_path) == []
