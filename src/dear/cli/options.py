"""A step's options on the command line: one flag for each field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from dear.data.remote import is_url
from dear.errors import ConfigError
from dear.steps.options import Option


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with each parameter that is a dataclass of options replaced by its fields.

    The parameters of the command line are those fields with their help; the command gets the
    dataclasses, which have checked themselves.
    """
    groups = {
        name: kind
        for name, kind in get_type_hints(command).items()
        if name != "return" and is_dataclass(kind)
    }
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(_parameter(parameter.name, hints[parameter.name], parameter.default))

    def run(**values: Any) -> None:
        made = {name: _made(kind, values) for name, kind in groups.items()}
        command(**made, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameters(kind: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _parameters(hints[field.name])
        else:
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            yield _parameter(field.name, hints[field.name], default)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    """A keyword of typer's; tuples are options that may be repeated."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    option = next((note for note in notes if isinstance(note, Option)), None)
    if option is not None:
        notes = [_typer(name, option)]
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
        if default == ():
            kind, default = kind | None, None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, *notes] if notes else kind,
    )


def _typer(name: str, option: Option) -> Any:
    shown: dict[str, Any] = {}
    if option.shown is not None:
        shown["show_default"] = option.shown or False
    if option.argument:
        return typer.Argument(metavar=option.metavar, help=option.help, **shown)
    return typer.Option(
        *option.flags,
        metavar=option.metavar,
        help=option.help,
        min=option.least,
        max=option.most,
        **shown,
    )


def _made(kind: Any, values: dict[str, Any]) -> Any:
    """An instance of `kind` of its fields among `values`, which are taken out."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            found[name] = _made(hint, values)
        else:
            value = values.pop(name)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Path) and is_url(str(one).replace(":/", "://", 1)):
                    raise ConfigError(f"{one}: a path of this machine is needed here, no URL")
            is_tuple = get_origin(hint) is tuple
            found[name] = tuple(value or ()) if is_tuple else value
    return kind(**found)
