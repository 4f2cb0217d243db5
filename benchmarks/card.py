"""The model cards' and the paper's tables again: published weights over published collections.

    pip install '.[train,hub,irds]' bitsandbytes
    python benchmarks/card.py --work runs/card --out card_h200 [--hub FOLDER] [--data FOLDER]
        [--runs FOLDER] [--models A,B] [--collections C,D] [--queries N]

Models are those of `dear models`, from the hub or from --hub (FOLDER/owner/name); collections are
those that the paper and the cards name, from --data (FOLDER/name), ir_datasets or the hub. The
first stage of a collection is FOLDER/NAME.SPLIT.trec of --runs (Anserini's, say), else the
collection's own `bm25`, else BM25 of our own. Pointwise models rank its best 100; listwise ones the
best 30 of those behind their pointwise sister, in windows of 20, step 10.

Every model runs in a process of its own. Runs are kept in --work, 256 queries a file, and are not
made twice: the same command goes on from wherever it was ended. OUT.json and OUT.md say how far off
each number is, beside the first stage's own; numbers over another first stage are not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from parts import Part, Report, is_right, run_parts, start_method, write_markdown

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.checkpoints.files import revision_of
from dear.checkpoints.registry import FAMILY, locate
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run, write_run
from dear.errors import DataError, DearError
from dear.evaluate.metrics import evaluate
from dear.evaluate.published import PublishedRow, all_published, published_rows
from dear.rank.cascade import Cascade
from dear.rank.opening import open_ranker
from dear.rank.pointwise import PointwiseRanker
from dear.rank.ranker import Ranker
from dear.records import Ranking, every_nth, gather, limit_run
from dear.retrieve.bm25 import retrieve

DEPTH, LIST_DEPTH, CHUNK = 100, 30, 256
"""Candidates of a query, those that are ranked as lists, and queries in a file."""
MOST_DOCUMENTS = 1_000_000
"""Collections up to so large get a first stage of our own where they bring none."""
SAME = 0.0005
"""First stages whose measure is so near the published one are taken for the same."""
THE_CANDIDATES = "the 20 candidates"
"""NovelEval's first stage: all of them are ranked, in whatever order they came."""

SYSTEMS: dict[str, str] = {
    "llama2-13b-rankllama-teacher": "LLaMA-2-13B teacher (RankLLaMA)",
    # the paper does not say which of its students this is
    **dict.fromkeys((n for n in FAMILY if n.startswith("dear-8b-reranker")), "DeAR-P-8B"),
    **dict.fromkeys((n for n in FAMILY if n.startswith("dear-8b-reranker-list")), "DeAR-L-8B"),
}
"""Our name → whose published numbers it should have; the others' stand alone."""
SISTERS = {
    "dear-8b-reranker-listwise-v1": "dear-8b-reranker-ce-v1",
    "dear-8b-reranker-listwise-lora-v1": "dear-8b-reranker-ce-lora-v1",
}
"""Listwise model → the pointwise one before it."""
MODELS = tuple(m.name for m in FAMILY.values() if m.kind != "base")
COLLECTIONS = tuple(
    dict.fromkeys(r.collection for r in all_published() if r.system in SYSTEMS.values())
)


@dataclass(frozen=True)
class Options:
    collections: tuple[str, ...]
    work: Path
    runs: Path | None
    queries: int | None


def rank_model(name: str, report: Report, options: Options) -> None:
    """One model over all collections; what one of them lacks does not end the others."""
    revision = revision_of(locate(name))
    folder = options.work / f"{name}@{revision[:16]}"

    @cache
    def ranker() -> Ranker:
        started = time.perf_counter()
        made = open_ranker(spec_of(name))
        first = made.first if isinstance(made, Cascade) else made
        assert isinstance(first, PointwiseRanker)
        model: Any = first.model
        about = {"parameters": model.parameters, "contract": model.contract.to_dict()}
        write_json(folder / "model.json", about | {"load_s": time.perf_counter() - started})
        return made

    for collection in options.collections:
        try:
            measure(name, ranker, open_collection(collection), folder, report, options)
        except DearError as error:
            report.row(collection, note=str(error))
    if (folder / "model.json").is_file():
        report.note(weigh(name, revision, read_json(folder / "model.json")))


def spec_of(name: str) -> dict[str, Any]:
    if FAMILY[name].kind == "pointwise":
        return {"model": name}
    lists = {"listwise": f"local:{name}", "depth": LIST_DEPTH, "window": 20, "step": 10}
    return {"model": SISTERS[name], **lists}


def weigh(name: str, revision: str, about: Mapping[str, Any]) -> str:
    """What was opened, and whether it can be what was published."""
    weights, published = about["parameters"], float(FAMILY[name].parameters.rstrip("B")) * 1e9
    text = f"revision {revision}, {weights:,} weights, loaded in {about['load_s']:.0f} s"
    text += f", {about['contract']['name']} contract in {about['contract']['dtype']}"
    if weights < published / 2:
        text += f"; **not the published {FAMILY[name].parameters} weights: no quality is measured**"
    return text


def measure(
    name: str,
    ranker: Callable[[], Ranker],
    opened: Collection,
    folder: Path,
    report: Report,
    options: Options,
) -> None:
    """A row for each measure of one model on one collection."""
    split = "test" if opened.has_judgements("test") else "dev"
    judgements = opened.judgements(split)
    source, first = first_stage(opened, split, options)
    asked = [query for query in first if query in judgements]
    sampled = options.queries is not None and options.queries < len(asked)
    if options.queries is not None and sampled:
        asked = every_nth(asked, options.queries)
        judgements = {query: judgements[query] for query in asked}
    first = limit_run({query: first[query] for query in asked}, top_k=DEPTH)
    run = reranked(ranker, opened, first, folder)
    system = SYSTEMS.get(name)
    rows = published_rows(opened.name)
    theirs = {row.measure: row for row in rows if row.system == system}
    measures = dict.fromkeys(["nDCG@10", opened.main_measure, *theirs])
    ours, before = (
        evaluate(found, judgements, measures, min_grade=opened.min_grade).means
        for found in (run, first)
    )
    for measured in measures:
        row = theirs.get(measured)
        their_first = next((r for r in rows if r.system == "BM25" and r.measure == measured), None)
        why = uncompared(row, their_first, before[measured], sampled=sampled)
        report.row(
            f"{opened.name} {split} {measured}",
            queries=len(judgements),
            first_stage=round(before[measured], 4),
            published_first_stage=their_first.value if their_first else None,
            ours=round(ours[measured], 4),
            published=row.value if row else None,
            off=round(ours[measured] - row.value, 4) if row and not why else None,
            note="; ".join(filter(None, (why, row.caveat if row else "", source))),
        )


def uncompared(
    row: PublishedRow | None, their_first: PublishedRow | None, before: float, *, sampled: bool
) -> str:
    """Why a number must not be set against the published one; "" where it may."""
    if row is None:
        return "nothing published"
    if sampled:
        return "not compared: a sample of the queries"
    if row.first_stage == THE_CANDIDATES:
        return ""
    if their_first is None:
        return "not compared: their first stage has no published number"
    same = abs(their_first.value - before) <= SAME
    return "" if same else "not compared: another first stage"


def first_stage(
    opened: Collection, split: str, options: Options
) -> tuple[str, Mapping[str, Ranking]]:
    """(where it is from, the run). DataError: there is none, and the corpus is too large."""
    for folder, source in ((options.runs, "first stage given"), (options.work, "our own BM25")):
        for ending in ("trec", "trec.gz"):
            file = (folder or Path()) / f"{opened.name}.{split}.{ending}"
            if folder is not None and file.is_file():
                return source, read_run(file)
    if "bm25" in opened.runs(split):
        return "", opened.run("bm25", split)
    size = opened.entry.documents if opened.entry else None
    if size is None or size > MOST_DOCUMENTS:
        raise DataError(
            f"{opened.name}: no run `bm25` for split {split}, and the corpus is large; put one "
            f"into --runs as {opened.name}.{split}.trec"
        )
    found = retrieve(opened.corpus, opened.queries(split), top_k=DEPTH)
    write_run(options.work / f"{opened.name}.{split}.trec", found, "bm25")
    return "our own BM25", found


def reranked(
    ranker: Callable[[], Ranker],
    opened: Collection,
    first: Mapping[str, Ranking],
    folder: Path,
) -> dict[str, Ranking]:
    """The run of a model, from files that an earlier command left, and what they lack."""
    ids = [(query, ranking.passage_ids) for query, ranking in first.items()]
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12]
    run: dict[str, Ranking] = {}
    for at in range(0, len(ids), CHUNK):
        file = folder / f"{opened.name}-{digest}" / f"{at:06}.trec"
        if not file.is_file():
            some = [query for query, _ in ids[at : at + CHUNK]]
            queries, corpus = opened.queries(), opened.corpus
            candidates = [gather(first[query], queries, corpus) for query in some]
            made = ranker().rank_candidates(candidates)
            write_run(file, {ranking.query_id: ranking for ranking in made}, "reranked")
        run |= read_run(file)
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/card"), help="runs are kept here")
    parser.add_argument("--out", type=Path, default=Path("card"), help="OUT.json and OUT.md")
    parser.add_argument("--hub", type=Path, help="a folder with owner/name in it")
    parser.add_argument("--data", type=Path, help="a folder of collections")
    parser.add_argument("--runs", type=Path, help="a folder of first stages, NAME.SPLIT.trec")
    parser.add_argument("--models", default=",".join(MODELS), metavar="A,B")
    parser.add_argument("--collections", default=",".join(COLLECTIONS), metavar="A,B")
    parser.add_argument("--queries", type=int, metavar="N", help="of each collection, for a trial")
    parser.add_argument(
        "--tiny", action="store_true", help="folders of the published layout, random weights"
    )
    given = parser.parse_args(arguments)
    names = given.models.split(",")
    if unknown := set(names) - set(MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}; `dear models` lists them")
    for variable, folder in (("DEAR_MODELS", given.hub), ("DEAR_DATA", given.data)):
        if folder is not None:
            os.environ[variable] = str(folder.resolve())
    given.work.mkdir(parents=True, exist_ok=True)
    if given.tiny:
        os.environ["DEAR_MODELS"] = str(tiny_folders(given.work / "tiny"))
    results = run_parts(
        [
            Part(name, SYSTEMS.get(name, FAMILY[name].objective), partial(rank_model, name))
            for name in names
        ],
        given.out.with_suffix(".json"),
        Options(tuple(given.collections.split(",")), given.work, given.runs, given.queries),
        about={"what": "benchmarks/card.py", "machine": describe()},
        start_method=start_method(),
    )
    opening = ["**Tiny random weights on a CPU: the form of the tables, no quality.**"][
        : given.tiny
    ]
    opening += [
        "`off` is ours less the published number. It stands only where both were taken over the "
        "same first stage, whose own number is beside it. DeAR-P-8B is set beside every pointwise "
        "8B student: the paper does not say which one it is.",
        "On MS MARCO dev about one passage a query is relevant: read MRR@10 there.",
    ]
    write_markdown(given.out.with_suffix(".md"), "The published tables, again", opening, results)
    return 0 if is_right(results) else 1


def tiny_folders(folder: Path) -> Path:
    """The published folders with a few thousand random weights each, as the tests make them."""
    if not folder.is_dir():
        script = Path(__file__).parents[1] / "tests" / "scoring" / "published_folders.py"
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder.resolve()


if __name__ == "__main__":
    sys.exit(main())
