"""`dear rank` over a server: the ledger beside the run, and processes that are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_server import BatchServer, ChatServer, after, failure, right_answer
from small_collection import make_collection, rank_words, write_toml

from dear.cli.main import main
from kills import killed_when

WINDOWS = 2 * 5
"""Two windows of four for each query's six passages."""


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return make_collection(tmp_path / "mine", queries=5)


def ranked(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output of a command that went well."""
    status = main(words)
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def test_answers_are_kept_beside_the_run(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, ledger = tmp_path / "out.trec", tmp_path / "out.trec.answers.jsonl"
    with ChatServer() as server:
        path = write_toml(
            tmp_path / "s.toml", base_url=server.url, model="m", price_in=2.5, price_out=10.0
        )
        words = rank_words(collection, f"backend:{path}", output)
        said = ranked(words, capsys)
        assert "10 answers asked for, 0 kept from before; 1,000 tokens in, 100 out" in said
        assert f" out, $0.0035 ({ledger})" in said
        first = output.read_bytes()
        said = ranked(words, capsys)
        assert "0 answers asked for, 10 kept from before; 0 tokens in, 0 out, $0.0000" in said
        assert output.read_bytes() == first
        assert len(server.requests) == WINDOWS
    note = json.loads((tmp_path / "out.trec.json").read_text())["listwise"]
    assert note["backend"] == f"{server.url}#m"
    assert note["ledger"] == str(ledger)
    assert (note["usage"]["asked"], note["usage"]["kept"]) == (0, WINDOWS)
    assert note["usage"]["kept_cost"] == pytest.approx(0.0035)


def test_a_ledger_may_be_shared_or_left_out(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "all.jsonl"
    with ChatServer() as server:
        for name in ("a", "b"):
            words = rank_words(collection, server.url, tmp_path / name, ["--ledger", str(shared)])
            ranked(words, capsys)
        assert len(server.requests) == WINDOWS
        words = rank_words(collection, server.url, tmp_path / "c", ["--no-ledger"])
        assert "10 answers asked for; 1,000 tokens in, 100 out\n" in ranked(words, capsys)
        assert len(server.requests) == 2 * WINDOWS
        ranked(rank_words(collection, server.url, Path("/dev/null")), capsys)
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine", "all.jsonl", "a", "b", "c", "a.json", "b.json", "c.json"}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ledger", "X", "--no-ledger"], "not with --no-ledger"),
        (["--ledger", "MINE/corpus.jsonl"], "is no ledger of answers"),
    ],
)
def test_refusals(
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    words = [word.replace("MINE", str(collection)) for word in more]
    with ChatServer() as server:
        assert main(rank_words(collection, server.url, tmp_path / "out.trec", words)) == 2
        assert server.requests == []
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_failed_run_says_how_to_go_on(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.trec"
    words = rank_words(collection, "", output)
    with ChatServer(lambda b, n: failure(400, "no") if n > 5 else right_answer(b)) as server:
        words[words.index("--listwise") + 1] = server.url
        assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "400 Bad Request: 'no'; 1 of 5 prompts are answered; 6 answers in" in line
    assert line.endswith("out.trec.answers.jsonl: the same command goes on from there")
    assert not output.exists()
    with ChatServer() as server:
        words[words.index("--listwise") + 1] = server.url
        ranked(words, capsys)
        assert len(server.requests) == WINDOWS - 6


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, output = tmp_path / "whole.trec", tmp_path / "out.trec"
    ledger = tmp_path / "out.trec.answers.jsonl"

    def slowly(body: dict[str, Any], n: int) -> Any:
        # the last ones never come before the kill
        return right_answer(body) if n < 4 else after(30.0, right_answer(body))

    def four_kept() -> bool:
        return ledger.exists() and ledger.read_bytes().count(b"\n") == 5

    with ChatServer() as server:
        ranked(rank_words(collection, f"{server.url}#m", undisturbed), capsys)
    with ChatServer(slowly) as server:
        killed_when(four_kept, main, rank_words(collection, f"{server.url}#m", output))
        answered = dict(server.answered)
    assert not output.exists()
    with ChatServer() as server:
        ranked(rank_words(collection, f"{server.url}#m", output), capsys)
        assert not answered.keys() & server.answered.keys()
        assert len(answered) + len(server.answered) == WINDOWS
        assert set(server.answered.values()) == {1}
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_run_that_was_killed_while_it_waited_for_a_batch_waits_for_the_same(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.trec"
    ledger = tmp_path / "out.trec.answers.jsonl"
    with BatchServer(ready=False) as server:
        path = write_toml(
            tmp_path / "s.toml", base_url=server.url, model="m", batch=True, batch_poll_s=0.01
        )
        words = rank_words(collection, f"backend:{path}", output)
        killed_when(lambda: ledger.exists() and b"batch-0" in ledger.read_bytes(), main, words)
        server.ready = True
        ranked(words, capsys)
        # two rounds: the second window of a query follows from its first
        assert [len(lines) for lines in server.uploads] == [5, 5]
        assert len(server.created) == 2
        undisturbed = tmp_path / "whole.trec"
        ranked(rank_words(collection, f"{server.url}#m", undisturbed), capsys)
    assert output.read_bytes() == undisturbed.read_bytes()
