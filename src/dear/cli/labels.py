"""`dear labels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, summary, table
from dear.data.remote import as_url
from dear.errors import DataError
from dear.steps.options import LabelStoresOptions

if TYPE_CHECKING:
    from dear.data.label_stores import Store
    from dear.steps.labels import LabelStores


@expanded
def labels(options: LabelStoresOptions) -> None:
    """Look into label stores, check them, join those of shards, take out dead rows."""
    found = steps.labels.label_stores(options)
    if options.action == "compact":
        rows = count(found.dead, "dead row")
        summary(f"{options.stores[0]}: {rows} taken out, {found.saved:,} bytes saved")
    elif found.merged is not None:
        pairs = count(found.merged.pairs, "pair")
        what = "the whole job" if found.merged.of == 1 else str(found.merged)
        summary(f"{options.output}: {pairs}, {what}")
    elif options.action == "info":
        _show(found)
    else:
        _tell(found)


def _show(found: LabelStores) -> None:
    table(
        ("store", "teacher", "shard", "rows", "dead", "queries", "bytes a row", "state"),
        [
            (
                as_url(str(store.folder)),
                store.stamp.teacher,
                "-" if store.share is None else str(store.share),
                f"{store.rows:,}",
                f"{store.dead:,}",
                f"{store.queries:,}",
                f"{store.bytes / max(store.rows, 1):.1f}",
                _state(store),
            )
            for store in found.stores
        ],
        align=("left", "left", "left", "right", "right", "right", "right", "left"),
        wrap=("store", "teacher"),
    )
    for contract in dict.fromkeys(_contract(store) for store in found.stores):
        summary(contract)
    for problem in found.problems:
        summary(as_url(problem))


def _state(store: Store) -> str:
    if store.problems and store.share is not None and not store.finished:
        return f"{store.rows / max(store.share.pairs, 1):.0%} done"
    if store.problems:
        return "damaged"
    return "-" if store.share is None else "finished"


def _contract(store: Store) -> str:
    stamp = store.stamp
    return (
        f"{stamp.teacher}, revision {stamp.revision}, contract {stamp.fingerprint}, "
        f"collection {stamp.collection}"
    )


def _tell(found: LabelStores) -> None:
    for problem in found.problems:
        print(as_url(problem))
    stores = count(len(found.stores), "store")
    if found.problems:
        raise DataError(f"{count(len(found.problems), 'problem')} in {stores}")
    rows = count(sum(store.rows for store in found.stores), "row")
    summary(f"{stores}, {rows}: nothing is wrong")
