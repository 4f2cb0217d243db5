"""`dear check`: what a ranker does when its input is not what it was built for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dear.artifacts import check_output, versions, write_json
from dear.backends import BACKENDS
from dear.checkpoints.registry import check_model
from dear.cli.fuse import rank_all
from dear.cli.lists import listwise_options
from dear.cli.models import (
    BatchOption,
    ContractOption,
    DeviceOption,
    DTypeOption,
    InstructionOption,
    PassageTokensOption,
    RevisionOption,
    opening_options,
)
from dear.cli.output import Align, count, duration, note, print_json, quiet, table
from dear.cli.runs import MinGradeOption, RunOption
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.errors import ConfigError, DataError
from dear.records import every_nth
from dear.steps.inputs import find_run, gathered

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.evaluate.robustness import Line, RobustnessReport
    from dear.records import Candidates, Judgements, Ranking


def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="What --model of `dear rank` takes, or a listwise backend."
        ),
    ],
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    run: RunOption,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Of the run and the judgements.")
    ] = "test",
    queries: Annotated[
        int, typer.Option(min=2, metavar="N", help="At most so many, evenly spread over the run.")
    ] = 30,
    depth: Annotated[
        int, typer.Option(min=2, metavar="N", help="The best N candidates of each.")
    ] = 20,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="order, injection, near-duplicates, truncation, queries, extremes; with commas.",
        ),
    ] = None,
    min_grade: MinGradeOption = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of everything random.")] = 0,
    listwise: Annotated[
        str | None,
        typer.Option(metavar="BACKEND", help="Whole lists behind MODEL: check the cascade."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the lists; a local model's own, else rankvicuna."),
    ] = None,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="sliding, topdown, setwise, tournament or full.")
    ] = "sliding",
    window: Annotated[int, typer.Option(metavar="N", help="Passages in a prompt.")] = 20,
    step: Annotated[int, typer.Option(metavar="N", help="How far a window slides.")] = 10,
    fuse: Annotated[
        float,
        typer.Option(metavar="W", help="Add W times MODEL's score to the lists' places."),
    ] = 0.0,
    guard: Annotated[
        bool,
        typer.Option("--guard", help="Quote passages in lists, so that they cannot give orders."),
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything; - is standard output."),
    ] = None,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Check how a ranker stands orders, attacks, typos, cuts and strange passages."""
    from dear.evaluate import robustness
    from dear.rank.opening import RankerSpec, assemble, open_parts

    names = robustness.parse_checks(only)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_output(json_file)
    pairs: str | None = model
    if model.partition(":")[0] in BACKENDS and not Path(model).exists():
        if listwise is not None:
            raise ConfigError(f"{model} is a listwise backend: no --listwise behind it")
        pairs, listwise = None, model
    spec = RankerSpec(
        model=pairs,
        listwise=listwise,
        prompt=prompt,
        strategy=strategy,
        window=window,
        step=step,
        guard=guard,
        fuse=fuse,
    )
    if pairs is not None:
        check_model(pairs)
    opened = open_collection(collection)
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    min_grade = opened.min_grade if min_grade is None else min_grade
    candidates, judgements = _candidates(opened, run, split, queries, depth, min_grade)
    during = _During()
    points, backend, one_backbone = open_parts(spec, options)
    ranker = assemble(spec, points, backend, one_backbone=one_backbone)

    def rank(asked: Sequence[Candidates]) -> Iterable[Ranking]:
        ranked = rank_all(ranker, list(asked), f"checking: {during.name}")
        return [ranked[c.query.id] for c in asked]

    started = time.perf_counter()
    report = robustness.check(
        candidates,
        judgements,
        rank,
        pointwise=backend is None,
        only=names,
        min_grade=min_grade,
        seed=seed,
        before_check=during.begin,
    )
    seconds = time.perf_counter() - started
    named = " + ".join(filter(None, (pairs, listwise)))
    values = {
        "model": named,
        "guard": guard,
        "lists": None
        if backend is None
        else listwise_options(spec, backend, one_backbone=one_backbone),
        "collection": opened.name,
        "split": split,
        "run": run,
        "depth": depth,
        "seconds": round(seconds, 1),
        **report.to_dict(),
        "versions": versions(),
    }
    if to_stdout:
        print_json(values)
    else:
        if json_file is not None:
            write_json(json_file, values)
        _show(report, f"{named} on {opened.name}", seconds)
    for line in report.notes:
        note(line)


class _During:
    """What is being checked, for the progress bar."""

    def __init__(self) -> None:
        self.name = "unchanged"

    def begin(self, name: str) -> None:
        self.name = name


def _candidates(
    opened: Collection, run: str, split: str, queries: int, depth: int, min_grade: int
) -> tuple[list[Candidates], Judgements]:
    """Of queries with a relevant passage, if there are any."""

    found = read_run(find_run(opened, run, split), ties="written")
    judgements = opened.judgements(split) if opened.has_judgements(split) else {}
    judged = [
        q for q in found if any(grade >= min_grade for grade in judgements.get(q, {}).values())
    ]
    asked = every_nth(judged or found, queries)
    if not asked:
        raise DataError(f"the run {run!r} ranks nothing")
    return gathered(opened, {q: found[q].top(depth) for q in asked}), judgements


HEADERS = ("check", "change", "verdict", "by", "value", "queries", "nDCG@10", "p", "also")
_ALIGN: tuple[Align, ...] = tuple(
    "right" if header in ("value", "queries", "nDCG@10", "p") else "left" for header in HEADERS
)


def _show(report: RobustnessReport, what: str, seconds: float) -> None:
    from dear.evaluate.robustness import LIMITS

    table(HEADERS, [_row(line) for line in report.lines], align=_ALIGN, wrap=("also", "by"))
    if quiet.get():
        return
    print()
    for check in report.checks:
        print(f"{check}: {report.verdict(check) or 'no verdict'}")
    print()
    for name in dict.fromkeys(line.limit for line in report.lines if line.limit):
        limit = LIMITS[name]
        print(f"{name}: {limit.says}; holds to {limit.holds:g}, sensitive to {limit.sensitive:g}")
    ndcg = "" if report.ndcg is None else f", nDCG@10 {report.ndcg:.4f} unchanged"
    print(
        f"{what}: {count(report.queries, 'query')}, {count(report.passages, 'passage')}{ndcg}; "
        f"the top is {report.top}; seed {report.seed}; {duration(seconds)}"
    )


def _row(line: Line) -> tuple[str, ...]:
    c = line.comparison
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in line.numbers.items())
    return (
        line.check,
        line.name,
        line.verdict or "",
        line.limit or "",
        "" if line.value is None else f"{line.value:.4g}",
        str(line.count),
        "" if c is None else f"{c.difference:+.4f}",
        "" if c is None else f"{c.p_randomisation:.3f}",
        line.error or numbers,
    )
