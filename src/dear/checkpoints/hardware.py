"""Where a model computes, and in what: device, dtype, threads, weights in 8 or 4 bits.

"int8" is LLM.int8() (Dettmers et al. 2022), "int4" is NF4 (Dettmers et al. 2023), both by
bitsandbytes. They save memory, not time. The head stays as it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from dear.checkpoints.contract import DType
from dear.checkpoints.heads import HEAD_PARTS
from dear.checkpoints.processor import processor_name
from dear.checkpoints.wrappers import bare_model
from dear.errors import ConfigError, MissingExtra
from dear.notices import warn

SHARDED = "sharded"
"""The name of all GPUs together, for a model that one does not hold."""


SLOW_BFLOAT16 = (
    "this processor has no bfloat16 instructions (AVX512_BF16, AMX): PyTorch multiplied in it at "
    "0.8 GFLOP/s on such a one, against 66 in float32; take float32, or leave the dtype to auto"
)


def pick_device(device: str) -> torch.device:
    """The first GPU, or the CPU, for "auto"; the first, too, for "sharded".

    ConfigError for a device that is not there.
    """
    if device == SHARDED:
        if torch.cuda.device_count() < 2:
            raise ConfigError(
                f"device {SHARDED!r} lays a model over GPUs; PyTorch sees "
                f"{torch.cuda.device_count()}"
            )
        return torch.device("cuda:0")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ConfigError(
            f"no device {device!r}; try auto, cpu, cuda, cuda:1, sharded or mps"
        ) from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no device {device!r}: PyTorch sees {torch.cuda.device_count()} GPUs")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"no device {device!r}: PyTorch sees no Apple GPU")
    return found


def pick_dtype(dtype: DType, device: torch.device) -> DType:
    """For "auto", bfloat16 where the hardware multiplies in it, float32 elsewhere."""
    if dtype != "auto":
        known = ("float32", "bfloat16", "float16", "int8", "int4")
        if dtype not in known:
            raise ConfigError(f"no dtype {dtype!r}; try auto, {', '.join(known)}")
        if dtype == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
            warn(SLOW_BFLOAT16)
        return dtype
    if has_bfloat16(device):
        return "bfloat16"
    return "float16" if device.type == "cuda" else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """True if the device multiplies bfloat16 matrices natively."""
    if device.type == "cuda":
        # unless told not to, PyTorch counts GPUs older than Ampere, which emulate it
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bfloat16()


def cpu_has_bfloat16() -> bool:
    """True if this processor multiplies bfloat16 matrices natively (AVX-512 BF16, AMX), and may.

    oneDNN, which multiplies them, leaves instructions out that ONEDNN_MAX_CPU_ISA forbids.
    """
    probes = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    may = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return any(probe is not None and probe() for probe in probes) and (may is None or may())


def usable_cores() -> int:
    """The processor cores that one process computes on: PyTorch's threads.

    Their number follows the cores, the affinity mask and OMP_NUM_THREADS.
    """
    return torch.get_num_threads()


def free_memory(device: torch.device) -> int | None:
    """Bytes that more can take there; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found += [int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" where a container has no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return min(found, default=None)


def device_name(device: str) -> str:
    """The model of the GPU or processor that `device` means; several, with commas, as given."""
    if "," in device or device == SHARDED:
        return device
    found = pick_device(device)
    if found.type == "cuda":
        return torch.cuda.get_device_name(found)
    return processor_name() if found.type == "cpu" else found.type


def cpu_has_tiles() -> bool:
    """True if this processor multiplies matrices in tiles (AMX)."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return probe is not None and bool(probe())


def pick_attention(device: torch.device | None = None) -> str:
    """SDPA on GPUs and on processors with AMX, where it is 1.1 to 1.2 times as fast.

    On other processors short sequences run up to 1.4 times as fast through eager attention, and
    1.3 times as fast backward.
    """
    if (device or pick_device("auto")).type != "cpu":
        return "sdpa"
    return "sdpa" if cpu_has_tiles() else "eager"


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
