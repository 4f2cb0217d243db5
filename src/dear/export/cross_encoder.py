"""A one-logit model as a folder of sentence-transformers' CrossEncoder.

Its prompts reach only the first text of a pair. So the words of a contract are put around the two
texts in one of three ways, the first that makes the contract's tokens: not at all (bare pairs), as
special tokens of the tokenizer, or by a chat template of two messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from dear.artifacts import write_json
from dear.checkpoints.contract import PLAIN, ScoringContract
from dear.checkpoints.sentence_transformers import MODULES, SETTINGS
from dear.checkpoints.threads import tokenize
from dear.digests import Inputs
from dear.errors import ConfigError
from dear.export.frame import PROBES, Frame, Placed, whole_length
from dear.export.merged import IDENTITY, MergedDType, write_weights
from dear.export.score_template import score_template
from dear.scoring.encoding import Pair, PairEncoder
from dear.scoring.loading import ScoringModel

_METHOD = {"method": "forward", "method_output_name": "logits"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """How the library comes to the contract's tokens.

    contract: under which DeAR reads the folder to the same tokens.  prompt: before the query.
    messages: whether the tokenizer's chat template makes the text.
    """

    tokenizer: Any
    contract: ScoringContract
    prompt: str = ""
    messages: bool = False


def export_cross_encoder(
    model: ScoringModel,
    folder: Path,
    dtype: MergedDType,
    *,
    calibration: Sequence[Pair],
    inputs: Inputs | None = None,
) -> None:
    """Write `model` to `folder` for sentence-transformers.

    calibration: pairs that prove the tokens.
    ConfigError: the library cannot read pairs as the contract has them.
    """
    reading = _reading(model, calibration)
    write_weights(model, folder, dtype, reading.tokenizer, reading.contract)
    (folder / MODULES).write_text(
        json.dumps(
            [
                {
                    "idx": 0,
                    "name": "0",
                    "path": "",
                    "type": "sentence_transformers.base.modules.transformer.Transformer",
                }
            ],
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    write_json(
        folder / SETTINGS,
        {
            "model_type": "CrossEncoder",
            "activation_fn": IDENTITY,
            "prompts": {"query": reading.prompt} if reading.prompt else {},
            "default_prompt_name": "query" if reading.prompt else None,
        },
    )
    taken: dict[str, Any] = {"text": _METHOD}
    if reading.messages:
        taken["message"] = {**_METHOD, "format": "flat"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "sequence-classification",
            "modality_config": taken,
            "module_output_name": "scores",
            # as older versions and Text Embeddings Inference read it
            "max_seq_length": whole_length(reading.tokenizer, reading.contract),
        },
    )


def _reading(model: ScoringModel, pairs: Sequence[Pair]) -> _Reading:
    contract, tokenizer = model.contract, model.tokenizer
    if contract.prompt == PLAIN.prompt and contract.add_special_tokens and not contract.append_eos:
        return _Reading(tokenizer=tokenizer, contract=contract, prompt=contract.query_prefix)
    # a vocabulary of bytes reads the space before a text as a part of its first word
    for space in ("", " ") if not contract.template else ():
        found = _with_words(tokenizer, contract, space)
        if _same_tokens(model, found, pairs):
            return found
    template = score_template(tokenizer, contract, pairs, special_tokens=False)
    if template is None:
        raise ConfigError(
            f"{model.name}: sentence-transformers cannot read pairs as its contract has them "
            f"({contract.name}): neither special tokens nor a chat template make the same tokens; "
            "--format safetensors keeps the contract"
        )
    tokenizer.chat_template = template
    return _Reading(tokenizer=tokenizer, contract=contract, messages=True)


def _with_words(tokenizer: Any, contract: ScoringContract, space: str) -> _Reading:
    """The words before each text as special tokens, which the tokenizer places; `space` is put
    before every text."""
    frame = Frame.of(tokenizer, contract)
    query, passage = (_tokens(tokenizer, text) for text in (frame.query, frame.passage))
    inner = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    first, second = frame.types
    if space:
        steps = [
            normalizers.Prepend(space),
            *([inner.normalizer] if inner.normalizer is not None else []),
        ]
        inner.normalizer = normalizers.Sequence(steps)
    inner.post_processor = _placing(
        [*frame.before, *((i, first) for i in query)],
        [*frame.between, *((i, second) for i in passage)],
        frame.after,
        frame.types,
        tokenizer,
    )
    own = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )
    bare = replace(contract, prompt=PLAIN.prompt, append_eos=False)
    if contract.max_query_tokens is not None and contract.max_passage_tokens is not None:
        bare = replace(
            bare,
            max_query_tokens=contract.max_query_tokens - len(query),
            max_passage_tokens=contract.max_passage_tokens - len(passage),
        )
    return _Reading(tokenizer=own, contract=bare, prompt=contract.query_prefix)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    """Of words before a text: the space between belongs to the text."""
    return list(tokenize(tokenizer, text.rstrip(), add_special_tokens=False)["input_ids"])


def _placing(
    before: Placed, between: Placed, after: Placed, types: tuple[int, int], tokenizer: Any
) -> TemplateProcessing:
    special: list[dict[str, Any]] = []

    def named(part: Placed) -> list[str]:
        found = []
        for token, kind in part:
            name = f"<{len(special)}>"
            text = tokenizer.convert_ids_to_tokens(token)
            special.append({"id": name, "ids": [token], "tokens": [text]})
            found.append(f"{name}:{kind}")
        return found

    ahead, middle, behind = named(before), named(between), named(after)
    return TemplateProcessing(
        single=[*ahead, f"$A:{types[0]}", *behind],
        pair=[*ahead, f"$A:{types[0]}", *middle, f"$B:{types[1]}", *behind],
        special_tokens=special,
    )


def _same_tokens(model: ScoringModel, reading: _Reading, pairs: Sequence[Pair]) -> bool:
    """Whether pairs that are read whole are the same tokens in the new way, of the same types."""
    tried = [*PROBES, *pairs]
    wanted = PairEncoder(model.tokenizer, model.contract).encode(tried)
    found = PairEncoder(reading.tokenizer, reading.contract).encode(tried)
    return all(a == b for a, b in zip(wanted, found, strict=True) if not a.cut)
