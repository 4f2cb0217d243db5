"""Prompts to completions. What a model is, and where it runs, is known only here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.backends.backend import Backend, Batched, Completion, Keepable, OnAnswer, Price
from dear.errors import ConfigError, nearest
from dear.lazy import attribute, submodules

if TYPE_CHECKING:
    from dear.backends import local as local

__all__ = [
    "BACKENDS",
    "Backend",
    "Batched",
    "Completion",
    "Keepable",
    "OnAnswer",
    "Price",
    "check_backend",
    "open_backend",
]

BACKENDS: dict[str, str] = {
    # answers that were recorded: replay:FILE
    "replay": "dear.backends.replay:open_replay",
    # a causal language model in this process: local:MODEL, local:MODEL#first
    "local": "dear.backends.local:open_local_backend",
    # any server that speaks OpenAI's protocol: http://HOST:PORT/v1, or …/v1#MODEL
    "http": "dear.backends.opening:open_http",
    "https": "dear.backends.opening:open_http",
    # providers by name, keys from the environment: openai:MODEL, azure:DEPLOYMENT
    "openai": "dear.backends.opening:open_http",
    "azure": "dear.backends.opening:open_http",
    "anthropic": "dear.backends.opening:open_http",
    # a server with all its options: backend:FILE.toml
    "backend": "dear.backends.opening:open_http",
}
"""KIND of a backend → module:function, which opens it of (KIND, WHERE)."""


def open_backend(name: str) -> Backend:
    """`KIND:WHERE`, KIND one of BACKENDS. ConfigError: anything else."""
    kind, where = check_backend(name)
    found: Backend = attribute(BACKENDS[kind])(kind, where)
    return found


def check_backend(name: str) -> tuple[str, str]:
    """(KIND, WHERE), before anything is opened. ConfigError: no such kind."""
    kind, colon, where = name.partition(":")
    if not colon or not where:
        raise ConfigError(f"backend {name!r}: expected KIND:WHERE, such as replay:FILE")
    if kind not in BACKENDS:
        raise ConfigError(f"unknown backend {kind!r}{nearest(kind, BACKENDS)}")
    return kind, where


__getattr__ = submodules(__name__, "local")
