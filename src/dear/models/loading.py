"""Names to models: base weights, tokenizer, adapters and contract, mended once, here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from dear.errors import BackendError, ConfigError, DataError, MissingExtra
from dear.models.contract import CARD, DType, ScoringContract
from dear.models.family import Source, locate

logger = logging.getLogger(__name__)

HEADS = ("score", "classifier")
"""Names of the module that makes the logit: decoders, encoders."""


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """A one-logit model that is ready to score.

    contract.dtype is the dtype in force, never "auto". `revision` changes with the weights.
    """

    model: Any
    tokenizer: Any
    contract: ScoringContract
    name: str
    revision: str
    device: torch.device

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def is_decoder(self) -> bool:
        return pools_by_mask(self.model)


def load_scoring_model(
    name: str | Path,
    *,
    contract: ScoringContract | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    merge: bool = True,
    revision: str | None = None,
) -> ScoringModel:
    """A checkpoint that scores: folder, hub id or name; full weights, LoRA adapter or GGUF.

    contract: must agree with the one the checkpoint carries (ContractMismatch otherwise); for a
    checkpoint that carries none it is taken as given, and CARD is the default.
    merge: fold a LoRA adapter into its base (exact, faster) or keep it live.
    Raises ConfigError for a model without a trained one-logit head.
    """
    source = locate(name, revision=revision)
    where = pick_device(device)
    picked = pick_dtype(dtype, where)
    stored = ScoringContract.load(source.folder) if source.folder else None
    if stored is not None and contract is not None:
        stored.require(contract, what=str(name), ignore=("dtype",))
    model, tokenizer, fresh = load_weights(source, dtype=picked, merge=merge)
    if fresh:
        raise ConfigError(
            f"{name}: this model has no trained one-logit head ({', '.join(sorted(fresh))}); "
            "train one with `dear train`, or read it without training: "
            f"biencoder:{name} or upr:{name}"
        )
    if model.config.num_labels != 1:
        raise ConfigError(f"{name}: {model.config.num_labels} outputs, but a reranker has one")
    chosen = stored or contract or CARD
    pooling = "mask" if pools_by_mask(model) else "model"
    chosen = replace(chosen, dtype=picked, pooling=pooling)
    check_length(model.config, chosen, str(name))
    model.to(where)
    float32_head(model)
    model.eval()
    return ScoringModel(
        model=model,
        tokenizer=tokenizer,
        contract=chosen,
        name=str(name),
        revision=revision_of(source, model),
        device=where,
    )


def load_weights(
    source: Source,
    *,
    dtype: DType,
    merge: bool = True,
    config_overrides: dict[str, Any] | None = None,
) -> tuple[Any, Any, set[str]]:
    """(model, tokenizer, names of head weights that were newly made) for a sequence classifier.

    The head of a base model is made new with one output, from torch's current seed.
    """
    from transformers import AutoModelForSequenceClassification

    adapter = _adapter_config(source)
    base = source if adapter is None else locate(adapter["base_model_name_or_path"])
    tokenizer_source = source if adapter is None or _has_tokenizer(source) else base
    tokenizer = load_tokenizer(tokenizer_source)
    overrides = dict(config_overrides or {})
    if not _is_classifier(base):
        overrides["num_labels"] = 1
    with reading(source.path):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            base.path,
            gguf_file=base.gguf_file,
            revision=base.revision,
            dtype=getattr(torch, dtype),
            attn_implementation=pick_attention(),
            output_loading_info=True,
            trust_remote_code=False,
            **overrides,
        )
    fresh = {key for key in info["missing_keys"] if _is_head(key)}
    _require_whole(source, info, fresh)
    if getattr(model.config, "quantization_config", None) is not None and base.gguf_file:
        del model.config.quantization_config  # the weights are plain tensors now
    mend_padding(model, tokenizer)
    if adapter is not None:
        model, fresh = _attach(model, source, adapter, fresh, merge)
    return model, tokenizer, fresh


def _attach(
    model: Any, source: Source, adapter: dict[str, Any], fresh: set[str], merge: bool
) -> tuple[Any, set[str]]:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    with reading(source.path):
        wrapped = PeftModel.from_pretrained(model, source.path, revision=source.revision)
    saved = set(adapter.get("modules_to_save") or ())
    if saved & set(HEADS):
        fresh = set()
    return (wrapped.merge_and_unload() if merge else wrapped), fresh


def load_tokenizer(source: Source) -> Any:
    """The fast tokenizer of a model, with a pad token."""
    from transformers import AutoTokenizer

    with reading(source.path):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            revision=source.revision,
            trust_remote_code=False,
        )
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ConfigError(f"{source.path}: the tokenizer has no pad, eos or unk token")
        tokenizer.pad_token = substitute
    # our limits come from the contract; this one only produces warnings
    tokenizer.model_max_length = int(1e9)
    return tokenizer


def mend_padding(model: Any, tokenizer: Any) -> None:
    """One pad id in tokenizer, configuration and embedding, so that they cannot disagree."""
    model.config.pad_token_id = tokenizer.pad_token_id


def float32_head(model: Any) -> None:
    """The score head computes in float32: bfloat16 turns close scores into ties."""
    for name in HEADS:
        head = getattr(_bare(model), name, None)
        if isinstance(head, nn.Module):
            head.float()
            head.register_forward_pre_hook(_to_float32)


def _to_float32(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, torch.Tensor) else a for a in arguments)


def _bare(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def pools_by_mask(model: Any) -> bool:
    """True for causal models, whose head reads one position; encoders pool by themselves."""
    bare = _bare(model)
    return hasattr(bare, "score") and hasattr(bare, bare.base_model_prefix)


def pooled_logits(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """float32 (B,) logits of a one-logit model; all inputs (B, T), padding on either side.

    Decoders are pooled at the last position that the attention mask shows, whatever the pad id
    is and wherever that id occurs in the text.
    """
    bare = _bare(model)
    if not pools_by_mask(model):
        extra = {}
        if token_type_ids is not None and _takes_types(type(bare)):
            extra["token_type_ids"] = token_type_ids
        out = model(input_ids=input_ids, attention_mask=attention_mask, **extra)
        return cast(torch.Tensor, out.logits[:, 0].float())
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    body = getattr(bare, bare.base_model_prefix)
    hidden = body(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    steps = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = (attention_mask * steps).argmax(-1)
    pooled = hidden[torch.arange(len(last), device=last.device), last]
    return cast(torch.Tensor, bare.score(pooled)[:, 0].float())


@functools.cache
def _takes_types(kind: type) -> bool:
    return "token_type_ids" in inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]


def pick_device(device: str) -> torch.device:
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError:
            raise ConfigError(f"no device {device!r}; try cpu, cuda, cuda:1 or mps") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def pick_dtype(dtype: DType, device: torch.device) -> DType:
    """bfloat16 where the hardware multiplies in it, float32 elsewhere."""
    if dtype != "auto":
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"no dtype {dtype!r}; try auto, float32, bfloat16 or float16")
        return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """True if this processor multiplies bfloat16 matrices natively (AVX-512 BF16, AMX, Arm)."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if probe is not None and probe():
        return True
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())


def pick_attention() -> str:
    """On a CPU, short sequences run faster through eager attention than through SDPA."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def check_length(config: Any, contract: ScoringContract, name: str) -> None:
    """Learned positions end somewhere; a contract must fit in them."""
    positions = getattr(config, "max_position_embeddings", None)
    learned = getattr(config, "position_embedding_type", None) == "absolute"
    if learned and positions is not None and contract.longest - 8 > positions:
        raise ConfigError(
            f"{name}: the contract allows {contract.longest} tokens, the model has "
            f"{positions} positions; lower max_tokens"
        )


def pick_layers(model: Any, layers: Sequence[int]) -> None:
    """Keep only these layers (0 is the first), in this order: the start of a smaller student."""
    count = model.config.num_hidden_layers
    if not layers or any(not 0 <= i < count for i in layers):
        raise ConfigError(f"layers {list(layers)}: the model has layers 0 to {count - 1}")
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                kept = nn.ModuleList([child[i] for i in layers])
                for index, layer in enumerate(kept):
                    for module in layer.modules():
                        if hasattr(module, "layer_idx"):
                            module.layer_idx = index
                setattr(parent, name, kept)
                model.config.num_hidden_layers = len(layers)
                if getattr(model.config, "layer_types", None):
                    model.config.layer_types = [model.config.layer_types[i] for i in layers]
                return
    raise ConfigError(f"{type(model).__name__}: found no list of {count} layers to pick from")


def revision_of(source: Source, model: Any) -> str:
    """A hub commit, or `local-` and 16 digits over configuration and samples of the weights.

    Sampled: 64 KiB at 16 places of each file, so that a 13B folder takes no minute; training
    moves every weight, and the samples see it.
    """
    folder = source.folder
    if folder is None:
        return str(getattr(model.config, "_commit_hash", None) or source.revision or "main")
    digest = hashlib.sha256()
    names = (
        [source.gguf_file]
        if source.gguf_file
        else sorted(
            p.name
            for p in folder.iterdir()
            if p.suffix == ".safetensors" or p.name in ("config.json", "adapter_config.json")
        )
    )
    for name in names:
        path = folder / cast(str, name)
        size = path.stat().st_size
        digest.update(f"{name}:{size};".encode())
        with path.open("rb") as file:
            for part in range(16):
                file.seek(size * part // 16)
                digest.update(file.read(65536))
    return f"local-{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what transformers raises for broken or absent weights into one line."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except SafetensorError as error:
        raise DataError.at(path, None, f"the weights are damaged: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        text = str(error).strip()
        first = text.splitlines()[0] if text else type(error).__name__
        raise BackendError(f"{path}: cannot load the model: {first}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No load reports and no bars of transformers: our own checks say what matters."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _is_head(key: str) -> bool:
    return any(part in HEADS for part in key.split("."))


def _is_classifier(source: Source) -> bool:
    """True if the configuration names a sequence classifier, whose own head is kept."""
    if source.gguf_file is not None:
        return False
    from transformers import AutoConfig

    with reading(source.path):
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
    return any("SequenceClassification" in a for a in config.architectures or ())


def _has_tokenizer(source: Source) -> bool:
    folder = source.folder
    return folder is None or (folder / "tokenizer_config.json").is_file()


def _adapter_config(source: Source) -> dict[str, Any] | None:
    folder = source.folder
    if folder is not None:
        path: Path | None = folder / "adapter_config.json"
    else:
        path = hub_file(source, "adapter_config.json")
    if path is None or not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError.at(path, None, f"not JSON: {error}") from None
    if not isinstance(config, dict) or "base_model_name_or_path" not in config:
        raise DataError.at(path, None, "names no base_model_name_or_path")
    return cast(dict[str, Any], config)


def hub_file(source: Source, name: str) -> Path | None:
    """A file of a hub repository, from the cache or the network; None where there is none."""
    from transformers.utils import cached_file

    with quiet():
        try:
            found = cached_file(
                source.path,
                name,
                revision=source.revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )
        except OSError:
            return None
    return Path(found) if found else None


def _require_whole(source: Source, info: dict[str, Any], fresh: set[str]) -> None:
    """A checkpoint that lacks weights of its body would score noise."""
    missing = {k for k in info["missing_keys"] if not _is_head(k) and "pooler" not in k}
    if missing - fresh:
        some = ", ".join(sorted(missing)[:3])
        raise DataError.at(
            source.path, None, f"the checkpoint lacks {len(missing)} weights: {some} …"
        )
