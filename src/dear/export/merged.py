"""A one-logit model as a checkpoint of transformers' own: one set of weights, no adapter."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.files import quiet
from dear.checkpoints.wrappers import bare_model
from dear.digests import Inputs
from dear.errors import ConfigError
from dear.export.frame import Frame, whole_length
from dear.export.score_template import SCORE_TEMPLATE, score_template
from dear.scoring.encoding import Pair
from dear.scoring.loading import ScoringModel

MergedDType = Literal["float32", "bfloat16", "float16"]

IDENTITY = "torch.nn.modules.linear.Identity"
"""Scores are logits, as everywhere in DeAR; others would put a sigmoid behind one output."""


def export_merged(
    model: ScoringModel,
    folder: Path,
    dtype: MergedDType,
    *,
    calibration: Sequence[Pair],
    inputs: Inputs | None = None,
) -> None:
    """Write `model` to `folder` for transformers' AutoModelForSequenceClassification, for vLLM and
    for DeAR; a decoder's with a score template where one makes the contract's tokens.

    calibration: pairs that prove the template.
    """
    template = None
    if model.is_decoder:
        template = score_template(model.tokenizer, model.contract, calibration, special_tokens=True)
    write_weights(model, folder, dtype, model.tokenizer, model.contract)
    if template is not None:
        (folder / SCORE_TEMPLATE).write_text(template, encoding="utf-8")


def write_weights(
    model: ScoringModel, folder: Path, dtype: MergedDType, tokenizer: Any, contract: ScoringContract
) -> None:
    """Weights, configuration, tokenizer and contract.

    ConfigError: no class of transformers, or one that would read another position.
    """
    bare = bare_model(model.model)
    if not isinstance(bare, transformers.PreTrainedModel):
        raise ConfigError(
            f"{model.name}: {type(bare).__name__} is put together by DeAR and has no class in "
            "transformers; its own checkpoint is the form that others read"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # transformers shows a bar of its own here, whatever it is told
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        bare.to(getattr(torch, dtype))
        bare.config.sentence_transformers = {"activation_fn": IDENTITY}
        pad = _padded(model, tokenizer)
        bare.config.pad_token_id = bare.config.get_text_config().pad_token_id = pad
        tokenizer.model_max_length = whole_length(tokenizer, contract)
        bare.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    contract.with_dtype(dtype).save(folder)


def _padded(model: ScoringModel, tokenizer: Any) -> int:
    """The pad id of the configuration, after a decoder's tokenizer got one that no sequence ends
    with: transformers reads the last token that is not it."""
    pad = int(tokenizer.pad_token_id)
    contract = model.contract
    if not model.is_decoder:
        # RoBERTa and its kin count positions from it, whatever the tokenizer pads with
        own = model.model.get_input_embeddings().padding_idx
        return pad if own is None else int(own)
    after = [] if contract.template else Frame.of(tokenizer, contract).after
    if not after or after[-1][0] != pad:
        return pad
    for other in (tokenizer.bos_token, tokenizer.unk_token):
        if other is not None and tokenizer.convert_tokens_to_ids(other) != pad:
            tokenizer.pad_token = other
            return int(tokenizer.pad_token_id)
    raise ConfigError(
        f"{model.name}: its sequences end with {tokenizer.pad_token!r}, which is its pad token, "
        "too; transformers would read the token before it, and there is no other to pad with"
    )
