"""`dear rerank`: a person's query over a file of passages."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import excerpt, note, print_json, table
from dear.steps.options import RerankOptions


@expanded
def rerank(
    options: RerankOptions,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Rank a file's passages for one query."""
    found = steps.rerank.rerank(options)
    if as_json:
        print_json({"query": options.query, "model": found.model, "results": found.results})
        return
    if not found.results and found.ranked:
        note(f"no passage is relevant with a probability of {options.threshold:g} or more")
        return
    likely = options.with_probability
    table(
        ("rank", "score", *(("probability",) if likely else ()), "id", "passage"),
        [
            (
                str(r["rank"]),
                f"{r['score']:.4f}",
                *((f"{r['probability']:.3f}",) if likely else ()),
                str(r["id"]),
                excerpt(str(r["text"])),
            )
            for r in found.results
        ],
        align=("right", "right", *(("right",) if likely else ()), "left", "left"),
        shorten="passage",
    )
    if options.explain:
        for r in found.results:
            print(f"\n{r['rank']}. {r['id']}\n{_explained(r['explanation'])}")


def _explained(found: dict[str, Any]) -> str:
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
