"""`dear calibrate`: scores as probabilities, and where hopeless candidates may leave early."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from dear.cli.output import count, note, summary, table
from dear.cli.progress import progress
from dear.cli.runs import (
    TOP_K,
    MinGradeOption,
    RunOption,
    SplitOption,
    candidates_of,
    check_folder,
)
from dear.errors import ConfigError

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.evaluate.calibration import Calibration
    from dear.models.opening import PairModel
    from dear.records import Candidates, Run

QUERIES, QUERIES_EARLY = 200, 60

TIMED_LISTS = 10
"""Calibration lists that are ranked with and without an early exit, to see what it gains."""

FEW_RELEVANT = 50
"""Below so many relevant pairs a map is rough, and is said to be."""


def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint: a folder, hub id or name.")
    ],
    collection: Annotated[
        str, typer.Option(metavar="COLLECTION", help="Queries like those that will be ranked.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The folder to write to; for probabilities the model's own if not given.",
        ),
    ] = None,
    run: RunOption = "bm25",
    split: SplitOption = "dev",
    queries: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Queries to look at.",
            show_default=f"{QUERIES_EARLY}; {QUERIES} for probabilities",
        ),
    ] = None,
    probability: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Fit scores to probabilities instead: platt, temperature or isotonic.",
        ),
    ] = None,
    min_grade: MinGradeOption = None,
    unjudged: Annotated[
        str,
        typer.Option(metavar="leave|irrelevant", help="What nobody judged, for probabilities."),
    ] = "leave",
    allow_test: Annotated[
        bool, typer.Option("--allow-test", help="Fit probabilities on the test split after all.")
    ] = False,
    top_k: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Early exit: the part of the ranking that is kept."),
    ] = 10,
    keep: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Early exit: of the full model's top that must stay."),
    ] = 0.99,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Fit probabilities of relevance, or an early exit for top-k rankings, on judged queries."""
    from dear.cli.train import check_model

    check_model(model)
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    if probability is None:
        if output is None:
            raise ConfigError("name the early exit's folder with --output")
        _early(model, collection, output, run, split, queries, top_k, keep, options)
        return
    from dear.evaluate.calibration import CALIBRATION_FILE
    from dear.evaluate.score_maps import check_kind

    check_kind(probability)
    if split == "test" and not allow_test:
        raise ConfigError(
            "a map fitted on test flatters every test result; fit it on dev or train (--split), or "
            "say --allow-test"
        )
    folder = output or Path(model)
    if output is None and not folder.is_dir():
        raise ConfigError(f"{model} is no folder; name one for the map with --output")
    if (folder / CALIBRATION_FILE).exists():
        raise ConfigError(f"{folder / CALIBRATION_FILE} is there already; remove it to repeat it")
    if unjudged not in ("leave", "irrelevant"):
        raise ConfigError(f"--unjudged {unjudged!r}: leave or irrelevant")
    check_folder(folder)
    found = _probabilities(
        model,
        probability,
        collection,
        run,
        split,
        queries or QUERIES,
        {"min_grade": min_grade, "unjudged": unjudged},
        options,
    )
    _show(found, found.save(folder), model if output is None else None)


def _early(
    model: str,
    collection: str,
    output: Path,
    run: str,
    split: str,
    queries: int | None,
    top_k: int,
    keep: float,
    options: dict[str, Any],
) -> None:
    from dear.models.engines.early import EarlyExit
    from dear.models.loading import ScoringModel
    from dear.models.opening import open_model
    from dear.models.scorer import Scorer
    from dear.rank.early import calibrate as fit
    from dear.records import every_nth

    if (output / "early_exit.json").exists():
        raise ConfigError(f"{output}: holds an early exit already; remove the folder to repeat it")
    candidates, _ = candidates_of(collection, run, split)
    picked = every_nth(candidates, queries or QUERIES_EARLY)
    check_folder(output)
    scorer = open_model(model, **options)
    if not isinstance(scorer, Scorer) or not isinstance(scorer.model, ScoringModel):
        raise ConfigError(f"{model}: only a one-logit checkpoint can leave early")
    encode = scorer.encoder.encode
    lists = [encode([(c.query.text, p.full_text) for p in c.passages]) for c in picked]
    with progress("calibrating", "pairs") as report:
        found: EarlyExit = fit(
            scorer.model,
            lists,
            top_k=top_k,
            keep=keep,
            batch_tokens=scorer.batch_tokens,
            progress=report,
        )
    found.save(output)
    summary(
        f"{output}: candidates leave after layer {found.layer} of {found.layers}; on "
        f"{found.queries} queries {found.recall:.1%} of the full top {top_k} stayed, and "
        f"{found.share:.0%} of the layers were computed"
    )
    gain = _early_gain(scorer, output, picked[:TIMED_LISTS], top_k)
    if gain < 1:
        note(
            f"it takes longer than computing everything ({gain:.2f} times as fast, on "
            f"{count(len(picked[:TIMED_LISTS]), 'list')}): too few layers are saved here"
        )
    else:
        summary(f"{gain:.2f} times as fast as computing everything, on the first lists")


def _early_gain(
    scorer: PairModel, output: Path, candidates: Sequence[Candidates], top_k: int
) -> float:
    """Seconds of whole rankings by those with the early exit, after a warm-up of both."""
    from dear.rank.reranker import Reranker

    ways = [Reranker(scorer), Reranker(scorer, early=output)]
    seconds = []
    for way in ways:
        list(way.rank_candidates(candidates[:1], top_k=top_k))
        started = time.perf_counter()
        list(way.rank_candidates(candidates, top_k=top_k))
        seconds.append(time.perf_counter() - started)
    return seconds[0] / max(seconds[1], 1e-9)


def _probabilities(
    model: str,
    kind: str,
    collection: str,
    run: str,
    split: str,
    queries: int,
    policy: dict[str, Any],
    options: dict[str, Any],
) -> Calibration:
    from dear.cli.runs import find_run
    from dear.data.collections import open_collection
    from dear.data.formats import read_run
    from dear.data.origins import sha256
    from dear.evaluate.calibration import calibrate as fit
    from dear.evaluate.reliability import judged_scores
    from dear.models.opening import open_model
    from dear.records import every_nth

    opened = open_collection(collection)
    if policy["min_grade"] is None:
        policy = policy | {"min_grade": opened.min_grade}
    path = find_run(opened, run, split)
    judgements = opened.judgements(split)
    whole = read_run(path)
    asked = every_nth((q for q in whole if q in judgements), queries)
    first = {q: whole[q].top(TOP_K) for q in asked}
    # before the model is read: what is relevant does not depend on its scores
    judged_scores(first, judgements, **policy).require_both()
    scorer = open_model(model, **options)
    scored = _scored(scorer, opened, path, first)
    contract = scorer.contract
    return fit(
        judged_scores(scored, judgements, **policy),
        kind,
        revision=scorer.revision,
        contract=contract if isinstance(contract, dict) else contract.to_dict(),
        fitted_on={
            "collection": opened.name,
            "split": split,
            "run": path.name,
            "run_sha256": sha256(path),
            "depth": TOP_K,
            **policy,
        },
    )


def _scored(scorer: PairModel, opened: Collection, path: Path, run: Run) -> Run:
    """The run with the model's scores: its own, where the note beside it says that it ranked it."""
    from dear.cli.fuse import rank_all
    from dear.cli.runs import gathered
    from dear.data.origins import read_origin
    from dear.rank.reranker import Reranker

    origin = read_origin(path)
    if origin is not None:
        same = ("revision", "fingerprint")
        altered = ("early", "fuse", "listwise")
        if all(origin.values.get(key) == getattr(scorer, key) for key in same) and not any(
            origin.values.get(key) for key in altered
        ):
            note(f"{path}: ranked by this model; its scores are taken from there")
            return run
    return rank_all(Reranker(scorer), gathered(opened, run), "scoring")


def _show(found: Calibration, path: Path, model: str | None) -> None:
    before, after = found.before, found.after
    table(
        (f"{found.kind}, cross-validated", "sigmoid", "map"),
        [
            (name, f"{getattr(before, key):.4f}", f"{getattr(after, key):.4f}")
            for name, key in (
                ("expected calibration error", "ece"),
                ("the same, equal mass", "ece_mass"),
                ("maximum calibration error", "mce"),
                ("Brier score", "brier"),
                ("negative log likelihood", "nll"),
            )
        ],
        align=("left", "right", "right"),
    )
    where = "" if model is not None else f" (use it with --calibration {path.parent})"
    queries = count(int(found.fitted_on["queries"]), "query")
    summary(
        f"{path}: fitted on {count(after.pairs, 'pair')} of {queries}, "
        f"{after.relevant:,} of them relevant{where}"
    )
    if after.relevant < FEW_RELEVANT:
        note(f"only {count(after.relevant, 'relevant pair')}: a rough map; take more --queries")
