"""Weights in 8 or 4 bits (bitsandbytes), computed in 16: for a model that would not fit.

"int8" is LLM.int8() (Dettmers et al. 2022), "int4" is NF4 (Dettmers et al. 2023). Both save memory,
not time. The head stays as it is.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from dear.errors import MissingExtra
from dear.models.contract import DType
from dear.models.hardware import pick_dtype
from dear.models.heads import HEAD_PARTS, bare_model

QUANTISED: tuple[DType, ...] = ("int8", "int4")


def computes_in(dtype: DType, device: torch.device) -> torch.dtype:
    """What is multiplied: the dtype itself, or what suits the device under 8 and 4 bits."""
    plain = pick_dtype("auto", device) if dtype in QUANTISED else dtype
    found = getattr(torch, plain)
    assert isinstance(found, torch.dtype)
    return found


def weight_options(dtype: DType, device: torch.device, *, sharded: bool = False) -> dict[str, Any]:
    """What `from_pretrained` takes beside the name. MissingExtra without what it needs."""
    options: dict[str, Any] = {"dtype": computes_in(dtype, device)}
    if sharded or dtype in QUANTISED:
        if importlib.util.find_spec("accelerate") is None:
            raise MissingExtra.of("accelerate", "quant")
        # straight to its device, a weight at a time
        options["device_map"] = "auto" if sharded else {"": device}
    if dtype not in QUANTISED:
        return options
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra.of("bitsandbytes", "quant")
    from transformers import BitsAndBytesConfig

    options["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=dtype == "int8",
        load_in_4bit=dtype == "int4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=options["dtype"],
        llm_int8_skip_modules=[*HEAD_PARTS, "lm_head"],
    )
    return options


def to_device(model: Any, device: torch.device) -> None:
    """Weights that were placed while they were read stay where they are."""
    if getattr(bare_model(model), "hf_device_map", None) is None:
        model.to(device)
