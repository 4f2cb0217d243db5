"""Calibration: a map from a model's scores to probabilities of relevance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.artifacts import check_folder
from dear.checkpoints.registry import check_model
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run
from dear.data.inputs import judgements_input, pairs_input, run_input, texts_input
from dear.data.origins import Origin, read_origin
from dear.digests import Changes, Input, Inputs, file_digest
from dear.evaluate.calibration import CALIBRATION_FILE, Calibration, check_kind
from dear.evaluate.calibration import calibrate as fit
from dear.evaluate.metrics import tell_of_made
from dear.evaluate.reliability import judged_scores
from dear.notices import say
from dear.rank.reranker import Reranker
from dear.records import Judgements, Run, every_nth
from dear.scoring.opening import PairModel, open_model
from dear.scoring.revisions import revision_named, scoring_inputs
from dear.steps.inputs import find_run, gathered, made_of_the_same
from dear.steps.options import TOP_K, CalibrateOptions
from dear.steps.progress import Watch, rank_watched, unwatched


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedModel:
    """path: the map's file.  unchanged: it was there, made from the same inputs."""

    calibration: Calibration
    path: Path
    unchanged: bool = False


def calibrate(options: CalibrateOptions, *, watch: Watch = unwatched) -> CalibratedModel:
    """Fit a map on judged queries and write it; one that is there, made from the same, is kept.

    ConfigError: the map that is there was made from other inputs.
    """
    check_model(options.model)
    check_kind(options.probability)
    check_folder(options.folder)
    data = _FittingData.of(options)
    inputs = data.inputs(options)
    path = options.folder / CALIBRATION_FILE
    if path.exists():
        calibration = Calibration.load(path)
        made_of_the_same(path, calibration.inputs, inputs)
        return CalibratedModel(calibration=calibration, path=path, unchanged=True)
    # before the model is read: what is relevant does not depend on its scores
    judged_scores(data.first, data.judgements, **data.policy).require_both()
    model = open_model(options.model, **options.model_options.to_dict())
    scored = _scored(model, data, watch)
    contract = model.contract
    calibration = fit(
        judged_scores(scored, data.judgements, **data.policy),
        options.probability,
        revision=model.revision,
        contract=contract if isinstance(contract, dict) else contract.to_dict(),
        fitted_on={
            "collection": data.collection.name,
            "split": data.split,
            "run": data.path.name,
            "run_sha256": file_digest(data.path),
            "depth": TOP_K,
            **data.policy,
        },
        inputs=inputs,
    )
    return CalibratedModel(calibration=calibration, path=calibration.save(options.folder))


@dataclass(frozen=True, kw_only=True, slots=True)
class _FittingData:
    """What a map is fitted on.

    whole: the run at `path`.  first: the best candidates of those of its queries that are judged.
    policy: what is relevant: arguments of `judged_scores`.
    """

    collection: Collection
    path: Path
    split: str
    whole: Run
    first: Run
    judgements: Judgements
    policy: dict[str, Any]

    @classmethod
    def of(cls, options: CalibrateOptions) -> _FittingData:
        collection = open_collection(options.collection)
        min_grade = collection.min_grade if options.min_grade is None else options.min_grade
        path = find_run(collection, options.run, options.split)
        judgements = collection.judgements(options.split)
        tell_of_made(judgements)
        whole = read_run(path, ties="written")
        asked = every_nth((q for q in whole if q in judgements), options.queries)
        return cls(
            collection=collection,
            path=path,
            split=options.split,
            whole=whole,
            first={q: whole[q].top(TOP_K) for q in asked},
            judgements=judgements,
            policy={"min_grade": min_grade, "unjudged": options.unjudged},
        )

    def inputs(self, options: CalibrateOptions) -> Inputs:
        judged = {q: self.judgements[q] for q in self.first}
        name = self.collection.name
        return Inputs(
            {
                "model": Input(revision_named(options.model), options.model),
                "texts": pairs_input(gathered(self.collection, self.first), name),
                "judgements": judgements_input(judged, f"{name}, {self.split}"),
                "run": run_input(self.path),
                "settings": Input.of_values({"kind": options.probability, **self.policy}),
            }
        )


def _scored(model: PairModel, data: _FittingData, watch: Watch) -> Run:
    """The run with the model's scores: its own, where its note says that this model ranked it, with
    these weights and over these texts."""
    origin = read_origin(data.path)
    if origin is not None and origin.model is not None:
        found = _changes(model, data, origin)
        # "early": of runs that older versions wrote
        altered = any(origin.values.get(key) for key in ("early", "fuse", "listwise"))
        if found or found.unverified:
            why = str(found) or f"it does not say of which {', '.join(found.unverified)} it is"
            if origin.model == model.name:
                say(f"{data.path}: ranked by this model, but scored again: {why}")
        elif not altered:
            say(f"{data.path}: ranked by this model; its scores are taken from there")
            return data.first
    candidates = gathered(data.collection, data.first)
    return rank_watched(Reranker(model), candidates, watch, "scoring")


def _changes(model: PairModel, data: _FittingData, origin: Origin) -> Changes:
    """Where the run at hand was ranked by other weights, or over other texts."""
    now = Inputs(scoring_inputs(model), complete=False)
    found = origin.inputs.changes(now)
    if not found and origin.values.get("all_texts") != texts_input(data.collection).digest:
        texts = pairs_input(gathered(data.collection, data.whole), data.collection.name)
        found = origin.inputs.changes(now | {"texts": texts})
    return found
