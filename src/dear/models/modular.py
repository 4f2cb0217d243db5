"""Cross-encoders that sentence-transformers puts together from modules, such as ettin-reranker.

A transformer, a pooling and dense layers of which the last writes the score: as one model, which
every engine takes.
"""

from __future__ import annotations

from typing import Any

from dear.models.assembled import AssembledScorer
from dear.models.family import Source
from dear.models.files import model_json
from dear.models.pretrained import read_pretrained
from dear.models.sbert import (
    ModuleEntry,
    transformer_entry,
    transformer_settings,
    transformer_source,
)
from dear.models.sbert_modules import read_stack
from dear.models.tokenizing import load_tokenizer, lower_cased, mend_padding, require_rows
from dear.models.weights import require_one_output


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
    import transformers as hf

    config = model_json(transformer_source(source, entry), "config.json")
    both = config.get("is_encoder_decoder") or config.get("model_type") in ("t5", "mt5", "umt5")
    return hf.AutoModelForTextEncoding if both else hf.AutoModel
