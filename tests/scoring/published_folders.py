"""Folders laid out as the published checkpoints are, key by key, with small random weights.

Written by hand rather than by `save_pretrained`, so that what today's libraries would write
differently is here as it stands on the hub.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from published_tokenizers import LLAMA2, Llama, generation, write_json, write_tokenizer
from safetensors.torch import save_file

from dear.checkpoints.registry import FAMILY, FamilyModel

TARGETS = ("q_proj", "v_proj", "o_proj", "down_proj", "up_proj", "gate_proj")
HIDDEN, INTERMEDIATE, LAYERS = 32, 48, 2


# ---------------------------------------------------------------- weights


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def config_of(llama: Llama, vocabulary: int, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": llama.bos_id,
        "eos_token_id": llama.eos_id,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.2,
        "intermediate_size": INTERMEDIATE,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 4 if llama is LLAMA2 else 2,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": vocabulary,
        **llama.config,
        **changes,
    }


def write_base(
    folder: Path,
    llama: Llama,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    scorer: bool = False,
    outputs: int = 1,
    **changes: Any,
) -> Path:
    """A language model's folder, or that of a full-weight scorer.

    shards: of the weights, with an index.  changes: of config.json.
    """
    vocabulary = write_tokenizer(folder, llama)
    if scorer:
        labels = {str(i): f"LABEL_{i}" for i in range(outputs)}
        changes = {
            "architectures": ["LlamaForSequenceClassification"],
            "id2label": labels,
            "label2id": {label: int(i) for i, label in labels.items()},
            "pad_token_id": llama.eos_id,
        } | changes
    config = config_of(llama, vocabulary, **changes)
    write_json(folder / "config.json", config)
    torch.manual_seed(seed)
    auto: Any = hf.LlamaForSequenceClassification if scorer else hf.LlamaForCausalLM
    weights = auto(hf.AutoConfig.from_pretrained(folder)).state_dict()
    if scorer:
        weights["score.weight"] = torch.randn(outputs, config["hidden_size"]) * 0.2
    if config["tie_word_embeddings"]:
        weights.pop("lm_head.weight", None)
    write_weights(folder, {k: v.to(dtype).contiguous() for k, v in weights.items()}, shards)
    return folder


def write_weights(folder: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> None:
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, index = sorted(weights), {}
    for i in range(shards):
        part = names[i::shards]
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({k: weights[k] for k in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": index},
    )


def write_adapter(
    folder: Path,
    base: str,
    *,
    llama: Llama | None = None,
    seed: int = 1,
    head: str | None = "score.weight",
    rank: int = 4,
    outputs: int = 1,
    hidden: int = HIDDEN,
    intermediate: int = INTERMEDIATE,
    layers: int = LAYERS,
    **changes: Any,
) -> Path:
    """A LoRA adapter's folder: adapter_config.json as peft 0.4 wrote it, and safetensors.

    head: its name in the bare model, None to leave it out.  changes: of adapter_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    llama = llama or generation(base)
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": None,
        "target_modules": list(TARGETS),
        "task_type": "SEQ_CLS",
    } | changes
    write_json(folder / "adapter_config.json", config)
    random = torch.Generator().manual_seed(seed)
    weights = {}
    kv = hidden if llama is LLAMA2 else hidden // 2
    sizes = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (hidden, hidden),
        "up_proj": (hidden, intermediate),
        "gate_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    for i in range(layers):
        for name in config["target_modules"]:
            part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            stem = f"base_model.model.model.layers.{i}.{part}.{name}"
            into, out = sizes[name]
            weights[f"{stem}.lora_A.weight"] = torch.randn(rank, into, generator=random) * 0.2
            weights[f"{stem}.lora_B.weight"] = torch.randn(out, rank, generator=random) * 0.2
    if head is not None:
        weights[f"base_model.model.{head}"] = torch.randn(outputs, hidden, generator=random) * 0.2
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


# ---------------------------------------------------------------- the family


def write_model(root: Path, row: FamilyModel, seed: int) -> Path:
    """A published model below `root` as owner/name, and the base that its adapter wants."""
    llama, tied = generation(row.base), "3.2" in row.base
    base = root / row.base
    if not base.is_dir():
        write_base(base, llama, seed=len(row.base), tie_word_embeddings=tied)
    folder = root / row.hub
    if row.form == "LoRA" and row.kind == "pointwise":
        return write_adapter(folder, row.base, seed=seed)
    if row.form == "LoRA":
        return write_adapter(folder, row.base, seed=seed, task_type="CAUSAL_LM", head=None)
    scorer = row.kind == "pointwise"
    return write_base(folder, llama, seed=seed, scorer=scorer, tie_word_embeddings=tied)


def write_family(root: Path) -> Path:
    """Every published model of FAMILY and its base below `root`, as DEAR_MODELS has them."""
    for seed, row in enumerate(row for row in FAMILY.values() if row.kind != "base"):
        write_model(root, row, seed)
    return root


PUBLISHED = [row.name for row in FAMILY.values() if row.kind != "base"]
SCORERS = [name for name in PUBLISHED if FAMILY[name].kind == "pointwise"]
LISTS = [name for name in PUBLISHED if FAMILY[name].kind == "listwise"]


# ---------------------------------------------------------------- what transformers and peft say


def oracle(folder: Path, base: Path | None = None, *, task: str = "SEQ_CLS") -> tuple[Any, Any]:
    """(model, tokenizer) in float32 as the model cards load them."""
    from peft import PeftModel

    from dear.checkpoints.files import quiet

    auto: Any = hf.AutoModelForCausalLM
    options: dict[str, Any] = {}
    if task == "SEQ_CLS":
        auto, options = hf.AutoModelForSequenceClassification, {"num_labels": 1}
    with quiet():
        model = auto.from_pretrained(base or folder, dtype=torch.float32, **options)
        if base is not None:
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return model.eval(), hf.AutoTokenizer.from_pretrained(base or folder)


def logits(model: Any, sequences: list[list[int]]) -> torch.Tensor:
    """(n,) one-logit scores, a sequence at a time and so without padding."""
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in sequences])


if __name__ == "__main__":
    # python tests/scoring/published_folders.py FOLDER: for benchmarks/card.py --hub FOLDER
    write_family(Path(sys.argv[1]))
