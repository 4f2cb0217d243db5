"""The first stage: a collection to a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dear.artifacts import check_folder, check_output
from dear.checkpoints.registry import check_model
from dear.data.collections import Collection, open_collection
from dear.data.documents import document_of
from dear.data.formats import write_run
from dear.data.inputs import corpus_input, queries_input
from dear.data.origins import write_origin
from dear.digests import Input, Inputs
from dear.errors import DataError
from dear.evaluate.cost import Meter, Spent, stage
from dear.evaluate.metrics import evaluate
from dear.records import Query, Ranking, Run, count_pairs, limit_run
from dear.retrieve.bm25 import options_for
from dear.retrieve.bm25 import retrieve as search
from dear.retrieve.hybrid import Hybrid
from dear.retrieve.table import WITH_MODEL, Retriever, Setting, open_retriever, require_top_k
from dear.steps.options import TOP_K, RetrieveOptions
from dear.steps.progress import OnProgress, Watch, unwatched


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieved:
    """searched: queries, those without a result among them.  whose: which of the collection's.

    quality: name of the retriever, a hybrid's parts before it → measure → mean over the judged
        queries of the split; empty where it has no judgements.
    """

    run: Run
    searched: int
    whose: str
    spent: Spent
    quality: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def retrieve(options: RetrieveOptions, *, watch: Watch = unwatched) -> Retrieved:
    """Search a collection and write the run with its note. DataError where nothing is found."""
    assert options.output is not None
    check_output(options.output)
    _check(options)
    collection = open_collection(options.collection)
    queries = collection.queries(options.split)
    with Meter() as meter:
        retriever = _opened(options, collection, watch)
        with watch("searching", "queries") as report:
            runs = _runs(retriever, queries, options.depth, report)
    run = runs[retriever.name]
    if not run:
        raise DataError(_nothing(options, collection.name, len(queries)))
    found = Retrieved(
        run=run,
        searched=len(queries),
        whose=_whose(collection, options.split, len(queries)),
        spent=meter.spent,
        quality=_quality(collection, options, runs),
    )
    write_run(options.output, run, options.spec.kind)
    _write_note(options, collection, queries, retriever, found)
    return found


def ask(options: RetrieveOptions, *, watch: Watch = unwatched) -> list[dict[str, Any]]:
    """What is found for `options.query`: `{"rank", "id", "score", "text"}`, best first; of
    documents where the collection is of their passages."""
    assert options.query is not None
    _check(options)
    collection = open_collection(options.collection)
    retriever = _opened(options, collection, watch)
    documents = collection.documents
    # several passages of one document may stand above the next
    depth = options.depth if documents is None else max(options.depth, TOP_K)
    found = retriever.search({"": Query(id="", text=options.query)}, depth).get("")
    if found is None:
        return []
    texts = collection.corpus
    seen: dict[str, dict[str, Any]] = {}
    for passage_id, score in zip(found.passage_ids, found.scores, strict=True):
        document = document_of(passage_id, documents) if documents is not None else passage_id
        text = texts[passage_id].full_text
        seen.setdefault(document, {"id": document, "score": score, "text": text})
    return [{"rank": n, **row} for n, row in enumerate(seen.values(), 1)][: options.depth]


def _check(options: RetrieveOptions) -> None:
    require_top_k(options.spec.kind, options.depth)
    for part in options.spec.leaves:
        if part.kind in WITH_MODEL:
            check_model(f"{WITH_MODEL[part.kind]}:{part.model}")
    if options.encoder_options.vectors is not None:
        check_folder(options.encoder_options.vectors)


def _whose(collection: Collection, split: str, searched: int) -> str:
    every = len(collection.queries())
    share = "all" if searched == every else f"{searched:,} of the collection's {every:,}"
    return f"queries of split {split} ({share})" if collection.splits else "all queries"


def _opened(options: RetrieveOptions, collection: Collection, watch: Watch) -> Retriever:
    setting = Setting(
        corpus=collection.corpus,
        bm25=replace(options_for(collection.name), **options.bm25),
        options=options.encoder_options.to_dict(),
        folder=options.encoder_options.vectors,
        watch=lambda name: watch(f"encoding for {name}", "passages"),
    )
    return open_retriever(options.spec, setting)


def _runs(
    retriever: Retriever, queries: Mapping[str, Query], top_k: int, report: OnProgress
) -> dict[str, dict[str, Ranking]]:
    """Name of the retriever → its run, a hybrid's parts before it."""
    if not isinstance(retriever, Hybrid):
        return {retriever.name: retriever.search(queries, top_k, progress=report)}
    runs = retriever.search_parts(queries, top_k, progress=report)
    return {**runs, retriever.name: retriever.fused(queries, runs, top_k)}


def _quality(
    collection: Collection, options: RetrieveOptions, runs: Mapping[str, Run]
) -> dict[str, dict[str, float]]:
    """Of what each finds among its first `top_k`."""
    if not collection.has_judgements(options.split):
        return {}
    judgements = collection.judgements(options.split)
    measures, grade = (f"R@{options.depth}", "nDCG@10"), collection.min_grade
    return {
        name: dict(
            evaluate(
                limit_run(run, top_k=options.depth), judgements, measures, min_grade=grade
            ).means
        )
        for name, run in runs.items()
    }


def _nothing(options: RetrieveOptions, collection: str, queries: int) -> str:
    number = "the one query" if queries == 1 else f"the {queries:,} queries"
    split = f"{number} of split {options.split!r}"
    if options.spec.kind != "bm25":
        return f"{collection}: {options.spec.name} finds no passage for {split}"
    return (
        f"{collection}: none of {split} shares a word with a passage; look at the texts of both, "
        "or try --stemmer none, --stopwords none or --single-letters"
    )


def _write_note(
    options: RetrieveOptions,
    collection: Collection,
    queries: Mapping[str, Query],
    retriever: Retriever,
    found: Retrieved,
) -> None:
    spent = found.spent
    assert options.output is not None
    write_origin(
        options.output,
        {
            "model": None,
            "collection": collection.name,
            "split": options.split,
            "top_k": options.depth,
            "retriever": options.spec.name,
            **retriever.values,
            "queries": len(found.run),
            "pairs": count_pairs(found.run),
            **({"quality": found.quality} if found.quality else {}),
            "seconds": round(spent.seconds, 3),
            "cost": spent.to_dict() | {"search": stage("queries", found.searched, spent.seconds)},
        },
        inputs=Inputs(
            {
                "corpus": corpus_input(collection),
                "queries": queries_input(collection, queries),
                **_search_inputs(retriever, options.depth),
            }
        ),
    )


def _search_inputs(retriever: Retriever, top_k: int) -> dict[str, Input]:
    if retriever.name == "bm25":
        values: Mapping[str, Any] = retriever.values["bm25"]
        return {"bm25": Input.of_values({**values, "top_k": top_k})}
    return {**retriever.inputs, "search": Input.of_values({"top_k": top_k}, retriever.name)}


def search_bm25(
    collection: Collection, split: str, *, top_k: int, progress: OnProgress | None = None
) -> dict[str, Ranking]:
    """BM25 over a split's queries, as the collection is usually searched."""
    return search(
        collection.corpus,
        collection.queries(split),
        top_k=top_k,
        options=options_for(collection.name),
        progress=progress,
    )
