"""`dear rerank`: a person's query over a file of passages."""

from __future__ import annotations

from typing import Annotated

import typer

from dear.cli.models import BatchOption, DeviceOption, DTypeOption
from dear.cli.output import print_json, table
from dear.cli.train import check_model
from dear.errors import ConfigError

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
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Rank a file's passages for one query."""
    from dear.data.formats import read_passages
    from dear.rank.reranker import Reranker

    _check_query(query)
    check_model(model)
    passages = read_passages(file)
    reranker = Reranker(model, dtype=dtype, device=device, batch_tokens=batch_tokens)  # type: ignore[arg-type]
    ranking = reranker.rank(query, passages, top_k=top_k)
    by_id = {p.id: p for p in passages}
    results = [
        {"rank": rank, "id": i, "score": score, "text": by_id[i].full_text}
        for rank, (i, score) in enumerate(zip(ranking.passage_ids, ranking.scores, strict=True), 1)
    ]
    if as_json:
        print_json({"query": query, "model": reranker.model.name, "results": results})
        return
    table(
        ("rank", "score", "id", "passage"),
        [
            (str(r["rank"]), f"{r['score']:.4f}", str(r["id"]), _excerpt(str(r["text"])))
            for r in results
        ],
        align=("right", "right", "left", "left"),
        shorten="passage",
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
