"""`dear rank`: a run reranked by a model, by lists, or by one behind the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.cli.fuse import (
    FUSE_QUERIES,
    chosen_weight,
    curve_line,
    dev_queries,
    fuse_values,
    parse_weight,
    rank_all,
)
from dear.cli.lists import Lists, mended_line
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
from dear.cli.runs import check_output, find_run, gathered
from dear.cli.train import check_model
from dear.data.origins import write_origin
from dear.digests import Input, Inputs
from dear.errors import ConfigError

if TYPE_CHECKING:
    from dear.evaluate.cost import Spent
    from dear.rank.reranker import Reranker
    from dear.records import Run


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
            metavar="W|auto", help="Add W times the first stage's score; auto: W by a dev run."
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
        typer.Option(min=1, metavar="N", help="Rank lists of the best N only, leave the others."),
    ] = None,
    blend: Annotated[
        float,
        typer.Option(metavar="W", help="Add W times the model's score to the order of the lists."),
    ] = 0.0,
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
    from dear.data.collections import open_collection
    from dear.data.formats import read_run, write_run
    from dear.data.inputs import pairs_input, run_input, texts_input
    from dear.evaluate.cost import Meter, stage
    from dear.models.revisions import scoring_inputs
    from dear.rank.fusion import fuse_runs
    from dear.rank.reranker import Reranker
    from dear.records import limit_run

    weight = parse_weight(fuse)
    if model is None and weight is not None:
        raise ConfigError("--fuse is about a model's scores: give a --model")
    if model is None and listwise is None:
        raise ConfigError("nothing to rank with: give a --model, a --listwise backend, or both")
    if ledger is not None and (no_ledger or listwise is None):
        raise ConfigError("--ledger keeps the answers of --listwise, and not with --no-ledger")
    if blend and listwise is None:
        raise ConfigError("--blend is about the order of --listwise")
    if guard and listwise is None:
        raise ConfigError("--guard is about the prompts of --listwise")
    lists = (
        None
        if listwise is None
        else Lists(listwise, prompt, strategy, window, step, depth, blend, guard=guard)
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
    reranker = None
    if lists is not None:
        reranker = lists.open(model, options)
        if not no_ledger:
            lists.keep_in(ledger, beside=output)
    dev = (
        dev_queries(opened, run, fuse_run, fuse_split, first, queries=fuse_queries, top_k=top_k)
        if weight == "auto"
        else None
    )
    curve: dict[float, float] = {}
    ranked: Run = first
    pairs, seconds = 0, 0.0
    values: dict[str, Any] = {}
    inputs = {"texts": pairs_input(candidates, opened.name), "run": run_input(path)}
    spent: list[Spent] = []
    stages: dict[str, Any] = {}
    if model is not None:
        reranker = reranker or Reranker(model, **options)
        if dev is not None:
            weight, curve = chosen_weight(reranker, dev)
        scored = _tokens(reranker)
        with Meter() as meter:
            ranked = rank_all(reranker, candidates, "ranking")
        seconds = meter.spent.seconds
        pairs = sum(len(c.passages) for c in candidates)
        spent.append(meter.spent)
        tokens = {k: n - scored[k] for k, n in _tokens(reranker).items()}
        stages["pointwise"] = stage("pairs", pairs, seconds, **tokens)
        if isinstance(weight, float):
            ranked = fuse_runs(ranked, first, weight)
        inputs |= scoring_inputs(reranker.model)
        values = {
            **_model_values(reranker),
            "fuse": fuse_values(weight, curve, fuse_split) if fuse is not None else None,
            "pairs": pairs,
            "pairs_per_second": round(pairs / max(seconds, 1e-9), 2),
        }
    report = None
    if lists is not None:
        before = gathered(opened, ranked)
        with Meter() as meter:
            ranked, report = lists.rank(before)
        seconds += report.seconds
        spent.append(meter.spent)
        stages["lists"] = lists.cost(report)
        values = {"model": lists.name} | values | {"listwise": lists.values(report)}
        # its digest alone: a server's options may be nobody's business
        inputs["lists"] = Input(Input.of_values(lists.identity).digest, lists.name)
    write_run(output, ranked, _tag(model or f"listwise-{strategy}"))
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
            "seconds": round(seconds, 3),
            "cost": _cost(spent, device if model or (lists and lists.is_local) else None) | stages,
        },
        first_stage=path,
        inputs=Inputs(inputs),
    )
    if dev is not None:
        summary(curve_line(weight, curve, dev, fuse_split), output)
    if report is not None:
        summary(mended_line(report), output)
    if lists is not None:
        for line in lists.spent():
            summary(line, output)
    done = f", {count(pairs, 'pair')}" if pairs else ""
    pace = f" ({rate(pairs, seconds)})" if pairs and report is None else ""
    summary(
        f"{output}: {count(len(ranked), 'query')}{done} in {duration(seconds)}{pace}",
        output,
    )


def _tag(model: str) -> str:
    """A run's tag for a model's name; it may hold no white space."""
    from dear.label import slug

    return slug(model) or "dear"


def _tokens(reranker: Reranker) -> dict[str, int]:
    """Counted so far, by models that count them."""
    found = {
        "tokens": getattr(reranker.model, "tokens_scored", None),
        "tokens_padded": getattr(reranker.model, "tokens_padded", None),
    }
    return {key: number for key, number in found.items() if number is not None}


def _cost(spent: list[Spent], device: str | None) -> dict[str, Any]:
    """device: None where nothing was computed here."""
    from dear.evaluate.cost import together
    from dear.models.hardware import device_name

    return {"device": device and device_name(device), **together(spent).to_dict()}


def _model_values(reranker: Reranker) -> dict[str, Any]:
    model = reranker.model
    contract = model.contract
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "contract": contract if isinstance(contract, dict) else contract.to_dict(),
        "parameters": model.parameters,
        "engine": getattr(model, "engine_name", None),
    }
