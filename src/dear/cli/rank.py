"""`dear rank` and `dear rerank`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dear.cli.models import BatchOption, DeviceOption, DTypeOption
from dear.cli.output import count, duration, note, print_json, rate, summary, table
from dear.cli.progress import progress
from dear.cli.runs import TOP_K, check_output, find_run, write_origin
from dear.cli.train import check_model
from dear.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.rank.listwise import ListwiseReport
    from dear.rank.reranker import Reranker
    from dear.records import Candidates, Judgements, Ranking, Run

DEFAULT_MODEL = "biencoder:minilm-l6"
"""What `dear rerank` uses: weights that come as a package, with the extra `demo`."""

FUSE_QUERIES = 200


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
    early: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An early exit: hopeless candidates leave early."),
    ] = None,
    listwise: Annotated[
        str | None,
        typer.Option(metavar="BACKEND", help="Whole lists, behind the model: replay:FILE."),
    ] = None,
    prompt: Annotated[
        str, typer.Option(metavar="NAME", help="rankvicuna, rankgpt or reasoning.")
    ] = "rankvicuna",
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="sliding, topdown, setwise, tournament or full.")
    ] = "sliding",
    window: Annotated[int, typer.Option(metavar="N", help="Passages in a prompt.")] = 20,
    step: Annotated[int, typer.Option(metavar="N", help="How far a window slides.")] = 10,
    depth: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Rank lists of the best N only, leave the others."),
    ] = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Rerank a run with a model, with a listwise backend, or with one behind the other."""
    from dear.data.collections import open_collection
    from dear.data.formats import read_run, write_run
    from dear.rank.fusion import fuse_runs
    from dear.rank.reranker import Reranker
    from dear.records import limit_run

    weight = _weight(fuse)
    if early is not None and weight is not None:
        raise ConfigError("--early leaves candidates without a score of their own: no --fuse")
    if model is None and (early is not None or weight is not None):
        raise ConfigError("--early and --fuse are about a model's scores: give a --model")
    if model is None and listwise is None:
        raise ConfigError("nothing to rank with: give a --model, a --listwise backend, or both")
    lists = None if listwise is None else _Lists(listwise, prompt, strategy, window, step, depth)
    if model is not None:
        check_model(model)
    check_output(output)
    opened = open_collection(collection)
    path = find_run(opened, run, split)
    first = limit_run(read_run(path), top_k=top_k)
    candidates = _candidates(opened, first)
    dev = (
        _dev(opened, run, fuse_run, fuse_split, first, queries=fuse_queries, top_k=top_k)
        if weight == "auto"
        else None
    )
    curve: dict[float, float] = {}
    ranked, pairs, seconds, values = first, 0, 0.0, {}  # type: tuple[Run, int, float, dict[str, Any]]
    if model is not None:
        reranker = Reranker(
            model,
            dtype=dtype,  # type: ignore[arg-type]
            device=device,
            batch_tokens=batch_tokens,
            early=early,
        )
        if dev is not None:
            weight, curve = _best_weight(reranker, dev)
        started = time.perf_counter()
        ranked = _rank_all(reranker, candidates, "ranking")
        seconds = time.perf_counter() - started
        if isinstance(weight, float):
            ranked = fuse_runs(ranked, first, weight)
        pairs = sum(len(c.passages) for c in candidates)
        values = {
            **_model_values(reranker),
            "early": None if early is None else str(early),
            "fuse": _fuse_values(weight, curve, fuse_split) if fuse is not None else None,
            "pairs": pairs,
            "pairs_per_second": round(pairs / max(seconds, 1e-9), 2),
        }
    report = None
    if lists is not None:
        ranked, report = lists.rank(_candidates(opened, ranked))
        seconds += report.seconds
        values = {"model": lists.name} | values | {"listwise": lists.values(report)}
    write_run(output, ranked, _tag(model or f"listwise-{strategy}"))
    write_origin(
        output,
        {
            **values,
            "collection": opened.name,
            "split": split,
            "top_k": top_k,
            "queries": len(ranked),
            "seconds": round(seconds, 3),
        },
        first_stage=path,
    )
    if dev is not None:
        summary(_curve(weight, curve, dev, fuse_split), output)
    if report is not None:
        summary(_mended(report), output)
    done = f", {count(pairs, 'pair')}" if pairs else ""
    pace = f" ({rate(pairs, seconds)})" if pairs and report is None else ""
    summary(
        f"{output}: {count(len(ranked), 'query')}{done} in {duration(seconds)}{pace}",
        output,
    )


class _Lists:
    """What `--listwise` and its options say; wrong ones are refused before any work."""

    def __init__(
        self, backend: str, prompt: str, strategy: str, window: int, step: int, depth: int | None
    ) -> None:
        from dear.backends import open_backend
        from dear.prompts.listwise import LISTWISE_PROMPTS
        from dear.rank.strategies import open_strategy

        if prompt not in LISTWISE_PROMPTS:
            raise ConfigError(f"--prompt {prompt!r}{nearest(prompt, LISTWISE_PROMPTS)}")
        self.options = {"prompt": prompt, "strategy": strategy, "depth": depth}
        self.options |= {"window": window, "step": step}
        self.prompt, self.depth = prompt, depth
        self.strategy = open_strategy(strategy, window=window, step=step)
        self.backend = open_backend(backend)

    @property
    def name(self) -> str:
        return self.backend.name

    def rank(self, candidates: list[Candidates]) -> tuple[dict[str, Ranking], ListwiseReport]:
        from dear.rank.listwise import rank_listwise

        with progress("ranking lists", "windows") as shown:
            rankings, report = rank_listwise(
                candidates,
                self.backend,
                strategy=self.strategy,
                prompt=self.prompt,
                depth=self.depth,
                progress=shown,
            )
        return {ranking.query_id: ranking for ranking in rankings}, report

    def values(self, report: ListwiseReport) -> dict[str, Any]:
        """For the run's note."""
        return {"backend": self.name, **self.options, **report.to_dict()}


def _mended(report: ListwiseReport) -> str:
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(report.mends.items()))
    return (
        f"{count(report.windows, 'window')}, {report.mended:,} of them mended"
        f"{f' ({kinds})' if kinds else ''}, {report.parse_errors:,} without a ranking"
    )


def _weight(fuse: str | None) -> float | Literal["auto"] | None:
    if fuse is None:
        return None
    if fuse == "auto":
        return "auto"
    try:
        weight = float(fuse)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise ConfigError(f"--fuse {fuse!r}: expected auto, or a number that is 0 or more")
    return weight


def _tag(model: str) -> str:
    """A run's tag for a model's name; it may hold no white space."""
    from dear.label import slug

    return slug(model) or "dear"


def _candidates(collection: Collection, run: Run) -> list[Candidates]:
    from dear.records import gather

    queries, corpus = collection.queries(), collection.corpus
    return [gather(ranking, queries, corpus) for ranking in run.values()]


def _rank_all(reranker: Reranker, candidates: list[Candidates], what: str) -> dict[str, Ranking]:
    with progress(what, "pairs") as report:
        rankings = reranker.rank_candidates(candidates, progress=report)
        return {ranking.query_id: ranking for ranking in rankings}


@dataclass(frozen=True, slots=True)
class _Dev:
    """Judged queries with their candidates, on which the weight is chosen."""

    run: Run
    candidates: list[Candidates]
    judgements: Judgements


def _dev(
    collection: Collection,
    run: str,
    fuse_run: str | None,
    split: str,
    ranked: Run,
    *,
    queries: int,
    top_k: int | None,
) -> _Dev:
    from dear.records import every_nth, limit_run

    judgements = collection.judgements(split)
    found = _dev_run(collection, run, fuse_run, split, top_k or TOP_K)
    judged = {q: ranking for q, ranking in found.items() if q in judgements}
    if not judged:
        raise DataError(f"--fuse auto: no query of the dev run is judged in split {split!r}")
    shared = next((q for q in judged if q in ranked), None)
    if shared is not None:
        raise ConfigError(
            f"--fuse auto: query {shared!r} is ranked and would choose the weight, too; take "
            "another --fuse-split or --fuse-run"
        )
    picked = limit_run({q: judged[q] for q in every_nth(judged, queries)}, top_k=top_k)
    return _Dev(picked, _candidates(collection, picked), {q: judgements[q] for q in picked})


def _dev_run(collection: Collection, run: str, fuse_run: str | None, split: str, top_k: int) -> Run:
    """The dev run that is named; else the split's run of the same name, its BM25, or a new one."""
    from dear.cli.data import bm25_options
    from dear.data.bm25 import retrieve
    from dear.data.formats import read_run

    if fuse_run is not None:
        return read_run(find_run(collection, fuse_run, split))
    own = collection.runs(split)
    for name in (run, "bm25"):
        if name in own:
            return read_run(own[name])
    note(f"--fuse auto: no run for split {split!r}; searching it with BM25")
    with progress("searching", "queries") as report:
        return retrieve(
            collection.corpus,
            collection.queries(split),
            top_k=top_k,
            options=bm25_options(collection.name),
            progress=report,
        )


def _best_weight(reranker: Reranker, dev: _Dev) -> tuple[float, dict[float, float]]:
    from dear.rank.fusion import best_weight

    reranked = _rank_all(reranker, dev.candidates, "ranking dev")
    return best_weight(reranked, dev.run, dev.judgements)


def _curve(weight: Any, curve: Mapping[float, float], dev: _Dev, split: str) -> str:
    tried = "  ".join(f"{w:g}: {mean:.4f}" for w, mean in curve.items())
    queries = count(len(dev.candidates), "query")
    return f"fuse weight {weight:g}, by nDCG@10 of {queries} of {split}\n  {tried}"


def _fuse_values(weight: Any, curve: Mapping[float, float], split: str) -> dict[str, Any]:
    chosen = {"split": split, "ndcg@10": {f"{w:g}": mean for w, mean in curve.items()}}
    return {"weight": weight, "chosen_on": chosen if curve else None}


def _model_values(reranker: Reranker) -> dict[str, Any]:
    model = reranker.model
    contract = model.contract
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "contract": contract if isinstance(contract, dict) else contract.to_dict(),
        "parameters": model.parameters,
    }


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
