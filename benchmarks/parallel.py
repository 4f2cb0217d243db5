"""One process against two: the same loss, step by step, and the same weights in the end.

    python benchmarks/parallel.py --steps 50 --output benchmarks/results/parallel.json

A decoder with random weights, two layers of 64, is trained in float32 on groups of two to six
passages, 7 groups a step in passes of 7 or of 1, the last step of each epoch short. First in one
process, then in two on the CPU (gloo), by every strategy (zero2 and zero3 where DeepSpeed is
installed), with full weights and with an adapter and its head; then stopped after a third and two
thirds of the steps, going on in 1, 2 and again 1 processes. The report has the largest difference
of a step's loss and of a final weight, and seconds. It ends with 1 if a loss differs by more than
1e-4.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

STRATEGIES = ("ddp", "fsdp2", "zero2", "zero3")
MODELS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}},
}
GROUPS = 45  # 7 a step: 6 whole steps and one of 3
WORDS = [f"w{i}" for i in range(60)]
LIMIT = 1e-4


def main() -> int:
    options = parse_arguments()
    rows = []
    with tempfile.TemporaryDirectory(prefix="dear-parallel-") as place:
        root = Path(place)
        save_base(root / "base")
        for model in options.models:
            for accumulate in options.passes:
                rows += compare(root, model, accumulate, options.steps)
    write_report(options, rows)
    return 0 if all(row["loss_difference"] <= LIMIT for row in rows) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--passes", nargs="*", type=int, choices=(1, 7), default=[1, 7])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/parallel.json"))
    return parser.parse_args()


def compare(root: Path, model: str, accumulate: int, steps: int) -> list[dict[str, Any]]:
    """One row for each strategy and way of stopping."""
    name = f"{model}-{accumulate}"
    job = {"root": str(root), "model": model, "accumulate": accumulate, "steps": steps}
    one_s = run(root / name, job, processes=1)
    rows = []
    there = importlib.util.find_spec("deepspeed") is not None
    for strategy in STRATEGIES if there else STRATEGIES[:2]:
        parts = {"2": [(2, None)], "1, 2, 1": [(1, steps // 3), (2, 2 * steps // 3), (1, None)]}
        for processes, stages in parts.items():
            folder = root / f"{name}-{strategy}-{len(stages)}"
            seconds = [
                run(folder, job | {"strategy": strategy, "until": until}, processes=count)
                for count, until in stages
            ]
            row = {
                "strategy": strategy,
                "model": model,
                "passes": accumulate,
                "processes": processes,
                "steps": steps,
                "loss_difference": loss_difference(root / name, folder),
                "weight_difference": weight_difference(root / name, folder),
                "seconds": round(sum(seconds), 1),
                "seconds_of_one": round(one_s, 1),
            }
            print(json.dumps(row), file=sys.stderr)
            rows.append(row)
    return rows


def run(
    folder: Path,
    job: dict[str, Any],
    *,
    processes: int,
    on_card: bool = False,
    start_method: str = "spawn",
) -> float:
    """Seconds of one training, or of a part of it, start of the processes included.

    on_card: all of them on the first GPU, as if each stood on a machine of its own. NCCL refuses
    that, so gloo carries what they tell each other. RuntimeError: a process has failed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": "1" if on_card else str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if not on_card:
        shared["CUDA_VISIBLE_DEVICES"] = ""
    context: Any = multiprocessing.get_context(start_method)
    started = time.perf_counter()
    group = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": "0" if on_card else str(rank)}
        with mock.patch.dict(os.environ, shared | own):  # libraries read them when imported
            group.append(context.Process(target=start, args=(job | {"folder": str(folder)},)))
            group[-1].start()
    for process in group:
        process.join()
    if any(process.exitcode for process in group):
        raise RuntimeError(f"{folder.name}: a process has failed")
    return time.perf_counter() - started


def start(job: dict[str, Any]) -> None:
    """The life of a process."""
    import torch.distributed as dist

    if os.environ["WORLD_SIZE"] != "1":
        dist.init_process_group("gloo")  # a group that is there is used as it is
    work(job)
    if dist.is_initialized():
        dist.destroy_process_group()


def work(job: dict[str, Any]) -> None:
    """What each process does: the whole training, or up to the checkpoint of a step."""
    import torch

    import dear.train.trainer
    from dear.recipes import parse_recipe
    from dear.train.pointwise import train

    torch.set_num_threads(1)
    root, until = Path(job["root"]), job.get("until")
    stops = [s for s in (job["steps"] // 3, 2 * job["steps"] // 3) if s]
    recipe = parse_recipe(
        {
            "name": "parallel",
            "model": {"base": str(root / "base"), **MODELS[job["model"]]},
            "data": [{"collection": "none"}],
            "contract": {"max_query_tokens": 8, "max_passage_tokens": 48},
            "loss": {"main": ["ranknet"], "alpha": 0.3},
            "train": {
                "max_steps": job["steps"],
                "learning_rate": 1e-3,
                "groups_per_step": 7,
                "accumulate": job["accumulate"],
                "autocast": False,
                "log_steps": 1,
                "save_steps": stops[0] if stops else 0,
            },
            "parallel": {"strategy": job.get("strategy", "ddp")},
        }
    )

    class Stop(Exception):
        pass

    inner = dear.train.trainer.Flow.on_save

    def on_save(flow: Any, args: Any, state: Any, control: Any, **options: Any) -> None:
        inner(flow, args, state, control, **options)
        if until is not None and state.global_step >= until:
            raise Stop

    dear.train.trainer.Flow.on_save = on_save  # type: ignore[method-assign]
    try:
        train(recipe, Path(job["folder"]), examples=examples())
    except Stop:
        return


def examples() -> list[Any]:
    """Groups of two to six texts of very different length, with a teacher's scores."""
    from dear.data.groups import Group
    from dear.train.examples import Example

    dice = random.Random(0)
    made = []
    for number in range(GROUPS):
        texts = tuple(
            " ".join(dice.choices(WORDS, k=dice.randint(1, 40))) for _ in range(2 + number % 5)
        )
        group = Group(
            query_id=f"q{number}",
            passage_ids=tuple(f"p{i}" for i in range(len(texts))),
            grades=(1, *(0 for _ in texts[1:])),
            teacher=tuple(dice.uniform(-3, 3) for _ in texts),
        )
        made.append(Example(group, " ".join(dice.choices(WORDS, k=3)), texts))
    return made


def word_tokenizer(words: Sequence[str]) -> Any:
    """One token for each word of a query and a document made of `words`; [CLS] and two [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query", "document", ":", *words]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
    )


def save_base(folder: Path) -> None:
    """A small decoder with random weights, and a tokenizer of whole words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    word_tokenizer(WORDS).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=80,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def loss_difference(one: Path, other: Path) -> float:
    curves = [
        [
            e["loss"]
            for e in json.loads((f / "dear_training.json").read_text())["metrics"]["loss_curve"]
        ]
        for f in (one, other)
    ]
    assert len(curves[0]) == len(curves[1])
    return max(abs(a - b) for a, b in zip(*curves, strict=True))


def weight_difference(one: Path, other: Path) -> float:
    from safetensors.torch import load_file

    def read(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            found |= load_file(path)
        return found

    a, b = read(one), read(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def write_report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    from dear.artifacts import write_json
    from dear.bench.machine import describe

    write_json(
        options.output,
        {
            "what": "two processes (gloo) against one, in float32: largest difference of a step's "
            "loss and of a final weight",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": describe("cpu"),
            "limit": LIMIT,
            "rows": rows,
        },
    )
    for row in rows:
        print(
            f"{row['strategy']:6} {row['model']:5} passes {row['passes']}  "
            f"processes {row['processes']:8} loss {row['loss_difference']:.1e}  "
            f"weights {row['weight_difference']:.1e}  {row['seconds']:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
