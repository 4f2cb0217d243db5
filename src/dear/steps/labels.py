"""Label stores: looked into, checked against a run, joined, compacted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dear.data.collections import open_collection
from dear.data.id_keys import id_keys
from dear.data.label_failures import FAILED
from dear.data.label_index import query_keys
from dear.data.label_stores import Store, compact, differences, look_into, merge, missing
from dear.data.labels import PairId, is_of_store, open_index
from dear.data.remote import fetched, is_url
from dear.data.shards import Share
from dear.errors import DataError
from dear.label import Wanted
from dear.steps.inputs import read_runs
from dear.steps.options import LabelStoresOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStores:
    """What was found, and done.

    stores: as they were before.  problems: what is wrong in them and between them, a line each.
    merged: what the new store has.  dead, saved: rows that were taken out, bytes.
    """

    stores: tuple[Store, ...] = ()
    problems: tuple[str, ...] = ()
    merged: Share | None = None
    dead: int = 0
    saved: int = 0


def label_stores(options: LabelStoresOptions) -> LabelStores:
    """Do what `options.action` says. Errors are those of `dear.data.label_stores`."""
    if options.action == "compact":
        dead, saved = compact(Path(options.stores[0]))
        return LabelStores(dead=dead, saved=saved)
    folders = [fetched(one, is_of_store) if is_url(one) else Path(one) for one in options.stores]
    stores = tuple(map(look_into, folders))
    if options.action == "merge":
        assert options.output is not None
        merged = merge(stores, options.output, partial=options.partial)
        return LabelStores(stores=stores, merged=merged)
    problems = [problem for store in stores for problem in store.problems]
    problems += [f"{one.folder / FAILED}: {failure}" for one in stores for failure in one.failures]
    if len(stores) > 1 or stores[0].share is not None:
        problems += differences(stores) if len(stores) > 1 else []
        problems += [] if options.partial else missing(stores)
    if options.collection is not None:
        problems += _gaps(options, stores)
    return LabelStores(stores=stores, problems=tuple(problems))


@dataclass(slots=True)
class _Pairs:
    """How many pairs have `what`, and the first of them."""

    what: str
    count: int = 0
    first: PairId | None = None

    def add(self, pairs: Sequence[PairId], places: NDArray[np.bool_]) -> None:
        self.count += int(places.sum())
        if self.first is None and places.any():
            self.first = pairs[int(np.flatnonzero(places)[0])]


def _gaps(options: LabelStoresOptions, stores: Sequence[Store]) -> list[str]:
    """Where the stores do not have each pair of the runs exactly once."""
    assert options.collection is not None
    collection = open_collection(options.collection)
    judged = None if options.judged is None else collection.judgements(options.judged)
    wanted = Wanted(read_runs(collection, options.runs, options.split), judged)
    lacking = _Pairs("no label"), _Pairs("two labels")
    found = 0
    try:
        indexes = [open_index(store.folder) for store in stores]
        for _, pairs in wanted.parts():
            keys = query_keys([q for q, _ in pairs]), id_keys(p for _, p in pairs)
            times = np.sum([index.find(*keys)[0] for index in indexes], axis=0)
            found += int(times.sum())
            for one, places in zip(lacking, (times == 0, times > 1), strict=True):
                one.add(pairs, places)
    except DataError:
        return []  # a file that cannot be read: `look_into` says so
    there = sum(store.labels for store in stores)
    problems = [
        f"{one.count:,} of {len(wanted):,} pairs of the runs have {one.what}, such as "
        f"query {one.first[0]!r}, passage {one.first[1]!r}"
        for one in lacking
        if one.first is not None
    ]
    if there > found:
        problems.append(f"{there - found:,} labels are of pairs that the runs do not have")
    return problems
