"""From hidden states to one logit."""

from __future__ import annotations

import inspect
from functools import cache
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from dear.checkpoints.wrappers import bare_model

HEADS = ("score", "classifier")
"""Names of the module that makes the logit: decoders, encoders."""

HEAD_PARTS = (*HEADS, "pooler", "pre_classifier", "head")
"""Parts of a weight's name that belong to a classifier, not to its body."""


def is_head(key: str) -> bool:
    """True if a weight of this name is new where a base model becomes a classifier."""
    return any(part in HEAD_PARTS for part in key.split("."))


def pools_by_mask(model: Any) -> bool:
    """True for causal models, whose head reads one position; encoders pool by themselves."""
    bare = bare_model(model)
    return hasattr(bare, "score") and hasattr(bare, bare.base_model_prefix)


def pool_by_mask(model: Any) -> None:
    """Make a causal classifier read the last position that its attention mask shows.

    transformers looks for the last token that is not the pad id, and so errs where that id
    occurs in the text. Its forward is replaced, so that whatever wraps the model (peft,
    DistributedDataParallel, autocast) is still called. Encoders are left as they are.
    """
    bare = bare_model(model)
    if pools_by_mask(bare) and not getattr(bare, "dear_pools_by_mask", False):
        bare.forward = MethodType(_forward_by_mask, bare)
        bare.dear_pools_by_mask = True


def _forward_by_mask(
    self: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **_other: Any,
) -> Any:
    from transformers.modeling_outputs import SequenceClassifierOutput

    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    body = getattr(self, self.base_model_prefix)
    extra = {}
    if takes(body, "position_ids"):
        # counted from the first token that is shown, on whichever side the padding is
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    hidden = body(
        input_ids=input_ids, attention_mask=mask, use_cache=False, **extra
    ).last_hidden_state
    last = read_positions(self, mask).to(hidden.device)  # of a sharded model, the last GPU
    pooled = hidden[torch.arange(len(last), device=last.device), last]
    return SequenceClassifierOutput(logits=self.score(pooled))


def read_positions(model: Any, mask: torch.Tensor) -> torch.Tensor:
    """int64 (B,): the positions of `mask` (B, T), int64, that the head reads: the last that is
    shown, or the first of an encoder."""
    if not pools_by_mask(model):
        return torch.zeros_like(mask[:, 0])
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)


def pooled_logits(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """float32 (B,) logits of a one-logit model; all inputs (B, T).

    Decoders take padding on either side and any pad id; encoders take it on the right.
    """
    pool_by_mask(model)
    inputs = {"input_ids": input_ids}
    bare = bare_model(model)
    if takes(bare, "attention_mask"):  # FNet mixes whole rows and takes none
        inputs["attention_mask"] = attention_mask
    if token_type_ids is not None and not pools_by_mask(bare) and takes(bare, "token_type_ids"):
        inputs["token_type_ids"] = token_type_ids
    return cast(torch.Tensor, model(**inputs).logits[:, 0].float())


def float32_head(model: Any) -> None:
    """The score head computes in float32: bfloat16 turns close scores into ties."""
    for name in HEADS:
        head = getattr(bare_model(model), name, None)
        if isinstance(head, nn.Module):
            head.float()
            head.register_forward_pre_hook(_in_float32)


def _in_float32(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(p.dtype != torch.float32 for p in module.parameters()):
        with torch.inference_mode(False):
            module.float()  # somebody cast the whole model
    return tuple(a.float() if isinstance(a, torch.Tensor) else a for a in arguments)


def first_position(config: Any) -> int:
    """The position of a text's first token: RoBERTa and its kin count from behind the pad id."""
    counts_from_pad = "roberta" in config.model_type or config.model_type in ("camembert", "mpnet")
    return int(config.pad_token_id) + 1 if counts_from_pad else 0


def takes(module: Any, name: str) -> bool:
    """True if the module's forward has a parameter of this name."""
    return takes_argument(type(module).forward, name)


@cache
def takes_argument(function: Any, name: str) -> bool:
    """True if the function has a parameter of this name."""
    return name in inspect.signature(function).parameters
