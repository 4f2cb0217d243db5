"""The routes of a server, and what they are wrapped in."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from typing import Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from dear import __version__
from dear.errors import BackendError, Cancelled, DataError, DearError, excerpt
from dear.serve.asking import STATUS, Answer, Ask, Problem, Refused
from dear.serve.dialects.dialect import Dialect, Endpoint
from dear.serve.dialects.table import (
    DEFAULT,
    DIALECTS,
    RULES,
    SHARED,
    endpoint_of,
    shared_dialect,
    union_error,
)
from dear.serve.keys import Keys, key_of
from dear.serve.served import Served, Stops
from dear.serve.telemetry import CONTENT_TYPE, Telemetry, log

OPEN = frozenset(("/health", "/ready", "/", "/.well-known/ready", "/weaviate/.well-known/ready"))
"""Paths that ask for no key: they say nothing of models."""

GONE = 499
"""Nobody reads the answer; as nginx logs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """documents: in a request.  payload: bytes.  held: bytes of all requests that are here; a
    request takes several times its bytes of memory.  body_s: seconds for a body to arrive."""

    documents: int = 1000
    payload: int = 10_000_000
    held: int = 500_000_000
    body_s: float = 60.0


@dataclass(kw_only=True)
class Server:
    """What routes share. models: by name, the first one where a request names none.  held:
    bytes of requests that are here.  endpoints: by path, what it speaks."""

    models: Mapping[str, Served]
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    default: str = DEFAULT
    cors: Sequence[str] = ()
    telemetry: Telemetry = field(default_factory=Telemetry)
    stopping: bool = False
    held: int = 0
    endpoints: dict[str, Sequence[Endpoint]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.threads = anyio.CapacityLimiter(sum(m.load.most for m in self.models.values()))

    def model(self, name: str | None) -> Served:
        """Refused for a name that is none, unless there is one model alone: clients send names of
        the services that they were made for."""
        first = next(iter(self.models.values()))
        if name is None or len(self.models) == 1:
            return first
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refused("unknown model", f"no model {excerpt(name)}; there are: {known}")
        return self.models[name]


def make_app(server: Server) -> FastAPI:
    """An ASGI application."""
    app = FastAPI(
        title="DeAR",
        version=__version__,
        summary="Rerankers in the dialects that clients speak.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    for dialect in DIALECTS.values():
        for endpoint in dialect.endpoints:
            _add(app, server, f"/{dialect.name}{endpoint.path}", dialect, [endpoint])
    for path in SHARED:
        endpoints = [endpoint_of(one, path) for one in _speakers(path, server)]
        _add(app, server, path, None, endpoints)
    _add_states(app, server)
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    app.openapi = partial(_openapi, app, server)  # type: ignore[method-assign]
    app.add_middleware(Wrapped, server=server)
    if server.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    return app


def _speakers(path: str, server: Server) -> list[Dialect]:
    if path == "/v2/rerank":
        return [DIALECTS["cohere"]]
    if path.endswith("/score"):
        return [DIALECTS["vllm"]]
    names = dict.fromkeys((server.default, "tei", "weaviate", "voyage"))
    return [DIALECTS[name] for name in names]


# -- one request ---------------------------------------------------------------------------------


def _add(
    app: FastAPI, server: Server, path: str, dialect: Dialect | None, endpoints: Sequence[Endpoint]
) -> None:
    """A route. dialect: None where the body says which."""

    async def post(request: Request) -> Response:
        return await _answered(server, request, path, dialect)

    app.post(
        path,
        response_class=Response,
        operation_id=path.strip("/").replace("/", "_"),
        tags=[dialect.name if dialect else "shared"],
        summary=_summary(dialect, server),
    )(post)
    server.endpoints[path] = endpoints


def _summary(dialect: Dialect | None, server: Server) -> str:
    if dialect is None:
        return f"Rerank in the dialect that the body shows, else {server.default}'s"
    return f"Rerank as {dialect.name} does"


async def _answered(
    server: Server, request: Request, path: str, dialect: Dialect | None
) -> Response:
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


def _too_large(limits: Limits) -> Refused:
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
        empty = first["type"] == "too_short" and first["loc"]
        raise Refused("empty" if empty else "invalid", message) from None


def _check(ask: Ask, server: Server) -> None:
    if len(ask.documents) > server.limits.documents:
        raise Refused(
            "too many documents",
            f"{len(ask.documents)} documents; this server takes {server.limits.documents}",
        )


async def _computed(server: Server, model: Served, ask: Ask, request: Request) -> Answer:
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


def _with_headers(ask: Ask, request: Request) -> Ask:
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


def _written(reply: Any, answer: Answer, request: Request) -> Response:
    found = _ADAPTER.dump_python(reply, mode="json", exclude_none=True, by_alias=True)
    if request.headers.get("x-dear-details", "").lower() in ("1", "true", "yes"):
        _detail(found, answer)
    return _json(found, 200, answer.headers)


_ADAPTER: TypeAdapter[Any] = TypeAdapter(Any)


def _detail(found: Any, answer: Answer) -> None:
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


# -- errors --------------------------------------------------------------------------------------


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
    if isinstance(error, Cancelled):
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


_BY_STATUS: Mapping[int, Problem] = {404: "not found", 405: "wrong method"}


async def _http_error(request: Request, error: HTTPException) -> Response:
    problem = _BY_STATUS.get(error.status_code, "invalid")
    dialect = _by_prefix(request.url.path)
    message = f"{request.method} {excerpt(request.url.path)}: {error.detail}"
    response = refused(dialect, Refused(problem, message))
    response.headers.update(error.headers or {})
    return response


def _by_prefix(path: str) -> Dialect | None:
    return DIALECTS.get(path.split("/")[1] if path.startswith("/") else "")


# -- what all requests go through ----------------------------------------------------------------


class Wrapped:
    """API keys, before anything is read."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not self._may(scope):
            refusal = Refused("unauthorised", "an API key is needed: Authorization: Bearer KEY")
            response = refused(_by_prefix(scope["path"]), refusal)
            response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _may(self, scope: Any) -> bool:
        if not self.server.keys or scope["path"] in OPEN:
            return True
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        return self.server.keys.knows(key_of(headers))


def _note(
    server: Server,
    request: Request,
    response: Response,
    dialect: Dialect | None,
    model: Served | None,
    ask: Ask | None,
    answer: Answer | None,
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


# -- states --------------------------------------------------------------------------------------


def _add_states(app: FastAPI, server: Server) -> None:
    first = next(iter(server.models.values()))

    async def health() -> Response:
        return Response(status_code=200)

    async def ready() -> Response:
        return Response(status_code=503 if server.stopping else 200)

    async def weaviate_ready() -> Response:
        return Response(status_code=503 if server.stopping else 204)

    async def info() -> Any:
        return _info(server)

    async def meta() -> Any:
        return {"model": first.described()}

    async def metrics() -> Response:
        for model in server.models.values():
            server.telemetry.in_flight.labels(model.name).set(model.load.requests)
            server.telemetry.waiting.labels(model.name).set(model.load.wait_s)
        return Response(server.telemetry.page(), media_type=CONTENT_TYPE)

    async def models() -> Any:
        return {"object": "list", "data": [_model(m) for m in server.models.values()]}

    async def page() -> Response:
        return Response(_page(), media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    routes: list[tuple[str, Callable[..., Any]]] = [
        ("/health", health),
        ("/ready", ready),
        ("/info", info),
        ("/metrics", metrics),
        ("/v1/models", models),
        ("/.well-known/ready", weaviate_ready),
        ("/meta", meta),
        ("/weaviate/.well-known/ready", weaviate_ready),
        ("/weaviate/meta", meta),
        ("/tei/info", info),
        ("/tei/health", health),
        ("/tei/metrics", metrics),
        ("/vllm/health", health),
        ("/vllm/v1/models", models),
        ("/infinity/models", models),
        ("/infinity/health", health),
    ]
    told = (info, meta, models)
    for path, route in routes:
        app.get(
            path,
            tags=["state"],
            operation_id="get" + path.replace("/", "_"),
            status_code=204 if route is weaviate_ready else 200,
            response_class=JSONResponse if route in told else Response,
        )(route)
    app.get("/", include_in_schema=False)(page)


PAGE_HEADERS = {
    # all that the page is made of stands in it
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def _page() -> bytes:
    return files("dear.serve").joinpath("page.html").read_bytes()


def _model(model: Served) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "dear"}


def _info(server: Server) -> dict[str, Any]:
    """TEI's fields of the first model, and ours of all."""
    first = next(iter(server.models.values()))
    about = first.described()
    contract = about.get("contract") or {}
    return {
        "model_id": about["model"],
        "model_sha": about.get("revision"),
        "model_dtype": contract.get("dtype"),
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": first.load.most,
        "max_client_batch_size": server.limits.documents,
        "max_batch_tokens": getattr(first.model, "batch_tokens", None),
        "payload_limit": server.limits.payload,
        "version": __version__,
        "models": [model.described() for model in server.models.values()],
        "dialects": {
            one.name: [f"/{one.name}{endpoint.path}" for endpoint in one.endpoints]
            for one in DIALECTS.values()
        },
        "shared_paths": {
            "paths": list(SHARED),
            "rules": [{"where": where, "dialect": dialect} for where, dialect in RULES],
            "default": server.default,
        },
    }


# -- the document --------------------------------------------------------------------------------

_ERRORS = (400, 401, 404, 408, 413, 422, 424, 429, 500, 503)


def _openapi(app: FastAPI, server: Server) -> dict[str, Any]:
    """Complete with examples; made once."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    for path, operations in found["paths"].items():
        operation = operations.get("post")
        if operation is None:
            continue
        endpoints = server.endpoints[path]
        bodies = [_schema(one.body, "In", one, schemas) for one in endpoints]
        replies = [_schema(one.reply, "Out", one, schemas) for one in endpoints]
        example = endpoints[0].body.example
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _any_of(bodies), "example": example}},
        }
        operation["parameters"] = [*operation.get("parameters", ()), *_HEADERS]
        operation["responses"] = {
            "200": {
                "description": "Ranked",
                "content": {"application/json": {"schema": _any_of(replies)}},
            },
            **{str(code): {"description": "Refused"} for code in _ERRORS},
        }
    if server.keys:
        schemes = {"key": {"type": "http", "scheme": "bearer"}}
        found["components"]["securitySchemes"] = schemes
        found["security"] = [{"key": []}]
    app.openapi_schema = found
    return found


_HEADERS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": schema,
    }
    for name, text, schema in (
        (
            "X-Dear-Deadline",
            "Seconds after which the order so far is returned",
            {"type": "number", "minimum": 0},
        ),
        (
            "X-Dear-Min-Probability",
            "Leave out what is less likely relevant; of calibrated models",
            {"type": "number", "minimum": 0, "maximum": 1},
        ),
        (
            "X-Dear-Details",
            "1: tokens, cuts, raw scores and chunks under `dear`",
            {"type": "string", "enum": ["1"]},
        ),
    )
]


def _schema(kind: Any, side: str, endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a model's schema, whose parts are put beside it under names of their own."""
    owner = endpoint.body.__module__.rpartition(".")[2].capitalize()
    prefix = f"{owner}{endpoint.body.__name__}{side}"
    made = TypeAdapter(kind).json_schema(
        ref_template=f"#/components/schemas/{prefix}{{model}}",
        mode="validation" if side == "In" else "serialization",
    )
    for name, part in made.pop("$defs", {}).items():
        schemas[prefix + name] = part
    schemas[prefix] = made
    return {"$ref": f"#/components/schemas/{prefix}"}


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
