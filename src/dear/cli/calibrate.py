"""`dear calibrate`: fit a map from a model's scores to probabilities of relevance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.artifacts import check_folder
from dear.checkpoints.registry import check_model
from dear.cli.fuse import rank_all
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
from dear.cli.runs import MinGradeOption, RunOption, SplitOption
from dear.data.collections import open_collection
from dear.data.formats import read_run
from dear.data.origins import read_origin
from dear.digests import Input, Inputs, file_digest
from dear.errors import ConfigError
from dear.records import every_nth
from dear.steps.inputs import find_run, gathered, made_of_the_same
from dear.steps.options import TOP_K

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.evaluate.calibration import Calibration
    from dear.records import Judgements, Run
    from dear.scoring.opening import PairModel

QUERIES = 200

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
            help="The folder to write to; the model's own if not given.",
        ),
    ] = None,
    run: RunOption = "bm25",
    split: SplitOption = "dev",
    queries: Annotated[int, typer.Option(min=2, metavar="N", help="Queries to look at.")] = QUERIES,
    probability: Annotated[
        str, typer.Option(metavar="KIND", help="The map: platt, temperature or isotonic.")
    ] = "platt",
    min_grade: MinGradeOption = None,
    unjudged: Annotated[
        str,
        typer.Option(metavar="leave|irrelevant", help="What to do with unjudged passages."),
    ] = "leave",
    allow_test: Annotated[
        bool, typer.Option("--allow-test", help="Fit on the test split after all.")
    ] = False,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Fit a map from scores to probabilities of relevance on judged queries."""

    check_model(model)
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    from dear.evaluate.calibration import CALIBRATION_FILE, check_kind

    check_kind(probability)
    if split == "test" and not allow_test:
        raise ConfigError(
            "a map fitted on test flatters every test result; fit it on dev or train (--split), or "
            "say --allow-test"
        )
    folder = output or Path(model)
    if output is None and not folder.is_dir():
        raise ConfigError(f"{model} is no folder; name one for the map with --output")
    if unjudged not in ("leave", "irrelevant"):
        raise ConfigError(f"--unjudged {unjudged!r}: leave or irrelevant")
    check_folder(folder)
    asked = _Asked.of(
        collection, run, split, queries, {"min_grade": min_grade, "unjudged": unjudged}
    )
    there = folder / CALIBRATION_FILE
    if there.exists():
        from dear.evaluate.calibration import Calibration

        made_of_the_same(there, Calibration.load(there).inputs, asked.inputs(model, probability))
        return
    found = _probabilities(model, probability, asked, options)
    _show(found, found.save(folder), model if output is None else None)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a map is fitted on. first: the run's best candidates of the judged queries."""

    opened: Collection
    path: Path
    split: str
    whole: Run
    first: Run
    judgements: Judgements
    policy: dict[str, Any]

    @classmethod
    def of(
        cls, collection: str, run: str, split: str, queries: int, policy: dict[str, Any]
    ) -> _Asked:

        opened = open_collection(collection)
        if policy["min_grade"] is None:
            policy = policy | {"min_grade": opened.min_grade}
        path = find_run(opened, run, split)
        judgements = opened.judgements(split)
        whole = read_run(path, ties="written")
        asked = every_nth((q for q in whole if q in judgements), queries)
        return cls(
            opened=opened,
            path=path,
            split=split,
            whole=whole,
            first={q: whole[q].top(TOP_K) for q in asked},
            judgements=judgements,
            policy=policy,
        )

    def inputs(self, model: str, kind: str) -> Inputs:
        from dear.data.inputs import judgements_input, pairs_input, run_input
        from dear.scoring.revisions import revision_named

        judged = {q: self.judgements[q] for q in self.first}
        return Inputs(
            {
                "model": Input(revision_named(model), model),
                "texts": pairs_input(gathered(self.opened, self.first), self.opened.name),
                "judgements": judgements_input(judged, f"{self.opened.name}, {self.split}"),
                "run": run_input(self.path),
                "settings": Input.of_values({"kind": kind, **self.policy}),
            }
        )


def _probabilities(model: str, kind: str, asked: _Asked, options: dict[str, Any]) -> Calibration:
    from dear.evaluate.calibration import calibrate as fit
    from dear.evaluate.reliability import judged_scores
    from dear.scoring.opening import open_model

    # before the model is read: what is relevant does not depend on its scores
    judged_scores(asked.first, asked.judgements, **asked.policy).require_both()
    inputs = asked.inputs(model, kind)
    scorer = open_model(model, **options)
    scored = _scored(scorer, asked)
    contract = scorer.contract
    return fit(
        judged_scores(scored, asked.judgements, **asked.policy),
        kind,
        revision=scorer.revision,
        contract=contract if isinstance(contract, dict) else contract.to_dict(),
        fitted_on={
            "collection": asked.opened.name,
            "split": asked.split,
            "run": asked.path.name,
            "run_sha256": file_digest(asked.path),
            "depth": TOP_K,
            **asked.policy,
        },
        inputs=inputs,
    )


def _scored(scorer: PairModel, asked: _Asked) -> Run:
    """The run with the model's scores: its own, where the note beside it says that it ranked it,
    with these weights and over these texts."""
    from dear.data.inputs import pairs_input, texts_input
    from dear.rank.reranker import Reranker
    from dear.scoring.revisions import scoring_inputs

    origin = read_origin(asked.path)
    # "early": of runs that older versions wrote
    altered = ("early", "fuse", "listwise")
    if origin is not None and origin.model is not None:
        now = Inputs(scoring_inputs(scorer), complete=False)
        found = origin.inputs.changes(now)
        if not found and origin.values.get("all_texts") != texts_input(asked.opened).digest:
            texts = pairs_input(gathered(asked.opened, asked.whole), asked.opened.name)
            found = origin.inputs.changes(now | {"texts": texts})
        if found or found.unverified:
            why = str(found) or f"it does not say of which {', '.join(found.unverified)} it is"
            if origin.model == scorer.name:
                note(f"{asked.path}: ranked by this model, but scored again: {why}")
        elif not any(origin.values.get(key) for key in altered):
            note(f"{asked.path}: ranked by this model; its scores are taken from there")
            return asked.first
    return rank_all(Reranker(scorer), gathered(asked.opened, asked.first), "scoring")


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
