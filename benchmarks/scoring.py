"""How fast pairs are scored, in turns with what a user would pick instead, and what it costs.

    python benchmarks/scoring.py --data FOLDER --work FOLDER --encoder CHECKPOINT \
        --decoder CHECKPOINT [--only speed,quality,latency,start,memory,training]

--data holds dl19, scifact and noveleval (docs/results.md); the checkpoints are those that
benchmarks/stage1.py trains: a MiniLM-L6 student and the one-logit SmolLM2-135M. The peers
(sentence-transformers, FlagEmbedding, rerankers, onnxruntime with onnx) are measured where they
are installed. Written to benchmarks/results/scoring.json, a part at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from dear.artifacts import read_json, write_json
from dear.bench.machine import with_rates
from dear.bench.peers import PEERS, as_system, installed
from dear.bench.run import bench
from dear.bench.turns import Score, System, pairs_of, quality
from dear.checkpoints.contract import DEAR, DType
from dear.data.collections import open_collection
from dear.data.groups import Group
from dear.export.openvino import export_openvino
from dear.recipes import parse_recipe
from dear.records import Candidates, gather
from dear.scoring.batching import token_batches
from dear.scoring.encoding import Pair, PairEncoder
from dear.scoring.exported import is_exported
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.tensors import collate
from dear.train.examples import Example
from dear.train.pointwise import train

KINDS = ("encoder", "decoder")
LONG = ("scifact",)
"""Sets of long passages: abstracts, cut at 440 tokens."""
LONG_CONTRACT = replace(DEAR, max_passage_tokens=440)
QUALITY = ("dl19", "scifact", "noveleval")


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        os.environ["DEAR_DATA"] = str(options.data)

    def checkpoint(self, kind: str, name: str = "dl19") -> str:
        """The checkpoint; for long passages a copy whose contract lets them in."""
        given: Path = getattr(self.options, kind)
        if name not in LONG:
            return str(given)
        folder: Path = self.options.work / f"{kind}-long"
        if not folder.exists():
            shutil.copytree(given, folder)
            LONG_CONTRACT.save(folder)
        return str(folder)

    def candidates(self, name: str, queries: int, depth: int) -> list[Candidates]:
        """Every n-th judged query of the collection's BM25 run."""
        collection = open_collection(self.options.data / name)
        run = collection.run("bm25", "test")
        judged = [q for q in run if q in collection.judgements("test")]
        step = max(1, len(judged) // queries)
        texts, corpus = collection.queries(), collection.corpus
        return [gather(run[q].top(depth), texts, corpus) for q in judged[::step][:queries]]

    def judgements(self, name: str) -> Any:
        return open_collection(self.options.data / name).judgements("test")

    def export(self, kind: str, dtype: Any, name: str = "dl19") -> str:
        """The checkpoint as an OpenVINO graph; int8 is calibrated on queries not tested."""
        folder = self.options.work / f"{kind}-{dtype}{'-long' if name in LONG else ''}"
        if not is_exported(folder):
            source = self.checkpoint(kind, name)
            model = load_scoring_model(source, dtype="float32", device="cpu")
            pairs = self.calibration()[: self.options.calibration] if dtype == "int8" else []
            started = time.perf_counter()
            export_openvino(model, folder, dtype, calibration=pairs)
            say(f"exported {kind} as {dtype} in {time.perf_counter() - started:.0f} s")
        return str(folder)

    def calibration(self) -> list[Pair]:
        """Web and scientific pairs of queries that are not tested."""
        found: list[Pair] = []
        for name, split in (("dl22", "test"), ("scifact", "train"), ("nfcorpus", "train")):
            collection = open_collection(self.options.data / name)
            run = collection.run("bm25", split)
            queries = list(run)[:: max(1, len(run) // 40)][:40]
            texts = [
                gather(run[q].top(50), collection.queries(), collection.corpus) for q in queries
            ]
            found += pairs_of(texts)[::17]
        return [found[i] for i in np.random.default_rng(0).permutation(len(found))]

    # -- the parts -------------------------------------------------------------------------

    def speed(self) -> dict[str, Any]:
        """Pairs a second of everything, in turns."""
        found = {}
        for kind in self.options.kinds:
            for name in self.options.sets[kind]:
                models = [
                    self.checkpoint(kind, name),
                    self.export(kind, "bfloat16", name),
                    self.export(kind, "int8", name),
                ]
                queries, depth = self.options.pairs[kind]
                candidates = self.candidates(name, queries, depth)
                say(f"{kind} on {name}: {queries} queries x {depth}")
                more = []
                if kind == "encoder":
                    more = [onnx_int8(self.checkpoint(kind, name), self.options.work / kind)]
                report = bench(
                    models,
                    candidates,
                    self.judgements(name),
                    rounds=self.options.rounds,
                    also=more,
                    progress=lambda done, total: say(f"  turn {done} of {total}"),
                )
                found[f"{kind}, {name}"] = report.to_dict()
                for row in report.rows:
                    say(f"  {row.name}: {row.pairs_per_s} pairs/s, {row.share:.0%}, {row.ndcg}")
                for system, reason in report.failed.items():
                    say(f"  {system}: {reason}")
        return found

    def quality(self) -> dict[str, Any]:
        """nDCG@10 of every precision on whole test sets, and how far scores are from float32."""
        found: dict[str, Any] = {}
        for kind in self.options.kinds:
            for name in QUALITY:
                queries, depth = self.options.quality[kind]
                candidates = self.candidates(name, queries, depth)
                pairs = pairs_of(candidates)
                rows: dict[str, Any] = {}
                reference = None
                for label, where, dtype in self.precisions(kind):
                    scores = open_model(where, dtype=dtype).score(pairs)
                    reference = scores if reference is None else reference
                    value = quality(scores, candidates, self.judgements(name))
                    rows[label] = {
                        "ndcg@10": round(value, 4),
                        "difference": round(value - rows["float32"]["ndcg@10"], 4) if rows else 0.0,
                        "largest_score_difference": round(
                            float(np.abs(scores - reference).max()), 5
                        ),
                    }
                    say(f"{kind} {name} {label}: {rows[label]}")
                found[f"{kind}, {name}"] = {"queries": len(candidates), "pairs": len(pairs), **rows}
        return found

    def precisions(self, kind: str) -> list[tuple[str, str, DType]]:
        return [
            ("float32", self.checkpoint(kind), "float32"),
            ("bfloat16", self.checkpoint(kind), "bfloat16"),
            ("OpenVINO bfloat16", self.export(kind, "bfloat16"), "auto"),
            ("OpenVINO int8", self.export(kind, "int8"), "auto"),
        ]

    def latency(self) -> dict[str, Any]:
        """One query with 100 passages, model loaded: p50 and p99 over queries, in turns."""
        found = {}
        for kind in self.options.kinds:
            if not self.options.latency[kind]:
                continue
            candidates = self.candidates("dl19", self.options.latency[kind], 100)
            model = self.checkpoint(kind)
            systems = [
                ours("dear, bfloat16", model),
                ours("dear, OpenVINO bfloat16", self.export(kind, "bfloat16")),
                ours("dear, OpenVINO int8", self.export(kind, "int8")),
            ]
            contract = load_scoring_model(model).contract
            systems += [
                as_system(name, peer, model, contract, "cpu")
                for name, peer in installed().items()
                if name in self.options.latency_peers
            ]
            ready = {s.name: s.load() for s in systems}
            seconds: dict[str, list[float]] = {name: [] for name in ready}
            for score in ready.values():
                score(pairs_of(candidates[:1]))
            for c in candidates:
                pairs = pairs_of([c])
                for name, score in ready.items():
                    started = time.perf_counter()
                    score(pairs)
                    seconds[name].append(time.perf_counter() - started)
            found[kind] = {
                name: {
                    "p50_ms": round(1000 * statistics.median(s), 1),
                    "p99_ms": round(1000 * float(np.quantile(s, 0.99)), 1),
                    "queries": len(s),
                }
                for name, s in seconds.items()
            }
            for name, row in found[kind].items():
                say(f"{kind} {name}: {row}")
        return found

    def start(self) -> dict[str, Any]:
        """Process start to printed ranking of 20 passages, median of five, in turns."""
        work: Path = self.options.work
        c = self.candidates("dl19", 1, 20)[0]
        file = work / "passages.txt"
        file.write_text("\n".join(p.full_text.replace("\n", " ") for p in c.passages), "utf-8")
        model = self.checkpoint("encoder")
        peer = work / "peer.py"
        peer.write_text(PEER_SCRIPT, "utf-8")
        dear = [str(Path(sys.executable).with_name("dear")), "rerank", c.query.text, str(file)]
        commands = {
            "dear rerank": [*dear, "--model", model],
            "dear rerank, OpenVINO int8": [*dear, "--model", self.export("encoder", "int8")],
            "sentence-transformers script": [
                sys.executable,
                str(peer),
                c.query.text,
                str(file),
                model,
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(6):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - started)
        found = {name: round(statistics.median(s[1:]), 2) for name, s in seconds.items()}
        say(str(found))
        return {"seconds": found}

    def memory(self) -> dict[str, Any]:
        """Peak memory of a stream of pairs, short against long, each in its own process."""
        found = {}
        for count in self.options.stream:
            script = MEMORY_SCRIPT.format(model=self.checkpoint("encoder"), count=count)
            done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
            found[str(count)] = json.loads(done.stdout)
            say(f"{count:,} pairs: {found[str(count)]}")
        return found

    def training(self) -> dict[str, Any]:
        """Pairs a second of a student's training: ours from labels on disk, against the published
        loop (the teacher in every step, everything filled up to 228 tokens), both in float32.
        Web passages (what the published student is trained on) and abstracts, which fill 228
        tokens by themselves. The trained weights are thrown away."""
        found: dict[str, Any] = {"precision": "float32"}
        for name in ("dl19", "scifact"):
            candidates = self.candidates(name, 40, 8)
            pairs = pairs_of(candidates)
            rows: dict[str, float] = {}
            with tempfile.TemporaryDirectory(dir=self.options.work) as folder:
                rows["ours, labels on disk"] = self.train_ours(candidates, Path(folder) / "student")
            rows["published loop, without its teacher"] = self.train_published(
                pairs[:96], teacher=False
            )
            if self.options.decoder is not None:
                rows["published loop"] = self.train_published(pairs[:64], teacher=True)
            say(f"{name}: {rows}")
            found[f"pairs_per_s, {name}"] = rows
        return found

    def train_ours(self, candidates: Sequence[Candidates], folder: Path) -> float:
        examples = [
            Example(
                Group(
                    query_id=c.query.id,
                    passage_ids=tuple(p.id for p in c.passages),
                    grades=(1,) + (0,) * (len(c.passages) - 1),
                    teacher=tuple(float(s) for s in c.scores),
                ),
                c.query.text,
                tuple(p.full_text for p in c.passages),
            )
            for c in candidates
        ]
        recipe = parse_recipe(
            {
                "name": "speed",
                "model": {"base": self.checkpoint("encoder")},
                "contract": {"max_query_tokens": 32, "max_passage_tokens": 196},
                "data": [{"collection": "given"}],
                "train": {"groups_per_step": 4, "autocast": False, "save_steps": 1000},
            }
        )
        # between the first and the last step: as the other loop, without setting up and saving
        ends: list[float] = []
        trained = train(
            recipe,
            folder,
            examples=examples,
            progress=lambda _step: ends.append(time.perf_counter()),
        )
        later = trained.pairs * (len(ends) - 1) / len(ends)
        return round(later / (ends[-1] - ends[0]), 2)

    def train_published(self, pairs: Sequence[Pair], *, teacher: bool) -> float:
        student, tokenizer = _classifier(self.checkpoint("encoder"))
        judge, its = _classifier(self.checkpoint("decoder")) if teacher else (None, None)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
        student.train()
        started = 0.0
        for at in range(0, len(pairs), 16):  # 8 queries with 2 passages each
            if at == 16:  # behind the first step
                started = time.perf_counter()
            queries, passages = zip(*pairs[at : at + 16], strict=True)
            logits = student(**_filled(tokenizer, queries, passages)).logits.view(-1, 2)
            loss = torch.nn.functional.cross_entropy(
                logits, torch.zeros(len(logits), dtype=torch.long)
            )
            if judge is not None:
                with torch.no_grad():
                    aims = judge(**_filled(its, queries, passages)).logits.view(-1, 2)
                loss = 0.9 * loss + 0.1 * 4 * torch.nn.functional.kl_div(
                    (logits / 2).log_softmax(-1), (aims / 2).softmax(-1), reduction="batchmean"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        return round((len(pairs) - 16) / (time.perf_counter() - started), 2)


def _classifier(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def _filled(tokenizer: Any, queries: Sequence[str], passages: Sequence[str]) -> Any:
    return tokenizer(
        list(queries),
        list(passages),
        truncation=True,
        padding="max_length",
        max_length=228,
        return_tensors="pt",
    )


PEER_SCRIPT = """
import sys
from sentence_transformers import CrossEncoder
query, file, model = sys.argv[1:]
passages = open(file, encoding="utf-8").read().splitlines()
for row in CrossEncoder(model).rank(query, passages, return_documents=True)[:10]:
    print(row["score"], row["text"])
"""

MEMORY_SCRIPT = """
import json, resource, time
from dear.scoring.opening import open_model
model = open_model("{model}")
started = time.perf_counter()
count = sum(1 for _ in model.stream((f"query {{i}}", f"word {{i % 977}}") for i in range({count})))
print(json.dumps({{
    "pairs": count,
    "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    "seconds": round(time.perf_counter() - started, 1),
}}))
"""


def ours(name: str, model: str) -> System:
    return System(name=name, load=lambda: open_model(model).score)


def onnx_int8(source: str, path: Path) -> System:
    """ONNX Runtime with dynamic int8 of the same weights, in the same token-budget batches.

    path: without an ending, where its graphs are kept.
    """

    def load() -> Score:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = load_scoring_model(source, dtype="float32", device="cpu")
        plain, packed = (path.with_name(f"{path.name}{end}") for end in (".onnx", ".int8.onnx"))
        if not packed.exists():
            ids, mask, types = collate(
                PairEncoder(model.tokenizer, model.contract).encode([("a b", "c d"), ("a", "b")]),
                pad_id=model.tokenizer.pad_token_id,
            )
            torch.onnx.export(
                model.model,
                (),
                str(plain),
                kwargs={"input_ids": ids, "attention_mask": mask, "token_type_ids": types},
                input_names=["input_ids", "attention_mask", "token_type_ids"],
                output_names=["logits"],
                dynamic_axes={
                    name: {0: "batch", 1: "tokens"}
                    for name in ("input_ids", "attention_mask", "token_type_ids")
                },
                dynamo=False,
            )
            quantize_dynamic(str(plain), str(packed), weight_type=QuantType.QInt8)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(packed), settings, ["CPUExecutionProvider"])
        encoder = PairEncoder(model.tokenizer, model.contract)

        def score(pairs: Sequence[Pair]) -> Any:
            encoded = encoder.encode(pairs)
            found = np.empty(len(pairs), dtype=np.float32)
            for rows in token_batches([len(e) for e in encoded], 2048):
                ids, mask, types = collate(
                    [encoded[i] for i in rows], pad_id=model.tokenizer.pad_token_id
                )
                feed = {
                    "input_ids": ids.numpy(),
                    "attention_mask": mask.numpy(),
                    "token_type_ids": types.numpy(),
                }
                found[rows] = session.run(None, feed)[0][:, 0]
            return found

        return score

    return System(name="ONNX Runtime int8, same batches", load=load)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def shape(text: str) -> tuple[int, int]:
    queries, depth = text.split("x")
    return int(queries), int(depth)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scoring.json"))
    parser.add_argument("--only", default="speed,quality,latency,start,memory,training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--encoder-pairs", type=shape, default=(5, 100), help="QUERIESxDEPTH")
    parser.add_argument("--decoder-pairs", type=shape, default=(2, 50))
    parser.add_argument("--encoder-quality", type=shape, default=(300, 100))
    parser.add_argument("--decoder-quality", type=shape, default=(20, 20))
    parser.add_argument("--latency-queries", type=int, default=40)
    parser.add_argument("--stream", type=int, action="append")
    options = parser.parse_args()
    options.kinds = [kind for kind in KINDS if getattr(options, kind) is not None]
    options.pairs = {"encoder": options.encoder_pairs, "decoder": options.decoder_pairs}
    options.quality = {"encoder": options.encoder_quality, "decoder": options.decoder_quality}
    options.latency = {"encoder": options.latency_queries, "decoder": options.latency_queries // 10}
    options.sets = {"encoder": ("dl19", *LONG), "decoder": ("dl19",)}
    options.latency_peers = [name for name in PEERS if "published" not in name]
    options.stream = options.stream or [10_000, 100_000]
    options.work.mkdir(parents=True, exist_ok=True)
    runner = Bench(options)
    results = read_json(options.output) if options.output.exists() else {}
    for part in options.only.split(","):
        say(part)
        results.setdefault(part, {}).update(getattr(runner, part)())
        results["machine"] = with_rates()
        write_json(options.output, results)


if __name__ == "__main__":
    main()
