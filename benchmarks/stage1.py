"""Stage 1 on real collections: which teacher, which loss, what a student is worth.

    python benchmarks/stage1.py --data FOLDER --work FOLDER [--only labels,ablation,…]

FOLDER of --data holds the collections of docs/results.md (insuranceqa, medquad, nfcorpus,
scifact, dl21, dl22 to train on; dl19, noveleval, nfcorpus, scifact, cranfield to test on).
Every step is kept in --work and done once; kill it at any time and start it again. What has been
measured so far is written to benchmarks/results/stage1.json and as a table to standard output.

The parts, in order: `teach` (a bi-encoder and a one-logit LLaMA on the judgements), `labels` (the
bi-encoder's, with the first stage's beside them), `teachers`, `llama`, `ablation`, `long`.

The budgets are options, because a laptop and a server differ by a factor of a hundred:
--pairs (each ablation), --long-pairs, --llama-pairs, --ablation-queries and --ablation-depth (a
fixed sample of the test queries, and how many candidates of each). --variants trains and tests
some of the ablation only, so that two processes can share it; the last run collects them all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dear.artifacts import read_json, write_json
from dear.bench.machine import with_rates
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run, write_run
from dear.data.groups import Group, sample_groups
from dear.data.labels import Labels, ensemble, read_labels
from dear.evaluate.compare import compare_all, pool
from dear.evaluate.metrics import Evaluation, evaluate
from dear.label import FirstStage, label_with
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.recipes import parse_recipe
from dear.records import Ranking, Run, gather
from dear.scoring.opening import open_model
from dear.train.checkpoints import is_finished
from dear.train.examples import Example, examples_of
from dear.train.pointwise import train

TRAIN = {"insuranceqa": 1500, "medquad": 1500, "nfcorpus": 2400, "scifact": 800}
"""Judged training queries taken of each collection (its `train` split)."""
WEB = ("dl21", "dl22")
"""Web queries: dl21 is judged, dl22 is not; both lend their candidates for labels."""
TEST = ("dl19", "noveleval", "nfcorpus", "scifact", "cranfield")
MEASURES = ("nDCG@10", "MRR@10")
FUSE = 0.3
SCALE = 1.5
"""Factor on an ensemble's z-scores, which makes them logits; 3 was worse (docs/LOG.md)."""
ENSEMBLE = {"biencoder": 1.0, "first-stage": 0.3}
LAYERS = (6, 3)
STUDENT = {"max_query_tokens": 32, "max_passage_tokens": 128}

ABLATION: dict[str, dict[str, Any]] = {
    "CE": {"main": ["ce"], "alpha": 0.0},
    "KL": {"main": [], "alpha": 1.0, "temperature": 1.0},
    "CE + KL": {"main": ["ce"], "alpha": 0.9, "temperature": 1.0},
    "RankNet + KL": {"main": ["ranknet"], "alpha": 0.9, "temperature": 1.0},
    "CE + RankNet + KL": {"main": ["ce", "ranknet"], "alpha": 0.9, "temperature": 1.0},
    "MarginMSE": {"terms": [{"name": "margin-mse"}]},
    "independent sampling": {"main": ["ce"], "alpha": 0.9, "temperature": 1.0},
    "CE + KL, random negatives": {"main": ["ce"], "alpha": 0.9, "temperature": 1.0},
    "independent, random negatives": {"main": ["ce"], "alpha": 0.9, "temperature": 1.0},
}
"""What is in the name beside a loss: who samples for the teacher, how negatives are drawn."""


@dataclass(frozen=True)
class Sample:
    """Which test queries of each collection (None: all), and how many candidates of each."""

    queries: int | None
    depth: int

    def __str__(self) -> str:
        return f"{'all' if self.queries is None else self.queries}.{self.depth}"


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

    def teacher(self) -> str:
        """The labels' teacher: all-MiniLM-L6 trained further on the judgements, in-batch."""
        folder = self.work / "teachers" / "biencoder"
        if not is_finished(folder):
            recipe = {
                "name": "stage1-biencoder",
                "kind": "biencoder",
                "model": {"base": "minilm-l6"},
                "contract": {"max_passage_tokens": 128},
                "data": [{"collection": "stage1"}],
                "loss": {"main": ["ce"], "alpha": 0.0},
                "train": {
                    "groups_per_step": 32,
                    "learning_rate": 3e-5,
                    "save_steps": 50,
                    "seed": 7,
                },
            }
            self._train(recipe, folder, self.judged_examples(size=2, rank_to=20))
        return str(folder)

    def llama_teacher(self) -> str:
        """SmolLM2-135M with one logit, by the way of the 13B teacher's recipe."""
        folder = self.work / "teachers" / f"smollm2-{self.options.llama_pairs}"
        if not is_finished(folder):
            recipe = {
                "name": "stage1-smollm2",
                "model": {"base": "smollm2-135m"},
                "contract": STUDENT | {"append_eos": True},
                "data": [{"collection": "stage1"}],
                "loss": {"main": ["ce"], "alpha": 0.0},
                "train": {
                    "groups_per_step": 8,
                    "accumulate": 2,
                    "learning_rate": 5e-5,
                    "head_learning_rate": 2e-4,
                    "save_steps": 20,
                    "seed": 7,
                },
            }
            groups = self.judged_examples(size=8, rank_to=50)
            self._train(recipe, folder, groups[: self.options.llama_pairs // 8])
        return str(folder)

    def decoder(self) -> None:
        """SmolLM2-135M with one logit, taught by the labels: a small language model that ranks,
        for benchmarks/scoring.py."""
        folder = self.work / "students" / f"smollm2-{self.options.decoder_pairs}"
        if not is_finished(folder):
            recipe = {
                "name": "stage1-decoder",
                "model": {"base": "smollm2-135m"},
                "contract": {"max_query_tokens": 24, "max_passage_tokens": 72, "append_eos": True},
                "data": [{"collection": "stage1"}],
                "loss": ABLATION["RankNet + KL"],
                "train": {
                    "groups_per_step": 8,
                    "learning_rate": 1e-4,
                    "head_learning_rate": 1e-3,
                    "save_steps": 10,
                    "seed": 7,
                },
            }
            self._train(recipe, folder, self.examples(self.options.decoder_pairs))

    def teach(self) -> None:
        self.teacher()
        self.llama_teacher()

    def judged_examples(self, *, size: int, rank_to: int) -> list[Example]:
        """One positive and size - 1 random candidates, mixed from all judged collections."""
        found: list[Example] = []
        for name in (*TRAIN, "dl21"):
            groups = sample_groups(
                self.train_run(name),
                judgements=self.judgements(name),
                size=size,
                per_query=4 if name in WEB else 1,
                negatives="random",
                rank_to=rank_to,
                seed=1,
            )
            collection = self.collection(name)
            found += examples_of(groups, collection.queries(), collection.corpus)
        random.Random(1).shuffle(found)
        return found

    def _train(self, recipe: dict[str, Any], folder: Path, examples: list[Example]) -> None:
        say(f"training {recipe['name']}: {sum(len(e.passages) for e in examples):,} pairs")
        trained = train(parse_recipe(recipe), folder, examples=examples, progress=every(30.0))
        say(f"trained {recipe['name']}: {trained.pairs / trained.seconds:.1f} pairs/s")

    def labels(self) -> None:
        teacher = None
        for name in (*TRAIN, *WEB):
            folder = self.work / "labels" / name
            if (folder / "done").exists():
                continue
            teacher = teacher or open_model(f"biencoder:{self.teacher()}")
            run = self.train_run(name)
            args = (self.collection(name), [run])
            done = label_with(*args, teacher, folder / "biencoder", judged=self.judgements(name))
            label_with(
                *args, FirstStage([run]), folder / "first-stage", judged=self.judgements(name)
            )
            (folder / "done").touch()
            say(f"labels {name}: {done.scored + done.kept:,} pairs, {done.seconds:.0f} s")

    def teacher_labels(self, name: str) -> Labels:
        folder = self.work / "labels" / name
        members = [read_labels(folder / member) for member in ENSEMBLE]
        return ensemble(members, list(ENSEMBLE.values())).scaled(SCALE)

    # -- training --------------------------------------------------------------------------

    def examples(
        self, pairs: int, *, independent: bool = False, negatives: str = "spread", seed: int = 1
    ) -> list[Example]:
        """Groups of 8 from all collections, mixed, until `pairs` are reached."""
        found: list[Example] = []
        for name in (*TRAIN, *WEB):
            judged = self.judgements(name)
            run = self.train_run(name)
            common: dict[str, Any] = {
                "judgements": judged,
                "labels": self.teacher_labels(name),
                "size": 8,
                "negatives": negatives,
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
        recipe = {
            "name": name,
            # judgements made this start, no teacher: every variant, CE too, has the same
            "model": {"base": self.teacher(), "layers": list(range(layers))},
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
        self._train(recipe, folder, self.examples(pairs, **options))
        return folder

    # -- testing ---------------------------------------------------------------------------

    def test_queries(self, name: str, sample: Sample) -> list[str]:
        """Judged queries, all or a fixed sample; those that the run lacks count as zero."""
        ids = sorted(self.collection(name).judgements("test"))
        random.Random(1).shuffle(ids)
        return sorted(ids[: sample.queries])

    def test_run(self, name: str, sample: Sample) -> dict[str, Ranking]:
        run = self.collection(name).run("bm25", "test")
        wanted = self.test_queries(name, sample)
        return {q: run[q].top(sample.depth) for q in wanted if q in run}

    def ranked(self, system: str, model: str, name: str, sample: Sample) -> Run:
        """`a & b & c` is a's and (b & c)'s scores, each normalised per query, added."""
        if " & " in model:
            one, _, others = model.partition(" & ")
            both = (self.ranked(system, each, name, sample) for each in (one, others))
            return fuse_runs(*both, 1.0)
        path = self.work / "runs" / f"{self.kept_as(model)}.{name}.{sample}.trec"
        if path.exists():
            return read_run(path)
        run = self.test_run(name, sample)
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

    def kept_as(self, model: str) -> str:
        """A name that another budget does not share."""
        return slug(model.replace(str(self.work), ""))

    def _open(self, model: str) -> Reranker:
        if getattr(self, "_opened", ("", None))[0] != model:
            self._opened = (model, Reranker(model))
        return self._opened[1]

    def evaluations(
        self, system: str, model: str | None, sample: Sample, fuse: float
    ) -> dict[str, Evaluation]:
        out = {}
        for name in TEST:
            first = self.test_run(name, sample)
            run: Run = first if model is None else self.ranked(system, model, name, sample)
            if fuse and model is not None:
                run = fuse_runs(run, first, fuse)
            judged = self.collection(name).judgements("test")
            wanted = self.test_queries(name, sample)
            out[name] = evaluate(run, {q: judged[q] for q in wanted}, MEASURES)
        return out

    def speed(self, model: str | None) -> dict[str, float]:
        if model is None:
            return {}
        kept = (self.work / "runs").glob(f"{self.kept_as(model)}.*.json")
        notes = [read_json(path) for path in kept]
        if not notes:
            return {}
        pairs, seconds = sum(n["pairs"] for n in notes), sum(n["seconds"] for n in notes)
        return {"pairs_per_s": round(pairs / seconds, 1), "parameters": notes[0]["parameters"]}

    def table(self, systems: Mapping[str, str | None], sample: Sample) -> dict[str, Any]:
        """Every system on every test collection, plain and fused, with pooled paired tests."""
        found = {"BM25": self.evaluations("BM25", None, sample, 0.0)}
        for system, model in systems.items():
            say(f"testing {system}")
            found[system] = self.evaluations(system, model, sample, 0.0)
            found[f"{system} + {FUSE} BM25"] = self.evaluations(system, model, sample, FUSE)
        pooled = {system: pool(by_name) for system, by_name in found.items()}
        rows = {
            system: {
                **{n: {m: round(e.means[m], 4) for m in MEASURES} for n, e in by_name.items()},
                "pooled": {m: round(pooled[system].means[m], 4) for m in MEASURES},
                **self.speed(systems.get(system)),
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
        return {"rows": rows, "tests": tests, "test_queries": sample.queries, "depth": sample.depth}

    # -- the parts -------------------------------------------------------------------------

    def teachers(self) -> dict[str, Any]:
        return self.table(
            {
                "MiniLM bi-encoder": "biencoder:minilm-l6",
                "MiniLM bi-encoder, trained": f"biencoder:{self.teacher()}",
            },
            self.everything,
        )

    def llama(self) -> dict[str, Any]:
        """SmolLM2-135M trained and zero-shot, beside the others on the same few candidates."""
        llama = {
            "SmolLM2-135M, one logit, trained": self.llama_teacher(),
            "SmolLM2-135M, zero-shot (UPR)": "upr:smollm2-135m",
            "MiniLM bi-encoder, trained": f"biencoder:{self.teacher()}",
        }
        trained, upr, biencoder = llama.values()
        llama |= {
            "bi-encoder & UPR": f"{biencoder} & {upr}",
            "bi-encoder & one logit": f"{biencoder} & {trained}",
            "all three": f"{biencoder} & {upr} & {trained}",
        }
        students = {f"student, {n} layers": str(self.long_folder(n)) for n in LAYERS}
        ready = {k: v for k, v in students.items() if is_finished(Path(v))}
        return self.table(
            llama | ready, Sample(self.options.llama_queries, self.options.llama_depth)
        )

    def ablation(self) -> Iterator[dict[str, Any]]:
        systems: dict[str, str | None] = {}
        wanted = self.options.variants or list(ABLATION)
        sample = Sample(self.options.ablation_queries, self.options.ablation_depth)
        for name in wanted:
            folder = self.student(
                f"{name} {self.options.pairs}",
                ABLATION[name],
                self.options.pairs,
                independent=name.startswith("independent"),
                negatives="random" if name.endswith("random negatives") else "spread",
            )
            systems[name] = str(folder)
            yield self.table(systems, sample)

    def long_name(self, layers: int) -> str:
        return f"{layers} layers, long {self.options.long_pairs}"

    def long_folder(self, layers: int) -> Path:
        return self.work / "students" / slug(self.long_name(layers))

    def long(self) -> Iterator[dict[str, Any]]:
        systems: dict[str, str | None] = {}
        for layers in self.options.layers:
            systems[f"student, {layers} layers"] = str(
                self.student(
                    self.long_name(layers),
                    ABLATION[self.options.best],
                    self.options.long_pairs,
                    layers=layers,
                )
            )
            yield self.table(systems, self.everything)

    @property
    def everything(self) -> Sample:
        return Sample(None, self.options.depth)


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
            loss = "" if math.isnan(step.loss) else f" loss {step.loss:.4f}"
            say(f"  step {step.done}/{step.total}{loss}")

    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stage1.json"))
    parser.add_argument("--only", default="teach,labels,teachers,ablation,long,llama")
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--long-pairs", type=int, default=500_000)
    parser.add_argument("--best", default="CE + KL", choices=list(ABLATION))
    parser.add_argument("--variants", action="append", choices=list(ABLATION))
    parser.add_argument("--layers", type=int, action="append")
    parser.add_argument("--llama-pairs", type=int, default=4_000)
    parser.add_argument("--decoder-pairs", type=int, default=16_000)
    parser.add_argument("--llama-queries", type=int, default=40)
    parser.add_argument("--llama-depth", type=int, default=20)
    parser.add_argument("--ablation-queries", type=int, default=100)
    parser.add_argument("--ablation-depth", type=int, default=50)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--train-queries", type=int, help="of each collection; for a quick look")
    parser.add_argument("--web-repeats", type=int, default=8)
    options = parser.parse_args()
    options.layers = options.layers or list(LAYERS)
    bench = Bench(options)
    results = read_json(options.output) if options.output.exists() else {}
    results["machine"] = with_rates()
    for part in options.only.split(","):
        say(part)
        work = getattr(bench, part)
        budget = {
            name: getattr(options, name) for name in ("pairs", "long_pairs", "llama_pairs", "best")
        }
        produced = work()
        if produced is None:
            continue
        for found in [produced] if isinstance(produced, dict) else produced:
            results[part] = found | {"budget": budget}
            write_json(options.output, results)
    print(json.dumps(results, indent=1)[:2000])


if __name__ == "__main__":
    main()
