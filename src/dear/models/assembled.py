"""A one-logit model put together from a body and a head that transformers has no class for.

It looks like transformers' own classifiers (a body under `base_model_prefix`, a head called
`score` or `classifier`), so that every engine takes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dear.models.heads import takes


class AssembledScorer(nn.Module):
    """body: of transformers.  head: `score`, from the last token's state (B, H) to (B, 1), or
    `classifier`, from all states (B, T, H) and the mask (B, T) to (B, 1)."""

    base_model_prefix = "body"

    classifier: nn.Module
    score: nn.Module

    def __init__(self, body: Any, *, placed: Any = None, **head: nn.Module) -> None:
        """placed: where the body's weights were put while they were read, if they were."""
        super().__init__()
        self.body = body
        self.config = body.config
        if placed is not None:
            self.hf_device_map = placed
        for name, module in head.items():
            self.add_module(name, module)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        **_other: Any,
    ) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        extra = {}
        if token_type_ids is not None and takes(self.body, "token_type_ids"):
            extra["token_type_ids"] = token_type_ids
        hidden = self.body(
            input_ids=input_ids, attention_mask=attention_mask, **extra
        ).last_hidden_state
        # an exported graph hands over what is added to attention logits: (B, 1, 1, T)
        shown = attention_mask if attention_mask.dim() == 2 else attention_mask[:, 0, 0] > -1
        return SequenceClassifierOutput(logits=self.classifier(hidden, shown))

    def get_input_embeddings(self) -> Any:
        return self.body.get_input_embeddings()


class AnswerHead(nn.Module):
    """The logit of one answer as the next token, less that of another: (B, H) to (B, 1).

    Two rows of a language model's head, with what its configuration does to logits.
    """

    def __init__(self, head: Any, config: Any, yes: int, no: int | None) -> None:
        super().__init__()
        rows = [yes] if no is None else [yes, no]
        self.weight = nn.Parameter(head.weight[rows].detach().float(), requires_grad=False)
        bias = getattr(head, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias[rows].detach().float(), False)
        self.scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
        self.scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
        self.cap = getattr(config, "final_logit_softcapping", None)  # Gemma

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.linear(states, self.weight, self.bias) * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits[:, :1] - logits[:, 1:] if logits.shape[1] == 2 else logits
