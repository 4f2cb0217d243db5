"""The dialects by name, and which of them a shared path speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dear.serve.asking import Problem
from dear.serve.dialects.cohere import COHERE
from dear.serve.dialects.dialect import Dialect, Endpoint
from dear.serve.dialects.infinity import INFINITY
from dear.serve.dialects.jina import JINA
from dear.serve.dialects.native import NATIVE
from dear.serve.dialects.tei import TEI
from dear.serve.dialects.vllm import VLLM
from dear.serve.dialects.voyage import VOYAGE
from dear.serve.dialects.weaviate import WEAVIATE

DIALECTS: dict[str, Dialect] = {
    one.name: one for one in (NATIVE, COHERE, JINA, TEI, VLLM, VOYAGE, INFINITY, WEAVIATE)
}
"""Each under its own prefix, `/NAME`."""

DEFAULT = "jina"
"""What a shared path speaks where nothing in the body says it."""

SHARED = ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score")
"""Paths without a prefix."""

RULES: tuple[tuple[str, str], ...] = (
    ("/v2/rerank", "cohere"),
    ("/score, /v1/score", "vllm"),
    ("a body with texts", "tei"),
    ("a body with property", "weaviate"),
    ("a body with top_k or truncation", "voyage"),
    ("anything else", "the default dialect"),
)
"""What decides on a shared path, the first that holds."""


def shared_dialect(path: str, body: Any, default: str) -> Dialect:
    """Who speaks on a shared path. body: decoded JSON, of any shape."""
    if path == "/v2/rerank":
        return COHERE
    if path.endswith("/score"):
        return VLLM
    keys = body if isinstance(body, Mapping) else {}
    for name, fields in (
        ("tei", ("texts",)),
        ("weaviate", ("property",)),
        ("voyage", ("top_k", "truncation")),
    ):
        if any(one in keys for one in fields):
            return DIALECTS[name]
    return DIALECTS[default]


def endpoint_of(dialect: Dialect, path: str) -> Endpoint:
    """What a dialect has at a shared path: its own there, or its first."""
    return next((one for one in dialect.endpoints if one.path == path), dialect.endpoints[0])


def union_error(status: int, problem: Problem, message: str) -> Any:
    """Of a request whose dialect cannot be told: what any client looks for."""
    return {
        "message": message,
        "detail": message,
        "error": {"message": message, "type": problem, "param": None, "code": status},
    }
