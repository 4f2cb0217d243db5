"""One request: its body to a RankRequest, a RankAnswer to the response, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import Request, Response
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from dear.errors import BackendError, Cancelled, DataError, DearError, excerpt
from dear.serve.asking import STATUS, RankAnswer, RankRequest, Refused
from dear.serve.dialects.dialect import Dialect, Endpoint
from dear.serve.dialects.table import endpoint_of, shared_dialect, union_error
from dear.serve.served import Served, Stops
from dear.serve.server import RequestLimits, Server
from dear.serve.telemetry import log

GONE = 499
"""Nobody reads the answer; as nginx logs it."""


async def answered(
    server: Server, request: Request, path: str, dialect: Dialect | None
) -> Response:
    """The response to whatever was sent; it raises nothing. dialect: None where the body says."""
    started = time.perf_counter()
    speaks, model, ask, answer = dialect, None, None, None
    body = bytearray()
    try:
        await _read(request, server, body)
        if speaks is None:
            speaks = shared_dialect(path, _decoded(body), server.default)
        endpoint = _endpoint(speaks, path)
        posted = _validated(endpoint, body)
        ask = posted.ask()
        _check(ask, server)
        model = server.model(ask.model)
        answer = await _computed(server, model, ask, request)
        response = _written(endpoint.answer(posted, answer), answer, request)
    except Refused as refusal:
        response = refused(speaks, refusal)
    except Exception as error:
        response = refused(speaks, _as_refusal(error))
    finally:
        server.held -= len(body)
    _note(server, request, response, speaks, model, ask, answer, time.perf_counter() - started)
    return response


def _endpoint(dialect: Dialect, path: str) -> Endpoint:
    return endpoint_of(dialect, path.removeprefix(f"/{dialect.name}"))


async def _read(request: Request, server: Server, body: bytearray) -> None:
    """The body, counted. Refused for one that is too large, or does not come."""
    limits = server.limits
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.payload:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                if len(body) + len(part) > limits.payload:
                    raise _too_large(limits)
                if server.held + len(part) > limits.held:
                    message = f"overloaded: requests of {server.held:,} bytes are here"
                    raise Refused("unavailable", message, retry_after=1)
                body += part
                server.held += len(part)
    except TimeoutError:
        raise Refused("timeout", f"the body did not come in {limits.body_s:g} s") from None


def _too_large(limits: RequestLimits) -> Refused:
    return Refused("too large", f"the body is larger than {limits.payload:,} bytes")


def _decoded(body: bytearray) -> Any:
    try:
        return from_json(body)
    except ValueError as error:
        raise Refused("malformed", f"the body is no JSON: {error}") from None


def _validated(endpoint: Endpoint, body: bytearray) -> Any:
    try:
        return endpoint.body.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Refused("malformed", f"the body is no JSON: {first['msg']}") from None
        place = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = f"{place}: {first['msg']}{more}" if place else first["msg"]
        if first["type"] in ("too_short", "string_too_short") and place:
            raise Refused("empty", f"{place} is empty{more}") from None
        raise Refused("invalid", message) from None


def _check(ask: RankRequest, server: Server) -> None:
    if len(ask.documents) > server.limits.documents:
        raise Refused(
            "too many documents",
            f"{len(ask.documents)} documents; this server takes {server.limits.documents}",
        )


async def _computed(
    server: Server, model: Served, ask: RankRequest, request: Request
) -> RankAnswer:
    """In a thread, which ends where the client goes away."""
    ask = _with_headers(ask, request)
    seconds = model.deadline_s if ask.deadline_s is None else ask.deadline_s
    deadline = None if seconds is None else time.monotonic() + seconds
    gone = threading.Event()
    stops = Stops(deadline=deadline, gone=gone.is_set)
    if server.stopping:
        raise Refused("unavailable", "the server is shutting down", retry_after=5)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    with model.load.admitted(ask.characters):
        watching = asyncio.ensure_future(watch())
        try:
            return await anyio.to_thread.run_sync(
                partial(model.answer, ask, stops), limiter=server.threads, abandon_on_cancel=True
            )
        finally:
            gone.set()  # where the server ends before the request does
            watching.cancel()


def _with_headers(ask: RankRequest, request: Request) -> RankRequest:
    """What every dialect may be asked for beside its own fields."""
    deadline = _number(request, "x-dear-deadline")
    if deadline is not None:
        ask = replace(ask, deadline_s=deadline)
    least = _number(request, "x-dear-min-probability")
    return ask if least is None else replace(ask, min_probability=least)


def _number(request: Request, header: str) -> float | None:
    value = request.headers.get(header)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise Refused("invalid", f"{header}: {excerpt(value)} is no number from 0 on")
    return number


def _written(reply: Any, answer: RankAnswer, request: Request) -> Response:
    found = _ADAPTER.dump_python(reply, mode="json", exclude_none=True, by_alias=True)
    if request.headers.get("x-dear-details", "").lower() in ("1", "true", "yes"):
        _detail(found, answer)
    return _json(found, 200, answer.headers)


_ADAPTER: TypeAdapter[Any] = TypeAdapter(Any)


def _detail(found: Any, answer: RankAnswer) -> None:
    """Beside a dialect's own fields, those of ours under `dear`."""
    rows = found
    if isinstance(found, dict):
        if found.keys() >= answer.details().keys():
            return  # our own dialect says it all
        found["dear"] = answer.details()
        rows = next((found[k] for k in ("results", "data", "scores") if k in found), [])
    by_index = {one.index: one.details() for one in answer.results}
    for at, row in enumerate(rows):
        row["dear"] = by_index.get(row.get("index", at), {})


def _json(found: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    body = b"" if found is None else json.dumps(found, ensure_ascii=False).encode("utf-8")
    kind = None if found is None else "application/json"
    return Response(body, status, headers=dict(headers or {}), media_type=kind)


# -- errors ----------------------------------------------------------------------------------------


def refused(dialect: Dialect | None, refusal: Refused) -> Response:
    """As the dialect says it; as all of them do where none can be told."""
    problem = refusal.problem
    status = STATUS[problem] if dialect is None else dialect.status(problem)
    error = union_error if dialect is None else dialect.error
    headers = {"x-dear-problem": problem.replace(" ", "-")}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_after))
    return _json(error(status, problem, refusal.message), status, headers)


def _as_refusal(error: Exception) -> Refused:
    if isinstance(error, Cancelled | ClientDisconnect):
        return Refused("timeout", "the client went away")
    if isinstance(error, DataError):
        return Refused("invalid", str(error))
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Refused("unavailable", "out of memory: send fewer documents", retry_after=1)
    if isinstance(error, BackendError):
        return Refused("back end", str(error))
    if isinstance(error, DearError):
        return Refused("invalid", str(error))
    # what the error says may hold a text of the client's: where it came from is enough
    places = "".join(traceback.format_tb(error.__traceback__))
    log(logging.ERROR, error=type(error).__name__, traceback=places)
    return Refused("back end", f"an error of the server's own: {type(error).__name__}")


# -- what is told ----------------------------------------------------------------------------------


def _note(
    server: Server,
    request: Request,
    response: Response,
    dialect: Dialect | None,
    model: Served | None,
    ask: RankRequest | None,
    answer: RankAnswer | None,
    seconds: float,
) -> None:
    labels = (model.name if model else "", dialect.name if dialect else "")
    telemetry, status = server.telemetry, response.status_code
    if response.headers.get("x-dear-problem") == "timeout" and model is not None:
        telemetry.gone.labels(*labels).inc()
        status = GONE
    telemetry.requests.labels(*labels, str(status)).inc()
    if answer is not None and ask is not None:
        telemetry.seconds.labels(*labels).observe(seconds)
        telemetry.documents.labels(*labels).observe(len(ask.documents))
        telemetry.tokens.labels(*labels).inc(answer.tokens)
        telemetry.cut.labels(*labels).inc(answer.cut)
        telemetry.partial.labels(*labels).inc(not answer.complete)
    log(
        path=request.url.path,
        dialect=labels[1] or None,
        model=labels[0] or None,
        status=status,
        documents=None if ask is None else len(ask.documents),
        tokens=None if answer is None else answer.tokens,
        cut=None if answer is None else answer.cut,
        complete=None if answer is None else answer.complete,
        problem=response.headers.get("x-dear-problem"),
        ms=round(1000 * seconds, 1),
    )
