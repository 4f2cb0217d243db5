"""The tokenizer of a model, with a pad token that its embedding has."""

from __future__ import annotations

from typing import Any

from dear.errors import ConfigError, DataError
from dear.models.family import Source
from dear.models.files import model_file, reading
from dear.models.weights import require_no_code

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
    require_no_code(source)
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


def lower_cased(tokenizer: Any) -> Any:
    """The tokenizer, reading capital letters as small ones."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    own = backend.normalizer
    lower = normalizers.Lowercase()
    backend.normalizer = lower if own is None else normalizers.Sequence([lower, own])
    return tokenizer


def mend_padding(model: Any, tokenizer: Any) -> str | None:
    """One pad id in tokenizer and configuration, and one that the embedding has.

    Returns the pad token that it had no row for, which no text is read as; None otherwise.
    """
    rows = model.get_input_embeddings().num_embeddings
    replaced = None
    if tokenizer.pad_token_id >= rows:
        # a pad token that was added to the tokenizer alone
        known = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        ids = [t for t in known if t and tokenizer.convert_tokens_to_ids(t) < rows]
        if not ids:
            raise ConfigError(
                f"the pad id {tokenizer.pad_token_id} is outside the model's {rows} embeddings"
            )
        replaced = str(tokenizer.pad_token)
        tokenizer.pad_token = ids[0]
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return replaced


def require_rows(model: Any, tokenizer: Any, name: str, *, spared: str | None = None) -> None:
    """ConfigError for a token that the embedding has no row for: to read it would end the job.

    Special tokens count where the tokenizer puts them around texts; no text is read as one.
    spared: a token that no text is read as.
    """
    rows = model.get_input_embeddings().num_embeddings
    added = tokenizer.added_tokens_decoder
    if len(tokenizer) <= rows and max(added, default=0) < rows:
        return
    unread = {t.content for t in added.values() if t.special}
    unread -= set(tokenizer.convert_ids_to_tokens(tokenizer("a", "a")["input_ids"]))
    token, first = min(
        (
            (t, i)
            for t, i in tokenizer.get_vocab().items()
            if i >= rows and t != spared and t not in unread
        ),
        key=lambda one: one[1],
        default=("", -1),
    )
    if first >= 0:
        raise ConfigError(
            f"{name}: the tokenizer has the token {token!r} with id {first}, the model's embedding "
            f"only {rows} rows; take the tokenizer that the weights were saved with"
        )
