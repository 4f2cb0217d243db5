"""A tiny language model, and lists whose right order can be learnt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tiny_models import llama_tokenizer, make, save
from transformers import AutoModelForCausalLM

from dear.recipes import Recipe, parse_recipe
from dear.records import ListExample, Passage, Query

WORDS = ("river", "bank", "water", "open", "file", "read", "write", "close", "python", "code")


def save_language_model(folder: Path, **options: Any) -> str:
    model = make("llama", AutoModelForCausalLM, initializer_range=0.05, **options)
    return str(save(folder, model, llama_tokenizer(pad_token="<unk>")))


def lists(count: int, size: int = 4, *, seed: int = 0, thought: bool = False) -> list[ListExample]:
    """Passages that hold the query's word 0 … size - 1 times; the more, the better."""
    dice = random.Random(seed)
    out = []
    for number in range(count):
        word, *others = dice.sample(WORDS, 3)
        times = list(range(size))
        dice.shuffle(times)
        passages = tuple(
            Passage(id=f"p{n}", text=" ".join([word] * n + [dice.choice(others)] * (size - n)))
            for n in times
        )
        order = tuple(sorted(range(size), key=lambda i, t=times: -t[i]))
        out.append(
            ListExample(
                query=Query(id=f"q{number}", text=word),
                passages=passages,
                order=order,
                thought=f"[{order[0] + 1}] names it most, [{order[-1] + 1}] does not."
                if thought
                else "",
                scores=tuple(float(t) for t in times),
            )
        )
    return out


def list_recipe(base: str, **changes: Any) -> Recipe:
    """Two epochs, 4 lists a step, float32; `train__epochs=3` sets train.epochs."""
    values: dict[str, Any] = {
        "name": "tiny-lists",
        "kind": "listwise",
        "model": {"base": base},
        "data": [{"lists": ["examples.jsonl"]}],
        "listwise": {"max_tokens": 512, "max_window": 8},
        "train": {
            "epochs": 2,
            "learning_rate": 3e-3,
            "groups_per_step": 4,
            "autocast": False,
            "log_steps": 2,
            "scheduler": "cosine",
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = values
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    return parse_recipe(values)
