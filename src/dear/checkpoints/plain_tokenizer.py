"""A tokenizer.json read by `tokenizers` alone, for folders that are scored without transformers.

It has the part of transformers' interface that encoding uses, and gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from dear.artifacts import read_json, write_json
from dear.checkpoints.tokenizer_limits import require_bounded_tokenizer
from dear.errors import ConfigError, DataError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_TYPED = ("AlbertTokenizer", "BertTokenizer", "DebertaV2Tokenizer", "ElectraTokenizer")
"""Classes of transformers that give token types, where a folder of an earlier version does not say
which inputs there are."""


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """A tokenizer of transformers, with all that PlainTokenizer needs to know of it."""
    tokenizer.save_pretrained(str(folder))
    path = folder / CONFIG_FILE
    write_json(path, read_json(path) | {"model_input_names": list(tokenizer.model_input_names)})


class TokenBatch(dict[str, list[Any]]):
    """`input_ids`, `offset_mapping` and, for models that have them, `token_type_ids`: a list for
    each text or pair, or, of one that was given alone, that list."""

    def __init__(self, encodings: Sequence[Encoding], *, alone: bool, typed: bool) -> None:
        names = {"input_ids": "ids", "offset_mapping": "offsets"}
        if typed:
            names["token_type_ids"] = "type_ids"
        rows = {key: [getattr(one, name) for one in encodings] for key, name in names.items()}
        super().__init__({key: found[0] if alone else found for key, found in rows.items()})
        self.encodings = encodings

    def sequence_ids(self, row: int) -> list[int | None]:
        """Which text of the pair each token is of; None for special tokens."""
        return list(self.encodings[row].sequence_ids)


class PlainTokenizer:
    """Of an exported folder. DataError for a file that is none, ConfigError without a pad token."""

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER_FILE
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            raise DataError.at(path, None, str(error)) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        inputs = config.get("model_input_names")
        kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
        self._typed = kind in _TYPED if inputs is None else "token_type_ids" in inputs
        self.truncation_side = str(config.get("truncation_side", "right"))
        pad = self._id(config.get("pad_token"))
        self.eos_token_id = self._id(config.get("eos_token"))
        if pad is None:
            raise ConfigError(f"{folder}: the tokenizer has no pad token")
        self.pad_token_id: int = pad
        require_bounded_tokenizer(self, str(folder))

    def _id(self, token: Any) -> int | None:
        text = token.get("content") if isinstance(token, dict) else token
        return None if text is None else self._tokenizer.token_to_id(str(text))

    @property
    def backend_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._tokenizer.get_added_tokens_decoder()

    @property
    def all_special_ids(self) -> list[int]:
        return [i for i, token in self.added_tokens_decoder.items() if token.special]

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return int(self._tokenizer.num_special_tokens_to_add(pair))

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(self._tokenizer.id_to_token(i)) for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def __call__(
        self,
        texts: Sequence[str] | str,
        pairs: Sequence[str] | str | None = None,
        *,
        add_special_tokens: bool = True,
        truncation: bool | str = False,
        max_length: int | None = None,
        split_special_tokens: bool = False,
        **_wanted: Any,
    ) -> TokenBatch:
        """truncation: False, or True for the longest text of a pair first. Not from threads: these
        are settings of the tokenizer (dear.checkpoints.threads)."""
        alone = isinstance(texts, str)
        first = [texts] if isinstance(texts, str) else list(texts)
        second = [pairs] if isinstance(pairs, str) else pairs
        tokenizer = self._tokenizer
        if truncation and max_length is not None:
            tokenizer.enable_truncation(max_length, direction=self.truncation_side)
        else:
            tokenizer.no_truncation()
        tokenizer.encode_special_tokens = split_special_tokens
        rows: list[Any] = first if second is None else list(zip(first, second, strict=True))
        encodings = tokenizer.encode_batch(rows, add_special_tokens=add_special_tokens)
        return TokenBatch(encodings, alone=alone, typed=self._typed)
