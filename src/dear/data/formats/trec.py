"""TREC runs and qrels, and the three-column qrels of BEIR."""

from __future__ import annotations

import math
import re
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import gt
from pathlib import Path
from typing import Literal, TypeAlias

from dear.data.formats.lines import (
    Source,
    check_id,
    is_header,
    numbered_lines,
    source_name,
    write_lines,
)
from dear.digests import remembered
from dear.errors import DataError, excerpt
from dear.records import Judgements, Ranking, Run

Ties: TypeAlias = Literal["id", "written"]
"""How equal scores of a run are ordered: as trec_eval does it, or as the file has them."""

_GRADE = re.compile(r"[+-]?[0-9]{1,18}")
_SPACE = re.compile(r"[ \t\r\f\v]+")


def read_run(
    path: Source, *, ties: Ties = "id", keep: Callable[[str], bool] | None = None
) -> dict[str, Ranking]:
    """`qid Q0 docid rank score tag` lines → query id → ranking.

    The score decides, not the rank column. ties: "id" is trec_eval's order, what evaluation needs:
    scores are read as float32, equal ones go by docid descending. "written" keeps scores as they
    are and equal ones in the order of the file, what reranking needs: a recorded listwise run
    comes out again only from the order that it started from.
    keep: whether a query is read at all; of others only the columns are counted.
    Queries stand in the order of their first line. DataError: not six columns, a score that is
    no finite number, a passage twice for one query.
    """
    return _rankings(path, ties, columns=6, passage=2, score=4, keep=keep)


def count_lines(path: Path) -> int:
    """Lines of a run that are not blank; remembered by the file."""
    count = remembered("lines", [path], lambda: str(sum(1 for _ in numbered_lines(path))))
    return int(count)


def read_tevatron_result(path: Source) -> dict[str, Ranking]:
    """`qid docid score` lines, what Tevatron's reranker writes; order and errors as `read_run`."""
    return _rankings(path, "id", columns=3, passage=1, score=2)


def _rankings(
    path: Source,
    ties: Ties,
    *,
    columns: int,
    passage: int,
    score: int,
    keep: Callable[[str], bool] | None = None,
) -> dict[str, Ranking]:
    # most files have a query's lines together: one at a time is then a dict, the others take a
    # sixth of its memory; those that come again stay one
    packed: dict[str, tuple[tuple[str, ...], array[float]]] = {}
    scattered: dict[str, dict[str, float]] = {}
    names: dict[str, str] = {}
    query, of_query = "", dict[str, float]()
    for place, (number, line) in enumerate(numbered_lines(path)):
        fields = _fields(line)
        if place == 0 and len(fields) == columns and is_header(fields):
            continue
        if len(fields) != columns:
            problem = f"expected {columns} fields, got {len(fields)}: {excerpt(line)}"
            raise DataError.at(source_name(path), number, problem)
        if keep is not None and not keep(fields[0]):
            continue
        if fields[0] != query:
            if query and query not in scattered:
                packed[query] = tuple(of_query), array("d", of_query.values())
            query = fields[0]
            check_id(query, path, number, "query id")
            if query in packed and query not in scattered:
                scattered[query] = dict(zip(*packed[query], strict=True))
            of_query = scattered.get(query, {})
        text = fields[score]
        identifier = names.setdefault(fields[passage], fields[passage])
        check_id(identifier, path, number, "passage id")
        if identifier in of_query:
            problem = f"passage {identifier!r} appears twice for query {query!r}"
            raise DataError.at(source_name(path), number, problem)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # float() also reads 1_0 and the digits of other scripts, which no other tool does
        if not math.isfinite(value) or "_" in text or not text.isascii():
            problem = f"the score must be a finite number, got {excerpt(text)}"
            raise DataError.at(source_name(path), number, problem)
        of_query[identifier] = value
    if query:
        packed.setdefault(query, ((), array("d")))
        scattered[query] = of_query
    rankings: dict[str, Ranking] = {}
    for query in list(packed):
        ids, scores = packed.pop(query)
        of_query = scattered.pop(query, {}) or dict(zip(ids, scores, strict=True))
        rankings[query] = _ranking(query, of_query, ties)
    return rankings


def _ranking(query: str, scored: dict[str, float], ties: Ties) -> Ranking:
    if ties == "id":
        read = array("f", scored.values())
        if not all(map(gt, read, islice(read, 1, None))):
            as_read = read if all(map(math.isfinite, read)) else scored.values()
            return Ranking.sorted(query, scored, as_read)
    # most files are sorted already, and Python's sort then only looks
    order = sorted(scored, key=scored.__getitem__, reverse=True)
    return Ranking(
        query_id=query,
        passage_ids=tuple(order),
        scores=tuple(map(scored.__getitem__, order)),
    )


def write_run(path: Path | str, run: Run, tag: str) -> None:
    """`qid Q0 docid rank score tag`, ranks from 1, scores strictly falling, atomically.

    Scores are written in full; where two would tie as float32 (trec_eval reads them so), the
    later one is lowered (`strictly_falling`). Queries without passages leave no line.
    DataError: an id or a tag that is empty or holds white space, nothing to write.
    """
    _check_token(path, tag, "tag")
    write_lines(path, _run_lines(path, run, tag))


def _run_lines(path: Path | str, run: Run, tag: str) -> Iterator[str]:
    for query, ranking in run.items():
        _check_token(path, query, "query id")
        try:
            falling = strictly_falling(ranking.scores)
        except DataError as error:
            raise DataError.at(path, None, f"query {query!r}: {error}") from error
        for rank, (passage, score) in enumerate(zip(ranking.passage_ids, falling, strict=True), 1):
            _check_token(path, passage, "passage id")
            yield f"{query} Q0 {passage} {rank} {score} {tag}"


def write_tevatron_result(path: Path | str, run: Run) -> None:
    """`qid<TAB>docid<TAB>score`, best first; scores as `write_run` writes them."""
    write_lines(
        path,
        ("\t".join((f[0], f[2], f[4])) for f in map(str.split, _run_lines(path, run, "dear"))),
    )


def strictly_falling(scores: Iterable[float]) -> list[float]:
    """`scores`, never rising, changed as little as makes them fall strictly even as float32.

    A score that is not below the one before it, both read as float32, becomes the next float32
    below. DataError: a score beyond float32.
    """
    falling: list[float] = []
    previous = math.inf
    for score in scores:
        try:
            single = _float32(score)
            if single >= previous:
                score = single = _next_below(previous)
        except (OverflowError, ValueError) as error:
            raise DataError(
                f"score {score} does not fit a float32, which runs are read as"
            ) from error
        falling.append(score)
        previous = single
    return falling


def _float32(value: float) -> float:
    single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    if not math.isfinite(single):
        raise OverflowError
    return single


def _next_below(value: float) -> float:
    """The largest float32 below the float32 `value`; its shortest decimal reads back exactly."""
    if value == 0:
        return -math.ldexp(1.0, -149)
    bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
    # ordered as integers are, within one sign: up in bits is away from zero
    below: float = struct.unpack("<f", struct.pack("<i", bits - 1 if value > 0 else bits + 1))[0]
    if not math.isfinite(below):
        raise OverflowError
    return below


def read_qrels(path: Source) -> dict[str, dict[str, int]]:
    """TREC `qid 0 docid grade`, or BEIR's `query-id<TAB>corpus-id<TAB>score`, header or not.

    → query id → passage id → grade. DataError: another number of columns, a grade that is no
    whole number, a pair judged twice, no judgement at all.
    """
    judgements: dict[str, dict[str, int]] = {}
    three = False
    for place, (number, line) in enumerate(numbered_lines(path)):
        if place == 0:
            cells = line.split("\t")
            three = len(cells) == 3
            if is_header(cells if three else _fields(line)):
                continue
        query, passage, grade = _judgement(line, path, number, three=three)
        of_query = judgements.setdefault(query, {})
        if passage in of_query:
            problem = f"passage {passage!r} is judged twice for query {query!r}"
            raise DataError.at(source_name(path), number, problem)
        of_query[passage] = grade
    if not judgements:
        raise DataError.at(source_name(path), None, "holds a header and no judgement")
    return judgements


def _judgement(line: str, path: Source, number: int, *, three: bool) -> tuple[str, str, int]:
    fields = list(map(_unquoted, line.split("\t"))) if three else _fields(line)
    if len(fields) != (3 if three else 4):
        expected = "3 fields between tabs" if three else "4 fields, or 3 between tabs"
        problem = f"expected {expected}, got {len(fields)}: {excerpt(line)}"
        raise DataError.at(source_name(path), number, problem)
    query, passage, grade = fields[0], fields[-2], fields[-1].strip()
    if not query.strip() or not passage.strip():
        raise DataError.at(source_name(path), number, f"an empty id: {excerpt(line)}")
    check_id(query, path, number, "query id")
    check_id(passage, path, number, "passage id")
    if not _GRADE.fullmatch(grade):
        problem = f"the grade must be a whole number, got {excerpt(grade)}"
        raise DataError.at(source_name(path), number, problem)
    return query, passage, int(grade)


def _fields(line: str) -> list[str]:
    """What stands between spaces and tabs; an id may hold other white space (U+00A0, U+3000)."""
    return line.split() if line.isascii() else _SPACE.split(line.strip(" \t\r\f\v"))


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 2 and cell[0] == cell[-1] == '"' else cell


def write_qrels(path: Path | str, judgements: Judgements) -> None:
    """`qid 0 docid grade`, atomically. Queries without judgements leave no line.

    DataError: an id that is empty or holds white space, nothing to write.
    """
    write_lines(path, _qrels_lines(path, judgements))


def _qrels_lines(path: Path | str, judgements: Judgements) -> Iterator[str]:
    for query, grades in judgements.items():
        _check_token(path, query, "query id")
        for passage, grade in grades.items():
            _check_token(path, passage, "passage id")
            yield f"{query} 0 {passage} {grade}"


def write_beir_qrels(path: Path | str, judgements: Judgements) -> None:
    """A header, then `query-id<TAB>corpus-id<TAB>score`, atomically; ids may hold spaces.

    DataError: an id that is empty or holds a tab or a line end, nothing to write.
    """
    if not any(judgements.values()):
        raise DataError.at(path, None, "nothing to write: no judgement")
    write_lines(path, _beir_lines(path, judgements))


def _beir_lines(path: Path | str, judgements: Judgements) -> Iterator[str]:
    yield "query-id\tcorpus-id\tscore"
    for query, grades in judgements.items():
        for identifier in (query, *grades):
            check_id(identifier, path, None, "id")
        for passage, grade in grades.items():
            yield f"{query}\t{passage}\t{grade}"


def _check_token(path: Path | str, token: str, what: str) -> None:
    # a byte order mark in front would be dropped as one when the file is read; white space beyond
    # ASCII parts no fields, neither here nor in trec_eval
    if not token or _SPACE.search(token) or "\n" in token or token[0] == "\ufeff":
        problem = f"{what} {token!r} is empty or holds white space, which a TREC file cannot hold"
        raise DataError.at(path, None, problem)
    check_id(token, path, None, what)
