"""Hugging Face data sets in BEIR layout as collections, through the optional extra `hub`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.data.collection import Collection
from dear.data.formats.beir import QUERY_ID, QUERY_TEXT, passage_of
from dear.data.formats.lines import once
from dear.data.formats.rows import Row
from dear.errors import DataError, DearError, MissingExtra
from dear.records import Passage, Query

if TYPE_CHECKING:
    from dear.data.catalogue import CollectionEntry

_DEV = {"validation", "valid", "val"}


def open_hub(name: str, *, entry: CollectionEntry | None = None) -> Collection:
    """A data set with the configurations `corpus` and `queries`, from the hub or a folder.

    Judgements are its configuration `qrels` or `default`, or the data set NAME-qrels beside it
    (BEIR keeps them so). `validation` is called dev. entry: of the catalogue, which then gives the
    name. MissingExtra: datasets is not installed. DataError: not to be reached, or another layout.
    """

    known = _configs(name)
    for needed in ("corpus", "queries"):
        if needed not in known:
            has = ", ".join(known)
            raise DataError(f"hf:{name}: no configuration {needed!r} (BEIR layout); it has: {has}")
    source = _qrels_source(name, known)

    @cache
    def all_qrels() -> dict[str, dict[str, dict[str, int]]]:
        return _read_qrels(*source) if source else {}

    def of(split: str) -> dict[str, dict[str, int]]:
        return all_qrels()[split]

    return Collection(
        name.rstrip("/").rpartition("/")[2] if entry is None else entry.name,
        folder=Path(name) if Path(name).is_dir() else None,
        corpus=lambda: _read_corpus(name),
        queries=lambda: _read_queries(name),
        qrels={split: partial(of, split) for split in _splits(*source)} if source else {},
        entry=entry,
    )


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra.of("datasets", "hub") from error
    return datasets


def _configs(name: str) -> list[str]:
    datasets = _datasets()
    try:
        return list(datasets.get_dataset_config_names(name))
    except (OSError, ValueError) as error:
        raise DataError(f"hf:{name}: {_first_line(error)}") from error


def _qrels_source(name: str, known: list[str]) -> tuple[str, str] | None:
    """(data set, configuration) of the judgements, or None."""
    if config := next((c for c in ("qrels", "default") if c in known), None):
        return name, config
    if Path(name).is_dir():
        return None
    beside = f"{name}-qrels"
    try:
        return beside, _configs(beside)[0]
    except DataError:
        return None


def _splits(name: str, config: str) -> list[str]:
    datasets = _datasets()
    try:
        names = datasets.get_dataset_split_names(name, config)
    except (OSError, ValueError) as error:
        raise DataError(f"hf:{name} ({config}): {_first_line(error)}") from error
    return [_split(str(split)) for split in names]


def _split(name: str) -> str:
    return "dev" if name in _DEV else name


def _rows(name: str, config: str) -> Iterator[tuple[str, Row]]:
    """(split, row) of every row of a configuration; the row's line is its place, from 1."""
    datasets = _datasets()
    try:
        splits = datasets.load_dataset(name, config)
    except (OSError, ValueError) as error:
        raise DataError(f"hf:{name} ({config}): {_first_line(error)}") from error
    for split, table in splits.items():
        for place, fields in enumerate(table, 1):
            yield str(split), Row(fields, f"hf:{name}/{config}/{split}", place)


def hub_revision(name: str) -> str:
    """The commit that a data set stands at. DataError: not to be reached, or not there."""
    from huggingface_hub import HfApi

    with _reached(name):
        return str(HfApi().dataset_info(name).sha)


def hub_rows(name: str, split: str, revision: str | None) -> Iterator[Row]:
    """The rows of a split, streamed; the row's line is its place, from 1.

    A data set that comes as a script (Tevatron/msmarco-passage does) is read from its files: those
    that begin with the split's name. MissingExtra: datasets is not installed. DataError: not to
    be reached, or reached no more.
    """
    datasets = _datasets()
    with _reached(name):
        try:
            rows = datasets.load_dataset(name, split=split, revision=revision, streaming=True)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            rows = _from_files(datasets, name, split, revision)
    source, place, stream = f"hf:{name}/{split}", 0, iter(rows)
    while True:
        with _reached(name):
            fields = next(stream, None)
        if fields is None:
            return
        place += 1
        yield Row(fields, source, place)


def _from_files(datasets: Any, name: str, split: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    there = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
    for builder, endings in (("parquet", (".parquet",)), ("json", (".jsonl", ".jsonl.gz"))):
        files = [
            f"hf://datasets/{name}@{revision}/{f}"
            for f in there
            if f.endswith(endings) and f.rpartition("/")[2].startswith(split)
        ]
        if files:
            return datasets.load_dataset(builder, data_files=files, split="train", streaming=True)
    raise DataError(f"hf:{name}: no .parquet and no .jsonl file of split {split!r} in it")


@contextlib.contextmanager
def _reached(name: str) -> Iterator[None]:
    """What a network, the hub and its libraries raise is one line that says what else there is."""
    try:
        yield
    except DearError:
        raise
    except Exception as error:  # of four libraries, without a common root
        reason = _first_line(error).rstrip(".")
        raise DataError(
            f"hf:{name}: {reason}; without the hub, download its files elsewhere and name the "
            ".jsonl, .jsonl.gz or .parquet file, or their folder, instead"
        ) from error


def _read_corpus(name: str) -> dict[str, Passage]:
    """The `corpus` configuration → passage id → passage."""
    corpus: dict[str, Passage] = {}
    seen: set[str] = set()
    for _, row in _rows(name, "corpus"):
        passage = passage_of(row)
        once(seen, passage.id, row.source, row.line, "passage id")
        corpus[passage.id] = passage
    return corpus


def _read_queries(name: str) -> dict[str, Query]:
    """The `queries` configuration → query id → query."""
    queries: dict[str, Query] = {}
    seen: set[str] = set()
    for _, row in _rows(name, "queries"):
        query = Query(id=row.id(*QUERY_ID), text=row.filled(*QUERY_TEXT))
        once(seen, query.id, row.source, row.line, "query id")
        queries[query.id] = query
    return queries


def _read_qrels(name: str, config: str) -> dict[str, dict[str, dict[str, int]]]:
    """split → query id → passage id → grade, from `query-id`, `corpus-id`, `score` rows."""
    splits: dict[str, dict[str, dict[str, int]]] = {}
    for split, row in _rows(name, config):
        grades = splits.setdefault(_split(split), {})
        query, passage = row.id("query-id", "query_id", "qid"), row.id("corpus-id", "corpus_id")
        score = row.number("score")
        if score is None or score != int(score):
            raise row.error(f"the grade must be a whole number, got {score}")
        if passage in grades.setdefault(query, {}):
            raise row.error(f"passage {passage!r} is judged twice for query {query!r}")
        grades[query][passage] = int(score)
    return splits


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
