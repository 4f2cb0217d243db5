"""The routes of a server, and what they are wrapped in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from dear import __version__
from dear.errors import excerpt
from dear.serve.answering import answered, refused
from dear.serve.asking import Problem, Refused
from dear.serve.dialects.dialect import Dialect, Endpoint
from dear.serve.dialects.table import DIALECTS, RULES, SHARED, endpoint_of
from dear.serve.keys import key_of
from dear.serve.openapi import document
from dear.serve.served import Served
from dear.serve.server import Server
from dear.serve.telemetry import CONTENT_TYPE

OPEN = frozenset(("/health", "/ready", "/", "/.well-known/ready", "/weaviate/.well-known/ready"))
"""Paths that ask for no key: they say nothing of models."""


def make_app(server: Server) -> FastAPI:
    """An ASGI application."""
    app = FastAPI(
        title="DeAR",
        version=__version__,
        summary="Rerankers in the dialects that clients speak.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    endpoints: dict[str, Sequence[Endpoint]] = {}
    for dialect in DIALECTS.values():
        for endpoint in dialect.endpoints:
            path = f"/{dialect.name}{endpoint.path}"
            endpoints[path] = [endpoint]
            _add(app, server, path, dialect)
    for path in SHARED:
        endpoints[path] = [endpoint_of(one, path) for one in _speakers(path, server)]
        _add(app, server, path, None)
    _add_states(app, server)
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    app.openapi = partial(document, app, endpoints, keys=bool(server.keys))  # type: ignore[method-assign]
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


# -- what all requests go through ----------------------------------------------------------------


def _add(app: FastAPI, server: Server, path: str, dialect: Dialect | None) -> None:
    """A route. dialect: None where the body says which."""

    async def post(request: Request) -> Response:
        return await answered(server, request, path, dialect)

    app.post(
        path,
        response_class=Response,
        operation_id=path.strip("/").replace("/", "_"),
        tags=[dialect.name if dialect else "shared"],
        summary=_summary(dialect, server),
    )(post)


def _summary(dialect: Dialect | None, server: Server) -> str:
    if dialect is None:
        return f"Rerank in the dialect that the body shows, else {server.default}'s"
    return f"Rerank as {dialect.name} does"


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


class Wrapped:
    """API keys, before anything is read."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not self._may(scope):
            refusal = Refused("unauthorised", _KEYS[key_of(_headers(scope)) is None])
            response = refused(_by_prefix(scope["path"]), refusal)
            response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _may(self, scope: Any) -> bool:
        if not self.server.keys or scope["path"] in OPEN:
            return True
        return self.server.keys.knows(key_of(_headers(scope)))


_KEYS = {True: "an API key is needed: Authorization: Bearer KEY", False: "no such API key"}
"""Whether none was sent → what is said."""


def _headers(scope: Any) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


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
