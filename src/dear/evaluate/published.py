"""Numbers that others published, to stand beside measured ones and never among them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from dear.errors import DataError, nearest

NOT_MEASURED = "published; not measured here"
"""What stands beside every such row in a table."""

Kind = Literal["published", "published run"]
_KINDS = ("published", "published run")
_KEYS = {
    *("system", "kind", "source", "first_stage", "depth", "measure", "values"),
    *("caveat", "caveats", "runs"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One system, one collection, one measure.

    value: a fraction, as measures are everywhere here.
    first_stage: what was reranked, to `depth` candidates; None for a first stage's own row.
    kind: `published`, printed in the source; `published run`, computed from the run in it.
    run: that run's file, below a folder of collections.  caveat: why to read it with care.
    """

    system: str
    collection: str
    measure: str
    value: float
    first_stage: str | None
    depth: int | None
    source: str
    kind: Kind
    caveat: str = ""
    run: str | None = None

    @property
    def note(self) -> str:
        """What must stand beside the number: that nobody measured it here, over which candidates,
        and why to read it with care."""
        over = "" if self.first_stage is None else f"over {self.first_stage}"
        if self.first_stage is not None and self.depth is not None:
            over += f" top-{self.depth}"
        return "; ".join(part for part in (NOT_MEASURED, over, self.source, self.caveat) if part)


@cache
def all_published() -> tuple[PublishedRow, ...]:
    """Every row of published.toml, in its order."""
    text = files("dear.evaluate").joinpath("published.toml").read_text(encoding="utf-8")
    return parse_published(text)


def published_rows(
    collection: str, *, measures: Iterable[str] | None = None
) -> tuple[PublishedRow, ...]:
    """Rows of a collection by its name in the catalogue, of some measures or of all; in the
    file's order, which is that of the sources. Empty where nothing was published."""
    wanted = None if measures is None else set(measures)
    return tuple(
        row
        for row in all_published()
        if row.collection == collection and (wanted is None or row.measure in wanted)
    )


def parse_published(text: str) -> tuple[PublishedRow, ...]:
    """The rows of a file like published.toml. DataError names the table that is wrong."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"published rows: {error}") from error
    sources = content.get("sources", {})
    return tuple(
        row
        for place, table in enumerate(content.get("rows", []), 1)
        for row in _rows(table, sources, f"published rows, table {place}")
    )


def _rows(table: dict[str, Any], sources: Mapping[str, str], where: str) -> Iterable[PublishedRow]:
    unknown = table.keys() - _KEYS
    if unknown:
        key = min(unknown)
        raise DataError(f"{where}: no key {key!r}{nearest(key, _KEYS)}")
    for key in ("system", "kind", "source", "measure", "values"):
        if not table.get(key):
            raise DataError(f"{where}: no {key!r}")
    where += f" ({table['system']})"
    if table["kind"] not in _KINDS:
        raise DataError(f"{where}: kind {table['kind']!r}{nearest(table['kind'], _KINDS)}")
    if table["source"] not in sources:
        raise DataError(
            f"{where}: no source {table['source']!r}{nearest(table['source'], sources)}"
        )
    if table["kind"] == "published run" and table.get("runs", {}).keys() != table["values"].keys():
        raise DataError(f"{where}: a published run without its file")
    if "depth" in table and "first_stage" not in table:
        raise DataError(f"{where}: a depth, and no first stage that it is of")
    for collection, value in table["values"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where}: {collection} = {value!r}: a fraction from 0 to 1 is needed")
        caveats = (table.get("caveat"), table.get("caveats", {}).get(collection))
        yield PublishedRow(
            system=table["system"],
            collection=collection,
            measure=table["measure"],
            value=float(value),
            first_stage=table.get("first_stage"),
            depth=table.get("depth"),
            source=sources[table["source"]],
            kind=table["kind"],
            caveat="; ".join(filter(None, caveats)),
            run=table.get("runs", {}).get(collection),
        )
