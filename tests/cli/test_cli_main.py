"""The frame around every command: flags, help, start-up, and what becomes of errors."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import dear, good, refused, start

from dear import __version__
from dear.checkpoints.registry import FAMILY
from dear.cli.main import COMMANDS, main
from dear.data.collections import COLLECTIONS

HEAVY = {
    *("torch", "transformers", "numpy", "pyarrow", "scipy", "bm25s", "ir_measures"),
    *("pydantic", "pydantic_core", "rich", "safetensors"),
}


def test_the_version_and_the_help_page() -> None:
    assert good("--version") == f"dear {__version__}\n"
    page = good("--help")
    assert good() == page
    shown = page[page.index("Commands:") :]
    places = [shown.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_says_of_a_command_what_its_own_page_says(command: str) -> None:
    place, what = COMMANDS[command]
    module, _, name = place.partition(":")
    function = getattr(importlib.import_module(module), name)
    assert inspect.cleandoc(function.__doc__).splitlines()[0] == what


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_terminal_and_shortens_nothing(command: str) -> None:
    page = good(command, "--help")
    assert page.startswith(f"Usage: dear {command} ")
    assert max(map(len, page.splitlines())) <= 80
    assert "..." not in page.splitlines()[2]


def modules_of(code: str) -> set[str]:
    """The top-level modules that an interpreter has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line]
    return {name.partition(".")[0] for name in names}


def test_starting_loads_nothing_heavy() -> None:
    loaded = modules_of("import dear.cli.main")
    assert {"typer", "dear"} <= loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    ("words", "may"),
    [
        (["--help"], set()),
        (["rank", "--help"], {"pydantic", "pydantic_core"}),
        (["collections"], {"pydantic", "pydantic_core", "rich"}),
    ],
)
def test_what_computes_nothing_loads_no_torch(words: list[str], may: set[str]) -> None:
    """`dear --help` takes 0.2 s on an idle machine; with torch it is 4 s."""
    loaded = modules_of(f"from dear.cli.main import main; main({words})")
    assert {"typer", "dear"} <= loaded
    assert loaded & HEAVY <= may


def test_models_and_collections_as_json_and_as_tables() -> None:
    models = json.loads(good("models", "--json"))
    assert [m["name"] for m in models] == list(FAMILY)
    present = {m["name"] for m in models if m["present"]}
    assert {"minilm-l6"} <= present <= {"minilm-l6", "smollm2-135m"}
    collections = json.loads(good("collections", "--json"))
    assert [c["name"] for c in collections] == list(COLLECTIONS)
    assert {"name": "pydocs", "present": True, "folder": None}.items() <= collections[0].items()
    rows = good("models").splitlines()[1:]
    assert [row.split()[0] for row in rows] == list(FAMILY)


def test_collections_on_this_machine_are_found(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scifact").symlink_to(animals)
    monkeypatch.setenv("DEAR_DATA", str(tmp_path))
    found = {c["name"]: c["folder"] for c in json.loads(good("collections", "--json"))}
    assert found["scifact"] == str(tmp_path / "scifact")
    assert found["nfcorpus"] is None


def test_flags_may_stand_anywhere_but_behind_two_dashes(tmp_path: Path) -> None:
    assert dear("models").err.startswith("dear: a folder")
    for words in (("--quiet", "models"), ("models", "--quiet"), ("models", "--json", "--quiet")):
        assert dear(*words).err == ""
    # a query that looks like a flag
    assert refused("rerank", "--", "--debug", tmp_path / "no").endswith("No such file or directory")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evalute",), "no command 'evalute'; did you mean 'evaluate'?; see: dear --help"),
        (("--loud",), "no such option: --loud; see: dear --help"),
        (
            ("models", "folder", "extra"),
            "got unexpected extra argument (extra); see: dear models --help",
        ),
    ],
)
def test_wrong_usage_is_one_line(words: tuple[str, ...], message: str) -> None:
    # releases of typer differ in this word
    assert refused(*words).replace("argument(s)", "argument") == message


FAILURES = [
    (KeyboardInterrupt(), 130, "dear: interrupted"),
    (MemoryError(), 2, "dear: error: out of memory; lower --batch-tokens, or take a smaller model"),
    (torch.OutOfMemoryError("CUDA …"), 2, "dear: error: out of memory; "),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 2, "dear: error: out of"),
    (PermissionError(13, "Permission denied", "/a"), 2, "dear: error: /a: Permission denied"),
    (KeyError("a\nb"), 1, "dear: internal error: KeyError: 'a\\nb' (--debug shows where)"),
    (ValueError("two\n  lines"), 1, "dear: internal error: ValueError: two lines (--debug"),
]


@pytest.mark.parametrize(
    ("failure", "status", "line"), FAILURES, ids=[type(f[0]).__name__ for f in FAILURES]
)
def test_what_goes_wrong_inside_is_one_line(
    failure: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr("dear.cli.collections.list_collections", fail)
    done = dear("collections")
    assert done.status == status
    assert done.line.startswith(line)
    shown = dear("collections", "--debug")
    assert shown.status == status
    assert f"in {fail.__name__}" in shown.err
    assert shown.err.splitlines()[-1].startswith(line)


def test_the_librarys_warnings_are_shown_unless_quiet(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("dear")
    before = (logger.level, logger.propagate, list(logger.handlers))
    queries = (mine / "queries.jsonl").read_text().splitlines(keepends=True)
    (mine / "queries.jsonl").write_text("".join(q for q in queries if "sleep-otter" not in q))
    words = ("retrieve", mine, "--output", tmp_path / "r.trec")
    (line,) = dear(*words).err.splitlines()
    assert line.startswith("dear: warning: mine: 1 of 8 queries of split test have no text")
    assert dear(*words, "--quiet").err == ""
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("collections", "--quiet", stdout=writing)
    os.close(writing)
    _out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_standard_output_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        process = start("models", "--quiet", stdout=full)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == "dear: error: standard output: No space left on device\n"


def test_an_encoding_without_the_words_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    process = start("collections")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "scientific claims ? abstracts" in out


def test_an_interrupt_that_a_library_makes_an_error_of_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As pandas does where Ctrl-C comes while it is imported."""

    def interrupted(_words: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise AttributeError("partially initialized module") from None
        return 0

    monkeypatch.setattr("dear.cli.main._invoke", interrupted)
    # who runs the tests in the background of a script has them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["models"]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "dear: interrupted; the same command begins anew"
    )
