"""`dear compare`: two runs side by side, query by query."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.cli.compare_view import show
from dear.cli.evaluate import run_names
from dear.cli.output import note, print_json
from dear.cli.runs import SplitOption
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.errors import ConfigError, DataError
from dear.evaluate.beside import beside, largest_changes, most_different
from dear.steps.inputs import find_run

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.evaluate.beside import Place
    from dear.records import Judgements, Query, Run

CUT = 60
"""Characters of a query's text in an error line."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is compared, with everything that is needed to show a query.

    values: of a and of b, by query id; None where nobody judged the split.
    notes: what there is to say besides, once it is certain that something is shown.
    """

    collection: Collection
    names: tuple[str, str]
    runs: tuple[Run, Run]
    judgements: Judgements | None
    values: tuple[Mapping[str, float], Mapping[str, float]] | None
    measure: str
    min_grade: int
    queries: Mapping[str, Query]
    top: int
    notes: list[str] = field(default_factory=list)


def compare(
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A run's file, or one of the collection's own.")
    ],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run that is held against it.")],
    query: Annotated[
        str | None,
        typer.Option(
            metavar="Q", help="A query's id, or words of it.", show_default="largest loss"
        ),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="The N queries where B loses most against A."),
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The N queries where B gains most.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Passages of each run.")] = 10,
    split: SplitOption = "test",
    measure: Annotated[
        str | None,
        typer.Option(metavar="M", help="Such as MRR@10.", show_default="the collection's"),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show the passages' ids, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, with whole passages.")] = False,
) -> None:
    """Show two runs side by side for one query, or for a few."""

    if sum(option is not None for option in (query, worst, best)) > 1:
        raise ConfigError("--query, --worst and --best each choose queries: give one of them")
    pair = _pair(open_collection(collection), run_a, run_b, split, measure, top)
    chosen = _chosen(pair, query, worst, best)
    if as_json:
        print_json(_as_dict(pair, chosen, split))
    else:
        show(pair, chosen, ids=ids)
    for line in pair.notes:
        note(line)


def _pair(
    opened: Collection, run_a: str, run_b: str, split: str, measure: str | None, top: int
) -> Pair:
    from dear.evaluate.answers import answer_cutoff
    from dear.evaluate.metrics import COMPARED, evaluate, parse_measures
    from dear.evaluate.study import RunSource, other_candidates

    paths = [find_run(opened, run, split) for run in (run_a, run_b)]
    if paths[0].resolve() == paths[1].resolve():
        raise ConfigError(f"{run_a} and {run_b} are the same run: {paths[0]}")
    own = {path.resolve(): name for name, path in opened.runs(split).items()}
    a, b = run_names(paths, own)
    main = opened.main_measure if answer_cutoff(opened.main_measure) is None else COMPARED
    (by,) = parse_measures([measure or main])
    runs = read_run(paths[0]), read_run(paths[1])
    judgements = opened.judgements(split) if opened.has_judgements(split) else None
    values = None
    if judgements is not None:
        one, other = (
            evaluate(run, judgements, [by.name], min_grade=opened.min_grade).per_query[by.name]
            for run in runs
        )
        values = one, other
    # whichever reranked the other's best passages
    refusal = other_candidates(
        RunSource(name=b, run=runs[1], first_stage=a), RunSource(name=a, run=runs[0])
    )
    notes = [] if refusal is None else [f"{a} and {b} rank {refusal.reason}"]
    queries, missing = _queries(opened)
    return Pair(
        collection=opened,
        names=(a, b),
        runs=runs,
        judgements=judgements,
        values=values,
        measure=by.name,
        min_grade=opened.min_grade,
        queries=queries,
        top=top,
        notes=notes + missing,
    )


def _queries(collection: Collection) -> tuple[Mapping[str, Query], list[str]]:
    try:
        return collection.queries(), []
    except DataError as error:
        return {}, [f"queries are shown without their texts: {error}"]


def _chosen(pair: Pair, query: str | None, worst: int | None, best: int | None) -> list[str]:
    """Ids of the queries to show, one at least; DataError where there is none."""

    a, b = pair.names
    if query is not None:
        return [_find(pair, query)]
    if pair.values is None and (worst is not None or best is not None):
        raise ConfigError("nobody judged these queries: name one with --query")
    if pair.values is not None:
        before, after = pair.values
        gains = best is not None
        found = largest_changes(before, after, best or worst or 1, gains=gains)
        if found:
            return found
        what = "gains" if gains else "loses"
        said = f"{b} {what} against {a} for no query ({pair.measure})"
        if worst is not None or best is not None:
            raise DataError(said)
        pair.notes.append(f"{said}; this is the one where their best {pair.top} differ most")
    other = most_different(*pair.runs, pair.judgements, pair.top)
    if other is None:
        raise DataError(f"{a} and {b} have no query in common")
    return [other]


def _find(pair: Pair, wanted: str) -> str:
    """The id of the query with this id, this text, or these words in its text alone."""
    known = dict.fromkeys([*pair.runs[0], *pair.runs[1], *(pair.judgements or {})])
    if wanted in known:
        return wanted
    texts = {q: _plain(pair.queries[q].text) for q in known if q in pair.queries}
    text = _plain(wanted)
    for found in (
        [q for q, other in texts.items() if other == text],
        [q for q, other in texts.items() if text and text in other],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(_named(q, pair.queries) for q in found[:3])
            raise ConfigError(f"{wanted!r} is in {len(found)} queries, such as {some}")
    near = difflib.get_close_matches(wanted, known, n=1)
    if not near:
        by_text = {other: q for q, other in texts.items()}
        near = [by_text[t] for t in difflib.get_close_matches(text, by_text, n=1)]
    hint = f"; did you mean {_named(near[0], pair.queries)}?" if near else ""
    raise ConfigError(f"no query {wanted!r} in these runs{hint}")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _named(query_id: str, queries: Mapping[str, Query]) -> str:
    if query_id not in queries:
        return query_id
    text = " ".join(queries[query_id].text.split())
    return f"{query_id} ({text if len(text) <= CUT else text[: CUT - 1] + '…'})"


def _as_dict(pair: Pair, chosen: Sequence[str], split: str) -> dict[str, Any]:

    shown = []
    for query_id in chosen:
        both = beside(query_id, *pair.runs, (pair.judgements or {}).get(query_id, {}), pair.top)
        query = pair.queries.get(query_id)
        values = [None, None] if pair.values is None else [v.get(query_id) for v in pair.values]
        shown.append(
            {
                "id": query_id,
                "text": None if query is None else query.text,
                "a": values[0],
                "b": values[1],
                "ranking_a": [_place(pair, place) for place in both.a],
                "ranking_b": [_place(pair, place) for place in both.b],
                "only_a": [place.passage_id for place in both.only_a],
                "only_b": [place.passage_id for place in both.only_b],
            }
        )
    return {
        "collection": pair.collection.name,
        "split": split,
        "a": pair.names[0],
        "b": pair.names[1],
        "measure": None if pair.values is None else pair.measure,
        "min_grade": pair.min_grade,
        "top": pair.top,
        "queries": shown,
    }


def _place(pair: Pair, place: Place) -> dict[str, Any]:
    passage = pair.collection.corpus.get(place.passage_id)
    return {
        "rank": place.rank,
        "other_rank": place.other,
        "id": place.passage_id,
        "score": place.score,
        "grade": place.grade,
        "relevant": place.grade is not None and place.grade >= pair.min_grade,
        "title": None if passage is None else passage.title,
        "text": None if passage is None else passage.text,
    }
