"""A real server on loopback that fails as servers do, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import time
from email.utils import formatdate
from typing import Any

import pytest
from chat_server import (
    ChatServer,
    after,
    as_body,
    completion,
    dropped,
    failure,
    right_answer,
    window,
)
from fastapi import Response

from dear.backends import Completion, Keepable
from dear.backends.http import HttpBackend
from dear.backends.options import HttpOptions
from dear.errors import BackendError

PROMPTS = [window(f"q{i}") for i in range(12)]
RIGHT = [right_answer(as_body(p)) for p in PROMPTS]


def is_about(body: dict[str, Any], name: str) -> bool:
    return f"{name} says" in body["messages"][-1]["content"]


@pytest.mark.parametrize("concurrency", [1, 4, 100])
def test_answers_come_in_the_order_of_the_prompts(concurrency: int) -> None:
    draw = random.Random(concurrency)

    together = min(concurrency, len(PROMPTS))

    async def slowly(body: dict[str, Any], _n: int) -> Any:
        until = time.monotonic() + 10
        while server.most_at_once < together and time.monotonic() < until:
            await asyncio.sleep(0.005)
        return await after(draw.random() / 20, right_answer(body))

    seen: dict[int, Completion] = {}
    with ChatServer(slowly) as server:
        backend = HttpBackend(server.options(concurrency=concurrency))
        found = backend.generate(PROMPTS, lambda i, c: seen.update({i: c}))
        assert server.most_at_once == together
    assert isinstance(backend, Keepable)
    assert [c.text for c in found] == RIGHT
    assert [seen[i] for i in range(len(PROMPTS))] == found
    assert len(seen) == len(server.requests)
    assert {(c.prompt_tokens, c.completion_tokens) for c in found} == {(100, 10)}


def test_what_is_sent() -> None:
    with ChatServer() as server:
        options = server.options(stop=("\n\n",), extra_body={"top_k": 1}, max_tokens=7)
        HttpBackend(options).generate(PROMPTS[:1])
        HttpBackend(server.options(omit=("seed",), temperature=None)).generate(PROMPTS[:1])
    assert server.requests[0] == {
        "model": "m",
        **as_body(PROMPTS[0]),
        "temperature": 0.0,
        "seed": 0,
        "stop": ["\n\n"],
        "max_tokens": 7,
        "top_k": 1,
    }
    assert not {"seed", "temperature", "stop"} & server.requests[1].keys()


TROUBLES: dict[str, Any] = {
    "429": lambda: failure(429, "slow down"),
    "500": lambda: failure(500, "oh"),
    "503 in HTML": lambda: Response("<html>busy</html>", 503, media_type="text/html"),
    "dropped": dropped,
    "no JSON": lambda: Response("{", media_type="application/json"),
    "no choice": lambda: Response('{"error": {"message": "upstream"}}'),
    "timeout": lambda: after(5.0, "too late"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_troubles_that_pass_are_waited_out(trouble: str) -> None:
    def flaky(body: dict[str, Any], n: int) -> Any:
        return right_answer(body) if n % 2 else TROUBLES[trouble]()

    with ChatServer(flaky) as server:
        timeout = 0.5 if trouble == "timeout" else 60.0
        backend = HttpBackend(server.options(concurrency=1, timeout_s=timeout))
        assert [c.text for c in backend.generate(PROMPTS[:2])] == RIGHT[:2]
        assert len(server.requests) == 4 or trouble == "timeout"
        assert len(server.requests) >= 4


@pytest.mark.parametrize("wait", ["0.4", "date"])
def test_a_server_that_says_how_long_to_wait_is_left_alone(wait: str) -> None:
    # a date has whole seconds
    at_least = 0.9 if wait == "date" else 0.4

    def busy(body: dict[str, Any], n: int) -> Any:
        said = formatdate(time.time() + 2, usegmt=True) if wait == "date" else wait
        return failure(429, "slow down", wait=said) if n == 0 else right_answer(body)

    with ChatServer(busy) as server:
        backend = HttpBackend(server.options(concurrency=1))
        assert [c.text for c in backend.generate(PROMPTS[:3])] == RIGHT[:3]
    assert server.times[1] - server.times[0] >= at_least


def test_others_wait_too_when_one_is_told_to() -> None:
    def busy(body: dict[str, Any], n: int) -> Any:
        if n == 0:
            return failure(429, "slow down", wait="0.5")
        return after(0.3, right_answer(body))

    with ChatServer(busy) as server:
        HttpBackend(server.options(concurrency=2)).generate(PROMPTS[:4])
    assert server.times[2] - server.times[0] >= 0.5


def test_a_server_that_asks_for_an_hour_has_failed() -> None:
    with ChatServer(lambda _b, _n: failure(429, "quota", wait="3600")) as server:
        with pytest.raises(BackendError, match=r"429 .*it asks to wait 3600 s"):
            HttpBackend(server.options(concurrency=1)).generate(PROMPTS)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "more"),
    [(401, {}), (403, {}), (404, {}), (429, {"code": "insufficient_quota"})],
)
def test_what_no_patience_mends_is_asked_once(status: int, more: dict[str, str]) -> None:
    with ChatServer(lambda _b, _n: failure(status, "no such thing", **more)) as server:
        with pytest.raises(BackendError) as caught:
            HttpBackend(server.options(concurrency=2)).generate(PROMPTS)
        assert len(server.requests) == 2
    line = str(caught.value)
    assert line.startswith(f"{server.url}#m: {status} ")
    assert line.endswith("'no such thing'; 0 of 12 prompts are answered")


@pytest.mark.parametrize("status", [400, 500])
def test_one_prompt_that_fails_leaves_the_others_their_answers(status: int) -> None:
    def picky(body: dict[str, Any], _n: int) -> Any:
        return failure(status, "too long") if is_about(body, "q3") else right_answer(body)

    seen: dict[int, str] = {}
    with ChatServer(picky) as server:
        backend = HttpBackend(server.options(concurrency=3))
        with pytest.raises(BackendError, match=rf"{status} .*'too long'; 11 of 12 prompts"):
            backend.generate(PROMPTS, lambda i, c: seen.update({i: c.text}))
        asked = sum(is_about(body, "q3") for body in server.requests)
    assert asked == (1 if status == 400 else 4)
    assert seen == {i: text for i, text in enumerate(RIGHT) if i != 3}


def test_a_server_that_is_gone_is_given_up_soon() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        options = HttpOptions(base_url=url, model="m", retries=2, backoff_s=0.2, concurrency=2)
        started = time.monotonic()
        with pytest.raises(BackendError, match=r"#m: no connection: .*; 0 of 500 prompts"):
            HttpBackend(options).generate([window(f"q{i}") for i in range(500)])
    assert time.monotonic() - started < 40  # all of them would take 75 s and more


def test_a_parameter_that_is_refused_is_left_out_from_then_on() -> None:
    def strict(body: dict[str, Any], _n: int) -> Any:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            return failure(400, message + "'max_completion_tokens' instead.", param="max_tokens")
        if "temperature" in body:
            return failure(400, "Unsupported value: 'temperature' does not support 0.0")
        return right_answer(body)

    with ChatServer(strict) as server:
        backend = HttpBackend(server.options(concurrency=1, retries=0))
        assert [c.text for c in backend.generate(PROMPTS)] == RIGHT
        assert len(server.requests) == len(PROMPTS) + 2
        assert backend.generate(PROMPTS[:1])[0].text == RIGHT[0]
        assert len(server.requests) == len(PROMPTS) + 3
    assert server.requests[-1]["max_completion_tokens"] == 1024
    assert server.requests[-1]["seed"] == 0


def test_a_context_that_is_too_small_refuses_no_parameter() -> None:
    message = "This model's maximum context length is 10 tokens, however you requested max_tokens"
    with ChatServer(lambda _b, _n: failure(400, message)) as server:
        with pytest.raises(BackendError, match="maximum context length"):
            HttpBackend(server.options()).generate(PROMPTS[:1])
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (completion(None), Completion(text="")),
        (completion("", finish="length"), Completion(text="", finish="length")),
        (completion(None, finish="content_filter"), Completion(text="", finish="content_filter")),
        (completion("a", reasoning_content="hm"), Completion(text="a", reasoning="hm")),
        (completion("a", reasoning="hm"), Completion(text="a", reasoning="hm")),
        (completion([{"type": "text", "text": "a"}, {"type": "x"}]), Completion(text="a")),  # type: ignore[arg-type]
    ],
)
def test_answers_of_every_shape_are_read(answer: dict[str, Any], expected: Completion) -> None:
    del answer["usage"]
    with ChatServer(lambda _b, _n: answer) as server:
        assert HttpBackend(server.options()).generate(PROMPTS[:1]) == [expected]


def test_requests_are_spaced() -> None:
    with ChatServer() as server:
        backend = HttpBackend(server.options(requests_per_minute=1200))
        backend.generate(PROMPTS[:6])
        backend.generate(PROMPTS[6:8])
    assert server.times[7] - server.times[0] >= 0.2  # 0.35 where the first comes at once


def test_it_works_where_a_loop_runs_already() -> None:
    with ChatServer() as server:
        backend = HttpBackend(server.options())

        async def notebook() -> list[Completion]:
            return backend.generate(PROMPTS)

        assert [c.text for c in asyncio.run(notebook())] == RIGHT


def test_an_answer_that_can_not_be_kept_ends_the_work() -> None:
    def full(_i: int, _c: Completion) -> None:
        raise OSError("disk full")

    with ChatServer(lambda body, _n: after(0.05, right_answer(body))) as server:
        with pytest.raises(OSError, match="disk full"):
            HttpBackend(server.options(concurrency=2)).generate(PROMPTS, full)
        assert len(server.requests) <= 3


def test_no_prompts_ask_nothing() -> None:
    with ChatServer() as server:
        assert HttpBackend(server.options()).generate([]) == []
        assert server.requests == []


KEY = "sk-very-secret-0123456789"


def test_keys_come_from_the_environment_and_go_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("GATEWAY", "gate-secret")
    caplog.set_level(logging.DEBUG, "dear")
    with ChatServer(lambda _b, _n: failure(401, f"wrong key {KEY} or gate-secret")) as server:
        keyed = server.options(api_key_env="MY_KEY", headers_env={"x-gateway-key": "GATEWAY"})
        for options in (server.options(), keyed):
            with pytest.raises(BackendError, match=r"401 ") as caught:
                HttpBackend(options).generate(PROMPTS[:1])
        first, second = server.headers
    assert KEY not in json.dumps(dict(first))
    assert "org-mine" not in json.dumps(dict(first))
    assert second["authorization"] == f"Bearer {KEY}"
    assert second["x-gateway-key"] == "gate-secret"
    backend = HttpBackend(keyed)
    for text in (str(caught.value), backend.name, str(backend.identity), repr(keyed), caplog.text):
        assert KEY not in text
        assert "gate-secret" not in text


def test_azure_and_anthropic_are_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    monkeypatch.setenv("OTHER", "anthropic-key")
    with ChatServer() as server:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.url.removesuffix("/v1"))
        azure = HttpOptions(kind="azure", model="mine", api_version="2030-01-01")
        assert HttpBackend(azure).generate(PROMPTS[:2])[1].text == RIGHT[1]
        assert server.paths[0] == "/openai/deployments/mine/chat/completions?api-version=2030-01-01"
        assert server.headers[0]["api-key"] == "azure-key"
        assert server.requests[0]["max_completion_tokens"] == 1024
        claude = server.options(kind="anthropic", api_key_env="OTHER")
        assert HttpBackend(claude).generate(PROMPTS[:1])[0].text == RIGHT[0]
        assert server.headers[-1]["authorization"] == "Bearer anthropic-key"
