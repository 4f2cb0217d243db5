"""Two runs of a collection, query by query."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.data.judged import check_before_measuring
from dear.errors import ConfigError, DataError
from dear.evaluate.answers import answer_cutoff
from dear.evaluate.metrics import COMPARED, evaluate, parse_measures
from dear.evaluate.side_by_side import Place, SideBySide, beside, largest_changes, most_different
from dear.evaluate.study import RunSource, other_candidates
from dear.records import Judgements, Query, Run
from dear.steps.inputs import named_runs, queries_if_readable
from dear.steps.options import CompareOptions

_CUT = 60
"""Characters of a query's text in an error line."""


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """The queries that were chosen, with everything that is needed to show them.

    chosen: their ids, one at least.  values: of a and of b, by query id; None where nobody judged
    the split.  notes: what there is to say besides.
    """

    options: CompareOptions
    collection: Collection
    names: tuple[str, str]
    runs: tuple[Run, Run]
    judgements: Judgements | None
    values: tuple[Mapping[str, float], Mapping[str, float]] | None
    measure: str
    min_grade: int
    queries: Mapping[str, Query]
    chosen: tuple[str, ...]
    notes: tuple[str, ...]

    def rankings(self, query_id: str) -> SideBySide:
        """The best passages of both runs, side by side."""
        grades = (self.judgements or {}).get(query_id, {})
        return beside(query_id, *self.runs, grades, self.options.top)

    def to_dict(self) -> dict[str, Any]:
        """Every chosen query with whole passages, for a JSON file."""
        return {
            "collection": self.collection.name,
            "split": self.options.split,
            "a": self.names[0],
            "b": self.names[1],
            "measure": None if self.values is None else self.measure,
            "min_grade": self.min_grade,
            "top": self.options.top,
            "queries": [self._query_dict(query_id) for query_id in self.chosen],
        }

    def _query_dict(self, query_id: str) -> dict[str, Any]:
        both, query = self.rankings(query_id), self.queries.get(query_id)
        values = [None, None] if self.values is None else [v.get(query_id) for v in self.values]
        return {
            "id": query_id,
            "text": None if query is None else query.text,
            "a": values[0],
            "b": values[1],
            "ranking_a": [self._passage_dict(place) for place in both.a],
            "ranking_b": [self._passage_dict(place) for place in both.b],
            "only_a": [place.passage_id for place in both.only_a],
            "only_b": [place.passage_id for place in both.only_b],
        }

    def _passage_dict(self, place: Place) -> dict[str, Any]:
        passage = self.collection.corpus.get(place.passage_id)
        return {
            "rank": place.rank,
            "other_rank": place.other,
            "id": place.passage_id,
            "score": place.score,
            "grade": place.grade,
            "relevant": place.grade is not None and place.grade >= self.min_grade,
            "title": None if passage is None else passage.title,
            "text": None if passage is None else passage.text,
        }


def compare(options: CompareOptions) -> CompareResult:
    """Read two runs and choose the queries to show. DataError where there is none. It writes
    nothing."""
    collection, split = open_collection(options.collection), options.split
    named = named_runs(collection, (options.run_a, options.run_b), split)
    if len(named) == 1:
        (path,) = named.values()
        raise ConfigError(f"{options.run_a} and {options.run_b} are the same run: {path}")
    (a, b), paths = named, list(named.values())
    runs = read_run(paths[0]), read_run(paths[1])
    main = collection.main_measure if answer_cutoff(collection.main_measure) is None else COMPARED
    (by,) = parse_measures([options.measure or main])
    judgements = collection.judgements(split) if collection.has_judgements(split) else None
    values = None
    if judgements is not None:
        check_before_measuring(collection, split, runs)
        one, other = (
            evaluate(run, judgements, [by.name], min_grade=collection.min_grade).per_query[by.name]
            for run in runs
        )
        values = one, other
    # whichever reranked the other's best passages
    refusal = other_candidates(
        RunSource(name=b, run=runs[1], first_stage=a), RunSource(name=a, run=runs[0])
    )
    queries, unreadable = queries_if_readable(collection)
    choice = _Choice(options, (a, b), runs, judgements, values, by.name, queries)
    chosen, why = choice.make()
    notes = [None if refusal is None else f"{a} and {b} rank {refusal.reason}", unreadable, why]
    return CompareResult(
        options=options,
        collection=collection,
        names=(a, b),
        runs=runs,
        judgements=judgements,
        values=values,
        measure=by.name,
        min_grade=collection.min_grade,
        queries=queries,
        chosen=tuple(chosen),
        notes=tuple(line for line in notes if line is not None),
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which queries are shown."""

    options: CompareOptions
    names: tuple[str, str]
    runs: tuple[Run, Run]
    judgements: Judgements | None
    values: tuple[Mapping[str, float], Mapping[str, float]] | None
    measure: str
    queries: Mapping[str, Query]

    def make(self) -> tuple[list[str], str | None]:
        """Ids of queries, one at least, and a note on how they were chosen. DataError: none."""
        (a, b), options = self.names, self.options
        if options.query is not None:
            return [self._find(options.query)], None
        asked = options.worst is not None or options.best is not None
        if self.values is None and asked:
            raise ConfigError("nobody judged these queries: name one with --query")
        note = None
        if self.values is not None:
            gains = options.best is not None
            number = options.best or options.worst or 1
            found = largest_changes(*self.values, number, gains=gains)
            if found:
                return found, None
            none = f"{b} {'gains' if gains else 'loses'} against {a} for no query ({self.measure})"
            if asked:
                raise DataError(none)
            note = f"{none}; this is the one where their best {options.top} differ most"
        other = most_different(*self.runs, self.judgements, options.top)
        if other is None:
            raise DataError(f"{a} and {b} have no query in common")
        return [other], note

    def _find(self, wanted: str) -> str:
        """The id of the query with this id, this text, or these words in its text alone."""
        known = dict.fromkeys([*self.runs[0], *self.runs[1], *(self.judgements or {})])
        if wanted in known:
            return wanted
        texts = {q: _plain(self.queries[q].text) for q in known if q in self.queries}
        text = _plain(wanted)
        for found in (
            [q for q, other in texts.items() if other == text],
            [q for q, other in texts.items() if text and text in other],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                some = ", ".join(self._named(q) for q in found[:3])
                raise ConfigError(f"{wanted!r} is in {len(found)} queries, such as {some}")
        near = difflib.get_close_matches(wanted, known, n=1)
        if not near:
            by_text = {other: q for q, other in texts.items()}
            near = [by_text[t] for t in difflib.get_close_matches(text, by_text, n=1)]
        hint = f"; did you mean {self._named(near[0])}?" if near else ""
        raise ConfigError(f"no query {wanted!r} in these runs{hint}")

    def _named(self, query_id: str) -> str:
        if query_id not in self.queries:
            return query_id
        text = " ".join(self.queries[query_id].text.split())
        return f"{query_id} ({text if len(text) <= _CUT else text[: _CUT - 1] + '…'})"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
