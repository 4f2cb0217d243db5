"""The OpenAPI document: every path, with schemas and an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from dear.serve.dialects.dialect import Endpoint

_ERRORS = (400, 401, 404, 408, 413, 422, 424, 429, 500, 503)


def document(
    app: FastAPI, endpoints: Mapping[str, Sequence[Endpoint]], *, keys: bool
) -> dict[str, Any]:
    """Made once. endpoints: what each path that is posted to speaks.  keys: whether it asks for
    one."""
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
        spoken = endpoints[path]
        bodies = [_schema(one.body, "In", one, schemas) for one in spoken]
        replies = [_schema(one.reply, "Out", one, schemas) for one in spoken]
        example = spoken[0].body.example
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
    if keys:
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
