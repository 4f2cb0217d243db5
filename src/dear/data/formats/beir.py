"""BEIR's folders: corpus, queries, qrels; and answers to questions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dear.data.formats.lines import Source, check_id, once, write_lines
from dear.data.formats.rows import Row, json_line, json_rows
from dear.data.formats.trec import write_beir_qrels, write_run
from dear.errors import DataError
from dear.records import Judgements, Passage, Query, Run

logger = logging.getLogger(__name__)

PASSAGE_ID = ("_id", "docid", "doc_id", "id", "pid")
PASSAGE_TEXT = ("text", "contents", "content", "segment", "passage", "body", "document_text")
QUERY_ID = ("_id", "query_id", "qid", "id")
QUERY_TEXT = ("text", "query", "query_text")


def iter_corpus(path: Source) -> Iterator[Passage]:
    """`{"_id", "title", "text"}` lines, one by one.

    `title` may be missing, and both may be empty: real corpora have such passages. A few other
    names of the same keys are understood (PASSAGE_ID, PASSAGE_TEXT), further keys are ignored.
    DataError: broken JSON, a missing or wrong key, an empty id, an id twice, an empty file.
    """
    seen: set[str] = set()
    for row in json_rows(path):
        passage = passage_of(row)
        once(seen, passage.id, path, row.line, "passage id")
        yield passage


def read_corpus(path: Source) -> dict[str, Passage]:
    """`iter_corpus`, held in memory: passage id → passage, in the file's order."""
    return {passage.id: passage for passage in iter_corpus(path)}


def passage_of(row: Row, *, default_id: str | None = None) -> Passage:
    """The passage in a row. DataError names the key that is missing or wrong."""
    return Passage(
        id=row.id(*PASSAGE_ID, default=default_id),
        title=row.text("title", default=""),
        text=row.text(*PASSAGE_TEXT),
    )


def write_corpus(path: Path | str, passages: Iterable[Passage]) -> None:
    """`{"_id", "title", "text"}` lines, atomically."""
    seen: set[str] = set()

    def lines() -> Iterator[str]:
        for line, passage in enumerate(passages, 1):
            check_id(passage.id, path, None, "passage id")
            once(seen, passage.id, path, line, "passage id")
            yield json_line({"_id": passage.id, "title": passage.title, "text": passage.text})

    write_lines(path, lines())


def read_queries(path: Source) -> dict[str, Query]:
    """`{"_id", "text"}` lines → query id → query. An empty text is a DataError here."""
    seen: set[str] = set()
    queries: dict[str, Query] = {}
    for row in json_rows(path):
        query = Query(id=row.id(*QUERY_ID), text=row.filled(*QUERY_TEXT))
        once(seen, query.id, path, row.line, "query id")
        queries[query.id] = query
    return queries


def write_queries(path: Path | str, queries: Iterable[Query]) -> None:
    """`{"_id", "text"}` lines, atomically."""
    seen: set[str] = set()

    def lines() -> Iterator[str]:
        for line, query in enumerate(queries, 1):
            check_id(query.id, path, None, "query id")
            check_query(path, query)
            once(seen, query.id, path, line, "query id")
            yield json_line({"_id": query.id, "text": query.text})

    write_lines(path, lines())


def check_query(path: Path | str, query: Query) -> None:
    """DataError for a query without text."""
    if not query.text.strip():
        raise DataError.at(path, None, f"query {query.id!r} has no text")


@dataclass(frozen=True, kw_only=True, slots=True)
class BeirFiles:
    """Where the parts of a BEIR folder lie; each plain or .gz, the plain one first.

    qrels: split → file.  runs: split → name of the run → file.
    """

    corpus: Path | None
    queries: Path | None
    qrels: Mapping[str, Path]
    runs: Mapping[str, Mapping[str, Path]]


def beir_files(folder: Path | str) -> BeirFiles:
    """What there is in `folder`; nothing is opened."""
    root = Path(folder)
    return BeirFiles(
        corpus=plain_or_gz(root / "corpus.jsonl"),
        queries=plain_or_gz(root / "queries.jsonl"),
        qrels=_stems(root / "qrels", ".tsv"),
        runs=_runs(root / "runs"),
    )


def plain_or_gz(path: Path) -> Path | None:
    """`path`, else `path.gz`, else None."""
    return next((p for p in (path, Path(f"{path}.gz")) if p.is_file()), None)


def _stems(folder: Path, ending: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{ending}*")):
        name = path.name.removesuffix(".gz")
        # sorted: the plain file comes before its .gz
        if path.is_file() and name.endswith(ending) and not name.startswith("."):
            found.setdefault(name.removesuffix(ending), path)
    return found


def _runs(folder: Path) -> dict[str, dict[str, Path]]:
    runs: dict[str, dict[str, Path]] = {}
    for stem, path in _stems(folder, ".trec").items():
        name, dot, split = stem.rpartition(".")
        if dot and name and split:
            runs.setdefault(split, {})[name] = path
        else:
            logger.warning("%s is not called NAME.SPLIT.trec and is left out", path)
    return runs


def write_beir(
    folder: Path | str,
    *,
    corpus: Iterable[Passage],
    queries: Iterable[Query],
    judgements: Mapping[str, Judgements] | None = None,
    runs: Mapping[str, Mapping[str, Run]] | None = None,
    compress: bool = False,
) -> None:
    """A whole BEIR folder; each file atomically, with .gz behind its name if `compress`.

    judgements: split → qrels.  runs: split → name of the run → run; the name is the tag too.
    """
    root, gz = Path(folder), ".gz" if compress else ""
    write_corpus(root / f"corpus.jsonl{gz}", corpus)
    write_queries(root / f"queries.jsonl{gz}", queries)
    for split, grades in (judgements or {}).items():
        write_beir_qrels(root / "qrels" / f"{split}.tsv{gz}", grades)
    for split, named in (runs or {}).items():
        for name, run in named.items():
            write_run(root / "runs" / f"{name}.{split}.trec{gz}", run, name)


def read_answers(path: Source) -> dict[str, tuple[str, ...]]:
    """Query id → the strings that answer it, any of them.

    DataError: a question twice, one without answers, an answer that is no text or is blank.
    """
    seen: set[str] = set()
    found: dict[str, tuple[str, ...]] = {}
    for row in json_rows(path):
        query_id = row.id(*QUERY_ID)
        once(seen, query_id, path, row.line, "query id")
        answers = row.items("answers")
        if not answers:
            raise row.error("'answers' is empty")
        for answer in answers:
            if not isinstance(answer, str) or not answer.strip():
                raise row.error(f"an answer must be text that is not blank, got {answer!r}")
        found[query_id] = tuple(answers)
    return found


def write_answers(path: Path | str, answers: Mapping[str, Sequence[str]]) -> None:
    """`{"_id", "answers"}` lines, atomically. DataError for what `read_answers` would refuse."""
    for query_id, strings in answers.items():
        check_id(query_id, path, None, "query id")
        if not strings or not all(s.strip() for s in strings):
            raise DataError.at(path, None, f"query {query_id!r} has no answer, or a blank one")
    write_lines(
        path, (json_line({"_id": q, "answers": list(strings)}) for q, strings in answers.items())
    )
