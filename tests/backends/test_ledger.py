"""Nothing is lost, nothing is asked twice, whatever happens to the process or to the file."""

from __future__ import annotations

import json
import logging
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import ChatServer, as_body, failure, right_answer, window

from dear.backends import Completion, Keepable, OnAnswer, Price
from dear.backends.http import HttpBackend
from dear.backends.ledger import Ledger
from dear.backends.ledger_file import LedgerFile, prompt_key
from dear.errors import BackendError, DataError
from dear.prompts.listwise import WindowPrompt

PROMPTS = [window(f"q{i}") for i in range(6)]
RIGHT = [right_answer(as_body(p)) for p in PROMPTS]


class Oracle:
    """Answers at once, and counts; `fails`: the queries that it can not answer."""

    name = "oracle"
    price: Price | None = None

    def __init__(self, fails: Sequence[str] = (), **identity: object) -> None:
        self.identity = {"model": "m", **identity}
        self.asked: list[str] = []
        self.fails = fails

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        answers = []
        for i, prompt in reversed(list(enumerate(prompts))):
            self.asked.append(prompt.query.id)
            if prompt.query.id in self.fails:
                continue
            text = right_answer(as_body(prompt))
            answers.append(Completion(text=text, prompt_tokens=1000, completion_tokens=10))
            if on_answer is not None:
                on_answer(i, answers[-1])
        if len(answers) < len(prompts):
            raise BackendError("oracle: 500 oh")
        return answers[::-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some" / "answers.jsonl"


def texts(ledger: Ledger, prompts: Sequence[WindowPrompt] = PROMPTS) -> list[str]:
    return [c.text for c in ledger.generate(prompts)]


def test_an_answer_is_asked_for_once(path: Path) -> None:
    first = Oracle()
    with Ledger(first, path) as ledger:
        assert isinstance(ledger, Keepable)
        assert texts(ledger, PROMPTS[:4]) == RIGHT[:4]
        assert texts(ledger) == RIGHT
        assert sorted(first.asked) == [f"q{i}" for i in range(6)]
    second = Oracle()
    seen: dict[int, Completion] = {}
    with Ledger(second, path) as ledger:
        found = ledger.generate(PROMPTS[::-1], lambda i, c: seen.update({i: c}))
    assert second.asked == []
    assert [c.text for c in found] == RIGHT[::-1]
    assert [seen[i] for i in range(6)] == found
    assert all(c.cached for c in found)


def test_threads_that_ask_the_same_at_once_all_get_it(path: Path) -> None:
    """Whoever hears first writes; one line for each prompt, and every answer is counted."""

    class Slow(Oracle):
        def generate(
            self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
        ) -> list[Completion]:
            together.wait(60)  # all have asked before one is answered
            return super().generate(prompts, on_answer)

    together = threading.Barrier(8)
    with Ledger(Slow(), path) as ledger, ThreadPoolExecutor(8) as threads:
        found = [threads.submit(texts, ledger) for _ in range(8)]
        assert [one.result(60) for one in found] == [RIGHT] * 8
        usage = ledger.usage()
        assert (usage.asked, usage.kept, usage.prompt_tokens) == (48, 0, 48_000)
    assert len(path.read_text().splitlines()) == 1 + 6
    with Ledger(Oracle(), path) as ledger:
        assert texts(ledger) == RIGHT


def test_a_prompt_that_comes_twice_is_asked_once(path: Path) -> None:
    oracle = Oracle()
    twice = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    with Ledger(oracle, path) as ledger:
        found = ledger.generate(twice)
        assert [c.text for c in found] == [RIGHT[0], RIGHT[1], RIGHT[0]]
        assert [c.cached for c in found] == [False, False, True]
        assert sorted(oracle.asked) == ["q0", "q1"]
        assert (ledger.usage().asked, ledger.usage().kept) == (2, 1)


def test_company_is_asked_together_or_not_at_all(path: Path) -> None:
    oracle = Oracle()
    with Ledger(oracle, path) as ledger:
        ledger.generate([PROMPTS[0], PROMPTS[2]])
    before = path.read_bytes()
    again = Oracle()
    pairs = {"q0": 0, "q1": 0, "q2": 1, "q3": 1, "q4": 2, "q5": 2}
    with Ledger(again, path, company=lambda prompt: pairs[prompt.query.id]) as ledger:
        found = ledger.generate(PROMPTS[:3])
        assert [c.text for c in found] == RIGHT[:3]
        assert [c.cached for c in found] == [True, False, True]
        assert sorted(again.asked) == ["q0", "q1"]
        ledger.generate(PROMPTS[:3])
        assert sorted(again.asked) == ["q0", "q1"]
        assert (ledger.usage().asked, ledger.usage().kept) == (1, 5)
    # the first answer counts, and stands there once
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 1 + 3


def test_what_an_answer_depends_on_is_asked_anew(path: Path) -> None:
    for backend in (Oracle(), Oracle(model="n"), Oracle(temperature=1)):
        with Ledger(backend, path) as ledger:
            texts(ledger, PROMPTS[:2])
        assert sorted(backend.asked) == ["q0", "q1"]
    other = replace(PROMPTS[0], messages=(*PROMPTS[0].messages[:-1], ("user", "else")))
    same = replace(PROMPTS[0], passages=())
    keys = [prompt_key(Oracle().identity, p) for p in (PROMPTS[0], same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_usage_and_cost(path: Path) -> None:
    oracle = Oracle()
    oracle.price = Price(tokens_in=2.0, tokens_out=50.0)
    with Ledger(oracle, path) as ledger:
        texts(ledger, PROMPTS[:2])
    with Ledger(oracle, path) as ledger:
        texts(ledger, PROMPTS[:5])
        usage = ledger.usage()
    assert usage.to_dict() == {
        "asked": 3,
        "kept": 2,
        "prompt_tokens": 3000,
        "completion_tokens": 30,
        "kept_prompt_tokens": 2000,
        "kept_completion_tokens": 20,
        "cost": pytest.approx(0.0075),
        "kept_cost": pytest.approx(0.005),
    }


def test_a_failure_keeps_the_others(path: Path) -> None:
    failing = Oracle(fails=["q2"])
    with Ledger(failing, path) as ledger:
        message = r"oracle: 500 oh; 5 answers in .*answers\.jsonl: the same command goes on"
        with pytest.raises(BackendError, match=message):
            ledger.generate(PROMPTS)
    mended = Oracle()
    with Ledger(mended, path) as ledger:
        assert texts(ledger) == RIGHT
    assert mended.asked == ["q2"]


def test_a_last_line_that_was_cut_at_any_byte_is_dropped_and_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(Oracle(), path, sync=False) as ledger:
        texts(ledger, PROMPTS[:3])
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        caplog.clear()
        oracle = Oracle()
        with Ledger(oracle, path, sync=False) as ledger:
            assert texts(ledger, PROMPTS[:3]) == RIGHT[:3]
        # answers are asked for from the last prompt on
        complete = end >= len(whole) - 1
        assert oracle.asked == ([] if complete else ["q0"])
        assert len(caplog.records) == (0 if complete or end == start else 1)
        assert path.read_bytes() == whole


def test_a_header_that_was_cut_begins_anew(path: Path) -> None:
    with Ledger(Oracle(), path, sync=False) as ledger:
        texts(ledger)
    whole = path.read_bytes()
    for end in range(whole.index(b"\n") + 1):
        path.write_bytes(whole[:end])
        with Ledger(Oracle(), path, sync=False) as ledger:
            texts(ledger)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b'{"key": 1}',
        b'{"qid": "q", "response": "[1]"}\n',
        b"\x1f\x8b\x08",
        b'{"format": 2}\n',
    ],
)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"answers\.jsonl:1: is no ledger"):
        Ledger(Oracle(), path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "k"}', '{"batch": "b", "id": "x"}'])
def test_a_broken_line_in_the_middle_is_named(path: Path, line: str) -> None:
    with Ledger(Oracle(), path) as ledger:
        texts(ledger, PROMPTS[:2])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"answers\.jsonl:3: a broken line"):
        Ledger(Oracle(), path)


def test_two_can_not_write_at_once(path: Path) -> None:
    code = f"from dear.backends.ledger_file import LedgerFile; LedgerFile({str(path)!r})"
    with Ledger(Oracle(), path):
        with pytest.raises(DataError, match="another process is writing"):
            LedgerFile(path)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another process is writing answers here" in done.stderr
    LedgerFile(path).close()


def test_places_that_can_not_be_written(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no regular file"):
        LedgerFile("/dev/null")
    with pytest.raises(DataError, match="cannot be written"):
        LedgerFile(tmp_path)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files stop growing at 1,500 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_whole_lines(path: Path) -> None:
    with Ledger(Oracle(), path) as ledger, pytest.raises(DataError, match="cannot be written"):
        ledger.generate([window(f"q{i}") for i in range(40)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) > 3
    assert path.read_bytes().endswith(b"}\n")


def test_answers_of_every_kind_come_back_as_they_were(path: Path) -> None:
    answers = [
        Completion(text="half a pair \ud83d\n\u2028 \r", finish="length"),
        Completion(text="", reasoning="hm\x00", prompt_tokens=1),
    ]
    file = LedgerFile(path)
    for i, answer in enumerate(answers):
        file.add(str(i), "q", answer)
    file.close()
    again = LedgerFile(path)
    again.close()
    assert list(again.answers.values()) == answers


def test_a_server_on_another_port_goes_on_and_no_key_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dear")
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with ChatServer(lambda b, n: failure(400, "no") if n > 2 else right_answer(b)) as server:
        options = server.options(api_key_env="MY_KEY", concurrency=1)
        said = "3 of 6 prompts are answered; 3 answers in"
        with (
            Ledger(HttpBackend(options), path) as ledger,
            pytest.raises(BackendError, match=said),
        ):
            ledger.generate(PROMPTS)
    with ChatServer() as server:
        options = server.options(api_key_env="MY_KEY")
        with Ledger(HttpBackend(options), path) as ledger:
            assert texts(ledger) == RIGHT
        assert len(server.requests) == 3
    assert b"secret" not in path.read_bytes()
    assert "secret" not in caplog.text
