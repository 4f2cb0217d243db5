"""One million ranked lines, evaluated: `dear evaluate` against what a user would pick instead.

    python benchmarks/evaluate.py [--work FOLDER] [--rounds 5] [--output FILE]

10,000 queries of 100 passages, 10 judged each, are drawn with a seed and written as a TREC run
with its qrels. Every system reads the two files in a process of its own, in turns, and prints
the means; wall time, processor time and peak memory are the operating system's. ir-measures,
pytrec_eval and ranx are measured where they are installed, with those of the measures that they
know. Written to benchmarks/results/evaluate.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dear.artifacts import write_json
from dear.bench.machine import PACKAGES, describe
from dear.evaluate.metrics import MEASURES

QUERIES, DEPTH, JUDGED, PASSAGES = 10_000, 100, 10, 8_841_823
MEASURED = ("ir-measures", "pytrec-eval-terrier", "ranx", "numpy")
LIMIT_S, LIMIT_MIB = 10, 2048
"""What issue 5 asks for."""

IR_NAMES = "nDCG@1 nDCG@5 nDCG@10 RR@10 AP R@100 Judged@10"

PYTREC_EVAL = """
import json, sys
from pytrec_eval import RelevanceEvaluator, parse_qrel, parse_run

qrels, run = parse_qrel(open(sys.argv[1])), parse_run(open(sys.argv[2]))
names = {f"nDCG@{k}": f"ndcg_cut_{k}" for k in (1, 5, 10)} | {"MAP": "map", "R@100": "recall_100"}
found = RelevanceEvaluator(qrels, {"ndcg_cut.1,5,10", "map", "recall.100"}).evaluate(run)
means = {n: sum(of[theirs] for of in found.values()) / len(found) for n, theirs in names.items()}
print(json.dumps(means))
"""
RANX = """
import json, sys
from ranx import Qrels, Run, evaluate

qrels, run = Qrels.from_file(sys.argv[1], kind="trec"), Run.from_file(sys.argv[2], kind="trec")
names = {f"nDCG@{k}": f"ndcg@{k}" for k in (1, 5, 10)}
names |= {"MRR@10": "mrr@10", "MAP": "map", "R@100": "recall@100"}
found = evaluate(qrels, run, list(names.values()))
print(json.dumps({ours: float(found[theirs]) for ours, theirs in names.items()}))
"""


@dataclass(frozen=True)
class Files:
    """What is evaluated: a collection for dear, qrels as the others read them."""

    collection: Path
    qrels: Path
    run: Path
    reranked: Path


def generate(folder: Path) -> Files:
    """The same files every time."""
    generator = np.random.default_rng(0)
    for name in ("qrels", "runs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = Files(
        folder, folder / "qrels.trec", folder / "runs" / "bm25.test.trec", folder / "reranked.trec"
    )
    (folder / "corpus.jsonl").write_text('{"_id": "0", "title": "", "text": "not read"}\n')
    with (
        (folder / "queries.jsonl").open("w") as queries,
        (folder / "qrels" / "test.tsv").open("w") as judged,
        files.qrels.open("w") as qrels,
        files.run.open("w") as run,
        files.reranked.open("w") as reranked,
    ):
        judged.write("query-id\tcorpus-id\tscore\n")
        for query in range(QUERIES):
            print(json.dumps({"_id": str(query), "text": f"query {query}"}), file=queries)
            passages = generator.choice(PASSAGES, DEPTH, replace=False).tolist()
            # no ties: not every tool breaks them alike
            falls = np.cumsum(generator.integers(1, 900, DEPTH))
            scores = [f"{score:.4f}" for score in (40 - falls / 1e4).tolist()]
            run.writelines(
                f"{query} Q0 {passage} {rank} {score} bm25\n"
                for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), 1)
            )
            # a relevant passage is likelier near the top
            places = np.unique(generator.geometric(0.05, JUDGED).clip(max=DEPTH) - 1)
            grades = generator.integers(0, 4, len(places))
            for place, grade in zip(places.tolist(), grades.tolist(), strict=True):
                print(f"{query}\t{passages[place]}\t{grade}", file=judged)
                print(f"{query} 0 {passages[place]} {grade}", file=qrels)
            noise = generator.normal(np.arange(DEPTH), 15)
            noise[places] -= 4 * grades
            reranked.writelines(
                f"{query} Q0 {passages[place]} {rank} {DEPTH - rank} reranked\n"
                for rank, place in enumerate(np.argsort(noise).tolist(), 1)
            )
    return files


def systems(files: Files, found: Path) -> dict[str, list[str]]:
    """Name → command; dear writes its means to `found`, the others print theirs."""
    python = sys.executable
    dear = [python, "-m", "dear.cli", "evaluate", str(files.collection), "--run", "bm25"]
    given = [str(files.qrels), str(files.run)]
    commands = {
        "dear evaluate": dear,
        "dear evaluate --json": [*dear, "--json", str(found)],
        "dear evaluate, two runs compared": [*dear, "--run", str(files.reranked)],
    }
    if importlib.util.find_spec("ir_measures"):
        commands["ir_measures (command)"] = [
            *(python, "-m", "ir_measures", "--places", "9"),
            *(*given, IR_NAMES),
        ]
    if importlib.util.find_spec("pytrec_eval"):
        commands["pytrec_eval"] = [python, "-c", PYTREC_EVAL, *given]
    if importlib.util.find_spec("ranx"):
        commands["ranx"] = [python, "-W", "ignore", "-c", RANX, *given]
    return commands


def timed(command: Sequence[str]) -> tuple[dict[str, float], str]:
    """Seconds and MiB of one process, and what it printed."""
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"failed: {command}")
        out.seek(0)
        printed = out.read()
    return {
        "wall_s": wall,
        "processor_s": used.ru_utime + used.ru_stime,
        "peak_memory_mib": used.ru_maxrss / 1024,
    }, printed


def means_of(name: str, printed: str) -> dict[str, float]:
    """What another tool found, under our names."""
    if name.startswith("ir_measures"):
        ours = dict(zip(IR_NAMES.split(), MEASURES, strict=True))
        rows = (line.split() for line in printed.splitlines())
        return {ours[measure]: float(value) for measure, value in rows}
    return dict(json.loads(printed))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="Keeps the files; else a temporary folder.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/evaluate.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary) / "found.json"
        files = generate(options.work or Path(temporary) / "million")
        commands = systems(files, found)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        means: dict[str, dict[str, float]] = {}
        for turn in range(options.rounds + 1):
            for name, command in commands.items():
                measured, printed = timed(command)
                print(f"{turn} {name}: {measured['wall_s']:.2f} s", file=sys.stderr)
                if turn:  # the first is thrown away: files get cached, ranx compiles
                    rounds[name].append(measured)
                if not name.startswith("dear"):
                    means[name] = means_of(name, printed)
        ours = json.loads(found.read_text())["runs"][0]["means"]
    results: dict[str, Any] = {
        "lines": QUERIES * DEPTH,
        "queries": QUERIES,
        "measures": list(MEASURES),
        "rounds": options.rounds,
        "limits": {"wall_s": LIMIT_S, "peak_memory_mib": LIMIT_MIB},
        "systems": {},
        "machine": describe("cpu", packages=(*PACKAGES[:1], *MEASURED)),
    }
    for name, turns in rounds.items():
        row: dict[str, Any] = {
            key: round(statistics.median(turn[key] for turn in turns), 2) for key in turns[0]
        }
        if name in means:
            row["measures"] = list(means[name])
            far = max(abs(ours[m] - value) for m, value in means[name].items())
            row["largest_difference"] = float(f"{far:.1g}")
        results["systems"][name] = row
        print(f"{name:34} {row['wall_s']:6.2f} s {row['peak_memory_mib']:7.0f} MiB")
    write_json(options.output, results)


if __name__ == "__main__":
    main()
