"""How a server is named, and what an option may be; limits by themselves."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, failure
from hypothesis import given
from hypothesis import strategies as st

from dear.backends import open_backend
from dear.backends.batch import BatchBackend
from dear.backends.http import HttpBackend
from dear.backends.options import (
    ANTHROPIC_URL,
    OPENAI_URL,
    HttpOptions,
    Pace,
    backoff,
    parse_options,
)
from dear.backends.wire import retry_after
from dear.errors import BackendError, ConfigError, DataError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"


def test_the_only_model_is_found() -> None:
    with ChatServer(models=["tiny"]) as server:
        assert open_backend(server.url).name == f"{server.url}#tiny"
        # named, nobody is asked
        assert open_backend(f"{server.url}#a/b").name == f"{server.url}#a/b"
        assert server.requests == []


@pytest.mark.parametrize(
    ("models", "kind", "message"),
    [
        (["b", "a"], ConfigError, r"serves 2 models \(a, b\); name the model: .*/v1#MODEL"),
        ([], ConfigError, r"serves 0 models"),
        (failure(404, "no"), BackendError, r"/models: 404 .*; name the model"),
    ],
)
def test_which_model_is_asked_where_it_is_not_clear(
    models: Any, kind: type[Exception], message: str
) -> None:
    with ChatServer(models=models) as server, pytest.raises(kind, match=message):
        open_backend(server.url)


def test_where_no_server_listens_a_name_is_no_cure() -> None:
    with ChatServer(models=["tiny"]) as server:
        gone = server.url
    with pytest.raises(BackendError, match=r"/models: no connection: .*; is the server running\?$"):
        open_backend(gone)


def test_providers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with pytest.raises(ConfigError, match="set the environment variable OPENAI_API_KEY"):
        open_backend("openai:gpt-4o")
    with pytest.raises(ConfigError, match="set AZURE_OPENAI_ENDPOINT"):
        open_backend("azure:mine")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://x.openai.azure.com/")
    with pytest.raises(ConfigError, match="AZURE_OPENAI_API_KEY"):
        open_backend("azure:mine")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk\u2026")
    assert open_backend("openai:gpt-4o").name == f"{OPENAI_URL}#gpt-4o"
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY holds what a header can not"):
        open_backend("anthropic:claude")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert open_backend("anthropic:claude").name == f"{ANTHROPIC_URL}#claude"


def test_a_file_holds_every_option(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('base_url = "http://127.0.0.1:1/v1"\nmodel = "m"\nstop = ["x"]\n')
    backend = open_backend(f"backend:{path}")
    assert isinstance(backend, HttpBackend)
    assert backend.options == HttpOptions(base_url="http://127.0.0.1:1/v1", model="m", stop=("x",))
    path.write_text('base_url = "http://127.0.0.1:1/v1"\nmodel = "m"\nbatch = true\n')
    assert isinstance(open_backend(f"backend:{path}"), BatchBackend)
    with pytest.raises(DataError, match=r"nothing\.toml: cannot be read"):
        open_backend(f"backend:{tmp_path / 'nothing.toml'}")
    path.write_text("a = \n")
    with pytest.raises(DataError, match=r"server\.toml: not TOML"):
        open_backend(f"backend:{path}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_token": 3}, r"x: unknown key 'max_token'; did you mean 'max_tokens'"),
        ({"max_tokens": "many"}, r"x: max_tokens: "),
        ({"max_tokens": 0}, r"x: max_tokens must be 1 or more, not 0"),
        ({"timeout_s": 0}, r"timeout_s must be more than 0"),
        ({"retries": -1}, r"retries must be 0 or more"),
        ({"price_in": 1}, r"price_in and price_out go together"),
        ({"kind": "opanai"}, r"x: kind: "),
        ({"base_url": "localhost:8000"}, r"expected http://HOST:PORT/v1"),
        ({"base_url": "http://me:pass@h/v1"}, r"x: base_url: no user"),
        ({"base_url": "http://h/v1?key=pass"}, r"x: base_url: no user"),
        ({"base_url": "http://h:port/v1"}, r"x: base_url: not an address"),
        ({"extra_headers": {"X-Api-Key": "pass"}}, r"'X-Api-Key' looks like a secret"),
        ({"api_key_env": ["pass"]}, r"x: api_key_env: "),
    ],
)
def test_wrong_options_are_refused_in_one_line_without_secrets(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_options(values, "x")
    assert "\n" not in str(caught.value)
    assert "pass" not in str(caught.value)


def test_options_in_the_documents_are_options() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    files = [tomllib.loads(block) for language, block in blocks if not language]
    assert len(files) >= 3
    for values in files:
        parse_options({"base_url": "http://h/v1"} | values, str(PAGE))
    named = set(re.findall(r"`(\w+)`", text))
    known = {f.name for f in dataclasses.fields(HttpOptions)}
    assert known <= named, known - named


def test_what_an_answer_depends_on_and_what_not() -> None:
    plain = HttpOptions(base_url="http://h/v1", model="m")

    def differs(**more: Any) -> bool:
        return dataclasses.replace(plain, **more).identity != plain.identity

    for same in (
        {"base_url": "http://other:99/v1"},
        {"concurrency": 1},
        {"extra_headers": {"a": "b"}},
    ):
        assert not differs(**same), same
    for other in ({"model": "n"}, {"temperature": 1.0}, {"seed": 1}, {"max_tokens": 9}):
        assert differs(**other), other
    assert differs(stop=("x",))
    assert differs(extra_body={"top_k": 1})
    assert differs(kind="anthropic")


@given(
    st.floats(0.5, 1e4),
    st.floats(10, 1e6),
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 30)), min_size=1, max_size=60),
    st.floats(1, 300),
)
def test_no_minute_sees_more_than_it_may(
    requests: float, tokens: float, asked: list[tuple[int, float]], seconds: float
) -> None:
    now = 0.0
    pace = Pace(requests, tokens, clock=lambda: now)
    starts: list[tuple[float, int]] = []
    for size, later in asked:
        now += later
        starts.append((now + pace.reserve(size), size))
    assert [s for s, _ in starts] == sorted(s for s, _ in starts)
    for begin, _ in starts:
        inside = [size for start, size in starts if begin <= start < begin + seconds]
        assert len(inside) <= requests * seconds / 60 + 1 + 1e-6
        # the last one's tokens come behind its start
        assert sum(inside[:-1]) <= tokens * seconds / 60 * (1 + 1e-9) + 1e-6


def test_a_pace_waits_no_longer_than_it_must() -> None:
    now = 100.0
    pace = Pace(60, 6000, clock=lambda: now)
    assert [pace.reserve(10) for _ in range(3)] == [0, 1, 2]
    now = 103.0
    assert pace.reserve(500) == 0
    assert pace.reserve(10) == 5
    pace.settle(10, 10)
    pace.hold(20)
    assert pace.reserve(1) == 20
    free = Pace(clock=lambda: now)
    assert [free.reserve(10**6) for _ in range(3)] == [0, 0, 0]
    free.hold(3)
    assert free.reserve(1) == 3
    settled = Pace(None, 60, clock=lambda: now)
    settled.reserve(100)
    settled.settle(100, 30)
    assert settled.reserve(1) == 30


@given(st.integers(0, 10**4), st.floats(0, 10), st.floats(0, 100), st.text(max_size=5))
def test_waits_grow_and_are_repeatable(attempt: int, first: float, most: float, seed: str) -> None:
    def wait(n: int) -> float:
        return backoff(n, first_s=first, longest_s=most, seed=seed)

    whole = min(most, first * 2.0 ** min(attempt, 60))
    assert whole / 2 <= wait(attempt) <= whole
    assert wait(attempt) == wait(attempt)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers, now=10.0) == expected
