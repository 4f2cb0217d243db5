"""What comes from outside gives no orders to a terminal, and closed streams end nothing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tests.attacks.ceilings import attack, attack_dear, attack_python

from dear.characters import visible, visible_json, visible_line

ESCAPES = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\x1bc\x08\x08\r\x1b[8mhidden\u202ereversed\u2028\x85"
"""Writes the clipboard, clears the screen, resets, hides, turns round."""
ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

ON_A_TERMINAL = """
import io, sys

class Terminal(io.StringIO):
    encoding = "utf-8"
    def isatty(self):
        return True

shown, told = sys.stdout, sys.stderr
sys.stdout, sys.stderr = Terminal(), Terminal()
from dear.cli.main import main
status = main(sys.argv[1:])
shown.write(sys.stdout.getvalue())
told.write(sys.stderr.getvalue())
shown.flush()
sys.exit(status)
"""


def harmless(text: str) -> None:
    assert not ORDERS.search(COLOURS.sub("", text)), ORDERS.search(COLOURS.sub("", text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = [
        {"_id": f"p{i}", "title": f"title {ESCAPES}", "text": f"{ESCAPES} otters {i}\n\tswim"}
        for i in range(3)
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in corpus))
    (tmp_path / "queries.jsonl").write_text(
        json.dumps({"_id": "q", "text": f"where {ESCAPES} do otters swim"}) + "\n"
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\tp0\t1\n")
    (tmp_path / "runs").mkdir()
    for name in ("a", f"b{ESCAPES}".replace("\n", "")):
        run = "".join(f"q Q0 p{i} {i} {3 - i if name == 'a' else i} x\n" for i in range(3))
        (tmp_path / "runs" / f"{name}.test.trec").write_text(run)
    return tmp_path


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ["compare", "--ids", "--query", "q"],
        ["evaluate", "--hurt", "1", "--per-query"],
        ["evaluate", "--hurt", "1", "--per-query", "--json", "-"],
    ],
)
def test_texts_and_names_are_shown_and_obeyed_never(
    folder: Path, words: list[str], terminal: bool
) -> None:
    a, b = sorted((folder / "runs").iterdir())
    command = {
        "compare": ["compare", folder, a, b, *words[1:]],
        "evaluate": ["evaluate", folder, "--run", a, "--run", b, *words[1:]],
    }[words[0]]
    if terminal:
        ended = attack_python(ON_A_TERMINAL, *command, seconds=15, mebibytes=800)
    else:
        ended = attack_dear(*command, seconds=15, mebibytes=800)
    assert ended.status == 0, ended.err
    assert "a" in ended.out
    harmless(ended.out)
    harmless(ended.err)
    if "--json" in words:
        json.loads(ended.out)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", f"/nowhere{ESCAPES}", "--run", "x"],
        [f"rank{ESCAPES}"],
        ["evaluate", f"--opt{ESCAPES}"],
        ["train", f"recipe{ESCAPES}", "--output", "/nowhere"],
        ["rerank", "otters", f"{ESCAPES}.txt"],
        ["--debug", "evaluate", f"/nowhere{ESCAPES}", "--run", "x"],
    ],
)
def test_errors_quote_and_do_not_obey(words: list[str]) -> None:
    ended = attack_dear(*words, seconds=40, mebibytes=2000)
    assert ended.status in (1, 2)
    harmless(ended.err)
    if "--debug" not in words:
        ended.line()


def test_an_error_line_has_an_end() -> None:
    words = ["train", "x" * 100_000, "--output", "/nowhere"]
    said = attack_dear(*words, seconds=20, mebibytes=800).line("xxx")
    assert len(said) < 2500


def test_a_bar_shows_what_it_is_told() -> None:
    told = """
import sys, logging
from dear.cli.progress import progress
from dear.cli.output import visible_streams
sys.stderr.isatty = lambda: True
import os
os.environ["FORCE_COLOR"] = "1"
with visible_streams(), progress("scoring \\x1b[2J", "pairs") as report:
    report(1, 2, extra="\\x1b]52;c;ZXZpbA==\\x07 [link=http://x]here[/link]")
    print("\\x1b]0;title\\x07 \\x9b2J", file=sys.stderr)
    report(2, 2)
"""
    ended = attack_python(told, seconds=15, mebibytes=500)
    assert "scoring" in ended.err
    assert "\x1b]" not in ended.err
    assert "\x07" not in ended.err
    assert "\x9b" not in ended.err
    assert "\\x1b" in ended.err


def test_what_is_made_visible() -> None:
    assert visible("a\tb\nc \x1b[1m\u202e") == "a\tb\nc \\x1b[1m\\u202e"
    assert visible_line("a\tb\nc") == "a\\tb\\nc"
    assert visible("ä漢\u200d🦦") == "ä漢\u200d🦦"
    value = {"x": ESCAPES}
    said = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(said) == value
    assert visible(said) == said


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-", "2>&- >&-"])
@pytest.mark.parametrize("words", ["collections", "evaluate nowhere --run x", "nonsense"])
def test_closed_streams(closed: str, words: str) -> None:
    line = f"{sys.executable} -m dear {words} {closed}"
    ended = attack("sh", "-c", line, seconds=10, mebibytes=500)
    assert ended.status == (0 if words == "collections" else 2), ended.err
    assert "Traceback" not in ended.err
    assert "Exception" not in ended.err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe(stream: str) -> None:
    words = ["collections"] if stream == "stdout" else ["evaluate", "nowhere", "--run", "x"]
    code = f"""
import os, subprocess, sys
read, write = os.pipe()
os.close(read)
other = "stderr" if {stream!r} == "stdout" else "stdout"
done = subprocess.run([sys.executable, "-m", "dear", *{words!r}],
                      **{{{stream!r}: write, other: subprocess.PIPE}}, text=True)
print(done.returncode, done.stderr or "")
"""
    ended = attack_python(code, seconds=15, mebibytes=500)
    assert ended.out.split()[0] in ("141", "2"), ended.out
    assert "Traceback" not in ended.out + ended.err
    assert "Exception" not in ended.out + ended.err
