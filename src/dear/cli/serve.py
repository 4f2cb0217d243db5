"""`dear serve`: models over HTTP."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.cli.options import expanded
from dear.cli.output import note
from dear.errors import ConfigError, DataError, MissingExtra, nearest
from dear.serve.options import ServeOptions

if TYPE_CHECKING:
    from dear.serve.server import Server


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """A file's values in place of the defaults. DataError: no TOML; ConfigError: another key."""
    if path is None:
        return None
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from None
    flags = {_flag(one): one.name for one in context.command.params if one.name != "config"}
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = flags.get(key.replace("_", "-"))
        if name is None:
            raise ConfigError(f"{path}: {key!r} is no option of dear serve{nearest(key, flags)}")
        found[name] = value
    context.default_map = found
    return path


def _flag(parameter: Any) -> str:
    """`max-wait`; an argument has its own name."""
    longest = max(parameter.opts, key=len)
    return str(longest).lstrip("-").replace("_", "-")


@expanded
def serve(
    options: ServeOptions,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML: these options by name.",
            callback=_read_config,
            is_eager=True,
        ),
    ] = None,
) -> None:
    """Serve models over HTTP, in the dialects that clients already speak.

    Each option may also stand in the environment, as DEAR_HOST does for --host. Ctrl-C and SIGTERM
    end it when the requests at work are answered.
    """
    try:
        running = importlib.import_module("dear.serve.running")
    except ModuleNotFoundError as error:
        raise MissingExtra.of(str(error.name), "serve") from None
    running.serve(options, started=_say)
    note("stopped")


def _say(address: str, server: Server) -> None:
    for model in server.models.values():
        about = model.described()
        scale = f"scores: {about['scale']}"
        note(f"{model.name}: {scale}, contract {model.contract}")
    keys = "with a key" if server.keys else "without a key"
    note(f"listening at {address} ({keys}); a page to try it out is there, /info says more")
