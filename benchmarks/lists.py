"""Windows a second of listwise ranking, in turns with the published way, on the same weights.

    python benchmarks/lists.py --data FOLDER [--model smollm2-135m] [--queries 32] [--depth 100] \
        [--window 20] [--step 10] [--rounds 3] [--float32] [--output FILE]

The windows are those that sliding asks about over dl19's BM25 candidates, as they stand in the
first stage's order, one of every query in a round: every system reads the same prompts.

published    one window at a time through transformers' `generate`, sampled, of the length that a
             whole answer has (as RankLLM sets it), `model.generate` as it comes
first, constrained, text    ours, batched

--float32 adds the published way in float32. Prefixes: how many tokens a shared beginning of a
round's windows would save at the most.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from dear.artifacts import write_json
from dear.backends import Completion
from dear.backends.local import Local
from dear.bench.machine import with_rates
from dear.data.collections import open_collection
from dear.errors import ParseError
from dear.listwise.loading import ListModel, load_list_model
from dear.listwise.reader import ListReader
from dear.listwise.strategies import Sliding
from dear.prompts.listwise import WindowPrompt
from dear.prompts.permutations import parse_permutation
from dear.records import gather
from dear.scoring.engines.prefix import common_prefixes

Generate = Callable[[Sequence[WindowPrompt]], list[Completion]]


class Published:
    """A window at a time, sampled, unconstrained."""

    def __init__(self, model: ListModel, seed: int = 0) -> None:
        self.model = model
        torch.manual_seed(seed)
        model.model.set_attn_implementation("sdpa")  # transformers' own choice

    def generate(self, prompts: Sequence[WindowPrompt]) -> list[Completion]:
        return [self.one(prompt) for prompt in prompts]

    def one(self, prompt: WindowPrompt) -> Completion:
        model, encoder = self.model, self.model.encoder
        ids = torch.tensor([encoder.prompt(prompt)], device=model.device)
        chain = encoder.chain(prompt.identifiers)
        length = len(chain.permutation(range(len(prompt.identifiers)))) - 1
        with torch.inference_mode():
            out = model.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=model.tokenizer.pad_token_id,
            )
        new = out[0, ids.shape[1] :]
        text = model.tokenizer.decode(new, skip_special_tokens=True)
        return Completion(text=text, prompt_tokens=ids.shape[1], completion_tokens=len(new))


def rounds_of_windows(options: argparse.Namespace, model: ListModel) -> list[list[WindowPrompt]]:
    """Round after round, the window of every query."""
    collection = open_collection(options.data / "dl19")
    run = collection.run("bm25", "test")
    judged = [q for q in run if q in collection.judgements("test")]
    step = max(1, len(judged) // options.queries)
    texts, corpus = collection.queries(), collection.corpus
    some = [gather(run[q].top(options.depth), texts, corpus) for q in judged[::step]]
    strategy = Sliding(window=options.window, step=options.step)
    rounds: list[list[WindowPrompt]] = []
    for c in some[: options.queries]:
        plan = strategy.plan(len(c.passages))
        asked = next(plan)
        for place in range(strategy.calls(len(c.passages))):
            if place == len(rounds):
                rounds.append([])
            (window,) = asked
            passages = [c.passages[i] for i in window]
            rounds[place].append(model.contract.template.render(c.query, passages))
            try:
                asked = plan.send((window,))
            except StopIteration:
                break
    return rounds


def valid(prompts: Sequence[WindowPrompt], completions: Sequence[Completion]) -> float:
    """The share of answers that are whole permutations without a mend."""
    good = 0
    for prompt, completion in zip(prompts, completions, strict=True):
        kind = "numbers" if prompt.identifiers[0].isdigit() else "letters"
        try:
            parsed = parse_permutation(completion.text, len(prompt.passages), kind)
        except ParseError:
            continue
        good += parsed.complete and not parsed.mends
    return good / len(prompts)


def systems(options: argparse.Namespace, model: ListModel) -> dict[str, Generate]:
    found: dict[str, Generate] = {}
    for reading in ("first", "constrained", "text"):
        reader = ListReader(model, reading=reading, batch_tokens=options.batch_tokens)  # type: ignore[arg-type]
        found[reading] = Local(reader).generate
    other = load_list_model(options.model, dtype=options.dtype, device=options.device)
    found[f"published, {other.dtype}"] = Published(other).generate
    if options.float32 and other.dtype != "float32":
        whole = load_list_model(options.model, dtype="float32", device=options.device)
        found["published, float32"] = Published(whole).generate
    return found


def measure(
    found: dict[str, Generate], rounds: list[list[WindowPrompt]], turns: int
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in found}
    processor: dict[str, list[float]] = {name: [] for name in found}
    answers: dict[str, list[Completion]] = {}
    prompts = [prompt for one in rounds for prompt in one]
    for generate in found.values():
        generate(prompts[:1])
    for turn in range(turns):
        for name in list(found) if turn % 2 == 0 else list(found)[::-1]:
            gc.collect()
            started, spent = time.perf_counter(), time.process_time()
            answers[name] = [c for one in rounds for c in found[name](one)]
            seconds[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - spent)
            wall, used = seconds[name][-1], processor[name][-1]
            say(f"turn {turn + 1}, {name}: {wall:.1f} s, processor {used:.1f} s")
    base = next(name for name in found if name.startswith("published"))
    slowest = statistics.median(seconds[base])
    return {
        name: {
            "seconds": [round(s, 3) for s in seconds[name]],
            "processor_s": [round(s, 3) for s in processor[name]],
            "windows_per_s": round(len(prompts) / statistics.median(seconds[name]), 4),
            f"times {base}": round(slowest / statistics.median(seconds[name]), 2),
            "valid": round(valid(prompts, answers[name]), 4),
            "completion_tokens": sum(c.completion_tokens or 0 for c in answers[name]),
        }
        for name in found
    }


def prefixes(rounds: list[list[WindowPrompt]], model: ListModel) -> dict[str, Any]:
    """Tokens that shared beginnings would save."""
    total = saved = 0
    for one in rounds:
        ids = [model.encoder.prompt(prompt) for prompt in one]
        total += sum(map(len, ids))
        saved += sum(each.saved for each in common_prefixes(ids, 8))
    everything = [model.encoder.prompt(prompt) for one in rounds for prompt in one]
    across = sum(each.saved for each in common_prefixes(everything, 8))
    return {
        "tokens": total,
        "saved_in_a_round": round(saved / total, 4),
        "saved_over_all_rounds": round(across / total, 4),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--step", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=None)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/lists.json"))
    options = parser.parse_args()
    model = load_list_model(options.model, dtype=options.dtype, device=options.device)
    rounds = rounds_of_windows(options, model)
    report = {
        "machine": with_rates(options.device),
        "model": options.model,
        "dtype": model.dtype,
        "sliding": {"window": options.window, "step": options.step, "depth": options.depth},
        "queries": options.queries,
        "windows": sum(map(len, rounds)),
        "prefixes": prefixes(rounds, model),
        "systems": measure(systems(options, model), rounds, options.rounds),
    }
    write_json(options.output, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
