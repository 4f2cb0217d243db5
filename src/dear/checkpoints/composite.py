"""One-logit models that transformers has no class for, made of a body and a head.

They look like transformers' own classifiers (a body under `base_model_prefix`, a head called
`score` or `classifier`), so that every engine takes them:

- language models that rank by one answer's logit, such as Qwen3-Reranker: what CrossEncoder
  computes with a LogitScore module, from two rows of the vocabulary's head;
- cross-encoders that sentence-transformers stores as modules, such as ettin-reranker: a
  transformer, a pooling and dense layers of which the last writes the score.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import SequenceClassifierOutput

from dear.checkpoints.contract import TEMPLATE, ScoringContract
from dear.checkpoints.files import model_json
from dear.checkpoints.heads import pool_by_mask, takes
from dear.checkpoints.registry import Source
from dear.checkpoints.sentence_transformers import (
    ModuleEntry,
    modules_of,
    takes_messages,
    transformer_entry,
    transformer_settings,
    transformer_source,
)
from dear.checkpoints.sentence_transformers_modules import read_stack
from dear.checkpoints.threads import tokenize
from dear.checkpoints.tokenizer import (
    load_tokenizer,
    lower_cased,
    mend_padding,
    render_chat,
    require_rows,
)
from dear.checkpoints.weights import read_pretrained, require_one_output
from dear.errors import ConfigError, DearError


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


def load_modules(source: Source, **options: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a modular cross-encoder.

    options: for `from_pretrained`.  ConfigError: a module that is not read, several outputs.
    """
    entry = transformer_entry(source)
    inner = transformer_source(source, entry)
    tokenizer = load_tokenizer(inner)
    if transformer_settings(source, entry).get("do_lower_case"):
        tokenizer = lower_cased(tokenizer)
    stack = read_stack(source)
    assert stack is not None  # there is a modules.json
    require_one_output(source.name, stack.outputs)
    body, _ = read_pretrained(encoder_class(source, entry), inner, **options)
    spared = mend_padding(body, tokenizer)
    require_rows(body, tokenizer, source.name, spared=spared)
    placed = getattr(body, "hf_device_map", None)
    if placed is not None:
        stack.to(body.device)
    return AssembledScorer(body, placed=placed, classifier=stack), tokenizer


def encoder_class(source: Source, entry: ModuleEntry) -> Any:
    """The auto class for a transformer that embeds: of an encoder-decoder, the encoder alone."""
    config = model_json(transformer_source(source, entry), "config.json")
    both = config.get("is_encoder_decoder") or config.get("model_type") in ("t5", "mt5", "umt5")
    return hf.AutoModelForTextEncoding if both else hf.AutoModel
