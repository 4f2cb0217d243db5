"""The batch API over a real connection: files, polling, and processes that die in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_server import BatchServer, as_body, failure, right_answer, window

from dear.backends import Batched, Completion
from dear.backends.batch import BatchBackend
from dear.backends.ledger import Ledger
from dear.errors import BackendError

PROMPTS = [window(f"q{i}") for i in range(5)]
RIGHT = [right_answer(as_body(p)) for p in PROMPTS]


class Killed(BaseException):
    """Nothing of ours catches it, as nothing catches SIGKILL."""


def backend(server: BatchServer, **more: Any) -> BatchBackend:
    return BatchBackend(server.options(batch=True, batch_poll_s=0.01, **more))


def texts(found: list[Completion]) -> list[str]:
    return [c.text for c in found]


def test_answers_are_put_in_order(tmp_path: Path) -> None:
    seen: dict[int, str] = {}
    with BatchServer() as server:
        batches = backend(server)
        assert isinstance(batches, Batched)
        assert texts(batches.generate(PROMPTS, lambda i, c: seen.update({i: c.text}))) == RIGHT
        assert seen == dict(enumerate(RIGHT))
        with Ledger(batches, tmp_path / "a.jsonl") as ledger:
            assert texts(ledger.generate([*PROMPTS, PROMPTS[0]])) == [*RIGHT, RIGHT[0]]
            assert texts(ledger.generate(PROMPTS)) == RIGHT
        assert len(server.created) == 2


def test_requests_that_fail_are_asked_again_and_no_others(tmp_path: Path) -> None:
    def broken(row: dict[str, Any], n: int) -> dict[str, Any]:
        body = {"error": {"message": "too long"}}
        return row | {"response": {"status_code": 400, "body": body}} if n == 1 else row

    with BatchServer() as server:
        server.line = broken
        with pytest.raises(BackendError, match=r"400: 'too long'; 4 of 5 prompts are answered"):
            backend(server).generate(PROMPTS)
        with Ledger(backend(server), tmp_path / "a.jsonl") as ledger:
            with pytest.raises(BackendError, match=r"400: 'too long'; 4 of 5 .* goes on"):
                ledger.generate(PROMPTS)
            server.line = lambda row, _n: row
            assert texts(ledger.generate(PROMPTS)) == RIGHT
        assert [len(lines) for lines in server.uploads] == [5, 5, 1]


def test_an_expired_batch_gives_what_it_has(tmp_path: Path) -> None:
    with BatchServer() as server:
        server.status = "expired"
        server.line = lambda row, n: row if n < 2 else row | {
            "response": None, "error": {"code": "batch_expired", "message": "expired"}}  # fmt: skip
        with Ledger(backend(server), tmp_path / "a.jsonl") as ledger:
            with pytest.raises(BackendError, match=r"'expired'; 2 of 5 prompts"):
                ledger.generate(PROMPTS)
            server.status, server.line = "completed", lambda row, _n: row
            assert texts(ledger.generate(PROMPTS)) == RIGHT
        assert [len(lines) for lines in server.uploads] == [5, 3]


def test_a_batch_that_fails_as_a_whole_is_not_waited_for_again(tmp_path: Path) -> None:
    with BatchServer() as server:
        server.status = "failed"
        with Ledger(backend(server), tmp_path / "a.jsonl") as ledger:
            with pytest.raises(BackendError, match="batch batch-0 failed: 'too many tokens'"):
                ledger.generate(PROMPTS)
            server.status = "completed"
            assert texts(ledger.generate(PROMPTS)) == RIGHT


@pytest.mark.parametrize("when", ["created", "named", "polled", "downloaded"])
def test_a_process_that_dies_pays_for_no_batch_twice(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    with BatchServer() as server:
        dying = backend(server)
        ledger = Ledger(dying, path)

        def die(*_a: Any, **_k: Any) -> Any:
            raise Killed

        submit = dying.submit
        if when == "created":
            # the provider has it, we never hear of it
            monkeypatch.setattr(dying, "submit", lambda *a: die(submit(*a)))
        elif when == "named":
            monkeypatch.setattr(dying, "collect", die)
        elif when == "polled":
            server.ready = False
            monkeypatch.setattr("time.sleep", die)
        else:
            monkeypatch.setattr(ledger._file, "end_batch", die)
        with pytest.raises(Killed):
            ledger.generate(PROMPTS)
        monkeypatch.undo()
        ledger.close()
        assert len(server.created) == 1
        server.ready = True
        with Ledger(backend(server), path) as again:
            assert texts(again.generate(PROMPTS)) == RIGHT
        assert len(server.created) == 1
        assert len(server.uploads) == 1


def test_a_creation_whose_answer_was_lost_is_not_repeated(tmp_path: Path) -> None:
    with BatchServer() as server:
        server.create_reply = lambda _n: failure(500, "oh")
        assert texts(backend(server).generate(PROMPTS)) == RIGHT
        assert len(server.created) == 1


def test_a_batch_of_others_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with BatchServer() as server, Ledger(backend(server), path) as ledger:
        ledger._file.begin_batch("n", ["another key"])
        ledger._file.name_batch("n", "unknown to the server")
        assert texts(ledger.generate(PROMPTS)) == RIGHT


def test_a_server_without_batches_is_one_line() -> None:
    with BatchServer() as server:
        server.create_reply = lambda _n: failure(404, "not here")
        with pytest.raises(BackendError, match=r"#m: 404 Not Found: 'not here'"):
            backend(server).generate(PROMPTS)
