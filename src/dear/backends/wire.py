"""What goes over the wire, and what comes back: requests, answers, faults."""

from __future__ import annotations

import contextlib
import email.utils
import importlib.util
import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dear.backends import Completion, Price
from dear.backends.options import HttpOptions
from dear.errors import MissingExtra, excerpt
from dear.prompts.listwise import WindowPrompt

if TYPE_CHECKING:
    import openai

LONGEST_WAIT_S = 900.0
"""A server that asks for more patience than this has failed."""

_RETRIED = (408, 409, 425, 429)
_HOPELESS = (401, 402, 403, 404)
"""The next prompt would fare no better."""
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
_REFUSES = re.compile(
    r"unsupported|not support|deprecat|unrecogni[sz]ed|unknown|unexpected|not allowed|not permitted"
    r"|extra (inputs|fields)|invalid (parameter|argument)|cannot be (used|set)|not available",
    re.IGNORECASE,
)
_MAY_GO = ("temperature", "seed", "stop")


class Unreadable(Exception):
    """A 200 that holds no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a request failed.

    retry:    it may go well the next time.  wait_s: how long the server wants to be left alone.
    hopeless: other prompts would fail as well.
    refused:  the parameter that the server does not take.
    """

    reason: str
    retry: bool = True
    hopeless: bool = False
    wait_s: float | None = None
    refused: str | None = None


def reachable() -> None:
    """MissingExtra: there is no client."""
    if importlib.util.find_spec("openai") is None:
        raise MissingExtra.of("openai", "http")


class OfServer:
    """What every backend is that asks a server for text. MissingExtra: there is no client."""

    def __init__(self, options: HttpOptions) -> None:
        reachable()
        self.options = options

    @property
    def name(self) -> str:
        return f"{self.options.base_url}#{self.options.model}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.options.identity

    @property
    def price(self) -> Price | None:
        return self.options.price


def async_client(options: HttpOptions) -> openai.AsyncOpenAI:
    """Asks once: retries are ours."""
    from openai import AsyncAzureOpenAI, AsyncOpenAI

    if options.kind == "azure":
        return AsyncAzureOpenAI(**_azure(options), **_arguments(options))
    client = AsyncOpenAI(base_url=options.base_url, **_arguments(options))
    _anonymous(client, options)
    return client


def plain_client(options: HttpOptions) -> openai.OpenAI:
    """The same, for one request at a time."""
    from openai import AzureOpenAI, OpenAI

    if options.kind == "azure":
        return AzureOpenAI(**_azure(options), **_arguments(options))
    client = OpenAI(base_url=options.base_url, **_arguments(options))
    _anonymous(client, options)
    return client


def _azure(options: HttpOptions) -> dict[str, Any]:
    return {"azure_endpoint": options.base_url, "api_version": options.api_version}


def _arguments(options: HttpOptions) -> dict[str, Any]:
    secrets = options.secrets()
    # a key from the environment that was meant for somebody else must not go out
    key = secrets.pop("", "none")
    headers = {**options.extra_headers, **secrets}
    return {
        "api_key": key,
        "max_retries": 0,
        "timeout": options.timeout_s,
        "default_headers": headers,
    }


def _anonymous(client: openai.OpenAI | openai.AsyncOpenAI, options: HttpOptions) -> None:
    """No account of OpenAI's, which the environment may name, for other servers."""
    if urlsplit(options.base_url).hostname != "api.openai.com":
        client.organization = client.project = None


def request_body(
    options: HttpOptions, prompt: WindowPrompt, refused: Collection[str] = ()
) -> dict[str, Any]:
    """A chat completion's request. refused: parameters that the server does not take."""
    names = ("max_tokens", "max_completion_tokens")
    limit = options.limit_name
    if limit in refused:
        limit = names[1 - names.index(limit)]  # type: ignore[assignment]
    given: dict[str, Any] = {
        "temperature": options.temperature,
        "seed": options.seed,
        "stop": list(options.stop) or None,
        limit: options.max_tokens,
    }
    left_out = {*refused, *options.omit}
    return {
        "model": options.model,
        "messages": [{"role": role, "content": text} for role, text in prompt.messages],
        **{k: v for k, v in given.items() if v is not None and k not in left_out},
        **options.extra_body,
    }


def estimated_tokens(prompt: WindowPrompt, options: HttpOptions) -> int:
    """What a provider counts against a limit before it answers: a token for four bytes."""
    size = sum(len(text.encode("utf-8", "replace")) for _, text in prompt.messages)
    return size // 4 + options.max_tokens


def read_answer(value: Any) -> Completion:
    """A chat completion's JSON; null content is an empty text. Unreadable: it is none."""
    try:
        choice = value["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unreadable(f"an answer without a choice: {excerpt(json.dumps(value), 120)}") from None
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        content = "".join(str(part.get("text") or "") for part in parts)
    thought = message.get("reasoning_content") or message.get("reasoning")
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        text=content if isinstance(content, str) else "",
        finish=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=_number(usage.get("prompt_tokens")),
        completion_tokens=_number(usage.get("completion_tokens")),
        reasoning=thought if isinstance(thought, str) else "",
    )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fault_of(error: Exception, options: HttpOptions) -> Fault:
    """What a failure of the client means. Failures that are not the server's are raised again."""
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Fault(reason=f"no answer within {options.timeout_s:g} s")
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, options)
    if isinstance(error, openai.APIConnectionError):
        return Fault(reason=f"no connection: {_hidden(str(error.__cause__ or error), options)}")
    if isinstance(error, Unreadable | openai.APIResponseValidationError | ValueError):
        return Fault(reason=_hidden(f"not what a server answers: {error}", options))
    raise error


def _status_fault(error: openai.APIStatusError, options: HttpOptions) -> Fault:
    status, body = error.status_code, error.body
    said = _hidden(_message(body) or error.response.text.strip(), options)
    with contextlib.suppress(ValueError):
        said = f"{HTTPStatus(status).phrase}: {excerpt(said, 200)}"
    broke = error.code in _NO_MONEY
    wait = retry_after(error.response.headers, time.time())
    patient = wait is None or wait <= LONGEST_WAIT_S
    if not patient:
        said += f"; it asks to wait {wait:.0f} s"
    return Fault(
        reason=f"{status} {said}",
        retry=(status in _RETRIED or status >= 500) and patient and not broke,
        hopeless=status in _HOPELESS or broke or not patient,
        wait_s=wait,
        refused=_refused(error, said) if status in (400, 422) else None,
    )


def _message(body: Any) -> str:
    """Servers say it in many ways."""
    while isinstance(body, dict):
        body = next((body[k] for k in ("message", "error", "detail") if body.get(k)), None)
    return "" if body is None else str(body)


def _refused(error: openai.APIStatusError, said: str) -> str | None:
    if "max_completion_tokens" in said and re.search(r"\bmax_tokens\b", said):
        # "Unsupported parameter: 'max_tokens' … Use 'max_completion_tokens' instead."
        return "max_tokens"
    if not _REFUSES.search(said):
        return None
    for name in (*_MAY_GO, "max_completion_tokens"):
        if error.param == name or re.search(rf"\b{name}\b", said):
            return name
    return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `retry-after-ms` or `Retry-After` (seconds, or a date) asks for."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError, TypeError):
            seconds = float(headers.get(name, "")) * scale
            return max(0.0, seconds) if seconds == seconds else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        when = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, when.timestamp() - now)
    return None


def _hidden(text: str, options: HttpOptions) -> str:
    """Some servers repeat the key that they refuse."""
    for secret in options.secrets().values():
        text = text.replace(secret, "***")
    return text
