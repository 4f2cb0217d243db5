"""A collection made of another one: the parts that stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from dear.artifacts import atomic_path, check_folder
from dear.data.collections import Collection
from dear.data.folders import corpus_reader, question_files
from dear.data.formats import write_beir_qrels, write_queries
from dear.data.formats.beir import write_answers
from dear.errors import ConfigError, DataError


def check_made_folder(output: Path, note: str, collection: str) -> None:
    """ConfigError for the collection's own folder, and for one that holds a collection without
    `note`: it is somebody's own, and would be written over. DataError for one that cannot be
    written."""
    if output.is_dir() and Path(collection).expanduser().resolve() == output.resolve():
        raise ConfigError(f"{output} is what would be read; name another folder with --output")
    if output.is_dir() and corpus_reader(output) is not None and not (output / note).is_file():
        raise ConfigError(
            f"{output} holds a collection already, which was not made by this command; "
            "name another folder with --output"
        )
    check_folder(output)


def copy_questions(collection: Collection, output: Path, *, queries: bool = True) -> None:
    """Judgements, answers and, if `queries`, queries, as far as there are any: files as they
    are."""
    if collection.folder is not None:
        for name, path in question_files(collection.folder).items():
            if name.startswith("queries.") and not queries:
                continue
            if (output / name).resolve() == path.resolve():
                continue
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(output / name) as temporary:
                shutil.copyfile(path, temporary)
        return
    if queries:
        write_queries(output / "queries.jsonl", collection.queries().values())
    for split in collection.splits:
        if collection.has_judgements(split):
            write_beir_qrels(output / "qrels" / f"{split}.tsv", collection.judgements(split))
    if collection.has_answers:
        write_answers(output / "answers.jsonl", collection.answers)


def require_texts(collection: Collection) -> None:
    """DataError for a collection whose documents are all empty."""
    if not any(p.text.strip() or p.title.strip() for p in collection.corpus.values()):
        raise DataError(f"{collection.name}: no document has a text")
