"""`dear export`: a checkpoint in the form that runs fastest on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from dear.artifacts import check_folder, read_json
from dear.checkpoints.contract import read_contract
from dear.checkpoints.registry import check_model
from dear.cli.models import ContractOption, InstructionOption, RevisionOption
from dear.cli.output import note, summary, table
from dear.cli.progress import progress
from dear.cli.runs import RunOption, SplitOption
from dear.digests import Input, Inputs, lines_digest
from dear.errors import ConfigError
from dear.records import every_nth
from dear.steps.inputs import judged_candidates, made_of_the_same

if TYPE_CHECKING:
    from dear.bench.turns import Timing
    from dear.export.openvino import ExportDType
    from dear.records import Candidates, Judgements
    from dear.scoring.encoding import Pair


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint: a folder, hub id or name.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The export's folder.")
    ],
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="float32, bfloat16 or int8.")
    ] = "bfloat16",
    collection: Annotated[
        str | None,
        typer.Option(
            metavar="COLLECTION", help="Its pairs calibrate int8, and show what the export costs."
        ),
    ] = None,
    run: RunOption = "bm25",
    split: SplitOption = "dev",
    pairs: Annotated[int, typer.Option(min=8, metavar="N", help="Pairs to calibrate on.")] = 256,
    check_queries: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Queries on which speed and nDCG@10 are compared."),
    ] = 20,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
) -> None:
    """Write a one-logit model as an OpenVINO graph for CPUs, and show its gain and its loss."""
    from dear.checkpoints.hardware import cpu_has_bfloat16
    from dear.export.openvino import export_openvino
    from dear.scoring.engines.openvino import load_openvino
    from dear.scoring.exported import EXPORT_FILE, is_exported
    from dear.scoring.loading import load_scoring_model

    if dtype not in ("float32", "bfloat16", "int8"):
        raise ConfigError(f"--dtype {dtype}: an export is float32, bfloat16 or int8")
    if dtype == "int8" and collection is None:
        raise ConfigError("--dtype int8 needs --collection: its pairs set the ranges")
    load_openvino()  # before any weights are read
    check_model(model)
    if contract is not None:
        read_contract(contract)  # one that is none, now
    options: dict[str, Any] = {
        "contract": contract,
        "instruction": instruction,
        "revision": revision,
    }
    if is_exported(model):
        raise ConfigError(f"{model}: is an export; name the checkpoint that it was made of")
    texts = None if collection is None else judged_candidates(collection, run, split)
    calibration = [] if texts is None or dtype != "int8" else _spread(texts[0], pairs)
    inputs = _inputs(model, dtype, calibration)
    if is_exported(output):
        there = read_json(output / EXPORT_FILE).get("inputs")
        made_of_the_same(output / EXPORT_FILE, Inputs.from_dict(there), inputs)
        return
    check_folder(output)
    loaded = load_scoring_model(model, dtype="float32", device="cpu", **options)
    note(f"exporting {model} as {dtype}" + (f", {len(calibration)} pairs" if calibration else ""))
    export_openvino(
        loaded, output, cast("ExportDType", dtype), calibration=calibration, inputs=inputs
    )
    summary(f"{output}: {dtype} for OpenVINO; use the folder wherever a model is named")
    if dtype == "bfloat16" and not cpu_has_bfloat16():
        note("this processor has no bfloat16: here the export computes in float32, and says so")
    if texts is not None and check_queries:
        _compare(model, output, texts, check_queries, options)


def _inputs(model: str, dtype: str, calibration: list[Pair]) -> Inputs:
    from dear.scoring.revisions import revision_named

    found = {
        "model": Input(revision_named(model), model),
        "settings": Input.of_values({"dtype": dtype}),
    }
    if calibration:
        found["texts"] = Input(lines_digest(text for pair in calibration for text in pair))
    return Inputs(found)


def _spread(candidates: list[Candidates], pairs: int) -> list[Pair]:
    """Every n-th pair of all, so that many queries and all ranks are in it."""
    from dear.bench.turns import pairs_of

    found = pairs_of(candidates)
    # an odd step: candidates come in tens and hundreds
    step = max(1, len(found) // pairs) | 1
    return found[::step][:pairs]


def _compare(
    model: str,
    output: Path,
    texts: tuple[list[Candidates], Judgements | None],
    queries: int,
    options: dict[str, Any],
) -> None:
    """The checkpoint and its export in turns, on the same pairs."""
    from dear.bench.turns import Score, System, in_turns, pairs_of, quality
    from dear.scoring.opening import open_model

    candidates, judgements = texts
    picked = every_nth(candidates, queries)

    def system(name: str, where: str, dtype: Literal["auto", "float32"], **how: Any) -> System:
        def load() -> Score:
            return open_model(where, dtype=dtype, device="cpu", **how).score

        return System(name=name, load=load)

    systems = [
        system("checkpoint, float32", model, "float32", **options),
        system("checkpoint", model, "auto", **options),
        system("export", str(output), "auto"),
    ]
    with progress("comparing", "turns") as report:
        timings, failed = in_turns(systems, pairs_of(picked), rounds=2, progress=report)
    for name, reason in failed.items():
        note(f"{name}: not measured: {reason}")

    def ndcg(timing: Timing) -> str:
        return "" if judgements is None else f"{quality(timing.scores, picked, judgements):.4f}"

    table(
        (f"on {len(picked)} queries", "pairs/s", "nDCG@10"),
        [(t.name, f"{t.pairs_per_s:,.1f}", ndcg(t)) for t in timings],
        align=("left", "right", "right"),
    )
