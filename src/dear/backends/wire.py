"""What goes over the wire, and what comes back: requests, answers, faults."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import importlib.util
import json
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dear.backends.backend import Completion, Price
from dear.backends.options import HttpOptions
from dear.errors import MissingExtra, excerpt
from dear.prompts.listwise import WindowPrompt

if TYPE_CHECKING:
    import httpx2
    import openai

T = TypeVar("T")

LONGEST_WAIT_S = 900.0
"""A server that asks for more patience than this has failed."""

MOST_ERROR_BYTES = 1 << 16
"""Of an answer that says what went wrong; the rest is not read."""

_REASON_CHARACTERS = 400
_KEPT_HEADERS = ("location", "retry-after", "retry-after-ms")
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


class TooLong(Unreadable):
    """An answer that is longer than the options allow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a request failed.

    retry:    it may go well the next time.  wait_s: how long the server wants to be left alone.
    hopeless: other prompts would fail as well.
    refused:  the parameter that the server does not take.
    there:    it has answered, if not as it must.

    A reason is one short line without control characters, whatever the server said.
    """

    reason: str
    retry: bool = True
    hopeless: bool = False
    wait_s: float | None = None
    refused: str | None = None
    there: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", _line(self.reason, _REASON_CHARACTERS))


def reachable() -> None:
    """MissingExtra: there is no client."""
    if importlib.util.find_spec("openai") is None:
        raise MissingExtra.of("openai", "http")


class ServerBackend:
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
    """Asks once: retries are ours. Follows no redirect; reads answers as far as options allow."""
    from openai import AsyncAzureOpenAI, AsyncOpenAI

    if options.kind == "azure":
        return AsyncAzureOpenAI(**_azure(options), **_arguments(options))
    client = AsyncOpenAI(base_url=options.base_url, **_arguments(options))
    if urlsplit(options.base_url).hostname != "api.openai.com":
        # no account of OpenAI's, which the environment may name, for other servers
        client.organization = client.project = None
    return client


def asked(
    options: HttpOptions,
    call: Callable[[openai.AsyncOpenAI], Awaitable[T]],
    seconds: float | None = None,
) -> T:
    """One request, from its first byte to the answer's last in `seconds` (else the options'). What
    it raises is for `fault_of`."""

    async def once() -> T:
        async with async_client(options) as client, asyncio.timeout(seconds or options.timeout_s):
            return await call(client)

    return in_a_loop(once())


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """To its end, in a thread of its own where this one runs a loop already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _bounded(options: HttpOptions) -> httpx2.AsyncClient:
    """The client below openai's. A stream that its caller reads is bounded by the caller."""
    from openai import DefaultAsyncHttpxClient

    class Bounded(DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **more: Any) -> httpx2.Response:
            response = await super().send(request, stream=True, **more)
            if stream and response.is_success:
                return response
            try:
                return await _whole(response, options)
            finally:
                await response.aclose()

    return Bounded(follow_redirects=False, timeout=options.timeout_s)


async def _whole(response: httpx2.Response, options: HttpOptions) -> httpx2.Response:
    """The same with its body, decoded, and nothing that could make anybody decode it again: the
    charset that a server names may be one that expands, or takes quadratic time.

    TooLong: a success of more bytes than the options allow. An error's text is cut.
    """
    most = options.most_bytes if response.is_success else MOST_ERROR_BYTES
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > most:
            if response.is_success:
                raise TooLong(f"an answer of more than {most:,} bytes; max_answer_mib is the limit")
            del body[most:]
            break
    headers = {k: v for k, v in response.headers.items() if k in _KEPT_HEADERS}
    headers["content-type"] = response.headers.get("content-type", "").partition(";")[0]
    return type(response)(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )


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
        "http_client": _bounded(options),
    }


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


def parsed(body: bytes) -> Any:
    """The JSON of an answer. Unreadable: it is none, or nested too deeply."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{_line(str(error), 80)}: {excerpt(_start(body), 80)}") from None


def read_answer(value: Any) -> Completion:
    """A chat completion's JSON; null content is an empty text. Unreadable: it is none."""
    try:
        choice = value["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unreadable(f"an answer without a choice: {shown(value, 120)}") from None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    thought = message.get("reasoning_content") or message.get("reasoning")
    finish = choice.get("finish_reason")
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        text=content if isinstance(content, str) else "",
        finish=_line(finish, 40) if isinstance(finish, str) and finish else "stop",
        prompt_tokens=_number(usage.get("prompt_tokens")),
        completion_tokens=_number(usage.get("completion_tokens")),
        reasoning=thought if isinstance(thought, str) else "",
    )


def _number(value: Any) -> int | None:
    """Servers send anything."""
    return value if type(value) is int else None


def shown(value: Any, limit: int) -> str:
    """What a server said, quoted and short enough for an error line."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is nested too deeply"
    return excerpt(text, limit)


def _start(body: bytes) -> str:
    return body[:1000].decode("utf-8", "replace")


def _line(text: str, limit: int) -> str:
    """Printable, and cut."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else " " for c in short)


def fault_of(error: Exception, options: HttpOptions, seconds: float | None = None) -> Fault:
    """What a failure of the client means, after `seconds` (else the options') for the answer.
    Failures that are not the server's are raised again."""
    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Fault(reason=f"no answer within {seconds or options.timeout_s:g} s")
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, options)
    if isinstance(error, openai.APIConnectionError):
        return _connection_fault(error, options)
    if isinstance(error, UnicodeEncodeError):
        reason = f"the prompt can not be sent: it holds {error.object[error.start]!r}, no character"
        return Fault(reason=reason, retry=False, there=True)
    if isinstance(error, Unreadable | openai.APIResponseValidationError | ValueError):
        reason = _hidden(f"not what a server answers: {error}", options)
        return Fault(reason=reason, retry=not isinstance(error, TooLong), there=True)
    raise error


def _connection_fault(error: openai.APIConnectionError, options: HttpOptions) -> Fault:
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, TooLong):
            return fault_of(cause, options)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"the server's certificate is not valid here: {cause.verify_message}"
            cure = "SSL_CERT_FILE names a file with your own authorities"
            return Fault(reason=f"{why}; {cure}", retry=False, hopeless=True)
    return Fault(reason=f"no connection: {_hidden(str(causes[1 % len(causes)]), options)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status_fault(error: openai.APIStatusError, options: HttpOptions) -> Fault:
    status, body = error.status_code, error.body
    place = error.response.headers.get("location")
    if place and 300 <= status < 400:
        reason = f"{status}, it points to {excerpt(place, 120)}, and no redirect is followed: "
        reason = _hidden(reason + "base_url is the address that answers itself", options)
        return Fault(reason=reason, retry=False, hopeless=True)
    said = excerpt(_hidden(_message(body) or error.response.text.strip(), options), 200)
    with contextlib.suppress(ValueError):
        said = f"{HTTPStatus(status).phrase}: {said}"
    broke = error.code in _NO_MONEY
    wait = retry_after(error.response.headers, time.time())
    patient = wait is None or wait <= LONGEST_WAIT_S
    if not patient:
        said += f"; it asks to wait {min(wait or 0.0, 1e12):.0f} s"
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
    try:
        return "" if body is None else str(body)
    except RecursionError:
        return ""


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
    with contextlib.suppress(ValueError, TypeError, OverflowError, OSError, IndexError):
        when = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, when.timestamp() - now)
    return None


def _hidden(text: str, options: HttpOptions) -> str:
    """Some servers repeat the key that they refuse."""
    for secret in options.secrets().values():
        text = text.replace(secret, "***")
    return text
