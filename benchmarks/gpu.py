"""Proves every GPU path on one card, in one command of at most eight minutes.

    pip install torch==2.13.0 transformers==5.23.0 tokenizers safetensors numpy scipy pyarrow \
        pydantic typer rich bm25s pystemmer ir-measures accelerate==1.15.0 peft==0.21.2 \
        bitsandbytes==0.50.2 sentence-transformers==6.2.0 pytest hypothesis nvidia-ml-py
    PYTHONPATH=src python benchmarks/gpu.py --out gpu_h200

Nothing else is fetched: weights are random, made on the card in the published models' shapes, and
texts are made-up words in MS MARCO's lengths. Written after each part: OUT.json, and OUT.md with
the tables; --resume goes on after whatever ended the command. A part whose wheel is missing, or
whose shape the card does not hold, says so and the others run. The exit status is 1 where a part
failed or a number is not right: engines are compared with transformers' own forward pass over the
same weights in the same dtype, trainings with the loss that it gives.

Without a card, or with --tiny, the shapes are tiny and the numbers mean nothing: this shows that
the script runs to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import numpy as np
import torch
from made_up import (
    SHAPES,
    TINY,
    as_it_comes,
    full_examples,
    make_candidates,
    make_model,
    plain_scores,
    save,
    tiny_base,
)
from parallel import LIMIT, loss_difference, save_base
from parallel import run as train_small
from parts import Part, Report, Skip, is_right, run_parts, start_method, write_markdown

from dear.bench.machine import describe, matrix_rate
from dear.bench.turns import Score, System, in_turns, pairs_of
from dear.checkpoints.contract import CARD
from dear.checkpoints.hardware import device_name, has_bfloat16, pick_device, pick_dtype
from dear.checkpoints.heads import float32_head, pool_by_mask
from dear.checkpoints.layers import find_layers
from dear.plan.cards import GIB, Card, find_card
from dear.plan.memory import Memory, scoring_memory, weigh
from dear.plan.planning import Assumed, Plan, plan
from dear.plan.simulating import bare_recipe
from dear.plan.work import Setup
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.recipes import DataRecipe, ModelRecipe, Recipe, load_recipe
from dear.records import Candidates
from dear.scoring.batching import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, pick_batch_tokens
from dear.scoring.encoding import Encoded, Pair, PairEncoder
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.loading import ScoringModel
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer
from dear.train.examples import Example
from dear.train.pointwise import train

DEPTH, TINY_DEPTH = 100, 12
ROUND_S, GUESSED_SHARE = 1.0, 0.5
"""A round of one system takes about so long if it has half of the matrix rate."""
ROUNDS, LATENCY_S, MOST_QUERIES = 3, 6.0, 40
CHECKED = 48
"""Pairs whose scores are compared."""
STEPS = 3
"""Of a training, after the first, which sets up the optimiser."""
SAMENESS = {"int8": 0.95, "int4": 0.7}
"""Correlation with the scores in 16 bits, at least; NF4's rounding adds up over random layers."""


@dataclass(frozen=True)
class Options:
    """tiny: small shapes.  work: a folder for weights; in memory where there is room."""

    tiny: bool
    work: Path

    @property
    def device(self) -> torch.device:
        return pick_device("auto")

    @property
    def batch_tokens(self) -> int:
        return CPU_BATCH_TOKENS if self.tiny else GPU_BATCH_TOKENS

    @property
    def depth(self) -> int:
        """Passages of a query."""
        return TINY_DEPTH if self.tiny else DEPTH

    def base(self, size: str) -> str:
        """A published base by name, or a folder of its kind."""
        return tiny_base(size, self.work / f"tiny-{size}") if self.tiny else SHAPES[size]

    @property
    def dtype(self) -> Any:
        return pick_dtype("auto", self.device) if self.device.type == "cuda" else "float32"


# -- what is measured on, and what is measured with ------------------------------------------


def card_of(device: torch.device) -> Card:
    """The device as `dear plan` takes one, its matrix rate measured now."""
    if device.type == "cpu":
        return find_card("cpu")
    found = torch.cuda.get_device_properties(device)
    rate = matrix_rate(pick_dtype("auto", device))
    # nothing here depends on the bandwidth
    return Card(name=found.name, memory=found.total_memory, rate=rate, bandwidth=1e12)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float | None:
    """Of tensors since the last reset; a processor does not say."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def start_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def scoring_plan(base: str, batch_tokens: int, card: Card, dtype: str = "bfloat16") -> Memory:
    """What `dear plan` expects of scoring the longest pairs of the contract."""
    model = ModelRecipe(base=base, dtype="bfloat16")
    setup = Setup(recipe=bare_recipe("pointwise", model), on_cpu=card.is_cpu)
    tokens = CARD.max_tokens or 0
    return scoring_memory(setup, dtype=dtype, batch_tokens=batch_tokens, tokens=tokens)


# -- the parts -------------------------------------------------------------------------------


def machine(report: Report, options: Options) -> None:
    """What everything else ran on."""
    device = options.device
    about: dict[str, Any] = describe(str(device)) | {"cuda": torch.version.cuda}
    if device.type == "cuda":
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
        about["driver"] = said.strip().splitlines()[0] if said.strip() else None
        about["memory_gib"] = torch.cuda.get_device_properties(device).total_memory / GIB
        about["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    for dtype in ("float32", options.dtype):
        about[f"{dtype}_tflop_s"] = matrix_rate(dtype) / 1e12
    for name, value in about.items():
        report.row(name, value=value)


def tests(report: Report, options: Options) -> None:
    """pytest over the files that hold a test marked `gpu`."""
    import pytest

    counts: dict[str, dict[str, int]] = {}

    class Outcomes:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                of_file = counts.setdefault(report.nodeid.partition("::")[0], {})
                of_file[report.outcome] = of_file.get(report.outcome, 0) + 1

    root = Path(__file__).resolve().parents[1]
    files = [str(f) for f in sorted(root.glob("tests/**/test_*.py")) if "mark.gpu" in f.read_text()]
    # the versions there may not be those whose warnings the suite knows
    flags = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    status = pytest.main([*flags, f"--rootdir={root}", *files], plugins=[Outcomes()])
    for file, found in counts.items():
        report.row(file, **found, right="failed" not in found)
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with status {int(status)}")


def score(size: str, report: Report, options: Options) -> None:
    """Ours, transformers' own and sentence-transformers over the same weights, in turns."""
    device, base = options.device, options.base(size)
    card = card_of(device)
    planned = scoring_plan(base, options.batch_tokens, card)
    if not planned.fits(card):
        raise Skip(f"{size} needs {planned.total / GIB:.0f} GiB, {card.name} has {gib_of(card)}")
    start_peak(device)
    model = make_model(base, device, options.dtype)
    plain, compiled = as_it_comes(model), as_it_comes(model)
    pool_by_mask(model.model)
    float32_head(model.model)

    flop = 2.0 * model.working_parameters * 101
    queries = round(ROUND_S * GUESSED_SHARE * card.rate / (flop * DEPTH))
    queries = 1 if options.tiny else max(1, min(MOST_QUERIES, queries))
    candidates = make_candidates(queries, options.depth)
    pairs = pairs_of(candidates)
    encoded = PairEncoder(model.tokenizer, model.contract).encode(pairs)
    flop = 2.0 * model.working_parameters * float(np.mean([len(e) for e in encoded]))
    reference = Reference(plain, encoded[:CHECKED], model)
    report.note(
        f"{model.parameters / 1e9:.2f} billion weights in {options.dtype}; {len(pairs)} pairs of "
        f"{flop / 2 / model.working_parameters:.0f} tokens; {card.rate / 1e12:.4g} TFLOP/s in "
        f"matrix products; scores vary by {reference.spread:.3g}; the rounding of transformers' "
        f"own pass, in a batch against alone, is {reference.noise:.2g}"
    )

    scores: dict[str, Score] = {}

    def measure(loads: Mapping[str, Callable[[], Score]], *, needed: Sequence[str] = ()) -> None:
        def load(name: str) -> Score:
            found = loads[name]()
            found(pairs)  # all shapes; what memory does not hold shows here
            return scores.setdefault(name, found)

        systems = [System(name=name, load=partial(load, name)) for name in loads]
        timings, failed = in_turns(systems, pairs, rounds=1 if options.tiny else ROUNDS)
        for t in timings:
            share = t.pairs_per_s * flop / card.rate
            off = reference.compare(t.scores)
            report.row(t.name, pairs_per_s=t.pairs_per_s, of_the_matrix_rate=share, **off)
        for name, reason in failed.items():
            report.row(name, **{"right": False} if name in needed else {}, reason=reason)

    ours = {f"dear, {e}": partial(engine, model, e) for e in ("padded", "packed", "prefix")}
    theirs = {
        f"sentence-transformers, {n} a batch": partial(cross_encoder, plain, model, n, options)
        for n in (32, 256)
    }
    measure(ours | theirs, needed=list(ours))
    report.note(f"the engine that `auto` takes: {type(Scorer(model).engine).__name__}")
    start_peak(device)
    longest = CARD.max_tokens or 0
    full = [Encoded([7] * longest, [0] * longest)] * (options.batch_tokens // longest)
    PaddedEngine(model, options.batch_tokens).run(full)
    report.row("memory, a full batch", planned_gib=planned.total / GIB, peak_gib=peak_gib(device))
    latency(report, scores, candidates, 0.0 if options.tiny else LATENCY_S)
    # last: the compiler may take more time than there is, or be none
    measure({"dear, compiled": partial(compile_layers, compiled, model, options)})


def gib_of(card: Card) -> str:
    return f"{card.memory / GIB:.0f} GiB"


class Reference:
    """What transformers' own forward pass says, a pair at a time and so without padding.

    noise: root mean square of what a padded batch changes in it: the dtype's own rounding.
    """

    def __init__(self, plain: Any, encoded: Sequence[Encoded], model: ScoringModel) -> None:
        self.scores = plain_scores(plain, encoded, model, 1)
        self.spread = float(self.scores.std())
        self.noise = rms(plain_scores(plain, encoded, model, len(encoded)) - self.scores)
        # a step of the dtype, where the kernels happen to round alike
        step = float(torch.finfo(getattr(torch, model.contract.dtype)).eps)
        self.limit = max(3 * self.noise, 2 * step * self.spread, 1e-5)

    def compare(self, scores: Any) -> dict[str, Any]:
        apart = np.asarray(scores)[: len(self.scores)] - self.scores
        return {
            "off_rms": rms(apart),
            "off_most": float(np.abs(apart).max()),
            "right": bool(rms(apart) <= self.limit),
        }


def rms(values: Any) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def engine(model: ScoringModel, name: Any) -> Score:
    return Scorer(model, engine=name, batch_tokens=pick_batch_tokens(None, model.device)).score


def compile_layers(other: Any, model: ScoringModel, options: Options) -> Score:
    """Padded batches through layers that torch.compile has made one kernel after another of.

    tiny: without the compiler behind it, which takes longer than all the rest."""
    pool_by_mask(other)
    float32_head(other)
    parent, name = find_layers(other, other.config.num_hidden_layers)
    backend = "eager" if options.tiny else "inductor"
    for layer in getattr(parent, name):
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)
    compiled = PaddedEngine(replace(model, model=other), options.batch_tokens, whole=True)
    encoder = PairEncoder(model.tokenizer, model.contract)
    return lambda pairs: compiled.run(encoder.encode(pairs))


def cross_encoder(plain: Any, model: ScoringModel, batch: int, options: Options) -> Score:
    """sentence-transformers' CrossEncoder, opened on a tiny folder and given the weights."""
    from sentence_transformers import CrossEncoder

    folder = options.work / "peer"
    if not folder.exists():
        config = type(plain.config)(**TINY, num_labels=1)
        save(replace(model, model=type(plain)(config)), folder)
    peer = CrossEncoder(
        str(folder),
        num_labels=1,
        max_length=model.contract.longest,
        device=str(model.device),
        activation_fn=torch.nn.Identity(),
        trust_remote_code=False,
    )
    peer[0].model = plain
    prompt = PAIR_PROMPTS[model.contract.prompt]

    def predict(pairs: Sequence[Pair]) -> Any:
        texts = [prompt.render(*pair) for pair in pairs]
        return peer.predict(texts, batch_size=batch, show_progress_bar=False)

    return predict


def latency(
    report: Report, scores: Mapping[str, Score], candidates: Sequence[Candidates], limit_s: float
) -> None:
    """One query with its passages, from texts to scores: queries in turns through all systems."""
    seconds: dict[str, list[float]] = {name: [] for name in scores}
    started = time.perf_counter()
    for number in range(MOST_QUERIES):
        pairs = pairs_of([candidates[number % len(candidates)]])
        for name, take in scores.items():
            before = time.perf_counter()
            take(pairs)
            seconds[name].append(time.perf_counter() - before)
        if number >= 2 and time.perf_counter() - started > limit_s:
            break
    for name, took in seconds.items():
        report.row(
            f"one query, {len(candidates[0].passages)} passages: {name}",
            p50_ms=1000 * statistics.median(took),
            p99_ms=1000 * float(np.quantile(took, 0.99)),
            queries=len(took),
        )


def quantised(report: Report, options: Options) -> None:
    """The largest teacher that the card holds in 16 bits, read from its files in 8 and in 4."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Skip("bitsandbytes is not installed")
    device, card = options.device, card_of(options.device)
    for size in ("13b", "8b", "3b"):
        base = options.base(size)
        weights = weigh(Setup(recipe=bare_recipe("pointwise", ModelRecipe(base=base)))).shape
        room = shutil.disk_usage(options.work).free / (2.2 * weights.parameters)
        if scoring_plan(base, options.batch_tokens, card).fits(card) and room > 1:
            break
        report.note(f"{size}: too large for {gib_of(card)} on the card or for {options.work}")
    else:
        raise Skip("no shape fits")
    model = make_model(base, device, options.dtype)
    folder = save(model, options.work / "teacher")
    float32_head(model.model)
    pairs = pairs_of(make_candidates(1, options.depth))
    exact = engine(model, "padded")(pairs)
    del model
    for dtype in SAMENESS:
        start_peak(device)
        started = time.perf_counter()
        scorer = open_model(folder, dtype=dtype, device=str(device))  # type: ignore[arg-type]
        loaded = time.perf_counter() - started
        scores = scorer.score(pairs)
        started = time.perf_counter()
        scorer.score(pairs)
        report.row(
            f"{size} in {dtype}",
            load_s=loaded,
            pairs_per_s=len(pairs) / (time.perf_counter() - started),
            planned_gib=scoring_plan(base, options.batch_tokens, card, dtype).total / GIB,
            peak_gib=peak_gib(device),
            correlation=(same := float(np.corrcoef(scores, exact)[0, 1])),
            right=same >= SAMENESS[dtype],
        )
        del scorer


def training(recipes: Mapping[str, str], report: Report, options: Options) -> None:
    """Steps of the first recipe that fits the card, as `dear train` takes them.

    recipes: name of the recipe → size of its base.
    Every pair is as long as the recipe allows: what the plan is for.
    """
    device, card = options.device, card_of(options.device)
    for name, size in recipes.items():
        recipe, planned = step_recipe(name, options.base(size), card)
        if planned.fits:
            break
        report.note(f"{name}: {planned.memory.total / GIB:.0f} GiB do not fit {gib_of(card)}")
    else:
        raise Skip("no recipe fits")
    model = make_model(recipe.model.base, device, options.dtype)
    folder = save(model, options.work / f"base-{size}")
    examples = full_examples(recipe)
    expected = plain_loss(model, recipe, examples)
    del model
    start_peak(device)
    ends: list[float] = []
    losses: list[float] = []

    class Enough(Exception):
        """No checkpoint is written."""

    def progress(step: Any) -> None:
        synchronize(device)
        ends.append(time.perf_counter())
        losses.append(step.loss)  # of the step before
        if len(ends) == 1:
            start_peak(device)
        if len(ends) > STEPS:
            raise Enough

    local = replace(recipe, model=replace(recipe.model, base=str(folder)))
    with contextlib.suppress(Enough):
        train(local, options.work / f"trained-{size}", examples=examples, progress=progress)
    step_s = (ends[-1] - ends[0]) / STEPS
    stage = next(s for s in planned.stages if s.name == "train")
    tokens = planned.setup.sequences * planned.setup.longest
    tensors = planned.memory.total - planned.memory.overhead
    report.row(
        name,
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        of_the_matrix_rate=stage.flops / planned.steps / step_s / card.rate,
        planned_tensors_gib=tensors / GIB,
        peak_gib=peak_gib(device),
        planned_gib=planned.memory.total / GIB,
        used_gib=used_gib(device),
    )
    off = abs(losses[1] - expected)
    report.row(
        "loss",
        transformers=expected,
        first_step=losses[1],
        last_step=losses[-1],
        right=off <= 0.02 * max(1.0, expected) and losses[-1] < losses[1],
    )


def used_gib(device: torch.device) -> float | None:
    """Of the card, by whoever: driver, context and what the allocator keeps."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / GIB


def step_recipe(name: str, base: str, card: Card) -> tuple[Recipe, Plan]:
    """The recipe with one pass a step, and its plan."""
    found = load_recipe(f"family/{name}")
    groups = 1 if card.is_cpu else found.train.groups_per_step // found.train.accumulate
    steps = replace(
        found.train,
        groups_per_step=groups,
        accumulate=1,
        max_steps=STEPS + 2,
        warmup=0.0,
        log_steps=1,
        save_steps=1000,
    )
    model, data = replace(found.model, base=base), (DataRecipe(collection="made-up"),)
    recipe = replace(found, model=model, data=data, train=steps)
    longest = recipe.contract.max_query_tokens + recipe.contract.max_passage_tokens + 3
    return recipe, plan(recipe, card, 1, Assumed(queries=groups, mean_tokens=longest))


def plain_loss(model: ScoringModel, recipe: Recipe, examples: Sequence[Example]) -> float:
    """The published objective, by transformers' forward pass and PyTorch's own losses."""
    from torch.nn import functional as F

    from dear.train.pointwise import contract_of

    device, of = model.device, recipe.loss
    plain = model.model.to(getattr(torch, recipe.model.dtype))
    mixed = recipe.model.dtype == "float32" and recipe.train.autocast and has_bfloat16(device)
    encoder = PairEncoder(model.tokenizer, contract_of(recipe))
    total = 0.0
    for example in examples:
        pairs = [(example.query, passage) for passage in example.passages]
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            scores = torch.from_numpy(plain_scores(plain, encoder.encode(pairs), model, 8))
        hard = F.cross_entropy(scores[None], torch.tensor([0]))
        teacher = torch.tensor(example.group.teacher)
        warm = of.temperature
        soft = F.kl_div(
            (scores / warm).log_softmax(-1), (teacher / warm).softmax(-1), reduction="sum"
        )
        total += float((1 - of.alpha) * hard + of.alpha * warm**2 * soft)
    return total / len(examples)


def processes(report: Report, options: Options) -> None:
    """Two processes on one card: a small training in float32, by DDP and FSDP2, and scoring."""
    device, root = options.device, options.work / "processes"
    on_card = device.type == "cuda"
    where = "the card" if on_card else "the processor"
    save_base(root / "base")
    job = {"root": str(root), "model": "full", "accumulate": 7, "steps": 6}
    method = start_method()
    seconds = train_small(root / "one", job, processes=1, start_method=method)
    report.row("one process on the processor", seconds=seconds)
    trainings = [(1, "ddp")] * on_card + [(2, "ddp"), (2, "fsdp2")]
    for count, strategy in trainings:
        folder, right = root / f"{strategy}-{count}", False
        found: dict[str, Any] = {}
        try:
            found["seconds"] = train_small(
                folder,
                job | {"strategy": strategy},
                processes=count,
                on_card=on_card,
                start_method=method,
            )
            found["loss_off"] = loss_difference(root / "one", folder)
            right = found["loss_off"] <= LIMIT
        except RuntimeError as error:
            found["reason"] = str(error)
        report.row(f"{count} on {where}, {strategy}", **found, right=right)
    pairs = pairs_of(make_candidates(2, 40))
    alone = open_model(root / "one", dtype="float32", device=str(device)).score(pairs)
    pool: Any = open_model(root / "one", dtype="float32", device=f"{device},{device}")
    with pool:
        off = float(np.abs(pool.score(pairs) - alone).max())
    report.row(f"2 on {where}, scoring", off_most=off, right=off <= LIMIT)


# -- the table of parts ----------------------------------------------------------------------

LORA = {"dear-8b-reranker-ce-lora-v1": "8b", "dear-3b-reranker-ce-lora-v1": "3b"}
FULL = {"dear-3b-reranker-ce-v1": "3b"}
PARTS = (
    Part("machine", "what everything else ran on", machine, 20),
    Part("tests", "the tests marked `gpu`", tests, 35),
    Part("score-3b", "Llama-3.2-3B's shape, one logit", partial(score, "3b"), 50),
    Part("score-8b", "Llama-3.1-8B's shape, one logit", partial(score, "8b"), 60),
    Part("score-13b", "Llama-2-13B's shape, one logit", partial(score, "13b"), 70),
    Part("quantised", "a teacher in 8 and 4 bits", quantised, 70),
    Part("lora", "LoRA training steps", partial(training, LORA), 60),
    Part("full", "full training steps", partial(training, FULL), 50),
    Part("processes", "two processes on one card", processes, 60),
)
"""Their seconds are less than eight minutes together."""

WARNING = (
    "**Tiny shapes on a processor. This page shows that the script runs to its end; no number on "
    "it says anything about a GPU or about speed.**"
)


BUSY = 20
"""Times a part's seconds: on a processor that has other things to do."""
SHARED = ("torch._dynamo", "sentence_transformers", "peft", "bitsandbytes", "pytest")
"""Imported once where processes are forked."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="OUT.json and OUT.md")
    parser.add_argument("--parts", default=",".join(p.name for p in PARTS), metavar="A,B")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; always without a card")
    parser.add_argument(
        "--resume", action="store_true", help="keep what OUT.json has of done parts"
    )
    parser.add_argument("--work", type=Path, help="for weights; 30 GB and more at full size")
    given = parser.parse_args(arguments)
    names = given.parts.split(",")
    if unknown := set(names) - {part.name for part in PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}")
    tiny = given.tiny or not torch.cuda.is_available()
    where = given.work or (Path("/dev/shm") if has_room(Path("/dev/shm")) and not tiny else None)
    for module in SHARED if start_method() == "fork" else ():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="dear-gpu-", dir=where) as work:
        results = run_parts(
            [part for part in PARTS if part.name in names],
            given.out.with_suffix(".json"),
            Options(tiny=tiny, work=Path(work)),
            about={"what": "benchmarks/gpu.py", "tiny": tiny, "device": device_name("auto")},
            resume=given.resume,
            start_method=start_method(),
            patience=BUSY if tiny else 1,
        )
    rows = results["parts"].get("machine", {}).get("rows", [])
    facts = {row["what"]: row["value"] for row in rows}
    title = f"Every GPU path on {facts.get('device', 'one device')}"
    versions = [
        f"{k} {facts[k]}" for k in ("driver", "cuda", "torch", "transformers") if facts.get(k)
    ]
    opening = [WARNING] if tiny else []
    opening += [", ".join(versions)] if versions else []
    write_markdown(given.out.with_suffix(".md"), title, opening, results)
    return 0 if is_right(results) else 1


def has_room(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free > 40e9


if __name__ == "__main__":
    sys.exit(main())
