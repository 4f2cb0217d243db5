"""What a cascade keeps in memory: one backbone with two adapters, against one model, and two.

    python benchmarks/backbone_memory.py [--base smollm2-135m] [--rank 16] [--output FILE]

The adapters are random; their size is what counts. Each case runs in a process of its own, scores
some pairs and reads a window, and says its resident memory before it loads and after it worked.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CASES = ("pointwise", "lists", "backbone", "two models")


def make_adapters(base: str, rank: int, folder: Path) -> None:
    import transformers as hf
    from peft import LoraConfig, get_peft_model

    from dear.checkpoints.contract import ListwiseContract
    from dear.checkpoints.registry import locate
    from dear.scoring.loading import load_reader, load_weights

    points, _, _ = load_weights(locate(base), dtype="bfloat16")
    lists = load_reader(base, hf.AutoModelForCausalLM, dtype="bfloat16").model
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    sides = ((points, "SEQ_CLS", ["score"], "points"), (lists, "CAUSAL_LM", None, "lists"))
    for model, task, more, name in sides:
        config = LoraConfig(
            task_type=task,
            r=rank,
            target_modules=targets,
            modules_to_save=more,
            init_lora_weights=False,
        )
        get_peft_model(model, config).save_pretrained(folder / name, save_embedding_layers=False)
    ListwiseContract(learnt="first").save(folder / "lists")


def resident() -> float:
    """MiB, freed memory given back first."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def case(name: str, folder: Path) -> dict[str, Any]:
    import peft  # noqa: F401 (its import is no model)
    import torch
    import transformers  # noqa: F401

    from dear.listwise.backbone import Backbone
    from dear.listwise.loading import load_list_model
    from dear.listwise.reader import ListReader
    from dear.prompts.listwise import LISTWISE_PROMPTS
    from dear.records import Passage, Query
    from dear.scoring.loading import load_scoring_model
    from dear.scoring.scorer import Scorer

    torch.set_num_threads(1)
    before = resident()
    points, lists = folder / "points", folder / "lists"
    held: list[Any] = []
    if name == "backbone":
        backbone = Backbone(points, lists)
        held += [backbone.pairs, backbone.lists]
    if name in ("pointwise", "two models"):
        held.append(Scorer(load_scoring_model(points, merge=True)))
    if name in ("lists", "two models"):
        held.append(ListReader(load_list_model(lists)))
    passages = [Passage(id=str(i), text=f"passage {i} about rivers") for i in range(8)]
    prompt = LISTWISE_PROMPTS["list"].render(Query(id="q", text="rivers"), passages)
    for each in held:
        if hasattr(each, "score"):
            each.score([("rivers", p.text) for p in passages])
        else:
            each.read([prompt])
    weights: dict[int, int] = {}
    for module in gc.get_objects():
        if isinstance(module, torch.nn.Parameter):
            storage = module.untyped_storage()
            weights[storage.data_ptr()] = storage.nbytes()
    return {
        "resident_mib": round(resident() - before, 1),
        "weights_mib": round(sum(weights.values()) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--case", choices=CASES, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(options.base, options.rank, Path(folder))
        found = {}
        for name in CASES:
            command = [sys.executable, __file__, "--case", name, "--folder", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    one = max(found["pointwise"]["resident_mib"], found["lists"]["resident_mib"])
    report = {
        "base": options.base,
        "rank": options.rank,
        "cases": found,
        "backbone_to_one_model": round(found["backbone"]["resident_mib"] / one, 3),
    }
    if options.output:
        from dear.artifacts import write_json

        write_json(options.output, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
