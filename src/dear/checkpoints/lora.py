"""LoRA adapters as peft has written them since 2023: what they say, and their weights on a base."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dear.checkpoints.adapters import CONFIG
from dear.checkpoints.files import model_file, reading
from dear.checkpoints.heads import is_head
from dear.checkpoints.registry import Source
from dear.checkpoints.screening import require_rank
from dear.checkpoints.threads import LOADING
from dear.checkpoints.weights import pickled, require_one_output, shape_of
from dear.errors import ConfigError, DataError, MissingExtra, excerpt

Weights = dict[str, torch.Tensor]

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"

# what wrappers (DistributedDataParallel, Tevatron, torch.compile, peft) put in front
_WRAPPED = re.compile(r"^(?:(?:module|hf_model|_orig_mod|base_model\.model)\.)+")
_NAMED = re.compile(r"\.(lora_\w+|modules_to_save)\.default(?=\.|$)")
_INNER = re.compile(r"\.(?:modules_to_save|base_layer)(?=\.)")


def require_scorer(source: Source, adapter: dict[str, Any]) -> None:
    """ConfigError for an adapter that was not trained to score pairs."""
    task = adapter.get("task_type")
    # heads that are weighted for lists have a kind of their own
    if task == "CAUSAL_LM" or adapter.get("peft_type") == "DEAR_HEADS":
        raise ConfigError(
            f"{source.name}: the adapter of a language model ({task or 'heads'}), not of a "
            f"one-logit scorer; for lists it opens as --listwise local:{source.name}"
        )
    if task not in ("SEQ_CLS", "FEATURE_EXTRACTION", None):
        raise ConfigError(f"{source.name}: an adapter for {task} does not score pairs")


@LOADING
def attach(
    model: Any, source: Source, adapter: dict[str, Any], fresh: set[str], merge: bool
) -> tuple[Any, set[str]]:
    """The model with its adapter, and the head weights that the adapter does not bring.

    Whatever the adapter holds whole (the head, biases, a grown embedding) goes into the base
    itself; only the low-rank layers are peft's. merge: folded in, else live in peft's wrapper.
    ConfigError: no LoRA adapter, one without its head or with several outputs, weights that are a
    pickle; DataError: it does not fit its base.
    """
    kind = adapter.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{source.name}: a LoRA adapter is expected, not {kind}")
    if any(p.is_meta for p in model.parameters()):
        raise ConfigError(
            f"{source.name}: its base does not fit the devices, and an adapter cannot be put on "
            "weights that stay on disk; use more GPUs, or the dtype int8 or int4"
        )
    weights = read_adapter(source)
    lora = {key: value for key, value in weights.items() if "lora_" in key}
    whole = {key: value for key, value in weights.items() if key not in lora}
    fresh = fresh - whole.keys()
    _require_saved(source, adapter, fresh, whole, model)
    _place_whole(model, source, whole)
    wrapped = _wrap(model, source, adapter, lora)
    return (wrapped.merge_and_unload() if merge else wrapped), fresh


def read_adapter(source: Source) -> Weights:
    """Every weight of an adapter by the name that it has in the bare base model.

    `….q_proj.lora_A.weight` for the low-rank ones, `score.weight` for a head, whether peft wrote
    `base_model.model.score.weight`, `….score.modules_to_save.weight` or
    `….score.modules_to_save.default.weight`. peft writes a grown embedding under two of them.
    DataError: two different weights of one name.
    """
    path = model_file(source, WEIGHTS)
    if path is None:
        # of the hub it is not asked for: the answer would be the file
        if source.folder is None or (source.folder / PICKLE).is_file():
            raise pickled(source, PICKLE, missing=WEIGHTS)
        raise DataError.at(source.path, None, f"no {WEIGHTS} beside {CONFIG}")
    with reading(source):
        stored = load_file(path)
    out: Weights = {}
    for key, value in stored.items():
        plain = plain_name(key)
        if plain is None:
            continue
        if not torch.equal(out.setdefault(plain, value), value):
            raise DataError.at(path, None, f"holds {plain} twice, once as {key}")
    return out


def plain_name(key: str) -> str | None:
    """A weight's name without what wrappers add; None for the untrained copy of a saved module."""
    if ".original_module." in key:
        return None
    return _INNER.sub("", _NAMED.sub(r".\1", _WRAPPED.sub("", key)))


def _require_saved(
    source: Source, adapter: dict[str, Any], fresh: set[str], whole: Weights, model: Any
) -> None:
    """ConfigError unless the head, and each module that was to be saved whole, is there."""
    if fresh and adapter.get("task_type") == "SEQ_CLS":
        raise ConfigError(f"{source.name}: the adapter lacks its head ({', '.join(sorted(fresh))})")
    saved = {part for key in whole for part in key.split(".")}
    modules = {part for name, _ in model.named_modules() for part in name.split(".")}
    for name in adapter.get("modules_to_save") or ():
        last = str(name).rsplit(".", 1)[-1]
        # peft lists the heads of all architectures, whichever the base has
        if last in modules and last not in saved:
            raise ConfigError(
                f"{source.name}: the adapter lacks its {name}, which it says it saved"
            )


def _place_whole(model: Any, source: Source, whole: Weights) -> None:
    _grow_embedding(model, whole)
    own = model.state_dict(keep_vars=True)
    for key, value in whole.items():
        if key not in own:
            raise _misfit(source, f"the base has no {key}")
        wanted = own[key].shape
        # of the head's modules an encoder's pooler, say, has as many outputs as it likes
        if is_head(key) and len(wanted) == 2 and wanted[0] == 1 and value.shape[1:] == wanted[1:]:
            require_one_output(source.name, value.shape[0])
        if value.shape != wanted:
            raise _misfit(
                source, f"{key} is {shape_of(value.shape)}, in the base {shape_of(wanted)}"
            )
        with torch.no_grad():
            own[key].copy_(value)


def _grow_embedding(model: Any, whole: Weights) -> None:
    """Rows for tokens that were added before the adapter was trained, and saved with it."""
    embedding = model.get_input_embeddings()
    names = (name for name, p in model.named_parameters() if p is embedding.weight)
    saved = whole.get(next(names, ""))
    if saved is not None and saved.shape[0] > embedding.num_embeddings:
        model.resize_token_embeddings(saved.shape[0], mean_resizing=False)


def lora_config(source: Source, adapter: dict[str, Any], model: Any, lora: Weights) -> Any:
    """peft's LoraConfig of an adapter, its regular expressions matched to the base's modules here.

    lora: its low-rank weights, named as in the bare base.
    ConfigError for what runs code or has no end (Megatron's layers, replicated layers, a start
    from the base's weights with thousands of iterations); DataError for a rank that its weights
    do not have, and for an expression that takes longer than PATTERN_SECONDS.
    """
    from peft import LoraConfig

    path = model_file(source, CONFIG) or Path(source.path)
    require_rank(path, adapter, max((max(w.shape, default=0) for w in lora.values()), default=0))
    start = str(adapter.get("init_lora_weights", ""))
    loftq = adapter.get("loftq_config") or {}
    for wrong, why in (
        (adapter.get("megatron_config"), "megatron_config names a module to import"),
        (adapter.get("layer_replication"), "layer_replication builds layers that it has no end to"),
        (
            re.fullmatch(r"pissa_niter_\d{3,}", start),
            f"init_lora_weights {start} iterates too often",
        ),
        (start == "loftq" and loftq.get("loftq_iter", 1) != 1, "loftq_iter iterates too often"),
    ):
        if wrong:
            raise ConfigError(f"{path}: {why}: DeAR does not open such an adapter")
    with reading(source):
        config: Any = LoraConfig.from_pretrained(source.path, revision=source.revision)
        names = [name for name, _ in model.named_modules()]
        for field in ("target_modules", "exclude_modules"):
            pattern = getattr(config, field)
            if isinstance(pattern, str) and pattern != "all-linear":
                setattr(config, field, _matching(path, pattern, names))
        placed = sorted({key.partition(".lora_")[0] for key in lora})
        for field in ("rank_pattern", "alpha_pattern"):
            setattr(config, field, _by_name(path, getattr(config, field) or {}, placed))
        patterns = config.layers_pattern or []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if not re.fullmatch(r"[\w.]+", pattern):
                raise ConfigError(f"{path}: layers_pattern {pattern!r} is no name of a module")
    return config


PATTERN_SECONDS = 2
"""For matching an adapter's regular expression to the names of its base's modules."""


def _matching(path: Path, pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a regular expression matches whole; `re` itself can not be stopped."""
    import regex

    end = time.monotonic() + PATTERN_SECONDS
    try:
        compiled = regex.compile(pattern)
        return [
            name
            for name in names
            if compiled.fullmatch(name, timeout=max(end - time.monotonic(), 1e-3))
        ]
    except TimeoutError:
        raise DataError.at(
            path, None, f"the regular expression {excerpt(pattern)} does not end in time"
        ) from None
    except (regex.error, RecursionError) as error:
        raise DataError.at(
            path, None, f"the regular expression {excerpt(pattern)}: {error}"
        ) from None


def _by_name(path: Path, values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A rank_pattern or alpha_pattern whose keys are names, where they were expressions that
    repeat; the first that matches counts, as in peft."""
    if not any(set(key) & set("*+?{") for key in values):
        return values
    out: dict[str, Any] = {}
    for key, value in values.items():
        for name in _matching(path, rf"(.*\.)?({key})", names):
            out.setdefault(name, value)
    return out


def _wrap(model: Any, source: Source, adapter: dict[str, Any], lora: Weights) -> Any:
    try:
        from peft import PeftModel, set_peft_model_state_dict
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    config = lora_config(source, adapter, model, lora)
    with reading(source):
        # placed already; peft would look for them under one spelling
        config.modules_to_save, config.inference_mode = None, True
        wrapped = PeftModel(model, config)
    _require_fit(wrapped, source, lora)
    with reading(source):
        set_peft_model_state_dict(wrapped, {f"base_model.model.{k}": v for k, v in lora.items()})
    return wrapped


def _require_fit(wrapped: Any, source: Source, lora: Weights) -> None:
    """DataError unless the adapter has each low-rank weight that its base wants, and no other."""
    wanted = {
        plain_name(key): value.shape
        for key, value in wrapped.state_dict().items()
        # of DoRA; older versions of peft spell its magnitudes otherwise
        if "lora_" in key and "lora_magnitude" not in key
    }
    brought = {key: value for key, value in lora.items() if "lora_magnitude" not in key}
    for key, value in sorted(brought.items()):
        if key not in wanted:
            raise _misfit(source, f"the base has no place for {key}")
        if value.shape != wanted[key]:
            raise _misfit(
                source, f"{key} is {shape_of(value.shape)}, the base wants {shape_of(wanted[key])}"
            )
    missing = sorted(str(key) for key in wanted.keys() - brought.keys())
    if missing or not brought:
        raise _misfit(source, f"it lacks {missing[0] if missing else 'all LoRA weights'}")


def _misfit(source: Source, problem: str) -> DataError:
    return DataError.at(source.name, None, f"the adapter does not fit its base: {problem}")
