"""`dear plan` against reality on this CPU, and the thirteen recipes of the family on three cards.

    python benchmarks/plan.py check [--case NAME] [--output FILE]
    python benchmarks/plan.py scale [--output FILE] [--docs docs/scale.md]

check: trains small models for a few steps on made-up texts of the recipe's full length, each in a
process of its own, and sets the peak of its resident memory (beyond what is left there by a
training of one step) and the
processor time of a step, on one thread, beside the plan's. scale: memory, time and what makes it
fit, for 24, 80 and 141 GB; the table in docs/scale.md is between two marks and written anew.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

GIB = 2**30
RESULTS = Path(__file__).parent / "results" / "plan.json"
MARKS = ("<!-- plan: begin -->", "<!-- plan: end -->")

LORA = {"rank": 16, "targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
PAIRS = {"contract": {"max_query_tokens": 32, "max_passage_tokens": 128}}
SHORT = {"contract": {"max_query_tokens": 16, "max_passage_tokens": 48}}

CASES: dict[str, dict[str, Any]] = {
    "minilm-l6, full": {"model": {"base": "minilm-l6"}, "train": {"groups_per_step": 2}, **PAIRS},
    "minilm-l6, full, 2 passes": {
        "model": {"base": "minilm-l6"},
        "train": {"groups_per_step": 4, "accumulate": 2},
        **PAIRS,
    },
    "minilm-l6, full, checkpointing": {
        "model": {"base": "minilm-l6"},
        "train": {"groups_per_step": 4, "gradient_checkpointing": True},
        **PAIRS,
    },
    "smollm2-135m, LoRA": {
        "model": {"base": "smollm2-135m", "lora": LORA},
        "train": {"groups_per_step": 1},
        **SHORT,
    },
    "smollm2-135m, full": {
        "model": {"base": "smollm2-135m"},
        "train": {"groups_per_step": 1},
        **SHORT,
    },
}
STEPS = 3
ALLOCATORS: dict[str, dict[str, str]] = {
    "heap": {},
    "live": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
}
"""glibc as it is, whose heap keeps holes, and told to give every large tensor back at once."""


def recipe_of(name: str) -> Any:
    from dear.recipes import parse_recipe

    values = CASES[name]
    train = {"max_steps": STEPS, "log_steps": 1, "save_steps": 1000} | values["train"]
    return parse_recipe(
        {
            "name": name,
            "data": [{"collection": "made-up"}],
            "groups": {"size": 8},
            "loss": {"main": ["ce"], "alpha": 0.0},
            **values,
            "train": train,
        }
    )


def run_case(name: str) -> dict[str, Any]:
    """Bytes and seconds, measured and planned, of one training in this process."""
    from dear.checkpoints.processor import trim_heap
    from dear.data.groups import Group
    from dear.plan.cards import Card
    from dear.plan.planning import Assumed, plan
    from dear.plan.work import Setup
    from dear.train.examples import Example
    from dear.train.pointwise import train

    recipe = recipe_of(name)
    if recipe.model.lora is not None:
        import peft  # noqa: F401 (its import is no model)
    setup = Setup.of(recipe, devices=1, on_cpu=True)
    rate = _matrix_rate()
    card = Card(name="cpu", memory=64 * GIB, rate=rate, bandwidth=20e9)
    assumed = Assumed(queries=recipe.train.groups_per_step * STEPS, mean_tokens=setup.longest)
    planned = plan(recipe, card, 1, assumed)
    words = " ".join(f"w{i % 97}" for i in range(400))
    group = Group(query_id="q", passage_ids=tuple("abcdefgh"), grades=(1, *[0] * 7))
    examples = [Example(group, words, (words,) * 8)] * assumed.queries
    with tempfile.TemporaryDirectory() as folder:
        # whatever is imported or set up on the way is no part of a training
        short = replace(recipe, train=replace(recipe.train, groups_per_step=1, accumulate=1))
        short = replace(short, train=replace(short.train, max_steps=1))
        few = [Example(replace(group, passage_ids=("a", "b"), grades=(1, 0)), "a", ("b", "c"))]
        train(short, Path(folder) / "out", examples=few)
    gc.collect()
    trim_heap()
    before = _status("VmRSS")
    ends: list[float] = []
    peaks: list[int] = []

    def step(_: Any) -> None:
        ends.append(time.process_time())
        peaks.append(_status("VmHWM"))
        if len(ends) == 1:
            # what loading took is over
            Path("/proc/self/clear_refs").write_text("5")

    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "out", examples=examples, progress=step)
    took = sorted(b - a for a, b in itertools.pairwise(ends))
    stage = next(s for s in planned.stages if s.name == "train")
    measured, expected = max(peaks[1:]) - before, planned.memory.total
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        expected -= planned.memory.overhead  # the holes of a heap
    seconds = took[len(took) // 2]
    return {
        "sequences": setup.sequences,
        "tokens": setup.longest,
        "parameters": planned.shape.parameters,
        "trained": planned.shape.trainable,
        "measured_bytes": measured,
        "planned_bytes": expected,
        "memory_ratio": round(expected / measured, 3),
        "parts": planned.memory.parts() | {"overlapping": planned.memory.overlapping},
        "step_seconds": round(seconds, 3),
        "planned_step_seconds": round(stage.seconds / STEPS, 3),
        "time_ratio": round(stage.seconds / STEPS / seconds, 3),
        "gflop_s": round(rate / 1e9, 1),
        "share_of_matrix_rate": round(stage.flops / STEPS / seconds / rate, 3),
    }


def _matrix_rate() -> float:
    """Operations a second of processor time, on the one thread that trains."""
    import torch

    torch.set_num_threads(1)
    a = torch.randn(2048, 2048)
    a @ a
    started = time.process_time()
    for _ in range(3):
        a @ a
    return 3 * 2 * 2048**3 / (time.process_time() - started)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def check(only: str | None, output: Path) -> None:
    from dear.bench.machine import describe

    found: dict[str, Any] = {}
    for name in CASES:
        if only and name != only:
            continue
        command = [sys.executable, __file__, "one", "--case", name]
        for allocator, variables in ALLOCATORS.items():
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | variables
            )
            row = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(name, {})[allocator] = row
            ratios = f"memory x{row['memory_ratio']}, time x{row['time_ratio']}"
            print(f"{name}, {allocator}: {ratios}", flush=True)
        if not only:
            write(output, {"machine": describe("cpu"), "check": found})


CARDS = (("24 GB", "rtx-4090"), ("80 GB", "h100"), ("141 GB", "h200"))
COUNTS = (1, 4, 8)
MS_MARCO, LABELLERS = 500_000 * 100, (1, 8, 64)
TEACHERS = {
    "13B (LLaMA-2)": "family/llama2-13b-rankllama-teacher",
    "8B (LLaMA-3.1)": "family/dear-8b-reranker-ce-v1",
    "3B (LLaMA-3.2)": "family/dear-3b-reranker-ce-v1",
}


def scale(output: Path, docs: Path) -> None:
    from dear.recipes import load_recipe, shipped_recipes

    names = [name for name in shipped_recipes() if name.startswith("family/")]
    rows: dict[str, Any] = {}
    for name in names:
        rows[name.split("/")[1]] = {size: _on_card(load_recipe(name), card) for size, card in CARDS}
        print(name, flush=True)
    teacher, labels = _teacher_labels(), _msmarco_labels()
    write(output, {"scale": rows, "teacher_labels": teacher, "msmarco_labels": labels})
    before, _, rest = docs.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    text = "\n".join([MARKS[0], "", *_tables(rows, teacher, labels), "", MARKS[1]])
    docs.write_text(before + text + after, encoding="utf-8")


def _on_card(recipe: Any, name: str) -> dict[str, Any]:
    from dear.plan.cards import find_card
    from dear.plan.planning import plan

    card, found = find_card(name), {}
    for count in COUNTS:
        made = plan(recipe, card, count)
        stages = {s.name: s.seconds / 3600 for s in made.stages}
        helps = [r for r in made.remedies if r.fits]
        same = [r for r in helps if r.same_model]
        best = (same or helps or [None])[0]
        found[str(count)] = {
            "gib": round(made.memory.total / GIB, 1),
            "fits": made.fits,
            "hours": round(stages["train"], 1),
            "label_hours": round(stages.get("label", 0.0), 1),
            "remedy": None if best is None else best.what,
            "remedy_gib": None if best is None else round(best.memory.total / GIB, 1),
            "remedy_same_model": None if best is None else best.same_model,
        }
    return found


def _teacher_labels() -> dict[str, Any]:
    """Pairs a second of the 13B teacher on one card of 24 GB, and what it holds."""
    from dear.plan.cards import GIB, find_card
    from dear.plan.planning import plan
    from dear.recipes import load_recipe

    found = {}
    for card in ("rtx-4090", "l4", "a10g", "h100", "h200"):
        made = plan(load_recipe("family/llama2-13b-rankllama-teacher"), find_card(card))
        rank = next(s for s in made.stages if s.name == "rank")
        found[card] = {
            "gib": {k: round(m.total / GIB, 1) for k, m in made.scoring.items()},
            "fits": {k: m.fits(made.card) for k, m in made.scoring.items()},
            "pairs_per_s": round(rank.rate, 1),
            "million_pairs_hours": round(1e6 / rank.rate / 3600, 1),
        }
    return found


def _msmarco_labels() -> dict[str, Any]:
    """Of MS_MARCO pairs: teacher → card → pairs a second of one, and hours with more."""
    from dear.plan.cards import find_card
    from dear.plan.planning import plan
    from dear.recipes import load_recipe

    found: dict[str, Any] = {}
    for name, recipe in TEACHERS.items():
        for card in ("l4", "rtx-4090", "h100"):  # an h200 is as fast as an h100
            made = plan(load_recipe(recipe), find_card(card))
            rate = next(s for s in made.stages if s.name == "rank").rate
            memory = {k: round(m.total / GIB, 1) for k, m in made.scoring.items()}
            dtype = next(k for k, m in made.scoring.items() if m.fits(made.card))
            hours = {str(n): round(MS_MARCO / rate / 3600 / n, 1) for n in LABELLERS}
            found.setdefault(name, {})[card] = {
                "dtype": dtype, "gib": memory[dtype], "pairs_per_s": round(rate, 1), "hours": hours
            }  # fmt: skip
    return {"pairs": MS_MARCO, "teachers": found}


def _tables(rows: dict[str, Any], teacher: dict[str, Any], labels: dict[str, Any]) -> list[str]:
    lines = []
    for size, card in CARDS:
        lines += [
            f"### {size} ({card})",
            "",
            "| recipe | 1 card: GiB | | 4 cards: GiB each | hours | 8 cards: GiB each | hours |",
            "|---|---:|---|---:|---:|---:|---:|",
        ]
        for name, sizes in rows.items():
            one, four, eight = (sizes[size][str(n)] for n in COUNTS)
            cells = [name, _gib(one), _how(one)]
            for many in (four, eight):
                cells += [_gib(many), _hours(many) if many["fits"] else "–"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += [
        "### The 13B teacher's labels on one card",
        "",
        "| card | bfloat16 | int8 | int4 | pairs/s | hours for a million pairs |",
        "|---|---|---|---|---:|---:|",
    ]
    for card, found in teacher.items():
        held = [
            f"{gib} GiB{'' if found['fits'][dtype] else ', does not fit'}"
            for dtype, gib in found["gib"].items()
        ]
        cells = [card, *held, f"{found['pairs_per_s']:.0f}", f"{found['million_pairs_hours']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "### Labels of MS MARCO: 500,000 queries × 100 passages",
        "",
        "| teacher | card | weights | pairs/s of one | hours on 1 | on 8 | on 64 |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for name, cards in labels["teachers"].items():
        for card, found in cards.items():
            held = f"{found['dtype']}, {found['gib']} GiB"
            hours = [_hours({"hours": found["hours"][str(n)]}) for n in LABELLERS]
            cells = [name, card, held, f"{found['pairs_per_s']:.0f}", *hours]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gib(found: dict[str, Any]) -> str:
    return f"**{found['gib']:.1f}**" if found["fits"] else f"{found['gib']:.1f}"


def _hours(found: dict[str, Any]) -> str:
    return f"{found['hours']:,.0f}" if found["hours"] >= 10 else f"{found['hours']:.1f}"


def _how(found: dict[str, Any]) -> str:
    if found["fits"]:
        return f"fits; {_hours(found)} hours"
    if found["remedy"] is None:
        return "does not fit"
    other = "" if found["remedy_same_model"] else " (another model)"
    return f"{found['remedy']}{other}: {found['remedy_gib']:.1f}"


def write(output: Path, found: dict[str, Any]) -> None:
    from dear.artifacts import read_json, write_json

    write_json(output, (read_json(output) if output.is_file() else {}) | found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("check", "scale", "one"))
    parser.add_argument("--case", choices=CASES, default=None)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=Path("docs/scale.md"))
    options = parser.parse_args()
    if options.task == "one":
        print(json.dumps(run_case(options.case)))
    elif options.task == "check":
        check(options.case, options.output)
    else:
        scale(options.output, options.docs)


if __name__ == "__main__":
    main()
