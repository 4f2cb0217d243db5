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
        bodies = [_schema(one.body, schemas, given=True) for one in spoken]
        replies = [_schema(one.reply, schemas, given=False) for one in spoken]
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


def _schema(kind: Any, schemas: dict[str, Any], *, given: bool) -> dict[str, Any]:
    """The schema of a body that is `given`, or of an answer; its parts are put beside others."""
    made = TypeAdapter(kind).json_schema(
        ref_template="#/components/schemas/{model}",
        mode="validation" if given else "serialization",
    )
    schemas.update(made.pop("$defs", {}))
    if "title" not in made:  # a bare array
        return made
    schemas[made["title"]] = made
    return {"$ref": f"#/components/schemas/{made['title']}"}


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
