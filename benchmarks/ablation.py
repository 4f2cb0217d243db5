"""What each part of a distillation without judgements is worth, every row trained equally long.

    python benchmarks/ablation.py --work FOLDER [--only man,debian] [--steps 50] [--vectors FOLDER]

Some three minutes of one core for a row of man, of which --rows N takes the first ones. --work is
that of benchmarks/folders.py, after its `make`: NAME/ as people have it, and held/NAME/ with 300
questions and their judgements. One student, a bi-encoder of four of MiniLM's layers that
reads 96 tokens, is trained --steps steps of 64 pairs on made queries, once as the base row says,
and in each other row with one thing changed: how queries are made and filtered, the loss, the
teacher, the candidates that are labelled. Each student then searches the whole folder, alone and
with 0.3 of BM25's score. Documents of man are also split, and are then ranked by their best passage
among BM25's best 100, beside documents that are cut at the limit.

nDCG@10, compared with the base row and with the best system that needs no training; p values are
Holm-corrected over the rows of a folder. Added to benchmarks/results/ablation.json by folder; what
is in --work/ablation is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from mixtures import splade_model

from dear.artifacts import atomic_path, read_json, write_json
from dear.bench.machine import describe
from dear.checkpoints.files import TRAINING_FILE
from dear.cli.output import table
from dear.data.collections import Collection, open_collection
from dear.data.documents import document_run
from dear.data.formats import read_run, write_run
from dear.evaluate.compare import compare_pairs
from dear.evaluate.metrics import Evaluation, evaluate
from dear.label import FirstStage, label_with_all
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.records import Ranking, Run, gather
from dear.retrieve.bm25 import Bm25Index, options_for
from dear.retrieve.hybrid import Hybrid
from dear.retrieve.table import Retriever, RetrieverSpec, Setting, open_retriever
from dear.scoring.opening import open_model
from dear.steps.options import (
    EncoderOptions,
    QueriesOptions,
    RetrieveOptions,
    SplitOptions,
    TrainOptions,
)
from dear.steps.queries import make_queries
from dear.steps.query_splits import sample
from dear.steps.retrieve import retrieve
from dear.steps.split import split
from dear.steps.train import train

NAMES = ("man", "debian", "medquad", "insuranceqa")
LONG_DOCUMENTS = ("man",)
"""Whose documents are also split."""

MODEL, SMOLLM = "minilm-l6", "local:smollm2-135m"
BIENCODER = f"biencoder:{MODEL}"
MEASURE, TOP_K, WEIGHT, DEPTH = "nDCG@10", 100, 0.3, 30
TOKENS, MARGIN = 96, 0.05
"""Tokens that the student reads of a text; in the cosine of the teacher."""

RECIPE = f"""name = "ablation"
kind = "biencoder"

[model]
base = "{MODEL}"
layers = [0, 1, 3, 5]

[[data]]
collection = "COLLECTION"
split = "made"
judged = false
label_scale = 1.5

[contract]
max_passage_tokens = {TOKENS}

[groups]
size = 8
negatives = "spread"
rank_to = {DEPTH}

[loss]
main = []
alpha = 1.0
temperature = 1.0

[train]
learning_rate = 1e-4
groups_per_step = 8
"""

UNFILTERED = 1_000_000
"""--top-k of `dear queries` that any passage is within which shares a word."""
_FIRST = {"teacher": BIENCODER, "margin": MARGIN}
QUERIES: dict[str, dict[str, Any]] = {
    "rule": {},
    "rule, not filtered": {"top_k": UNFILTERED},
    "rule, put first": _FIRST,
    "smollm2, not filtered": {"llm": SMOLLM, "top_k": UNFILTERED},
    "smollm2, put first": {"llm": SMOLLM, **_FIRST},
}
"""Name → options of `dear queries`."""
FEW = "smollm2, not filtered"


def first_stages() -> dict[str, dict[str, str]]:
    """Name → options of `dear retrieve`."""
    two, three = f"bm25,dense:{MODEL}", f"bm25,dense:{MODEL},splade:{splade_model()}"
    return {
        "bm25": {"retriever": "bm25"},
        "hybrid": {"retriever": "hybrid", "parts": two, "weights": f"{WEIGHT},1"},
        "with splade": {"retriever": "hybrid", "parts": three, "weights": "0.2,0.6,0.2"},
    }


@dataclass(frozen=True, kw_only=True)
class Row:
    """How one student is trained.

    queries: of QUERIES.  few: only as many as SmolLM2 wrote.  first: of `first_stages`, whose best
    DEPTH are labelled.  weights: of the teachers, the embeddings and the first stage's own score.
    changes: of the recipe.
    """

    queries: str = "rule"
    few: bool = False
    first: str = "hybrid"
    weights: tuple[float, float] = (0.0, 1.0)
    changes: tuple[str, ...] = ()


BASE = "base: queries by rule, found back; KL to the hybrid over its own candidates"
FROM_BM25 = "candidates of BM25, same teacher"
OF_BM25 = Row(first="bm25", weights=(1.0, WEIGHT))
ROWS = {
    BASE: Row(),
    FROM_BM25: OF_BM25,
    "teacher: embeddings alone": Row(weights=(1.0, 0.0)),
    "queries by rule, not filtered": Row(queries="rule, not filtered"),
    "not trained": Row(changes=("train.max_steps=1", "train.learning_rate=1e-12")),
    "queries by rule that the teacher puts first": Row(queries="rule, put first"),
    "InfoNCE on the queries' own passages": Row(
        changes=("data.0.judged=true", "loss.main=['ce']", "loss.alpha=0.0")
    ),
    "MarginMSE": Row(changes=('loss.terms=[{name = "margin-mse"}]',)),
    "queries by SmolLM2, not filtered": Row(queries=FEW),
    "queries by rule, as few as SmolLM2's": Row(few=True),
    "teacher and candidates: with SPLADE": Row(first="with splade"),
    "queries by SmolLM2 that the teacher puts first": Row(queries="smollm2, put first"),
}
"""In the order in which they are trained."""
UNTRAINED = f"untrained: {WEIGHT} bm25 + dense"


class Folder:
    """A folder, its held questions, and all that is made on the way."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.place = options.work / "ablation" / name
        self.vectors = options.vectors or options.work / "vectors"
        self.held = open_collection(options.work / "held" / name)
        self.queries = self.held.queries("test")
        self.judgements = self.held.judgements("test")
        self.recipe = self.place / "student.toml"
        with atomic_path(self.recipe) as path:
            path.write_text(RECIPE, encoding="utf-8")

    @cached_property
    def bm25(self) -> Bm25Index:
        return Bm25Index(self.held.corpus, options=options_for(self.name))

    def note(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `work` gives and the processor's seconds for it; it is done once."""
        path = self.place / "notes" / f"{slug(name)}.json"
        if not path.is_file():
            print(f"{time.strftime('%H:%M:%S')} {self.name}: {name}", flush=True)
            started = time.process_time()
            found = work()
            write_json(path, found | {"processor_s": round(time.process_time() - started, 1)})
        return read_json(path)

    # -- what a student learns from ------------------------------------------------------------

    def split(self, of: str) -> Path:
        """The documents of a collection as passages of TOKENS."""
        path = self.place / f"split-{of}"
        source = self.options.work / (self.name if of == "own" else f"held/{self.name}")
        size = SplitOptions(collection=str(source), output=path, tokens=TOKENS)
        self.note(f"split {of}", lambda: {"passages": split(size).passages})
        return path

    def made(self, kind: str, source: Path) -> tuple[Path, dict[str, Any]]:
        """A collection with made queries, and how many they are."""
        name = f"{source.name}, {kind}"
        path, options = self.place / "made" / slug(name), dict(QUERIES[kind])
        if "llm" in options:
            options["ledger"] = self.place / "smollm2.jsonl"
        number = self.options.asked if "llm" in options else self.options.passages

        def work() -> dict[str, Any]:
            found = make_queries(
                QueriesOptions(collection=str(source), output=path, passages=number, **options)
            )
            return {
                "passages": found.passages,
                "made": found.made,
                "kept": len(found.kept),
                "dropped": dict(found.dropped),
            }

        return path, self.note(f"make queries: {name}", work)

    def candidates(self, row: Row, source: Path, made: Path) -> Path:
        """The run whose pairs are labelled."""
        name = f"{made.name}, {row.first}"
        whole = self.place / "first-stage" / f"{slug(name)}.trec"
        options = RetrieveOptions(
            collection=str(made),
            output=whole,
            split="made",
            top_k=DEPTH,
            encoder_options=EncoderOptions(vectors=self.vectors),
            **first_stages()[row.first],
        )
        self.note(f"retrieve: {name}", lambda: {"queries": retrieve(options).searched})
        count = self.options.queries
        if row.few:
            count = min(count, self.made(FEW, source)[1]["kept"])
        path = whole.with_name(f"{whole.stem}-{count}.trec")
        run = read_run(whole)
        write_run(path, {q: run[q] for q in sample(run, count)}, slug(row.first))
        return path

    def labels(self, row: Row, made: Path, run: Path) -> Path:
        path = self.place / "labels" / slug(f"{run.stem} {row.weights}")
        first, dense = FirstStage([read_run(run)]), row.weights[0]

        def work() -> dict[str, Any]:
            teachers = {"first-stage": first} if row.weights[1] else {}
            given = {"dense": open_model(BIENCODER), **teachers} if dense else teachers
            weights = [weight for weight in row.weights if weight]
            collection = open_collection(made)
            done = label_with_all(collection, [read_run(run)], given, path, weights=weights)
            return {"pairs": done[0].scored}

        self.note(f"label: {path.name}", work)
        return path

    def student(self, name: str, row: Row, source: Path) -> tuple[Path, dict[str, Any]]:
        """The trained student, and what it took."""
        made, counts = self.made(row.queries, source)
        run = self.candidates(row, source, made)
        labels = self.labels(row, made, run)
        path = self.place / "students" / slug(name)
        changes = (
            f'data.0.collection="{made}"',
            f'data.0.run="{run}"',
            f'data.0.labels=["{labels}"]',
            f"train.max_steps={self.options.steps}",
            *row.changes,
        )

        def work() -> dict[str, Any]:
            train(TrainOptions(recipe=str(self.recipe), output=path, changes=changes))
            metrics = read_json(path / TRAINING_FILE)["metrics"]
            return {
                "queries": len(read_run(run)),
                "made": counts["made"],
                "kept": counts["kept"],
                "pairs": metrics["pairs"],
                "steps": metrics["steps"],
            }

        return path, self.note(f"train: {name}", work)

    # -- what it is worth ----------------------------------------------------------------------

    def search(self, name: str, model: str) -> dict[str, Run]:
        """The whole folder searched with a model, alone and with BM25's score; and BM25's best
        TOP_K ordered by it."""
        setting = Setting(corpus=self.held.corpus, bm25=self.bm25.options, folder=self.vectors)

        @cache
        def dense() -> Retriever:
            return open_retriever(RetrieverSpec.of(f"dense:{model}"), setting)

        def within() -> Run:
            ids = {q: ranking.passage_ids for q, ranking in self.first.items()}
            scored = dense().score_passages(self.queries, ids)
            return {q: Ranking.sorted(q, s.keys(), s.values()) for q, s in scored.items()}

        def fused() -> Run:
            hybrid = Hybrid([self.bm25, dense()], (WEIGHT, 1.0))
            return hybrid.search(self.queries, TOP_K)

        found = {
            "alone": self.kept(name, lambda: dense().search(self.queries, TOP_K)),
            "fused": self.kept(f"{name} fused", fused),
            "over bm25": self.kept(f"{name} over bm25", within),
        }
        fused_over = fuse_runs(found["over bm25"], self.first, WEIGHT)
        return found | {"fused over bm25": fused_over}

    @cached_property
    def first(self) -> Run:
        return self.kept("bm25", lambda: self.bm25.search(self.queries, TOP_K))

    def kept(self, name: str, make: Callable[[], Run]) -> Run:
        """A run that is made once."""
        path = self.place / "measured" / f"{slug(name)}.trec"
        if not path.is_file():
            write_run(path, make(), "ablation")
        return read_run(path, ties="written")

    def quality(self, run: Run) -> Evaluation:
        return evaluate(run, self.judgements, (MEASURE,))

    def rows(self) -> list[dict[str, Any]]:
        """The table, its first row what needs no training."""
        about: dict[str, dict[str, Any]] = {UNTRAINED: {}}
        runs = {UNTRAINED: self.search("untrained", MODEL)}
        source = (self.options.work / self.name).resolve()
        for name, row in islice(ROWS.items(), self.options.rows):
            path, about[name] = self.student(name, row, source)
            runs[name] = self.search(name, str(path))
        found = {kind: self.evaluated(runs, kind) for kind in runs[UNTRAINED]}
        compared = {
            "alone_base": against(found["alone"], BASE),
            "fused_base": against(found["fused"], BASE),
            "fused_untrained": against(found["fused"], UNTRAINED),
        }
        return [
            {
                "row": name,
                **about[name],
                **{k.replace(" ", "_"): mean(v[name]) for k, v in found.items()},
                **{what: pairs[name] for what, pairs in compared.items() if name in pairs},
            }
            for name in runs
        ]

    def evaluated(self, runs: Mapping[str, Mapping[str, Run]], kind: str) -> dict[str, Evaluation]:
        return {name: self.quality(found[kind]) for name, found in runs.items()}

    def splits(self) -> dict[str, Any]:
        """Documents by their best passage, beside documents that are cut: both over BM25's best
        TOP_K, with its score, by the untrained model and by a student that BM25's candidates of
        the same kind taught."""
        held = open_collection(self.split("held"))
        student, about = self.student("split", OF_BM25, self.split("own"))
        index = Bm25Index(held.corpus, options=options_for(self.name))
        first = self.kept("split bm25", lambda: index.search(self.queries, TOP_K))
        runs: dict[str, Run] = {"cut, BM25": self.first, "split, BM25": self.whole(first, held)}
        cut = {"untrained": ("untrained", MODEL), "student": (FROM_BM25, self.trained(FROM_BM25))}
        for kind, (name, model) in cut.items():
            runs[f"cut, {kind}"] = self.search(name, model)["fused over bm25"]
        for kind, model in {"untrained": MODEL, "student": str(student)}.items():
            scored = self.kept(
                f"split {kind}", partial(reranked, f"biencoder:{model}", first, held)
            )
            runs[f"split, {kind}"] = self.whole(fuse_runs(scored, first, WEIGHT), held)
        found = {name: self.quality(run) for name, run in runs.items()}
        kinds = ("BM25", "untrained", "student")
        pairs = [(f"split, {kind}", f"cut, {kind}") for kind in kinds]
        pairs += [(f"{how}, student", f"{how}, untrained") for how in ("cut", "split")]
        return {
            "passages": len(held.corpus),
            "training": about,
            "systems": {name: mean(evaluation) for name, evaluation in found.items()},
            "pairs": {f"{a} - {b}": pair for a, b, pair in compared(found, pairs)},
        }

    def trained(self, name: str) -> str:
        return str(self.place / "students" / slug(name))

    def whole(self, run: Run, passages: Collection) -> Run:
        return document_run(run, passages.documents)


def reranked(model: str, first: Run, collection: Collection) -> dict[str, Ranking]:
    queries, corpus = collection.queries("test"), collection.corpus
    candidates = [gather(ranking, queries, corpus) for ranking in first.values()]
    return {r.query_id: r for r in Reranker(model).rank_candidates(candidates)}


def slug(name: str) -> str:
    """A name of a file."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())


def mean(evaluation: Evaluation) -> float:
    return round(evaluation.means[MEASURE], 4)


def against(found: Mapping[str, Evaluation], other: str) -> dict[str, dict[str, Any]]:
    """Every row against one of them."""
    pairs = [(name, other) for name in found if name not in (other, "not trained")]
    return {a: pair for a, _, pair in compared(found, pairs)}


def compared(
    found: Mapping[str, Evaluation], pairs: Sequence[tuple[str, str]]
) -> Iterable[tuple[str, str, dict[str, Any]]]:
    for one in compare_pairs(found, pairs, MEASURE):
        difference, (low, high) = one.comparison.difference, one.comparison.interval
        yield (
            one.a,
            one.b,
            {
                "difference": round(difference, 4),
                "interval": [round(low, 4), round(high, 4)],
                "p": round(one.comparison.p_randomisation, 6),
                "p_holm": round(one.holm_randomisation, 6),
            },
        )


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    def cell(value: Any) -> str:
        if isinstance(value, dict):
            low, high = value["interval"]
            return f"{value['difference']:+.4f} ({low:+.3f} to {high:+.3f}; {value['p_holm']:.2g})"
        return "" if value is None else str(value)

    columns = ("row", "queries", "pairs", "processor_s", "alone", "fused", "alone_base")
    columns += ("fused_base", "fused_untrained")
    cells = [[cell(row.get(column)) for column in columns] for row in rows]
    table(list(columns), cells, align=["left", *["right"] * (len(columns) - 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, help="default: --work/vectors")
    parser.add_argument("--only", default="man,debian")
    parser.add_argument("--steps", type=int, default=50, help="of each training")
    parser.add_argument("--queries", type=int, default=400, help="to train on, at most")
    parser.add_argument("--passages", type=int, default=1500, help="that a rule makes them from")
    parser.add_argument("--asked", type=int, default=120, help="passages that SmolLM2 is shown")
    parser.add_argument("--rows", type=int, default=len(ROWS), help="only the first N")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ablation.json"))
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"no folder {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    options.work = options.work.resolve()
    for name in names:
        folder = Folder(name, options)
        entry: dict[str, Any] = {
            "machine": describe(),
            "documents": len(folder.held.corpus),
            "questions": len(folder.queries),
            "steps": options.steps,
            "rows": folder.rows(),
        }
        notes = folder.place / "notes"
        entry["made"] = {
            path.stem: read_json(path) for path in sorted(notes.glob("make-queries*.json"))
        }
        if name in LONG_DOCUMENTS and options.rows >= len(ROWS):
            entry["split"] = folder.splits()
        known = read_json(options.output) if options.output.is_file() else {}
        write_json(options.output, known | {name: entry})
        show(entry["rows"])


if __name__ == "__main__":
    main()
