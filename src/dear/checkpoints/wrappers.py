"""What libraries put around a model."""

from __future__ import annotations

from typing import Any


def bare_model(model: Any) -> Any:
    """The transformers model inside peft's and torch's wrappers."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
