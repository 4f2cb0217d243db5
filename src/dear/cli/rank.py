"""`dear rank`: a run reranked by a model, by lists, or by one behind the other."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.artifacts import check_output
from dear.checkpoints.registry import check_model
from dear.cli.fuse import (
    FUSE_QUERIES,
    chosen_weight,
    curve_line,
    dev_queries,
    fuse_values,
    parse_weight,
    rank_all,
)
from dear.cli.lists import Answers, listwise_options, windows_line
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
from dear.cli.output import count, duration, rate, summary
from dear.data.collections import open_collection
from dear.data.formats import read_run, write_run
from dear.data.origins import write_origin
from dear.digests import Input, Inputs
from dear.errors import ConfigError
from dear.evaluate.cost import Meter, stage, together
from dear.rank.ranker import Totals
from dear.records import limit_run
from dear.steps.inputs import find_run, gathered

if TYPE_CHECKING:
    from dear.evaluate.cost import Spent
    from dear.rank.opening import RankerSpec
    from dear.scoring.opening import PairModel


def rank(
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    run: Annotated[
        str,
        typer.Option(
            metavar="RUN", help="The first stage: a file, or one of the collection's own runs."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RUN", help="The run to write (.gz packs it).")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A folder, a hub id, or a name of `dear models`."),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Of a run that is given by name.")
    ] = "test",
    top_k: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Rank the best N candidates and keep only those."),
    ] = None,
    fuse: Annotated[
        str | None,
        typer.Option(
            metavar="W|auto",
            help="Add W times the score of the stage before; auto: W by a dev run.",
        ),
    ] = None,
    fuse_run: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="The dev run for auto; the collection's own, or BM25."),
    ] = None,
    fuse_split: Annotated[
        str, typer.Option(metavar="SPLIT", help="The judged queries for auto.")
    ] = "dev",
    fuse_queries: Annotated[
        int, typer.Option(min=1, metavar="N", help="At most so many of them.")
    ] = FUSE_QUERIES,
    listwise: Annotated[
        str | None,
        typer.Option(
            metavar="BACKEND",
            help="Whole lists, behind the model: local:MODEL, http://HOST/v1, openai:MODEL …",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="rankvicuna, rankgpt, reasoning, list, pairs; a local model's, else rankvicuna.",
        ),
    ] = None,
    guard: Annotated[
        bool,
        typer.Option("--guard", help="Quote passages in lists, so that they cannot give orders."),
    ] = False,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="sliding, topdown, setwise, tournament or full.")
    ] = "sliding",
    window: Annotated[int, typer.Option(metavar="N", help="Passages in a prompt.")] = 20,
    step: Annotated[int, typer.Option(metavar="N", help="How far a window slides.")] = 10,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Rank lists of the best N only, leave the others.",
            show_default="20 behind a model, else all",
        ),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where answers are kept, RUN.answers.jsonl if not given."
        ),
    ] = None,
    no_ledger: Annotated[
        bool, typer.Option("--no-ledger", help="Keep no answers: what is lost is paid again.")
    ] = False,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Rerank a run with a model, with a listwise backend, or with one behind the other."""
    from dear.data.inputs import pairs_input, run_input, texts_input
    from dear.rank.opening import RankerSpec, assemble, open_parts
    from dear.rank.pointwise import PointwiseRanker

    weight = parse_weight(fuse)
    if ledger is not None and (no_ledger or listwise is None):
        raise ConfigError("--ledger keeps the answers of --listwise, and not with --no-ledger")
    if weight == "auto" and (model is None or listwise is not None):
        raise ConfigError("--fuse auto is about a --model's scores alone: give a number")
    spec = RankerSpec(
        model=model,
        listwise=listwise,
        prompt=prompt,
        strategy=strategy,
        window=window,
        step=step,
        depth=depth,
        guard=guard,
        fuse=weight if isinstance(weight, float) else 0.0,
    )
    if model is not None:
        check_model(model)
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    check_output(output)
    opened = open_collection(collection)
    path = find_run(opened, run, split)
    first = limit_run(read_run(path, ties="written"), top_k=top_k)
    candidates = gathered(opened, first)
    dev = (
        dev_queries(opened, run, fuse_run, fuse_split, first, queries=fuse_queries, top_k=top_k)
        if weight == "auto"
        else None
    )
    points, backend, one_backbone = open_parts(spec, options)
    answers = None
    if backend is not None:
        answers = Answers.of(backend, ledger, beside=None if no_ledger else output)
    curve: dict[float, float] = {}
    if dev is not None and points is not None:
        weight, curve = chosen_weight(PointwiseRanker(points), dev)
        spec = replace(spec, fuse=weight)
    scored = _tokens(points)
    with Meter() as meter, answers.kept() if answers else nullcontext() as kept:
        ranker = assemble(spec, points, kept, one_backbone=one_backbone)
        ranked = rank_all(ranker, candidates, "ranking", "pairs" if backend is None else "steps")
    took = Totals.of(ranked.values())
    fused = fuse_values(weight, curve, fuse_split) if fuse is not None else None
    tokens = {k: n - scored[k] for k, n in _tokens(points).items()}
    inputs, values, stages = _came_to(
        spec, points, answers, took, tokens, fused, one_backbone=one_backbone
    )
    inputs |= {"texts": pairs_input(candidates, opened.name), "run": run_input(path)}
    write_run(output, ranked, _tag(model or f"listwise-{strategy}"))
    local = points is not None or spec.is_local
    write_origin(
        output,
        {
            **values,
            "collection": opened.name,
            "split": split,
            "top_k": top_k,
            "queries": len(ranked),
            # where all texts are the same, those of the pairs need not be looked at
            "all_texts": texts_input(opened).digest,
            "seconds": round(took.cost.pointwise_s + took.cost.listwise_s, 3),
            "cost": _cost([meter.spent], device if local else None) | stages,
        },
        first_stage=path,
        inputs=Inputs(inputs),
    )
    lines = [curve_line(weight, curve, dev, fuse_split)] if dev is not None else []
    for line in (*lines, *_lines(output, len(ranked), took, answers)):
        summary(line, output)


def _came_to(
    spec: RankerSpec,
    points: PairModel | None,
    answers: Answers | None,
    took: Totals,
    tokens: dict[str, int],
    fused: dict[str, Any] | None,
    *,
    one_backbone: bool,
) -> tuple[dict[str, Input], dict[str, Any], dict[str, Any]]:
    """(inputs, values and costs by stage) of a ranking, for the run's note."""
    from dear.scoring.revisions import scoring_inputs

    inputs: dict[str, Input] = {}
    values: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    pairs, seconds = took.cost.pairs, took.cost.pointwise_s
    if points is not None:
        stages["pointwise"] = stage("pairs", pairs, seconds, **tokens)
        inputs |= scoring_inputs(points)
        values = {
            **_model_values(points),
            "fuse": fused,
            "pairs": pairs,
            "pairs_per_second": round(pairs / max(seconds, 1e-9), 2),
        }
    if answers is not None:
        answers.count(took)
        told = listwise_options(spec, answers.backend, one_backbone=one_backbone)
        stages["lists"] = answers.stage(took)
        usage = None if answers.usage is None else answers.usage.to_dict()
        kept_in = None if answers.ledger is None else str(answers.ledger)
        name = answers.backend.name
        said = {"backend": name, **told, **took.to_dict(), "usage": usage, "ledger": kept_in}
        values = {"model": name} | values | {"listwise": said}
        # its digest alone: a server's options may be nobody's business
        identity = told | {"backend": dict(getattr(answers.backend, "identity", {}))}
        inputs["lists"] = Input(Input.of_values(identity).digest, name)
    return inputs, values, stages


def _lines(output: Path, queries: int, took: Totals, answers: Answers | None) -> list[str]:
    lines = []
    if answers is not None:
        lines += [windows_line(took), *filter(None, [answers.line()])]
    pairs, seconds = took.cost.pairs, took.cost.pointwise_s
    done = f", {count(pairs, 'pair')}" if pairs else ""
    pace = f" ({rate(pairs, seconds)})" if pairs and answers is None else ""
    all_s = duration(seconds + took.cost.listwise_s)
    return [*lines, f"{output}: {count(queries, 'query')}{done} in {all_s}{pace}"]


def _tag(model: str) -> str:
    """A run's tag for a model's name; it may hold no white space."""
    from dear.label import slug

    return slug(model) or "dear"


def _tokens(model: PairModel | None) -> dict[str, int]:
    """Counted so far, by models that count them."""
    found = {key: getattr(model, key, None) for key in ("tokens_scored", "tokens_padded")}
    return {key.replace("tokens_scored", "tokens"): n for key, n in found.items() if n is not None}


def _cost(spent: list[Spent], device: str | None) -> dict[str, Any]:
    """device: None where nothing was computed here."""
    from dear.checkpoints.hardware import device_name

    return {"device": device and device_name(device), **together(spent).to_dict()}


def _model_values(model: PairModel) -> dict[str, Any]:
    contract = model.contract
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "contract": contract if isinstance(contract, dict) else contract.to_dict(),
        "parameters": model.parameters,
        "engine": getattr(model, "engine_name", None),
    }
