"""Where the time goes in our own engine, and what each of its devices is worth on this machine.

    python benchmarks/inside.py --data FOLDER --encoder CHECKPOINT --decoder CHECKPOINT \
        [--only profile,graph,last,attention,compile,prefix,shapes]

profile: kinds of operations in bfloat16 batch scoring, and the rate inside matrix products.
graph:   the same of the bfloat16 export, by OpenVINO's own counters, for batches of three
         widths; one stream, one thread.
last:    the last layer for the token that is read, against the whole layer.
attention: SDPA against eager attention: speed, error, and what company changes of a score.
compile: torch.compile (dynamic shapes, and widths in buckets) against eager, warm-up apart.
prefix:  a query's keys and values shared by its passages, against whole sequences (decoder).
shapes:  batches of few shapes against any, on queries that are new to both, one after another.

Written to benchmarks/results/inside.json, a part at a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dear.artifacts import read_json, write_json
from dear.bench.machine import matrix_rate, with_rates
from dear.bench.turns import pairs_of
from dear.checkpoints.layers import find_layers
from dear.data.collections import open_collection
from dear.export.openvino import export_openvino
from dear.records import Candidates, every_nth, gather
from dear.scoring.batching import ANY_SHAPE
from dear.scoring.encoding import Encoded
from dear.scoring.engines.openvino import GRAPH, load_openvino, separate_gates
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.engines.prefix import PrefixEngine
from dear.scoring.loading import ScoringModel, load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer
from dear.scoring.tensors import collate

KINDS = ("encoder", "decoder")
BUCKET = 32
WIDTHS = (96, 104, 112)
"""Of the batches whose counters are read."""

OPERATIONS = {
    "attention": ("scaled_dot_product", "flash_attention", "softmax", "bmm", "baddbmm"),
    "matrix products": ("mm", "linear", "matmul", "mkldnn"),
    "norms": ("norm", "rsqrt", "mean", "pow"),
    "activations": ("silu", "gelu", "tanh"),
    "copies and casts": ("copy_", "cat", "index", "contiguous", "clone", "embedding"),
    "elementwise": ("mul", "add", "neg", "sub", "div", "where"),
}
"""Kind → what its operations' names contain, the first that fits."""


class Inside:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        os.environ["DEAR_DATA"] = str(options.data)
        self.opened: dict[str, Scorer] = {}

    def scorer(self, kind: str) -> Scorer:
        if kind not in self.opened:
            found = open_model(str(getattr(self.options, kind)), dtype="bfloat16")
            assert isinstance(found, Scorer)
            self.opened[kind] = found
        return self.opened[kind]

    def candidates(self, name: str, split: str, queries: int, depth: int) -> list[Candidates]:
        collection = open_collection(self.options.data / name)
        run = collection.run("bm25", split)
        judged = [q for q in run if q in collection.judgements(split)]
        texts, corpus = collection.queries(), collection.corpus
        return [gather(run[q].top(depth), texts, corpus) for q in every_nth(judged, queries)]

    def encoded(self, kind: str) -> list[Encoded]:
        queries, depth = self.options.pairs[kind]
        pairs = pairs_of(self.candidates("dl19", "test", queries, depth))
        return list(self.scorer(kind).encoder.encode(pairs))

    # -- the parts -------------------------------------------------------------------------

    def profile(self, kind: str) -> dict[str, Any]:
        scorer, encoded = self.scorer(kind), self.encoded(kind)
        engine = PaddedEngine(model_of(scorer), scorer.batch_tokens)
        engine.run(encoded[:32])
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            started = time.perf_counter()
            engine.run(encoded)
            seconds = time.perf_counter() - started
        spent: dict[str, float] = {}
        for event in recorded.key_averages():
            name = kind_of(event.key)
            spent[name] = spent.get(name, 0.0) + event.self_cpu_time_total / 1e6
        total = sum(spent.values())
        tokens = sum(map(len, encoded))
        flop = 2.0 * scorer.model.working_parameters * tokens
        rate = matrix_rate("bfloat16")
        return {
            "pairs": len(encoded),
            "seconds": round(seconds, 2),
            "of_the_matrix_rate": round(flop / seconds / rate, 3),
            "inside_products": round(flop / spent["matrix products"] / rate, 3),
            "shares": {n: round(s / total, 3) for n, s in sorted(spent.items(), key=by_seconds)},
        }

    def graph(self, kind: str) -> dict[str, Any]:
        source = str(getattr(self.options, kind))
        ov = load_openvino()
        with tempfile.TemporaryDirectory() as folder:
            export_openvino(
                load_scoring_model(source, dtype="float32", device="cpu"),
                Path(folder) / "export",
                "bfloat16",
            )
            graph = ov.Core().read_model(str(Path(folder) / "export" / GRAPH))
        separate_gates(graph)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERF_COUNT": True,
        }
        request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        rate = matrix_rate("bfloat16")
        torch.set_num_threads(threads)
        encoded = self.encoded(kind)
        middle = sorted((e for e in encoded if len(e) <= WIDTHS[0]), key=len)[-1]
        names = [port.any_name for port in graph.inputs]
        found: dict[str, Any] = {}
        for width in WIDTHS:
            count = max(1, 2048 // width)
            ids, mask, types = collate([middle] * count, pad_id=0, width=width)
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
            spent: dict[str, list[float]] = {}
            for _ in range(self.options.rounds + 1):
                request.infer({name: feed[name].numpy() for name in names})
                once: dict[str, float] = {}
                for counter in request.get_profiling_info():
                    seconds = counter.real_time.total_seconds()
                    once[counter.node_type] = once.get(counter.node_type, 0.0) + seconds
                for name, seconds in once.items():
                    spent.setdefault(name, []).append(seconds)
            # without the first, which loads and plans
            took = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
            total = sum(took.values())
            # what the last layer leaves out is not counted as done
            done = 2.0 * self.products(self.scorer(kind)) * count * width
            shares = {n: round(s / total, 3) for n, s in sorted(took.items(), key=by_seconds)}
            found[f"width {width}"] = {
                "tokens": len(middle),
                "sequences_per_s": round(count / total, 1),
                "of_the_matrix_rate": round(done / total / rate, 3),
                "inside_products": round(done / took["FullyConnected"] / rate, 3),
                "shares": {name: share for name, share in shares.items() if share >= 0.01},
            }
        return found

    def products(self, scorer: Scorer) -> float:
        """Weights that multiply each token, the last layer's behind its attention left out."""
        model = model_of(scorer).model
        layers = getattr(*find_layers(model, model.config.num_hidden_layers))
        each = [
            {n: m.weight.numel() for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
            for layer in layers
        ]
        first = ("q_proj", "k_proj", "v_proj", "query", "key", "value")
        last = sum(size for name, size in each[-1].items() if name.endswith(first))
        return float(sum(sum(sizes.values()) for sizes in each[:-1]) + last)

    def last(self, kind: str) -> dict[str, Any]:
        scorer, encoded = self.scorer(kind), self.encoded(kind)
        engines = {
            name: PaddedEngine(model_of(scorer), scorer.batch_tokens, whole=name == "whole")
            for name in ("whole", "one token")
        }
        scores = {name: engine.run(encoded) for name, engine in engines.items()}
        seconds = turns(
            {n: partial(e.run, encoded) for n, e in engines.items()}, self.options.rounds
        )
        return rounded(
            {
                "pairs": len(encoded),
                "dtype": scorer.contract.dtype,
                "gain": seconds["whole"] / seconds["one token"],
                "largest_difference": float(np.abs(scores["whole"] - scores["one token"]).max()),
            }
        )

    def attention(self, kind: str) -> dict[str, Any]:
        scorer, encoded = self.scorer(kind), self.encoded(kind)
        model = model_of(scorer)
        engine = PaddedEngine(model, scorer.batch_tokens)
        exact = load_scoring_model(str(getattr(self.options, kind)), dtype="float32", device="cpu")
        reference = PaddedEngine(exact, scorer.batch_tokens).run(encoded)
        before = model.model.config._attn_implementation

        def use(name: str) -> Callable[[], Any]:
            def run() -> Any:
                model.model.set_attn_implementation(name)
                return engine.run(encoded)

            return run

        runs = {name: use(name) for name in ("eager", "sdpa")}
        found: dict[str, Any] = {"pairs": len(encoded), "default_here": before}
        for name, run in runs.items():
            scores = run()
            alone = np.concatenate([engine.run([one]) for one in encoded])
            found[name] = {
                "error_rms": round(float(np.sqrt(np.square(scores - reference).mean())), 4),
                "company_rms": round(float(np.sqrt(np.square(scores - alone).mean())), 4),
                "company_largest": round(float(np.abs(scores - alone).max()), 4),
            }
        for name, seconds in turns(runs, self.options.rounds).items():
            found[name]["pairs_per_s"] = round(len(encoded) / seconds, 1)
        model.model.set_attn_implementation(before)
        return found

    def compile(self, kind: str) -> dict[str, Any]:
        scorer, encoded = self.scorer(kind), self.encoded(kind)
        model, budget = model_of(scorer), scorer.batch_tokens
        engine = PaddedEngine(model, budget)
        body = getattr(model.model, model.model.base_model_prefix)
        plain = body.forward
        reference = engine.run(encoded)
        found: dict[str, Any] = {}
        try:
            body.forward = torch.compile(plain, dynamic=True)
            started = time.perf_counter()
            engine.run(encoded)
            found["first_pass_s"] = round(time.perf_counter() - started, 1)
            compiled = body.forward

            def use(forward: Any) -> Callable[[], Any]:
                def run() -> Any:
                    body.forward = forward
                    return engine.run(encoded)

                return run

            seconds = turns({"eager": use(plain), "compiled": use(compiled)}, self.options.rounds)
            found |= {f"{name}_pairs_per_s": len(encoded) / s for name, s in seconds.items()}
            body.forward = compiled
            found["largest_difference"] = float(np.abs(engine.run(encoded) - reference).max())
            gain = seconds["eager"] - seconds["compiled"]
            found["pays_after_pairs"] = (
                round(found["first_pass_s"] / gain * len(encoded)) if gain > 0 else None
            )
        finally:
            body.forward = plain
        return rounded(found)

    def prefix(self, kind: str) -> dict[str, Any]:
        if kind == "encoder":
            return {"reason": "an encoder's query reads its passage: nothing is shared"}
        scorer, encoded = self.scorer(kind), self.encoded(kind)
        model, budget = model_of(scorer), scorer.batch_tokens
        shared, padded = PrefixEngine(model, budget), PaddedEngine(model, budget)
        saved = sum(s.saved for group in shared.passes(encoded) for s in group)
        seconds = turns(
            {"padded": lambda: padded.run(encoded), "shared": lambda: shared.run(encoded)},
            self.options.rounds,
        )
        return rounded(
            {
                "pairs": len(encoded),
                "tokens_saved": saved / sum(map(len, encoded)),
                "gain": seconds["padded"] / seconds["shared"],
                "largest_difference": float(
                    np.abs(padded.run(encoded) - shared.run(encoded)).max()
                ),
            }
        )

    def shapes(self, kind: str) -> dict[str, Any]:
        """Every query once by each, so that neither finds a kernel that its twin has left."""
        queries, depth = self.options.shapes
        scorer = self.scorer(kind)
        model, encode = model_of(scorer), scorer.encoder.encode
        few = PaddedEngine(model, scorer.batch_tokens)
        engines = {"any": PaddedEngine(model, scorer.batch_tokens, ANY_SHAPE), "few": few}
        if few.grid == ANY_SHAPE:
            return {"reason": f"any shape will do in {model.contract.dtype} here"}
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for number, c in enumerate(self.candidates("dl19", "test", queries, depth)):
            encoded = encode([(c.query.text, p.full_text) for p in c.passages])
            for name in sorted(engines, reverse=bool(number % 2)):
                started = time.perf_counter()
                engines[name].run(encoded)
                seconds[name].append(time.perf_counter() - started)
        # the first ones load whatever else is loaded on first use
        settled = {name: found[2:] for name, found in seconds.items()}
        return rounded(
            {
                "queries": len(settled["any"]),
                "passages": depth,
                "any_ms": 1000 * statistics.median(settled["any"]),
                "few_ms": 1000 * statistics.median(settled["few"]),
                "gain": sum(settled["any"]) / sum(settled["few"]),
                "more_padding": few.tokens_padded / engines["any"].tokens_padded - 1,
            }
        )


def model_of(scorer: Scorer) -> ScoringModel:
    assert isinstance(scorer.model, ScoringModel)
    return scorer.model


def kind_of(operation: str) -> str:
    name = operation.removeprefix("aten::")
    for kind, parts in OPERATIONS.items():
        if any(part in name for part in parts):
            return kind
    return "the rest"


def by_seconds(item: tuple[str, float]) -> float:
    return -item[1]


def turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs) if i % 2 == 0 else list(runs)[::-1]:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(s) for name, s in seconds.items()}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


def shape(text: str) -> tuple[int, int]:
    queries, depth = text.split("x")
    return int(queries), int(depth)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/inside.json"))
    parser.add_argument("--only", default="profile,graph,last,attention,compile,prefix,shapes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder-pairs", type=shape, default=(5, 100), help="QUERIESxDEPTH")
    parser.add_argument("--decoder-pairs", type=shape, default=(2, 50))
    parser.add_argument("--shapes", type=shape, default=(20, 100))
    options = parser.parse_args(arguments)
    options.pairs = {"encoder": options.encoder_pairs, "decoder": options.decoder_pairs}
    inside = Inside(options)
    results = read_json(options.output) if options.output.exists() else {}
    for part in options.only.split(","):
        for kind in KINDS:
            if getattr(options, kind) is None:
                continue
            found = getattr(inside, part)(kind)
            print(
                f"{time.strftime('%H:%M:%S')} {part} {kind}: {found}", file=sys.stderr, flush=True
            )
            results.setdefault(part, {})[kind] = found
        results["machine"] = with_rates()
        write_json(options.output, results)


if __name__ == "__main__":
    main()
