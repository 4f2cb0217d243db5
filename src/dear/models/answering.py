"""Language models that rank by one answer's logit, such as Qwen3-Reranker, as one-logit models.

What CrossEncoder computes with a LogitScore module, from two rows of the vocabulary's head. As a
one-logit model it goes through every engine: a query's keys and values are computed once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dear.errors import ConfigError, DearError
from dear.models.assembled import AnswerHead, AssembledScorer
from dear.models.contract import TEMPLATE, ScoringContract
from dear.models.family import Source
from dear.models.files import model_json
from dear.models.heads import pool_by_mask
from dear.models.pretrained import read_pretrained
from dear.models.sbert import (
    modules_of,
    takes_messages,
    transformer_entry,
    transformer_settings,
)
from dear.models.threads import tokenize
from dear.models.tokenizing import load_tokenizer, mend_padding, render_chat, require_rows

_QUERY, _PASSAGE, _INSTRUCTION = "\ue001Q\ue002", "\ue001P\ue002", "\ue001I\ue002"
"""Texts that no template changes and none holds."""


def load_answering(
    source: Source, contract: ScoringContract, **options: Any
) -> tuple[Any, Any, ScoringContract]:
    """(model, tokenizer, contract with the answers in it) of a causal language model.

    contract: without a `yes`, answers and template are those of sentence-transformers' files.
    options: for `from_pretrained`.  ConfigError: the tokenizer does not tell the answers apart, or
    the folder's template has no place for a query or a passage.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(source)
    if not contract.yes:
        contract = _from_files(source, tokenizer, contract)
    causal, _ = read_pretrained(AutoModelForCausalLM, source, **options)
    head = causal.get_output_embeddings()
    spared = mend_padding(causal, tokenizer)
    require_rows(causal, tokenizer, source.name, spared=spared)
    yes = token_id(tokenizer, contract.yes)
    no = token_id(tokenizer, contract.no) if contract.no else None
    if yes == no:
        raise ConfigError(
            f"{source.name}: the tokenizer does not tell {contract.yes!r} from {contract.no!r} by "
            "their first token"
        )
    config = causal.config.get_text_config()
    body = getattr(causal, causal.base_model_prefix)
    placed = getattr(causal, "hf_device_map", None)
    model = AssembledScorer(body, placed=placed, score=AnswerHead(head, config, yes, no))
    pool_by_mask(model)
    return model, tokenizer, contract


def token_id(tokenizer: Any, answer: str) -> int:
    """The vocabulary's entry for an answer; for one that has none, its first token."""
    vocabulary = tokenizer.get_vocab()
    if answer in vocabulary:
        return int(vocabulary[answer])
    return int(tokenize(tokenizer, answer, add_special_tokens=False)["input_ids"][0])


def _from_files(source: Source, tokenizer: Any, contract: ScoringContract) -> ScoringContract:
    """Answers of the LogitScore module, text of the tokenizer's chat template."""
    entry = next(e for e in modules_of(source) if e.kind == "LogitScore")
    stored = model_json(source, entry.file("config.json"))
    answers = [stored.get("true_token_id"), stored.get("false_token_id")]
    if not isinstance(answers[0], int):
        raise ConfigError(f"{source.name}: {entry.path}/config.json names no true_token_id")
    yes, no = ("" if i is None else str(tokenizer.convert_ids_to_tokens(i)) for i in answers)
    return replace(chat_contract(source, tokenizer, contract), yes=yes, no=no)


def chat_contract(source: Source, tokenizer: Any, contract: ScoringContract) -> ScoringContract:
    """The contract with the text of the tokenizer's chat template, where the folder says that
    pairs are messages; as it is elsewhere."""
    if not takes_messages(source) or not tokenizer.chat_template:
        return contract
    settings = transformer_settings(source, transformer_entry(source))
    structured = settings["modality_config"]["message"].get("format") == "structured"
    # a default prompt is what the model is told in its system message
    instruction = contract.query_prefix
    template = _rendered(tokenizer, structured, bool(instruction), source.name)
    return replace(
        contract,
        prompt=TEMPLATE,
        template=(template,),
        query_prefix="",
        instruction=instruction if "{instruction}" in template else "",
        add_special_tokens=False,
    )


def _rendered(tokenizer: Any, structured: bool, instructed: bool, name: str) -> str:
    """The chat template with places for its texts."""

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if structured else text}

    messages = [message("query", _QUERY), message("document", _PASSAGE)]
    if instructed:
        messages.insert(0, message("system", _INSTRUCTION))
    try:
        text = render_chat(tokenizer, messages)
    except DearError as error:
        raise ConfigError(f"{name}: the chat template takes no pair: {error}") from None
    if text.count(_QUERY) != 1 or text.count(_PASSAGE) != 1:
        raise ConfigError(f"{name}: the chat template has no place for a query and a document")
    for mark, place in ((_QUERY, "query"), (_PASSAGE, "passage"), (_INSTRUCTION, "instruction")):
        text = text.replace(mark, "{" + place + "}")
    return text
