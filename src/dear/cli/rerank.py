"""`dear rerank`: a person's query over a file of passages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.checkpoints.registry import check_model
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
from dear.cli.output import note, print_json, table
from dear.data.formats import read_passages
from dear.errors import ConfigError

if TYPE_CHECKING:
    from dear.rank.reranker import Reranker

DEFAULT_MODEL = "biencoder:minilm-l6"
"""What `dear rerank` uses: weights that come as a package, with the extra `demo`."""


def rerank(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is asked.")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Passages, a line each, as text or JSON; - is standard input."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="A model; a student of your own is better than this one."
        ),
    ] = DEFAULT_MODEL,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Passages to show.")] = 10,
    probability: Annotated[
        bool,
        typer.Option(
            "--probability", help="Show how likely each is relevant; see `dear calibrate`."
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="P", help="Leave out what is less likely relevant."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the map to probabilities is.", show_default="MODEL"
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show how each score comes about: tokens, cut, engine, plain logit."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Rank a file's passages for one query."""
    from dear.rank.reranker import Reranker

    _check_query(query)
    check_model(model)
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    passages = read_passages(file)
    reranker = Reranker(model, calibration=calibration, **options)
    likely = probability or threshold is not None or calibration is not None
    mapped = reranker.calibration if likely else None
    ranking = reranker.rank(query, passages, top_k=top_k)
    by_id = {p.id: p for p in passages}
    results: list[dict[str, Any]] = [
        {"rank": rank, "id": i, "score": score, "text": by_id[i].full_text}
        for rank, (i, score) in enumerate(zip(ranking.passage_ids, ranking.scores, strict=True), 1)
    ]
    if mapped is not None:
        for result, p in zip(results, mapped.probability(ranking.scores).tolist(), strict=True):
            result["probability"] = p
    if threshold is not None:
        results = [r for r in results if r["probability"] >= threshold]
    if explain:
        for result in results:
            result["explanation"] = _explained(reranker, query, str(result["text"]))
    if as_json:
        print_json({"query": query, "model": reranker.model.name, "results": results})
        return
    if not results and ranking.passage_ids:
        note(f"no passage is relevant with a probability of {threshold:g} or more")
        return
    table(
        ("rank", "score", *(("probability",) if likely else ()), "id", "passage"),
        [
            (
                str(r["rank"]),
                f"{r['score']:.4f}",
                *((f"{r['probability']:.3f}",) if likely else ()),
                str(r["id"]),
                _excerpt(str(r["text"])),
            )
            for r in results
        ],
        align=("right", "right", *(("right",) if likely else ()), "left", "left"),
        shorten="passage",
    )
    if explain:
        for result in results:
            print(f"\n{result['rank']}. {result['id']}\n{_shown(result['explanation'])}")


def _explained(reranker: Reranker, query: str, passage: str) -> dict[str, Any]:
    from dear.scoring.scorer import Scorer

    scorer = reranker.model
    if not isinstance(scorer, Scorer):
        raise ConfigError(f"--explain: {scorer.name} is no one-logit model")
    return scorer.explain(query, passage).to_dict()


def _shown(found: dict[str, Any]) -> str:
    """Tokens that were cut stand between ⟦ ⟧, the one that the head reads between » «."""
    parts, at = [], 0
    for token in found["tokens"]:
        text = str(token["text"])
        if not token["read"]:
            text = f"⟦{text}⟧"
        elif at == found["position"]:
            text = f"»{text}«"
        at += token["read"]
        parts.append(text)
    cut = sum(not token["read"] for token in found["tokens"])
    plain = "" if found["plain"] is None else f", plain forward pass {found['plain']:.6f}"
    contract = found["contract"]
    return (
        f"   logit {found['logit']:.6f}{plain}; engine {found['engine']}; contract "
        f"{contract['name']}, {contract['dtype']}; {len(parts) - cut} tokens read, {cut} cut\n"
        f"   {' '.join(parts)}"
    )


def _check_query(query: str) -> None:
    if not query.strip():
        raise ConfigError("the query is empty")
    try:
        query.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError("the query is not UTF-8") from None


def _excerpt(text: str, characters: int = 200) -> str:
    line = " ".join(text[: 10 * characters].split())
    return line if len(line) <= characters else line[: characters - 1] + "…"
