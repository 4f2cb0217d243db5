"""TOML to recipes; unknown keys are refused at every depth."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dear.artifacts import read_toml
from dear.errors import ConfigError, excerpt, nearest
from dear.recipes.distilling import DistillRecipe
from dear.recipes.training import RECIPES, Recipe
from dear.recipes.values import Inapplicable

T = TypeVar("T")
DISTILL = "distill/"
"""Where the recipes of `dear distill` are among those that ship."""
_PARTS = "parts/"
"""Where the pieces are that recipes extend and nothing trains alone."""
_EXTENDS = "extends"
"""The key of a recipe that is another one, or several laid over each other, and what differs."""


_DEEPEST, _MOST = 20, 100
"""Recipes that may extend each other, one behind the other and in all."""


def recipes_folder() -> Path:
    """The recipes that ship with the package."""
    packaged = Path(str(resources.files("dear"))) / "recipes_data"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name (family/file without its ending) → path of every recipe that ships."""
    return {name: path for name, path in _shipped().items() if not name.startswith(_PARTS)}


def _shipped() -> dict[str, Path]:
    root = recipes_folder()
    return {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.toml"))}


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a TOML file, or from the name of one that ships.

    A file with `extends` is the recipe of that name, or at that path next to it, or several laid
    over each other, with what the file says in place of what stood there: tables are merged key by
    key, lists are replaced.
    overrides: `key.path=value`, the value in TOML notation (a bare word is a string), list items
    by number: `train.epochs=2`, `data.0.labels=["labels/a"]`.
    Raises ConfigError for an unknown key (with the nearest known one), a wrong value or recipes
    that extend each other, and DataError for a file that is no TOML.
    """
    own = [name for name in shipped_recipes() if not name.startswith(DISTILL)]
    _require(path, own, "dear distill", shipped_recipes())
    return parse_recipe(_read(path, overrides), where=str(path))


def load_distill_recipe(path: Path | str, overrides: Sequence[str] = ()) -> DistillRecipe:
    """As `load_recipe`, for `dear distill`; shipped ones may be named without `distill/`."""
    shipped = shipped_recipes()
    own = [name.removeprefix(DISTILL) for name in shipped if name.startswith(DISTILL)]
    name = str(path).removeprefix(DISTILL)
    _require(name if str(path) in shipped else path, own, "dear train", shipped)
    if not os.path.isfile(path) and name in own:
        path = f"{DISTILL}{name}"
    return _parse(DistillRecipe, _read(path, overrides), str(path))


def parse_recipe(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A recipe from plain values; errors as `load_recipe`."""
    kind = values.get("kind", "pointwise")
    if not isinstance(kind, str) or kind not in RECIPES:
        raise ConfigError(f"{where}: kind: one of {', '.join(RECIPES)}, got {_shown(kind)}")
    recipe = _parse(RECIPES[kind], values, where, [k for k in RECIPES.values() if k.kind != kind])
    if not recipe.data:
        raise ConfigError(f"{where}: data: name at least one collection to train on")
    return recipe


def _read(path: Path | str, overrides: Sequence[str]) -> dict[str, Any]:
    values = _whole(_find(path), (), {})
    for override in overrides:
        _override(values, override)
    return values


def _whole(
    file: Path, below: tuple[Path, ...], known: dict[Path, dict[str, Any]]
) -> dict[str, Any]:
    """The values of a file over those that it extends. below: what extends this one.
    known: what has been read already."""
    here = file.resolve()
    if here in below:
        raise ConfigError(f"{file}: extends itself")
    if here in known:
        return known[here]
    if len(below) >= _DEEPEST or len(known) >= _MOST:
        many = f"more than {_DEEPEST} recipes deep, or {_MOST} in all"
        raise ConfigError(f"{file}: {_EXTENDS}: {many}")
    values = read_toml(file)
    names = values.pop(_EXTENDS, [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{file}: {_EXTENDS} must be the name or the path of a recipe, or a list")
    whole: dict[str, Any] = {}
    for name in names:
        sibling = file.parent / name
        try:
            other = sibling if os.path.isfile(sibling) else _find(name)
        except ConfigError as error:
            raise ConfigError(f"{file}: {_EXTENDS}: {error}") from None
        whole = _merged(whole, _whole(other, (*below, here), known))
    known[here] = _merged(whole, values)
    return known[here]


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    out = dict(base)
    for key, value in over.items():
        there = out.get(key)
        if isinstance(there, dict) and isinstance(value, Mapping):
            out[key] = _merged(there, value)
        else:
            out[key] = value
    return out


def _parse(kind: type[T], values: Mapping[str, Any], where: str, others: Sequence[type] = ()) -> T:
    """others: kinds whose keys are known, and do not apply here."""
    _refuse_unknown(kind, values, where, others)
    try:
        # as JSON: there a list may become a tuple, and a string or a bool never becomes a number
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except TypeError:
        raise ConfigError(f"{where}: dates and times mean nothing in a recipe") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if isinstance(wrong := first.get("ctx", {}).get("error"), Inapplicable):
            raise ConfigError(f"{where}: {'.'.join(filter(None, (key, str(wrong))))}") from None
        given = "" if first["type"] == "missing" else f", got {_shown(first['input'])}"
        raise ConfigError(f"{where}: {key}: {first['msg']}{given}") from None


def _shown(value: Any) -> str:
    return excerpt(value) if isinstance(value, str) else repr(value)[:60]


def _require(path: Path | str, own: Sequence[str], other: str, shipped: Iterable[str]) -> None:
    """ConfigError for what is neither a file nor one of a command's own recipes.

    other: the command whose recipes the others of `shipped` are.
    """
    name = str(path)
    if os.path.isfile(path) or name in own:
        return
    theirs = name in shipped or f"{DISTILL}{name}" in shipped
    why = f"it is one of `{other}`" if theirs else "no such file"
    raise ConfigError(f"no recipe {name!r}: {why}{nearest(name, own)}")


def _find(path: Path | str) -> Path:
    file = Path(path)
    if os.path.isfile(file):  # False for what no file can be called, too
        return file
    shipped = _shipped()
    if str(path) in shipped:
        return shipped[str(path)]
    known = shipped_recipes()
    raise ConfigError(f"no recipe {str(path)!r}: no such file{nearest(str(path), known)}")


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except ValueError:
        value = text.strip()
    except RecursionError:
        raise ConfigError(
            f"--set {excerpt(override)}: lists inside each other too deeply"
        ) from None
    *parents, last = (part.strip() for part in key.split("."))
    place: Any = values
    for depth, part in enumerate(parents, 1):
        place = (
            place[_index(place, part, override)]
            if isinstance(place, list)
            else (place.setdefault(part, {}))
        )
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {override!r}: {'.'.join(parents[:depth])} is a plain value")
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(items):
        raise ConfigError(
            f"--set {excerpt(override)}: {excerpt(part)} is no position in a list of {len(items)}"
        )
    return int(part)


def _refuse_unknown(
    kind: type,
    values: Mapping[str, Any],
    where: str,
    others: Sequence[type],
    prefix: str = "",
    models: str = "",
) -> None:
    """ConfigError for a key that the dataclass does not have, all the way down.

    others: dataclasses of other kinds at the same place.  models: the recipe's kind.
    """
    models = models or getattr(kind, "kind", "")
    known = typing.get_type_hints(kind)
    elsewhere = [typing.get_type_hints(other) for other in others]
    for key, value in values.items():
        applies = key in known and (known[key] is not types.NoneType or value is None)
        if not applies and any(key in hints for hints in elsewhere):
            name = f"{prefix}{key}" if prefix else f"[{key}]"
            raise ConfigError(f"{where}: {name} does not apply to {models} models; remove it")
        if not applies:
            raise ConfigError(f"{where}: unknown key {prefix + key!r}{nearest(key, known)}")
        inner = _dataclass_in(known[key])
        if inner is None:
            continue
        there = [t for hints in elsewhere if (t := _dataclass_in(hints.get(key)))]
        if isinstance(value, Mapping):
            _refuse_unknown(inner, value, where, there, f"{prefix}{key}.", models)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _refuse_unknown(inner, item, where, there, f"{prefix}{key}.{index}.", models)


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (tuple, types.UnionType, typing.Union):
        for part in typing.get_args(hint):
            found = _dataclass_in(part)
            if found is not None:
                return found
    return None
