"""A folder's files → readers of corpus, queries and answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dear.data.formats import (
    read_corpus,
    read_corpus_tsv,
    read_corpus_txt,
    read_document_folder,
    read_queries,
    read_queries_tsv,
    read_queries_txt,
)
from dear.data.formats.answers import read_answers
from dear.data.formats.beir import plain_or_gz
from dear.data.formats.plain import document_files
from dear.errors import DataError
from dear.records import Passage, Query


def corpus_reader(root: Path) -> Callable[[], dict[str, Passage]] | None:
    """What reads the folder's corpus; None where it holds none."""
    for ending, read in (
        ("jsonl", read_corpus),
        ("tsv", read_corpus_tsv),
        ("txt", read_corpus_txt),
    ):
        if path := plain_or_gz(root / f"corpus.{ending}"):
            return partial(read, path)
    documents = root / "corpus"
    return partial(read_document_folder, documents) if documents.is_dir() else None


def corpus_files(root: Path) -> list[Path]:
    """All files that `corpus_reader` reads; empty where it holds none."""
    for ending in ("jsonl", "tsv", "txt"):
        if path := plain_or_gz(root / f"corpus.{ending}"):
            return [path]
    documents = root / "corpus"
    return document_files(documents) if documents.is_dir() else []


def folder_queries(root: Path) -> dict[str, Query]:
    """Query id → query. DataError where the folder holds no queries."""
    for ending, read in (
        ("jsonl", read_queries),
        ("tsv", read_queries_tsv),
        ("txt", read_queries_txt),
    ):
        if path := plain_or_gz(root / f"queries.{ending}"):
            return read(path)
    wanted = "queries.jsonl, queries.tsv or queries.txt"
    raise DataError.at(root, None, f"holds no queries: expected {wanted}")


def answers_reader(root: Path) -> Callable[[], dict[str, tuple[str, ...]]] | None:
    """What reads the folder's answers.jsonl; None where it holds none."""
    path = plain_or_gz(root / "answers.jsonl")
    return None if path is None else partial(read_answers, path)
