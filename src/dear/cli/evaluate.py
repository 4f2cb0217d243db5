"""`dear evaluate`: runs beside their first stage, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.cli.output import Align, count, note, print_json, quiet, table
from dear.cli.runs import check_output, find_run, read_origin

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.evaluate.compare import PairwiseComparison
    from dear.evaluate.metrics import Evaluation
    from dear.records import Run

RIGHT: Align = "right"
ENDINGS = (".gz", ".trec", ".run", ".txt")


@dataclass(frozen=True, slots=True)
class _Row:
    """A run under the name that the tables give it."""

    name: str
    path: Path
    is_first_stage: bool
    run: Run
    evaluation: Evaluation


def evaluate(
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    run: Annotated[
        list[str],
        typer.Option(
            "--run",
            metavar="RUN",
            help="A run's file, or one of the collection's own; may be repeated.",
        ),
    ],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Whose judgements.")] = "test",
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="M",
            help="Such as nDCG@10; may be repeated; the first is compared.",
        ),
    ] = None,
    min_grade: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Lowest relevant grade of MRR, MAP, R; TREC DL takes 2."
        ),
    ] = 1,
    first_stage: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="The run that was reranked, where nothing beside it says."
        ),
    ] = None,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="Every query's values of the first measure.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything; - is standard output."),
    ] = None,
) -> None:
    """Measure runs against judgements, and compare them."""
    from dear.data.collections import open_collection
    from dear.evaluate.metrics import MEASURES, parse_measures

    names = [m.name for m in parse_measures(measure or MEASURES)]
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_output(json_file)
    opened = open_collection(collection)
    judgements = opened.judgements(split)
    paths = [find_run(opened, one, split) for one in run]
    firsts, notes = _first_stages(opened, paths, first_stage, split)
    rows = _rows(opened, split, firsts, paths, judgements, names, min_grade)
    notes += [*_missing(rows), *_other_candidates(rows)]
    comparisons = _compare(rows, names[0], notes)
    report = _report(opened.name, split, names, min_grade, rows, comparisons, notes, per_query)
    if to_stdout:
        print_json(report)
    else:
        if json_file is not None:
            from dear.artifacts import write_json

            write_json(json_file, report)
        _show(rows, names, comparisons, per_query)
    for line in notes:
        note(line)


def _first_stages(
    collection: Collection, runs: Sequence[Path], given: str | None, split: str
) -> tuple[list[Path], list[str]]:
    """The runs that were reranked, each once, and what there is to say about finding them."""
    if given is not None:
        return [find_run(collection, given, split)], []
    found: dict[Path, Path] = {}
    notes: list[str] = []
    own = collection.runs(split).get("bm25")
    for run in runs:
        origin = read_origin(run)
        if origin is not None and origin.model is None:
            found.setdefault(run.resolve(), run)
            continue
        first = origin.first_stage if origin is not None else None
        if first is not None and not first.is_file():
            notes.append(f"{first}, which {run} was made from, is gone")
            first = None
        if first is None:
            first = own
        if first is not None:
            found.setdefault(first.resolve(), first)
    if not found:
        notes.append("no first stage to compare with is known; name it with --first-stage")
    return list(found.values()), notes


def _rows(
    collection: Collection,
    split: str,
    firsts: Sequence[Path],
    runs: Sequence[Path],
    judgements: Mapping[str, Mapping[str, int]],
    measures: Sequence[str],
    min_grade: int,
) -> list[_Row]:
    """First stages first; the same file is one row."""
    from dear.data.formats import read_run
    from dear.evaluate.metrics import evaluate as measure_run

    files = {path.resolve(): path for path in (*firsts, *runs)}
    own = {p.resolve(): name for name, p in collection.runs(split).items()}
    names = run_names(list(files.values()), own)
    first = {path.resolve() for path in firsts}
    rows = []
    for (real, path), name in zip(files.items(), names, strict=True):
        run = read_run(path)
        values = measure_run(run, judgements, measures, min_grade=min_grade)
        rows.append(_Row(name, path, real in first, run, values))
    return rows


def run_names(paths: Sequence[Path], own: Mapping[Path, str]) -> list[str]:
    """A short name for each file, all different: the file's, with folders where it must be.

    own: resolved path → name, for the collection's own runs.
    """
    names = [own.get(path.resolve()) or _stem(path, 1) for path in paths]
    for depth in range(2, max(len(path.resolve().parts) for path in paths)):
        if len(set(names)) == len(names):
            return names
        names = [
            _stem(path, depth) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _stem(path: Path, depth: int) -> str:
    name = path.name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    parents = path.resolve().parent.parts[1:]
    return "/".join((*parents[len(parents) - depth + 1 :], name or path.name))


def _missing(rows: Sequence[_Row]) -> list[str]:
    notes = []
    for row in rows:
        evaluation = row.evaluation
        if evaluation.missing:
            notes.append(
                f"{row.name} lacks {len(evaluation.missing)} of {_queries(row)} judged queries, "
                f"such as {evaluation.missing[0]}; they count as zero"
            )
        if evaluation.unjudged:
            notes.append(
                f"{row.name} ranks for {count(evaluation.unjudged, 'query')} that nobody judged; "
                "they count nowhere"
            )
    return notes


def _queries(row: _Row) -> int:
    return len(next(iter(row.evaluation.per_query.values())))


def _other_candidates(rows: Sequence[_Row]) -> list[str]:
    """Where a run ranks other passages than the first row does."""
    notes = []
    for row in rows[1:]:
        base = rows[0]
        shared = [q for q in row.run if q in base.run]
        other = [q for q in shared if set(row.run[q].passage_ids) != set(base.run[q].passage_ids)]
        if not other:
            continue
        part = all(set(row.run[q].passage_ids) < set(base.run[q].passage_ids) for q in other)
        what = f"only a part of {base.name}'s candidates" if part else "other candidates"
        notes.append(
            f"{row.name} ranks {what} for {len(other)} of {count(len(shared), 'query')}: "
            f"compare it with {base.name} with care"
        )
    return notes


def _compare(rows: Sequence[_Row], measure: str, notes: list[str]) -> list[PairwiseComparison]:
    """Every pair, the later row as a, so that a gain over the first stage is positive."""
    from dear.evaluate.compare import compare_all

    if len(rows) < 2:
        return []
    if _queries(rows[0]) < 2:
        notes.append("one judged query is too few to compare runs")
        return []
    backwards = {row.name: row.evaluation for row in reversed(rows)}
    return list(reversed(compare_all(backwards, measure)))


def _show(
    rows: Sequence[_Row],
    measures: Sequence[str],
    comparisons: Sequence[PairwiseComparison],
    per_query: bool,
) -> None:
    lacking = any(row.evaluation.missing for row in rows)
    table(
        ("run", *measures, *(("missing",) if lacking else ())),
        [
            (
                f"{row.name} (first stage)" if row.is_first_stage else row.name,
                *(f"{row.evaluation.means[m]:.4f}" for m in measures),
                *((str(len(row.evaluation.missing)),) if lacking else ()),
            )
            for row in rows
        ],
        align=("left", *[RIGHT] * (len(measures) + lacking)),
        wrap=("run",),
    )
    if comparisons:
        print()
        _show_comparisons(comparisons, measures[0], _queries(rows[0]))
    if per_query:
        print()
        _show_queries(rows, measures[0])


def _show_comparisons(
    comparisons: Sequence[PairwiseComparison], measure: str, queries: int
) -> None:
    table(
        (measure, "difference", "95 % interval", "p rand.", "p t", "win/tie/loss"),
        [
            (
                f"{pair.a} − {pair.b}",
                f"{c.difference:+.4f}",
                f"{c.interval[0]:+.4f} {c.interval[1]:+.4f}",
                _p(pair.holm_randomisation),
                _p(pair.holm_t),
                f"{c.wins}/{c.ties}/{c.losses}",
            )
            for pair in comparisons
            for c in (pair.comparison,)
        ],
        align=("left", "right", "right", "right", "right", "right"),
        wrap=(measure,),
    )
    if not quiet.get():
        many = f", Holm-corrected over {len(comparisons)} pairs" if len(comparisons) > 1 else ""
        print(f"{queries} queries; p: paired randomisation and t test{many}")


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _show_queries(rows: Sequence[_Row], measure: str) -> None:
    ids = rows[0].evaluation.per_query[measure]
    table(
        (f"query ({measure})", *(row.name for row in rows)),
        [
            (query_id, *(f"{row.evaluation.per_query[measure][query_id]:.4f}" for row in rows))
            for query_id in ids
        ],
        align=("left", *[RIGHT] * len(rows)),
    )


def _report(
    collection: str,
    split: str,
    measures: Sequence[str],
    min_grade: int,
    rows: Sequence[_Row],
    comparisons: Sequence[PairwiseComparison],
    notes: Sequence[str],
    per_query: bool,
) -> dict[str, Any]:
    from dear.train.checkpoints import versions

    return {
        "collection": collection,
        "split": split,
        "queries": _queries(rows[0]),
        "min_grade": min_grade,
        "measures": list(measures),
        "runs": [_row(row, per_query) for row in rows],
        "compared_by": measures[0],
        "comparisons": [
            {
                "a": pair.a,
                "b": pair.b,
                **asdict(pair.comparison),
                "holm_randomisation": pair.holm_randomisation,
                "holm_t": pair.holm_t,
            }
            for pair in comparisons
        ],
        "notes": list(notes),
        "versions": versions(),
    }


def _row(row: _Row, per_query: bool) -> dict[str, Any]:
    origin = read_origin(row.path)
    evaluation = row.evaluation
    return {
        "name": row.name,
        "path": str(row.path),
        "first_stage": row.is_first_stage,
        "made_by": None if origin is None else dict(origin.values),
        "means": evaluation.means,
        "missing": list(evaluation.missing),
        "unjudged": evaluation.unjudged,
        **({"per_query": evaluation.per_query} if per_query else {}),
    }
