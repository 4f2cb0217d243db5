"""A text server's options, its pace and back-off."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import threading
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dear.artifacts import read_toml
from dear.backends.backend import Price
from dear.errors import ConfigError, nearest


class Pace:
    """Evenly spaced starts: in any T minutes at most T times what a minute allows, and one more.

    Buckets without a burst, because providers count in windows shorter than a minute. It knows no
    event loop: `reserve` says how long to wait, who asks waits. Threads share it.
    """

    def __init__(
        self,
        requests: float | None = None,
        tokens: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_s = 0.0 if requests is None else 60.0 / requests
        self._token_s = 0.0 if tokens is None else 60.0 / tokens
        self._clock, self._guard = clock, threading.Lock()
        self._next_request = self._next_token = float("-inf")

    def reserve(self, tokens: int) -> float:
        """Seconds until a request of so many tokens may start; the next one follows later."""
        with self._guard:
            now = self._clock()
            start = max(now, self._next_request, self._next_token)
            self._next_request = start + self._request_s
            self._next_token = start + tokens * self._token_s
            return start - now

    def settle(self, reserved: int, used: int) -> None:
        """A request took fewer tokens, or more, than were reserved: at most four times as many,
        which is a token for each byte, whatever a server says."""
        used = min(max(used, 0), 4 * reserved)
        with self._guard:
            self._next_token += (used - reserved) * self._token_s

    def hold(self, seconds: float) -> None:
        """Nobody starts before that."""
        with self._guard:
            self._next_request = max(self._next_request, self._clock() + seconds)


def backoff(attempt: int, *, first_s: float, longest_s: float, seed: str) -> float:
    """Seconds before attempt + 1: twice as long each time, times 0.5 to 1 drawn by `seed`."""
    whole = min(longest_s, first_s * 2.0 ** min(attempt, 60))
    return whole * (0.5 + 0.5 * random.Random(f"{seed}:{attempt}").random())


Kind: TypeAlias = Literal["openai", "azure", "anthropic"]

OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com/v1"
AZURE_VERSION = "2024-10-21"
_KEYS: dict[str, str] = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
_POSITIVE = (
    *("timeout_s", "requests_per_minute", "tokens_per_minute", "max_answer_mib"),
    *("batch_poll_s", "batch_timeout_s", "max_file_mib", "download_timeout_s"),
)
_SECRET = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """One model on one server.

    base_url:      as far as `/v1`; of Azure the resource's endpoint.
    model:         as the server names it; of Azure the deployment.
    kind:          who is asked. anthropic: its OpenAI-compatible endpoint.
    api_version:   Azure's.
    api_key_env:   the environment variable with the key. Where it is not given: OPENAI_API_KEY,
                   AZURE_OPENAI_API_KEY or ANTHROPIC_API_KEY for the provider's own address, and
                   no key for any other.
    temperature, seed, stop: as the server understands them.
    max_tokens:    an answer's, the thought of a reasoning model included.
    style:         what the server calls that limit. auto: max_completion_tokens for OpenAI and
                   Azure, max_tokens for others, and the other one after a 400 that says so.
    omit:          parameters never to send, such as ["seed"]. temperature, seed and stop are left
                   out by themselves after a 400 that refuses them.
    concurrency:   requests at a time.
    timeout_s:     for one answer, until its last byte.
    max_answer_mib: of one answer, decoded; one that is longer fails.
    retries:       after the first attempt, each for: no connection, a timeout, 408, 409, 425, 429,
                   5xx and answers that are none.
    backoff_s:     before the first of them; doubled each time up to max_backoff_s, times 0.5 to 1.
    requests_per_minute, tokens_per_minute: what the provider allows; tokens count as the prompt's
                   plus max_tokens until the answer says how many they were.
    price_in, price_out: dollars for a million tokens.
    extra_body:    more fields of the request, part of what an answer depends on.
    extra_headers: more headers; those with secrets go into `headers_env`, header → variable.
    batch:         through the provider's batch API; asked after each batch_poll_s, and given up
                   (until the same command runs again) after batch_timeout_s.
    max_file_mib:  of the file that a batch's answers come in; download_timeout_s: until its last
                   byte.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    base_url: str = ""
    model: str = ""
    kind: Kind = "openai"
    api_version: str = AZURE_VERSION
    api_key_env: str | None = None
    temperature: float | None = 0.0
    seed: int | None = 0
    max_tokens: int = 1024
    style: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    stop: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    concurrency: int = 8
    timeout_s: float = 300.0
    max_answer_mib: float = 8.0
    retries: int = 6
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    headers_env: Mapping[str, str] = field(default_factory=dict)
    batch: bool = False
    batch_poll_s: float = 30.0
    batch_timeout_s: float = 172_800.0
    max_file_mib: float = 2048.0
    download_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be more than 0, not {value:g}")
        for name in ("retries", "backoff_s", "max_backoff_s", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} must be 0 or more, not {value:g}")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("price_in and price_out go together")
        for header in self.extra_headers:
            if _SECRET.search(header):
                raise ConfigError(
                    f"extra_headers: {header!r} looks like a secret; keys come from environment "
                    "variables: name one in api_key_env or headers_env"
                )
        object.__setattr__(self, "base_url", _checked_url(self.base_url or _own_url(self.kind)))

    @property
    def price(self) -> Price | None:
        if self.price_in is None or self.price_out is None:
            return None
        return Price(tokens_in=self.price_in, tokens_out=self.price_out)

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer depends on besides the messages.

        No address: a server may come back on another port or behind another name, and its answers
        stay good. Who serves different weights under one model name keeps two ledgers.
        """
        return {
            "kind": self.kind,
            "model": self.model,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "omit": sorted(self.omit),
            "extra_body": dict(self.extra_body),
        }

    @property
    def most_bytes(self) -> int:
        """Of one answer."""
        return int(self.max_answer_mib * 2**20)

    @property
    def limit_name(self) -> Literal["max_tokens", "max_completion_tokens"]:
        """What `max_tokens` is called in a request, as far as one can tell beforehand."""
        if self.style != "auto":
            return self.style
        new = self.kind == "azure" or self.base_url == OPENAI_URL
        return "max_completion_tokens" if new else "max_tokens"

    def pause_s(self, attempt: int, told: float | None, place: str) -> float:
        """Seconds after a failed attempt (0 is the first): those that the server told, at least.

        place: what draws its own jitter.
        """
        own = backoff(
            attempt,
            first_s=self.backoff_s,
            longest_s=self.max_backoff_s,
            seed=f"{self.seed}:{place}",
        )
        return max(own, told or 0.0)

    def secrets(self) -> dict[str, str]:
        """Header → value from the environment; the key itself is under "". Never to be written.

        ConfigError: a variable that is named is not set, or holds what no header can.
        """
        own = {"openai": OPENAI_URL, "anthropic": ANTHROPIC_URL}.get(self.kind, self.base_url)
        variable = self.api_key_env or (_KEYS[self.kind] if self.base_url == own else None)
        named = dict(self.headers_env) | ({"": variable} if variable else {})
        return {header: _variable(name, self.base_url) for header, name in named.items()}


def _variable(name: str, url: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigError(f"{url} needs a key: set the environment variable {name}")
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"the environment variable {name} holds what a header can not")
    return value


def _own_url(kind: Kind) -> str:
    if kind != "azure":
        return ANTHROPIC_URL if kind == "anthropic" else OPENAI_URL
    found = os.environ.get("AZURE_OPENAI_ENDPOINT")
    if not found:
        raise ConfigError("azure: set AZURE_OPENAI_ENDPOINT, or base_url in a file of options")
    return found


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        raise ConfigError("base_url: not an address") from None
    # the address stands in notes and errors
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("base_url: no user, no ?query and no #fragment; keys go into api_key_env")
    if not whole:
        raise ConfigError(f"base_url {url!r}: expected http://HOST:PORT/v1")
    return url.rstrip("/")


def read_options(path: Path | str) -> HttpOptions:
    """From TOML. ConfigError: unknown keys, with the nearest known one, and wrong values."""
    return parse_options(read_toml(path), str(path))


def parse_options(values: Mapping[str, Any], where: str) -> HttpOptions:
    """From plain values; errors as `read_options`."""
    known = typing.get_type_hints(HttpOptions).keys() & {
        f.name for f in dataclasses.fields(HttpOptions)
    }
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    try:
        return TypeAdapter(HttpOptions).validate_json(json.dumps(values), strict=True)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError:
        raise ConfigError(f"{where}: dates and times mean nothing here") from None
    except ValidationError as error:
        # the value may be a key in the wrong place: it is not shown
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {place}: {first['msg']}") from None
