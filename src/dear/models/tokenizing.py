"""The tokenizer of a model, with a pad token that its embedding has."""

from __future__ import annotations

from typing import Any

from dear.errors import ConfigError, DataError
from dear.models.family import Source
from dear.models.files import model_file, reading

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
"""One of these is in every folder that holds a tokenizer."""


def has_tokenizer(source: Source) -> bool:
    return any(model_file(source, name) is not None for name in TOKENIZER_FILES)


def load_tokenizer(source: Source) -> Any:
    """The fast tokenizer of a model, with a pad token."""
    from transformers import AutoTokenizer

    folder = source.folder
    if folder is not None and source.gguf_file is None and not has_tokenizer(source):
        raise DataError.at(folder, None, "no tokenizer (tokenizer.json) beside the weights")
    with reading(source):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            revision=source.revision,
            trust_remote_code=False,
        )
    if not tokenizer.is_fast:
        raise ConfigError(f"{source.path}: the tokenizer has no fast form (tokenizer.json)")
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ConfigError(f"{source.path}: the tokenizer has no pad, eos or unk token")
        tokenizer.pad_token = substitute
    return tokenizer


def mend_padding(model: Any, tokenizer: Any) -> None:
    """One pad id in tokenizer and configuration, and one that the embedding has."""
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id >= rows:
        # a pad token that was added to the tokenizer alone
        known = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        ids = [t for t in known if t and tokenizer.convert_tokens_to_ids(t) < rows]
        if not ids:
            raise ConfigError(
                f"the pad id {tokenizer.pad_token_id} is outside the model's {rows} embeddings"
            )
        tokenizer.pad_token = ids[0]
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
