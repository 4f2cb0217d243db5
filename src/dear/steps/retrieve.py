"""The first stage: a collection to a run, by BM25."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from dear.artifacts import check_output
from dear.data.collections import Collection, open_collection
from dear.data.formats import write_run
from dear.data.inputs import corpus_input, queries_input
from dear.data.origins import write_origin
from dear.digests import Input, Inputs
from dear.errors import DataError
from dear.evaluate.cost import Meter, Spent, stage
from dear.records import Ranking, Run, count_pairs
from dear.retrieve.bm25 import Bm25Options, options_for
from dear.retrieve.bm25 import retrieve as search
from dear.steps.options import RetrieveOptions
from dear.steps.progress import OnProgress, Watch, unwatched


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieved:
    """searched: queries, those without a result among them."""

    run: Run
    searched: int
    spent: Spent


def retrieve(options: RetrieveOptions, *, watch: Watch = unwatched) -> Retrieved:
    """Search a collection and write the run with its note. DataError where nothing is found."""
    check_output(options.output)
    collection = open_collection(options.collection)
    queries = collection.queries(options.split)
    bm25 = _bm25_options(
        collection.name,
        k1=options.k1,
        b=options.b,
        stemmer=options.stemmer,
        stopwords=options.stopwords,
        split_identifiers=options.split_identifiers,
        single_letters=options.single_letters,
    )
    with Meter() as meter, watch("searching", "queries") as report:
        run = search(collection.corpus, queries, top_k=options.top_k, options=bm25, progress=report)
    if not run:
        number = "the one query" if len(queries) == 1 else f"the {len(queries):,} queries"
        raise DataError(
            f"{collection.name}: none of {number} of split {options.split!r} shares a word with "
            "a passage; look at the texts of both, or try --stemmer none, --stopwords none or "
            "--single-letters"
        )
    spent = meter.spent
    write_run(options.output, run, "bm25")
    write_origin(
        options.output,
        {
            "model": None,
            "collection": collection.name,
            "split": options.split,
            "top_k": options.top_k,
            "bm25": asdict(bm25),
            "queries": len(run),
            "pairs": count_pairs(run),
            "seconds": round(spent.seconds, 3),
            "cost": spent.to_dict() | {"search": stage("queries", len(queries), spent.seconds)},
        },
        inputs=Inputs(
            {
                "corpus": corpus_input(collection),
                "queries": queries_input(collection, queries),
                "bm25": Input.of_values({**asdict(bm25), "top_k": options.top_k}),
            }
        ),
    )
    return Retrieved(run=run, searched=len(queries), spent=spent)


def search_bm25(
    collection: Collection, split: str, *, top_k: int, progress: OnProgress | None = None
) -> dict[str, Ranking]:
    """BM25 over a split's queries, as the collection is usually searched."""
    return search(
        collection.corpus,
        collection.queries(split),
        top_k=top_k,
        options=_bm25_options(collection.name),
        progress=progress,
    )


def _bm25_options(collection: str, **given: Any) -> Bm25Options:
    """The collection's options, except for what is given; `none` is None."""
    chosen: dict[str, Any] = {
        k: None if v == "none" else v for k, v in given.items() if v is not None
    }
    return replace(options_for(collection), **chosen)
