"""Stage 1 on real collections: which teacher, which loss, what a student is worth.

    python benchmarks/stage1.py --data FOLDER --work FOLDER [--only labels,ablation,…]

FOLDER of --data holds the collections of docs/results.md (insuranceqa, medquad, nfcorpus,
scifact, dl21, dl22 to train on; dl19, noveleval, nfcorpus, scifact, cranfield to test on).
Every step is kept in --work and done once; kill it at any time and start it again. What has been
measured so far is written to benchmarks/results/stage1.json and as a table to standard output.

The budgets are options, because a laptop and a server differ by a factor of a hundred:
--pairs (each ablation), --long-pairs, --teacher-pairs, --ablation-queries (test queries of a
collection, a fixed sample).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from dear.artifacts import read_json, write_json
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run, write_run
from dear.data.groups import Group, sample_groups
from dear.data.labels import Labels, ensemble, read_labels
from dear.evaluate.compare import compare_all, pool
from dear.evaluate.metrics import Evaluation, evaluate
from dear.label import FirstStage, label
from dear.models.opening import open_model
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.recipes import parse_recipe
from dear.records import Ranking, Run, gather
from dear.train.checkpoints import is_finished, versions
from dear.train.examples import Example, examples_of
from dear.train.pointwise import train

TRAIN = {"insuranceqa": 2500, "medquad": 2500, "nfcorpus": 1200, "scifact": 800}
"""Judged training queries taken of each collection (its `train` split)."""
WEB = ("dl21", "dl22")
"""Web queries: dl21 is judged, dl22 is not; both lend their candidates for labels."""
TEST = ("dl19", "noveleval", "nfcorpus", "scifact", "cranfield")
MEASURES = ("nDCG@10", "MRR@10")
FUSE = 0.3
SCALE = 3.0
"""Factor on an ensemble's z-scores: the range of a cross-encoder's logits on one query."""
ENSEMBLE = {"biencoder": 1.0, "first-stage": 0.3}
STUDENT = {"max_query_tokens": 32, "max_passage_tokens": 128}

ABLATION: dict[str, dict[str, Any]] = {
    "CE": {"main": ["ce"], "alpha": 0.0},
    "KL": {"main": [], "alpha": 1.0, "temperature": 1.0},
    "CE + KL": {"main": ["ce"], "alpha": 0.7, "temperature": 1.0},
    "RankNet + KL": {"main": ["ranknet"], "alpha": 0.7, "temperature": 1.0},
    "CE + RankNet + KL": {"main": ["ce", "ranknet"], "alpha": 0.7, "temperature": 1.0},
    "MarginMSE": {"terms": [{"name": "margin-mse"}]},
    "DeAR as published (α 0.1, T 2)": {"main": ["ce"], "alpha": 0.1, "temperature": 2.0},
    "independent sampling": {"main": ["ce"], "alpha": 0.7, "temperature": 1.0},
}


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        os.environ["DEAR_DATA"] = str(options.data)
        self.collections: dict[str, Collection] = {}

    def collection(self, name: str) -> Collection:
        if name not in self.collections:
            self.collections[name] = open_collection(self.options.data / name)
        return self.collections[name]

    # -- labels ----------------------------------------------------------------------------

    def train_run(self, name: str) -> dict[str, Ranking]:
        """The queries that teach: a fixed sample, 50 candidates each."""
        split = "test" if name in WEB else "train"
        run = self.collection(name).run("bm25", split)
        ids = sorted(run)
        random.Random(0).shuffle(ids)
        cap = self.options.train_queries
        wanted = TRAIN.get(name, len(ids)) if cap is None else cap
        return {q: run[q].top(50) for q in ids[:wanted]}

    def judgements(self, name: str) -> Mapping[str, Mapping[str, int]] | None:
        if name == "dl22":
            return None
        found = self.collection(name).judgements("test" if name in WEB else "train")
        if name != "dl21":
            return found
        # the complete official file names passages whose text is not at hand
        corpus = self.collection(name).corpus
        return {q: {p: g for p, g in row.items() if p in corpus} for q, row in found.items()}

    def labels(self) -> None:
        teacher = None
        for name in (*TRAIN, *WEB):
            folder = self.work / "labels" / name
            if (folder / "done").exists():
                continue
            teacher = teacher or open_model("biencoder:minilm-l6")
            run = self.train_run(name)
            args = (self.collection(name), [run])
            done = label(*args, teacher, folder / "biencoder", judged=self.judgements(name))
            label(*args, FirstStage([run]), folder / "first-stage", judged=self.judgements(name))
            (folder / "done").touch()
            say(f"labels {name}: {done.scored + done.kept:,} pairs, {done.seconds:.0f} s")

    def teacher_labels(self, name: str) -> Labels:
        folder = self.work / "labels" / name
        members = [read_labels(folder / member) for member in ENSEMBLE]
        return ensemble(members, list(ENSEMBLE.values())).scaled(SCALE)

    # -- training --------------------------------------------------------------------------

    def examples(self, pairs: int, *, independent: bool = False, seed: int = 1) -> list[Example]:
        """Groups of 8 from all collections, mixed, until `pairs` are reached."""
        found: list[Example] = []
        for name in (*TRAIN, *WEB):
            judged = self.judgements(name)
            run = self.train_run(name)
            common: dict[str, Any] = {
                "judgements": judged,
                "labels": self.teacher_labels(name),
                "size": 8,
                "negatives": "spread",
                # few web queries, but of the kind that dl19 asks
                "per_query": max(1, self.options.web_repeats if name in WEB else 1),
            }
            if judged is None:  # no positive: nothing for cross-entropy to say
                common["judgements"] = None
            groups = sample_groups(run, seed=seed, **common)
            if independent:
                groups = swap_teachers(groups, sample_groups(run, seed=seed + 1, **common))
            collection = self.collection(name)
            found += examples_of(groups, collection.queries(), collection.corpus)
        random.Random(seed).shuffle(found)
        out: list[Example] = []
        total = 0
        for example in itertools.cycle(found):
            if total >= pairs:
                return out
            out.append(example)
            total += len(example.passages)
        return out

    def student(
        self, name: str, loss: dict[str, Any], pairs: int, *, layers: int = 6, **options: Any
    ) -> Path:
        folder = self.work / "students" / slug(name)
        if is_finished(folder):
            return folder
        recipe = parse_recipe(
            {
                "name": name,
                "model": {"base": "minilm-l6", "layers": list(range(layers))},
                "contract": STUDENT,
                "data": [{"collection": "stage1"}],
                "loss": loss,
                "train": {
                    "groups_per_step": 8,
                    "learning_rate": 2e-4,
                    "save_steps": 200,
                    "seed": 7,
                },
            }
        )
        examples = self.examples(pairs, **options)
        say(f"training {name}: {sum(len(e.passages) for e in examples):,} pairs")
        trained = train(recipe, folder, examples=examples, progress=every(30.0))
        say(f"trained {name}: {trained.pairs / trained.seconds:.1f} pairs/s")
        return folder

    # -- testing ---------------------------------------------------------------------------

    def test_queries(self, name: str, queries: int | None) -> list[str]:
        """Judged queries, all or a fixed sample; those that the run lacks count as zero."""
        ids = sorted(self.collection(name).judgements("test"))
        random.Random(1).shuffle(ids)
        return sorted(ids[:queries])

    def test_run(self, name: str, queries: int | None) -> dict[str, Ranking]:
        run = self.collection(name).run("bm25", "test")
        wanted = self.test_queries(name, queries)
        return {q: run[q].top(self.options.depth) for q in wanted if q in run}

    def ranked(self, system: str, model: str, name: str, queries: int | None) -> Run:
        size = "all" if queries is None else str(queries)
        path = self.work / "runs" / f"{slug(system)}.{name}.{size}.{self.options.depth}.trec"
        if path.exists():
            return read_run(path)
        run = self.test_run(name, queries)
        collection = self.collection(name)
        texts = [gather(r, collection.queries(), collection.corpus) for r in run.values()]
        reranker = self._open(model)
        started = time.perf_counter()
        found = {r.query_id: r for r in reranker.rank_candidates(texts)}
        seconds = time.perf_counter() - started
        write_run(path, found, slug(system))
        pairs = sum(map(len, found.values()))
        cost = {"pairs": pairs, "seconds": seconds, "parameters": reranker.model.parameters}
        write_json(path.with_suffix(".json"), cost)
        return found

    def _open(self, model: str) -> Reranker:
        if getattr(self, "_opened", ("", None))[0] != model:
            self._opened = (model, Reranker(model))
        return self._opened[1]

    def evaluations(
        self, system: str, model: str | None, queries: int | None, fuse: float
    ) -> dict[str, Evaluation]:
        out = {}
        for name in TEST:
            first = self.test_run(name, queries)
            run: Run = first if model is None else self.ranked(system, model, name, queries)
            if fuse and model is not None:
                run = fuse_runs(run, first, fuse)
            judged = self.collection(name).judgements("test")
            wanted = self.test_queries(name, queries)
            out[name] = evaluate(run, {q: judged[q] for q in wanted}, MEASURES)
        return out

    def speed(self, system: str) -> dict[str, float]:
        notes = [read_json(p) for p in (self.work / "runs").glob(f"{slug(system)}.*.json")]
        if not notes:
            return {}
        pairs, seconds = sum(n["pairs"] for n in notes), sum(n["seconds"] for n in notes)
        return {"pairs_per_s": round(pairs / seconds, 1), "parameters": notes[0]["parameters"]}

    def table(self, systems: Mapping[str, str | None], queries: int | None) -> dict[str, Any]:
        """Every system on every test collection, plain and fused, with pooled paired tests."""
        found = {"BM25": self.evaluations("BM25", None, queries, 0.0)}
        for system, model in systems.items():
            say(f"testing {system}")
            found[system] = self.evaluations(system, model, queries, 0.0)
            found[f"{system} + {FUSE} BM25"] = self.evaluations(system, model, queries, FUSE)
        pooled = {system: pool(by_name) for system, by_name in found.items()}
        rows = {
            system: {
                **{n: {m: round(e.means[m], 4) for m in MEASURES} for n, e in by_name.items()},
                "pooled": {m: round(pooled[system].means[m], 4) for m in MEASURES},
                **self.speed(system),
            }
            for system, by_name in found.items()
        }
        tests = [
            {
                "a": c.a,
                "b": c.b,
                "difference": round(c.comparison.difference, 4),
                "interval": [round(x, 4) for x in c.comparison.interval],
                "p_randomisation_holm": c.holm_randomisation,
                "p_t_holm": c.holm_t,
                "n": c.comparison.n,
            }
            for c in compare_all(pooled, "nDCG@10", permutations=20_000)
        ]
        return {"rows": rows, "tests": tests, "test_queries": queries, "depth": self.options.depth}

    # -- the parts -------------------------------------------------------------------------

    def teachers(self) -> dict[str, Any]:
        return self.table({"MiniLM bi-encoder": "biencoder:minilm-l6"}, None)

    def ablation(self) -> Iterator[dict[str, Any]]:
        systems: dict[str, str | None] = {}
        for name, loss in ABLATION.items():
            independent = name == "independent sampling"
            folder = self.student(
                f"{name} {self.options.pairs}", loss, self.options.pairs, independent=independent
            )
            systems[name] = str(folder)
            yield self.table(systems, self.options.ablation_queries)

    def long(self) -> Iterator[dict[str, Any]]:
        systems: dict[str, str | None] = {}
        for layers in (6, 3):
            name = f"{layers} layers, long {self.options.long_pairs}"
            loss = ABLATION[self.options.best]
            systems[f"student, {layers} layers"] = str(
                self.student(name, loss, self.options.long_pairs, layers=layers)
            )
            yield self.table(systems, None)


def swap_teachers(mine: list[Group], theirs: list[Group]) -> list[Group]:
    """The published fault: the teacher scores a sample of its own, so that its scores belong to
    other passages of the same query than the student's."""
    other = {g.query_id: g.teacher for g in theirs}
    out = []
    for group in mine:
        teacher = other.get(group.query_id)
        if teacher is not None and len(teacher) == len(group):
            out.append(replace(group, teacher=teacher))
    return out


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def every(seconds: float) -> Any:
    """A progress callback that says a line now and then."""
    last = [time.monotonic()]

    def report(step: Any) -> None:
        if time.monotonic() - last[0] > seconds:
            last[0] = time.monotonic()
            say(f"  step {step.done}/{step.total} loss {step.loss:.4f}")

    return report


def machine() -> dict[str, Any]:
    """What the numbers were measured on, with its bfloat16 matrix rate."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    a @ a
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "bfloat16_gflop_s": round(2 * 2048**3 / float(np.median(times)) / 1e9),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stage1.json"))
    parser.add_argument("--only", default="labels,teachers,ablation,long")
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--long-pairs", type=int, default=500_000)
    parser.add_argument("--best", default="CE + KL", choices=list(ABLATION))
    parser.add_argument("--ablation-queries", type=int, default=100)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--train-queries", type=int, help="of each collection; for a quick look")
    parser.add_argument("--web-repeats", type=int, default=8)
    options = parser.parse_args()
    bench = Bench(options)
    results = read_json(options.output) if options.output.exists() else {}
    results["machine"] = machine()
    for part in options.only.split(","):
        say(part)
        work = getattr(bench, part)
        budget = {"pairs": options.pairs, "long_pairs": options.long_pairs}
        produced = work()
        if produced is None:
            continue
        for found in [produced] if isinstance(produced, dict) else produced:
            results[part] = found | {"budget": budget}
            write_json(options.output, results)
    print(json.dumps(results, indent=1)[:2000])


if __name__ == "__main__":
    main()
