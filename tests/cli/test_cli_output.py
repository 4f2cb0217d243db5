"""Tables, numbers and progress, as people and pipes see them."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dear.cli.output import count, duration, print_json, quiet, rate, table
from dear.cli.progress import EVERY_S, FIRST_LINE_S, _PlainLines, progress


class Terminal(io.StringIO):
    """Standard output or standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


CELLS = st.text("abc [bold]/漢é:-", max_size=30).map(lambda s: " ".join(s.split()))


@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6))
def test_in_a_pipe_a_row_is_a_line_and_columns_stand_below_each_other(
    rows: list[tuple[str, str, str]],
) -> None:
    out, before = io.StringIO(), sys.stdout
    sys.stdout = out
    try:
        table(("first", "second", "third"), rows, align=("left", "right", "left"))
    finally:
        sys.stdout = before
    lines = out.getvalue().splitlines()
    assert len(lines) == len(rows) + 1
    one = max(map(cell_len, ("first", *(r[0] for r in rows))))
    two = max(map(cell_len, ("second", *(r[1] for r in rows))))
    for line, (a, b, c) in zip(lines[1:], rows, strict=True):
        padded = a + " " * (one - cell_len(a)) + "  " + " " * (two - cell_len(b)) + b + "  " + c
        assert line == padded.rstrip()


ROW = ("bm25", "0.5058", "words that go on " * 6)


def show(monkeypatch: pytest.MonkeyPatch, columns: int, **options: object) -> list[str]:
    """The lines of a table in a terminal."""
    out = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", out)
    table(("run", "nDCG@10", "text"), [ROW], align=("left", "right", "left"), **options)  # type: ignore[arg-type]
    return re.sub(r"\x1b\[\d*m", "", out.getvalue()).splitlines()


def test_a_narrow_terminal_wraps_what_may_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(monkeypatch, 40, wrap=("run", "text"))
    assert max(map(len, lines)) <= 40
    assert len(lines) > 3
    assert lines[1].startswith("bm25   0.5058  words that go on")
    assert " ".join(lines[1:]).split()[2:] == ROW[2].split()


def test_a_narrow_terminal_cuts_what_may_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(monkeypatch, 40, shorten="text")
    assert lines[1].startswith("bm25   0.5058  words that go on")
    assert lines[1].endswith("…")
    assert [len(line) <= 40 for line in lines] == [True, True]


def test_numbers_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(monkeypatch, 20)
    assert lines[1] == f"bm25   0.5058  {ROW[2].rstrip()}"


def test_json_is_ascii_where_the_encoding_is_not_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, shown in (("utf-8", "é"), ("latin-1", "\\u00e9"), ("ascii", "\\u00e9")):
        buffer = io.BytesIO()
        stream = io.TextIOWrapper(buffer, encoding=encoding)
        monkeypatch.setattr("sys.stdout", stream)
        print_json({"a": "é"})
        stream.flush()
        assert shown in buffer.getvalue().decode(encoding)
        assert json.loads(buffer.getvalue().decode(encoding)) == {"a": "é"}


def test_durations_rates_and_counts_read_well() -> None:
    shown = [duration(s) for s in (0, 9.94, 59.4, 59.7, 185, 3599.6, 7620)]
    assert shown == [
        "0.0 s",
        "9.9 s",
        "59 s",
        "1 min 00 s",
        "3 min 05 s",
        "1 h 00 min",
        "2 h 07 min",
    ]
    assert [rate(10, 4), rate(12_345, 1), rate(0, 0)] == ["2.5/s", "12,345/s", "0.0/s"]
    assert [count(1, "query"), count(1200, "query"), count(0, "pair")] == [
        *("1 query", "1,200 queries", "0 pairs")
    ]


@pytest.fixture
def plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come after the usual time; other tests have none."""
    monkeypatch.setattr("dear.cli.progress.FIRST_LINE_S", FIRST_LINE_S)


@pytest.mark.usefixtures("plain_lines")
def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    report = _PlainLines("scoring", "pairs", clock=lambda: now)
    for second in range(200):
        now = float(second)
        report(1000 + 10 * second, 5000, before=1000, extra="loss 0.5")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 1 + int((199 - FIRST_LINE_S) // EVERY_S)
    # what was done before counts for no rate
    assert lines[0] == "dear: scoring: 1,100/5,000 pairs, 10/s, 6 min 30 s left, loss 0.5"


@pytest.mark.usefixtures("plain_lines")
def test_work_that_starts_anew_starts_its_clock_anew(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    report = _PlainLines("one", "pairs", clock=lambda: now)
    now = 100.0
    report.restart("two")
    report(1, 2)
    assert capsys.readouterr().err == ""
    now = 120.0
    report(1, 2)
    assert capsys.readouterr().err == "dear: two: 1/2 pairs, 0.1/s, 20 s left\n"


def test_a_terminal_gets_a_bar_with_rate_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    err = Terminal()
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with progress("scoring", "pairs") as report:
        report(3, 12, extra="loss 0.5")
        report(12, 12, extra="loss 0.4")
    shown = err.getvalue()
    assert "scoring" in shown
    assert "12/12 pairs" in shown
    assert "/s" in shown
    assert "loss 0.4" in shown


def test_quiet_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    err = Terminal()
    monkeypatch.setattr("sys.stderr", err)
    token = quiet.set(True)
    try:
        with progress("scoring", "pairs") as report:
            report(1, 2)
            report.restart("again")
    finally:
        quiet.reset(token)
    assert err.getvalue() == ""
