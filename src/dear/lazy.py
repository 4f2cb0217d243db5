"""Modules that load on first use, so that what needs no torch loads none.

A package says which of its modules these are; users write `scoring.opening.open_model(…)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from dear.errors import MissingExtra


def submodules(package: str, *names: str) -> Callable[[str], Any]:
    """A package's `__getattr__`: its modules `names` are imported on first use."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return imported(f"{package}.{name}")

    return find


def attribute(place: str) -> Any:
    """What `module:name` is."""
    module, _, name = place.partition(":")
    return getattr(imported(module), name)


def imported(module: str) -> Any:
    """One of our modules. MissingExtra where it needs what the extra `torch` brings, without which
    the core is installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers", "pyarrow"):
            raise
        raise MissingExtra.of(error.name, "torch") from None
