"""A one-logit model as an OpenVINO graph, compared with the checkpoint it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from dear.artifacts import check_folder, read_json
from dear.bench.turns import Score, System, in_turns, pairs_of, quality
from dear.checkpoints.hardware import cpu_has_bfloat16
from dear.checkpoints.registry import check_model
from dear.digests import Input, Inputs, lines_digest
from dear.errors import ConfigError
from dear.export.openvino import ExportDType, export_openvino
from dear.notices import say
from dear.records import Candidates, Judgements, every_nth
from dear.scoring.encoding import Pair
from dear.scoring.engines.openvino import load_openvino
from dear.scoring.exported import EXPORT_FILE, is_exported
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.revisions import revision_named
from dear.steps.inputs import judged_candidates, made_of_the_same
from dear.steps.options import ExportOptions
from dear.steps.progress import Watch, unwatched


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSystem:
    """The checkpoint or its export. ndcg: nDCG@10, None where nothing is judged."""

    name: str
    pairs_per_s: float
    ndcg: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What `export` wrote.

    path: the file that describes the export.  unchanged: it was there, made from the same inputs.
    queries: on which the checkpoint and the export were compared; 0 where they were not.
    failed: name → why one of them could not be measured.
    """

    path: Path
    unchanged: bool = False
    queries: int = 0
    systems: tuple[ComparedSystem, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def export(options: ExportOptions, *, watch: Watch = unwatched) -> ExportResult:
    """Write the export and compare it; one that is there, made from the same, is kept.

    ConfigError: a model that is no one-logit checkpoint, an export from other inputs.
    """
    load_openvino()  # before any weights are read
    check_model(options.model)
    if is_exported(options.model):
        raise ConfigError(f"{options.model}: is an export; name the checkpoint that it was made of")
    texts = None
    if options.collection is not None:
        texts = judged_candidates(options.collection, options.run, options.split)
    calibration: list[Pair] = []
    if texts is not None and options.dtype == "int8":
        calibration = _spread(texts[0], options.pairs)
    inputs = _inputs(options, calibration)
    path = options.output / EXPORT_FILE
    if is_exported(options.output):
        made_of_the_same(path, Inputs.from_dict(read_json(path).get("inputs")), inputs)
        return ExportResult(path=path, unchanged=True)
    check_folder(options.output)
    model = load_scoring_model(options.model, dtype="float32", device="cpu", **_opening(options))
    pairs = f", {len(calibration)} pairs" if calibration else ""
    say(f"exporting {options.model} as {options.dtype}{pairs}")
    export_openvino(
        model,
        options.output,
        cast("ExportDType", options.dtype),
        calibration=calibration,
        inputs=inputs,
    )
    if options.dtype == "bfloat16" and not cpu_has_bfloat16():
        say("this processor has no bfloat16: here the export computes in float32, and says so")
    if texts is None or not options.check_queries:
        return ExportResult(path=path)
    picked = every_nth(texts[0], options.check_queries)
    systems, failed = _compared(options, picked, texts[1], watch)
    return ExportResult(path=path, queries=len(picked), systems=systems, failed=failed)


def _opening(options: ExportOptions) -> dict[str, Any]:
    return {
        "contract": options.contract,
        "instruction": options.instruction,
        "revision": options.revision,
    }


def _inputs(options: ExportOptions, calibration: list[Pair]) -> Inputs:
    found = {
        "model": Input(revision_named(options.model), options.model),
        "settings": Input.of_values({"dtype": options.dtype}),
    }
    if calibration:
        found["texts"] = Input(lines_digest(text for pair in calibration for text in pair))
    return Inputs(found)


def _spread(candidates: list[Candidates], pairs: int) -> list[Pair]:
    """Every n-th pair of all, so that many queries and all ranks are in it."""
    found = pairs_of(candidates)
    # an odd step: candidates come in tens and hundreds
    step = max(1, len(found) // pairs) | 1
    return found[::step][:pairs]


def _compared(
    options: ExportOptions,
    candidates: list[Candidates],
    judgements: Judgements | None,
    watch: Watch,
) -> tuple[tuple[ComparedSystem, ...], dict[str, str]]:
    """The checkpoint and its export in turns, on the same pairs."""

    def system(name: str, where: str, dtype: Literal["auto", "float32"], **how: Any) -> System:
        def load() -> Score:
            return open_model(where, dtype=dtype, device="cpu", **how).score

        return System(name=name, load=load)

    systems = [
        system("checkpoint, float32", options.model, "float32", **_opening(options)),
        system("checkpoint", options.model, "auto", **_opening(options)),
        system("export", str(options.output), "auto"),
    ]
    with watch("comparing", "turns") as report:
        timings, failed = in_turns(systems, pairs_of(candidates), rounds=2, progress=report)
    return tuple(
        ComparedSystem(
            name=t.name,
            pairs_per_s=t.pairs_per_s,
            ndcg=None if judgements is None else quality(t.scores, candidates, judgements),
        )
        for t in timings
    ), failed
