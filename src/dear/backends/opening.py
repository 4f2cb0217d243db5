"""From what a user types to a server that can be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from dear.backends.backend import Keepable
from dear.backends.batch import BatchBackend
from dear.backends.http import HttpBackend
from dear.backends.options import HttpOptions, Kind, read_options
from dear.backends.wire import Unreadable, asked, fault_of, parsed, reachable, shown
from dear.errors import BackendError, ConfigError

SHOWN_MODELS = 8
MOST_NAME_CHARACTERS = 200


def open_http(kind: str, where: str) -> Keepable:
    """`http` with `//HOST:PORT/v1#MODEL`, `openai` with `gpt-4o`, `backend` with a TOML file.

    Without a model a server is asked for its only one. ConfigError: it has several; wrong options;
    no key. BackendError: it can not be asked. MissingExtra: no `openai`.
    """
    if kind in ("http", "https"):
        url, _, model = f"{kind}:{where}".partition("#")
        options = HttpOptions(base_url=url, model=model)
    elif kind == "backend":
        options = read_options(where)
    else:
        options = HttpOptions(kind=cast(Kind, kind), model=where)
    return _open_options(options)


def _open_options(options: HttpOptions) -> Keepable:
    """A backend for these options; errors as `open_http`."""

    reachable()
    options.secrets()
    if not options.model:
        options = replace(options, model=_only_model(options))
    return BatchBackend(options) if options.batch else HttpBackend(options)


def _only_model(options: HttpOptions) -> str:
    name = f'name the model: {options.base_url}#MODEL, or model = "MODEL" in a file'
    from openai import APIConnectionError

    try:
        answer = asked(options, lambda client: client.models.with_raw_response.list())
        found = _models(parsed(answer.content))
    except Exception as error:
        # where nothing answers, a name is no cure
        cure = "is the server running?" if isinstance(error, APIConnectionError) else name
        reason = fault_of(error, options).reason
        raise BackendError(f"{options.base_url}/models: {reason}; {cure}") from None
    if len(found) != 1:
        shown = ", ".join(found[:SHOWN_MODELS]) + (", …" if len(found) > SHOWN_MODELS else "")
        raise ConfigError(f"{options.base_url} serves {len(found)} models ({shown}); {name}")
    return found[0]


def _models(value: Any) -> list[str]:
    """Names in a list of models. Unreadable: it is none."""
    try:
        names = {model["id"] for model in value["data"]}
        fine = all(0 < len(name) <= MOST_NAME_CHARACTERS and name.isprintable() for name in names)
    except (KeyError, TypeError, AttributeError):
        fine = False
    if not fine:
        raise Unreadable(f"no list of models: {shown(value, 120)}")
    return sorted(names)
