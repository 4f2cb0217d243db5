"""`dear retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.cli.output import count, duration, rate, summary
from dear.cli.progress import progress
from dear.cli.runs import TOP_K, check_output
from dear.data.collections import open_collection
from dear.data.formats import write_run
from dear.data.origins import write_origin
from dear.digests import Input, Inputs
from dear.errors import DataError
from dear.evaluate.cost import Meter, stage
from dear.records import count_pairs
from dear.retrieve.bm25 import options_for
from dear.retrieve.bm25 import retrieve as search

if TYPE_CHECKING:
    from dear.retrieve.bm25 import Bm25Options


def retrieve(
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RUN", help="The run to write (.gz packs it).")
    ],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Whose queries.")] = "test",
    top_k: Annotated[int, typer.Option(metavar="N", help="Passages for each query.")] = TOP_K,
    k1: Annotated[
        float | None,
        typer.Option(metavar="X", help="How fast repeats saturate.", show_default="0.9"),
    ] = None,
    b: Annotated[
        float | None, typer.Option(metavar="X", help="How much length counts.", show_default="0.4")
    ] = None,
    stemmer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A language, or none.", show_default="english"),
    ] = None,
    stopwords: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A language, or none.", show_default="english"),
    ] = None,
    split_identifiers: Annotated[
        bool | None,
        typer.Option(
            "--split-identifiers/--no-split-identifiers",
            help="Take readFile and read_file apart, too.",
            show_default="on for pydocs",
        ),
    ] = None,
    single_letters: Annotated[
        bool | None,
        typer.Option(
            "--single-letters/--no-single-letters",
            help='Count words of one letter, such as "C" and "R".',
            show_default="off",
        ),
    ] = None,
) -> None:
    """Find candidates with BM25: a collection to a run."""
    from dear.data.inputs import corpus_input, queries_input

    check_output(output)
    opened = open_collection(collection)
    queries = opened.queries(split)
    options = bm25_options(
        opened.name,
        k1=k1,
        b=b,
        stemmer=stemmer,
        stopwords=stopwords,
        split_identifiers=split_identifiers,
        single_letters=single_letters,
    )
    with Meter() as meter, progress("searching", "queries") as report:
        run = search(opened.corpus, queries, top_k=top_k, options=options, progress=report)
    if not run:
        raise DataError(
            f"{opened.name}: none of the {count(len(queries), 'query')} of split {split!r} shares "
            "a word with a passage; look at the texts of both, or try --stemmer none, --stopwords "
            "none or --single-letters"
        )
    spent = meter.spent
    write_run(output, run, "bm25")
    write_origin(
        output,
        {
            "model": None,
            "collection": opened.name,
            "split": split,
            "top_k": top_k,
            "bm25": _as_dict(options),
            "queries": len(run),
            "pairs": count_pairs(run),
            "seconds": round(spent.seconds, 3),
            "cost": spent.to_dict() | {"search": stage("queries", len(queries), spent.seconds)},
        },
        inputs=Inputs(
            {
                "corpus": corpus_input(opened),
                "queries": queries_input(opened, queries),
                "bm25": Input.of_values({**_as_dict(options), "top_k": top_k}),
            }
        ),
    )
    summary(
        f"{output}: {count(len(run), 'query')}, {count(count_pairs(run), 'passage')} "
        f"in {duration(spent.seconds)} ({rate(len(queries), spent.seconds)})",
        output,
    )


def bm25_options(collection: str, **given: Any) -> Bm25Options:
    """The collection's options, except for what is given; `none` is None."""
    from dataclasses import replace

    chosen: dict[str, Any] = {
        k: None if v == "none" else v for k, v in given.items() if v is not None
    }
    return replace(options_for(collection), **chosen)


def _as_dict(options: Bm25Options) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(options)
