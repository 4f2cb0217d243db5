"""The tokenizer of a model, with a pad token that its embedding has."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import AutoTokenizer

from dear.checkpoints.files import has_tokenizer, reading
from dear.checkpoints.registry import Source
from dear.checkpoints.threads import in_time
from dear.checkpoints.tokenizer_limits import require_bounded_tokenizer
from dear.checkpoints.weights import require_no_code
from dear.errors import ConfigError, DataError, DearError, excerpt


def load_tokenizer(source: Source) -> Any:
    """The fast tokenizer of a model, with a pad token."""
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
    require_bounded_tokenizer(tokenizer, source.path)
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ConfigError(f"{source.path}: the tokenizer has no pad, eos or unk token")
        tokenizer.pad_token = substitute
    return tokenizer


def lower_cased(tokenizer: Any) -> Any:
    """The tokenizer, reading capital letters as small ones."""
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


RENDER_SECONDS = 5
RENDER_BYTES = 2**30
"""Memory that a chat template may take beyond what the process has."""

MOST_RENDERED = 2**20
"""Letters that a chat template may add to its messages' sixteenfold."""


def render_chat(tokenizer: Any, messages: Sequence[dict[str, Any]], **options: Any) -> str:
    """The text that the chat template makes of messages, in bounded time and memory.

    ConfigError: it computes powers, fails, or makes too much text; DataError: it does not end.
    """

    def render() -> str:
        if _computes_powers(tokenizer.get_chat_template()):
            raise ConfigError("powers take any time")
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))

    try:
        with _bounded_memory(RENDER_BYTES):
            text = in_time(render, RENDER_SECONDS, "the chat template")
    except DearError:
        raise
    except Exception as error:  # a template raises whatever Python does
        what = excerpt(f"{type(error).__name__}: {error}", 200)
        raise ConfigError(f"the chat template fails: {what}") from None
    given = sum(len(str(message["content"])) for message in messages)
    if len(text) > MOST_RENDERED + 16 * given:
        raise ConfigError(f"the chat template makes {len(text):,} letters of {given:,}")
    return text


@functools.lru_cache(maxsize=16)
def _computes_powers(template: str) -> bool:
    import jinja2

    return any(True for _ in jinja2.Environment().parse(template).find_all(jinja2.nodes.Pow))


_limiting = threading.Lock()


@contextlib.contextmanager
def _bounded_memory(more: int) -> Iterator[None]:
    """MemoryError where the process asks for so many more bytes; only where Linux says how much
    it has. One thread at a time: the limit is the process's, and two that set it and put it back
    would leave one behind."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    with _limiting:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + more
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
