"""What people pass in Python: lists, columns, generators, documents of other libraries."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from dear.errors import ConfigError, DataError, excerpt, nearest
from dear.records import Passage

Text = str | Passage

TEXT_FIELDS = ("text", "page_content", "content")
"""Where a dict or an object keeps its text: BEIR and LlamaIndex, LangChain, Haystack."""
ID_FIELDS = ("id", "_id", "docid", "passage_id")

_ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("documents", "docs", "texts", "sentences", "corpus"), "passages"),
    **dict.fromkeys(("top_n", "k"), "top_k"),
    **dict.fromkeys(("model_name", "model_name_or_path", "model_id"), "model"),
    **dict.fromkeys(("show_progress_bar", "show_progress"), "progress"),
    "batch_size": "batch_tokens of Reranker(...): padded tokens in a batch, not pairs",
    **dict.fromkeys(
        ("max_length", "max_seq_length", "query_max_length", "passage_max_length"),
        "contract of Reranker(...): a ScoringContract holds the limits in tokens",
    ),
    **dict.fromkeys(
        ("activation_fn", "activation_fct", "default_activation_function", "apply_softmax"),
        "predict(...), which applies the model's activation; score(...) gives logits",
    ),
    **dict.fromkeys(("use_fp16", "torch_dtype"), "dtype of Reranker(...)"),
    **dict.fromkeys(("devices", "device_map"), "device of Reranker(...)"),
    **dict.fromkeys(
        ("return_documents", "convert_to_numpy", "convert_to_tensor", "normalize"),
        "nothing: to_list() of a ranking has the texts, scores are a NumPy array of logits",
    ),
    **dict.fromkeys(("trust_remote_code",), "nothing: code of a model folder is never run"),
}
"""Arguments of other libraries → ours."""

P = ParamSpec("P")
R = TypeVar("R")


class UnknownArgument(ConfigError, TypeError):
    """An argument that a function does not have; the message names the one that it has."""


def names_ours(function: Callable[P, R]) -> Callable[P, R]:
    """Let calls with another library's argument end in an UnknownArgument that names ours."""
    known = inspect.signature(function).parameters.keys() - {"self"}
    name = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for unknown in kwargs.keys() - known:
            raise UnknownArgument(f"{name}: unknown argument {unknown!r}{_ours(unknown, known)}")
        return function(*args, **kwargs)

    return call


def _ours(unknown: str, known: Iterable[str]) -> str:
    ours = _ELSEWHERE.get(unknown)
    if ours is None:
        return nearest(unknown, known)
    return f"; here it is {ours}"


def as_query(query: object) -> str:
    """DataError for what is no text."""
    return _checked(query, "the query")


def as_passages(passages: object) -> tuple[list[str], list[Text]]:
    """(ids, passages) from any iterable of texts, Passages, dicts or documents.

    A dict has its text under one of TEXT_FIELDS, and may have a title and an id; so may an object,
    such as LangChain's or LlamaIndex' documents. What has no id of its own gets its position,
    counted from 0. DataError names the position of what is no text.
    """
    found = [_passage(item, i) for i, item in enumerate(_items(passages, "passages"))]
    ids = [p.id if isinstance(p, Passage) else str(i) for i, p in enumerate(found)]
    return ids, found


def as_pairs(pairs: object) -> list[tuple[str, str]]:
    """(query, text) from any iterable of pairs; texts as in `as_passages`, titles in front."""
    found = []
    for i, item in enumerate(_items(pairs, "pairs")):
        parts = () if isinstance(item, str | Mapping) else _sequence(item)
        if len(parts) != 2:
            raise DataError(f"pair {i}: expected (query, passage), got {_shown(item)}")
        query = _checked(parts[0], f"the query of pair {i}")
        passage = _passage(parts[1], i, "the passage of pair")
        found.append((query, passage.full_text if isinstance(passage, Passage) else passage))
    return found


def _sequence(item: object) -> tuple[Any, ...]:
    return tuple(item) if isinstance(item, Iterable) else ()


def _items(values: object, name: str) -> Iterator[Any]:
    """DataError for what iterates over something else than one would think."""
    if isinstance(values, str | bytes):
        raise DataError(f"{name} is one {type(values).__name__}; give a list of them")
    if isinstance(values, Mapping):
        raise DataError(f"{name} is a dict; give a list, such as list(x.values())")
    if hasattr(values, "columns"):  # a table iterates over the names of its columns
        raise DataError(f"{name} is a table; give a column of it, such as table['text']")
    if not isinstance(values, Iterable):
        raise DataError(f"{name} is {_shown(values)}; give a list")
    return iter(values)


def _passage(item: object, position: int, what: str = "passage") -> Text:
    where = f"{what} {position}"
    if isinstance(item, Passage):
        _checked(item.full_text, where)
        return item
    if isinstance(item, str):
        return _checked(item, where)
    for field in TEXT_FIELDS:
        text = _field(item, field)
        if text is not None:
            title, identifier = _field(item, "title"), _first(item, ID_FIELDS)
            return Passage(
                id=str(position) if identifier in (None, "") else str(identifier),
                text=_checked(text, f"{field} of {where}"),
                title="" if title is None else _checked(title, f"title of {where}"),
            )
    fields = ", ".join(TEXT_FIELDS)
    if isinstance(item, Mapping):
        raise DataError(f"{where} has none of the keys {fields}; its keys: {_keys(item)}")
    raise DataError(f"{where} is {_shown(item)}, no text and nothing that has one ({fields})")


def _field(item: object, name: str) -> Any:
    if isinstance(item, Mapping):
        return item.get(name)
    # numbers, None and arrays of other libraries have no such attribute
    value = getattr(item, name, None)
    return None if callable(value) else value


def _first(item: object, names: Iterable[str]) -> Any:
    return next((v for n in names if (v := _field(item, n)) is not None), None)


def _keys(item: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(item)[:8])) or "none"


def _checked(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where} is {_shown(text)}, not a text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (lone surrogate) at position {error.start}: "
            f"{excerpt(text)}"
        ) from None
    return str(text)  # numpy's strings are a kind of their own


def _shown(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return f"of type {type(value).__name__}"
