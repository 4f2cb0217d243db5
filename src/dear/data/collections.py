"""Open a collection by name, folder, or another library's catalogue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from dear import data
from dear.data.catalogue import (
    COLLECTIONS,
    FAMILIES,
    CollectionEntry,
    entry_of_irds,
    find_entry,
    known_names,
)
from dear.data.collection import Answers, Collection, Grades
from dear.data.folders import (
    ListedCollection,
    corpus_reader,
    data_folders,
    folder_of,
    is_installed,
    is_of_collection,
    list_collections,
)
from dear.data.formats.beir import passage_of
from dear.data.formats.tevatron import training_record
from dear.data.formats.training import QueryTexts, TrainingIds
from dear.data.hub import open_hub
from dear.data.irds import open_irds, open_irds_splits
from dear.data.pydocs import open_pydocs
from dear.data.remote import fetched, is_url
from dear.data.training_rows import PARQUET, RowSource, open_rows
from dear.errors import ConfigError, DataError, MissingExtra, nearest
from dear.records import Passage, Query, Ranking

__all__ = [
    "COLLECTIONS",
    "Answers",
    "Collection",
    "CollectionEntry",
    "Grades",
    "ListedCollection",
    "data_folders",
    "list_collections",
    "open_collection",
]

logger = logging.getLogger(__name__)


def open_collection(spec: str | Path) -> Collection:
    """A collection by folder, by name, or from another library's catalogue.

    spec: a folder (`Collection.from_folder`); a name or an alias in COLLECTIONS, of which a local
    folder goes before ir_datasets, and that before the Hugging Face hub; `irds:ID`, or an ID with
    a slash in it, for ir_datasets; `hf:OWNER/NAME` or `hf:FOLDER` for a Hugging Face data set in
    BEIR layout; the URL of a folder, which is copied here (dear.data.remote); `rows:ROWS` or
    `rows:ROWS,CORPUS` for training rows (`open_row_collection`). A folder that holds a corpus goes
    before a registered name.
    ConfigError: neither a folder nor a name; names the nearest known one. Or a name that is not
    on this machine and that nothing can download. MissingExtra: the library that could is not
    installed. What a download meets is a DataError, when it is read.
    """
    return _opener(spec)()


def check_collection(spec: str | Path) -> None:
    """What `open_collection` raises for a name, before anything is read or downloaded."""
    _opener(spec)


def _opener(spec: str | Path) -> Callable[[], Collection]:
    text = str(spec)
    folder = Path(spec).expanduser()
    if is_url(text):
        return partial(_open_url, text)
    for prefix, opener in _PREFIXES.items():
        if text.startswith(prefix):
            return partial(opener, text.removeprefix(prefix))
    entry = find_entry(text)
    if folder.is_dir() and (corpus_reader(folder) or entry is None):
        entry = find_entry(folder.resolve().name)
        return partial(Collection.from_folder, folder, entry=entry)
    if entry is not None:
        return _entry_opener(entry)
    if folder.exists():
        raise ConfigError(f"{text} is a file; a collection is a folder with a corpus in it")
    if text in FAMILIES:
        parts = FAMILIES[text]
        raise ConfigError(f"{text!r} is {len(parts)} collections; name one: {', '.join(parts)}")
    if isinstance(spec, str) and "/" in text and not text.startswith((".", "/", "~")):
        return partial(_open_slashed, text)
    raise ConfigError(f"no collection and no folder {text!r}{_nearest(text)}")


def _entry_opener(entry: CollectionEntry) -> Callable[[], Collection]:
    if entry.opener == "pydocs":
        return open_pydocs
    folder = folder_of(entry)
    if folder is not None:
        return partial(Collection.from_folder, folder, entry.name, entry=entry)
    looked = ", ".join(str(folder / entry.name) for folder in data_folders())
    absent = f"collection {entry.name!r} is not on this machine: looked for {looked}"
    if entry.irds and is_installed("ir_datasets"):
        how = "ir_datasets has it, or downloads it"
        return partial(_told, f"{absent}; {how}", partial(open_irds_splits, entry))
    if entry.hub and is_installed("datasets"):
        how = f"it is read from the Hugging Face hub ({entry.hub})"
        return partial(_told, f"{absent}; {how}", partial(open_hub, entry.hub, entry=entry))
    how = "; ".join(
        (*([entry.access] if entry.access else []), "set DEAR_DATA to the folder that holds it")
    )
    if entry.irds or entry.hub:
        extra, package = ("irds", "ir-datasets") if entry.irds else ("hub", "datasets")
        raise MissingExtra(f"{absent}; or to download it, {MissingExtra.of(package, extra)}; {how}")
    raise ConfigError(f"{absent}; {how}")


def _open_url(url: str) -> Collection:
    folder = fetched(url, is_of_collection)
    return Collection.from_folder(folder, entry=find_entry(folder.name))


def _told(warning: str, opener: Callable[[], Collection]) -> Collection:
    logger.warning("%s", warning)
    return opener()


def _open_slashed(text: str) -> Collection:
    # a mistyped path looks like an ir_datasets id: both readings go into the message
    try:
        return _open_irds(text)
    except MissingExtra as error:
        raise MissingExtra(
            f"no folder {text!r}; to take it as an ir_datasets id: {error}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"no folder {text!r}, and {error}{_nearest(text)}") from error


def _nearest(text: str) -> str:
    """A near name or alias; of all names there are too many for one line."""
    hint = nearest(text.lower(), known_names())
    return hint if hint.startswith("; did") else "; `dear collections` lists those known by name"


def _open_irds(dataset_id: str) -> Collection:
    return open_irds(dataset_id, entry=entry_of_irds(dataset_id))


def open_passages(spec: str, tables: Path | None = None) -> Mapping[str, Passage]:
    """Passage id → passage, of a corpus file, a data set of the hub, or a collection.

    Files are .jsonl, .jsonl.gz or .parquet with `docid` (or `_id`), `text` and `title`, as BEIR
    and Tevatron have them. Small files are held in memory; for others, and for the hub, a table is
    written once, in `tables` or in the cache.
    """
    path = Path(spec).expanduser()
    if not _is_rows(spec):
        return open_collection(spec).corpus
    rows = open_rows(spec)
    if (
        path.is_file()
        and path.stat().st_size < data.passage_table.SMALL_BYTES
        and not spec.endswith(PARQUET)
    ):
        return data.passage_table.in_memory(map(passage_of, rows.read()), spec)
    return data.passage_table.in_table(
        lambda: map(passage_of, rows.read()), rows.digest(), spec, tables
    )


def passages_digest(spec: str) -> str:
    """Over all passages that `open_passages` gives; "" for no spec."""
    if not spec:
        return ""
    return (
        open_rows(spec).digest()
        if _is_rows(spec)
        else data.inputs.corpus_input(open_collection(spec)).digest
    )


def _is_rows(spec: str) -> bool:
    path = Path(spec).expanduser()
    if path.exists():
        return path.is_file() or corpus_reader(path) is None
    return "/" in spec and not spec.startswith("irds:")


RUN = "rows"
"""The run's name: each query's positives, then its negatives, in the order of its rows."""


def open_row_collection(spec: str, tables: Path | None = None) -> Collection:
    """Rows as `dear.data.training_rows.open_rows` knows them, or `ROWS,CORPUS` for rows by id.

    Queries and judgements are those of split train, and the positives are relevant (grade 1). The
    passages have the ids that training gives them. Queries, judgements and the run are held in
    memory, by id; the texts of large files, or of the hub, are on disk.
    """
    where, _, corpus = spec.partition(",")
    rows = open_rows(where)

    @cache
    def read() -> tuple[dict[str, Query], Grades, dict[str, Ranking]]:
        return _read(rows)

    def run(split: str) -> dict[str, Ranking]:
        if split != "train":
            raise DataError(f"rows:{spec}: rows are split train, there is no {split!r}")
        return dict(read()[2])

    return Collection(
        rows.name,
        corpus=lambda: open_passages(corpus, tables) if corpus else _texts(rows, where, tables),
        queries=lambda: read()[0],
        qrels={"train": lambda: read()[1]},
        made_runs={RUN: run},
    )


_PREFIXES: dict[str, Callable[[str], Collection]] = {
    "irds:": _open_irds,
    "hf:": open_hub,
    "rows:": open_row_collection,
}


def _read(rows: RowSource) -> tuple[dict[str, Query], Grades, dict[str, Ranking]]:
    texts = QueryTexts()
    queries: dict[str, Query] = {}
    grades: Grades = {}
    order: dict[str, dict[str, None]] = {}
    for row in rows.read():
        found = training_record(row)
        query = texts.check(found.query, row)
        if isinstance(found, TrainingIds):
            positives, negatives = found.positive_ids, found.negative_ids
        else:
            positives = tuple(p.id for p in found.positives)
            negatives = tuple(p.id for p in found.negatives)
        queries.setdefault(query.id, query)
        grades.setdefault(query.id, {}).update(dict.fromkeys(positives, 1))
        order.setdefault(query.id, {}).update(dict.fromkeys((*positives, *negatives)))
    run = {
        query_id: Ranking(
            query_id=query_id,
            passage_ids=tuple(ids),
            scores=tuple(float(s) for s in range(len(ids), 0, -1)),
        )
        for query_id, ids in order.items()
    }
    return queries, grades, run


def _texts(rows: RowSource, where: str, tables: Path | None) -> Mapping[str, Passage]:
    def passages() -> Iterator[Passage]:
        for row in rows.read():
            found = training_record(row)
            if isinstance(found, TrainingIds):
                raise ConfigError(f"rows:{where}: rows by id; write rows:{where},CORPUS")
            yield from found.positives
            yield from found.negatives

    path = Path(where)
    if path.is_file() and path.stat().st_size < data.passage_table.SMALL_BYTES:
        return data.passage_table.in_memory(passages(), where)
    return data.passage_table.in_table(passages, f"texts of {rows.digest()}", where, tables)
