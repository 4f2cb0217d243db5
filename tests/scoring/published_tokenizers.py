"""Generations of Llama as they are published: keys of config.json, and small tokenizers."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers as hft
from tiny_models import WORDS, words
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers


@dataclass(frozen=True)
class Llama:
    """A generation of Llama: its special tokens and the keys of its config.json."""

    bos: str
    eos: str
    config: dict[str, Any]
    bos_id: int
    eos_id: int


LLAMA2 = Llama(
    bos="<s>",
    eos="</s>",
    bos_id=1,
    eos_id=2,
    config={
        "max_position_embeddings": 4096,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0.dev0",
    },
)
LLAMA3 = Llama(
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    bos_id=0,
    eos_id=1,
    config={
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0.dev0",
    },
)


def generation(name: str) -> Llama:
    return LLAMA2 if "Llama-2" in name else LLAMA3


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _corpus() -> list[str]:
    return [words(30, i) for i in range(20)] + [" ".join(WORDS) + " query: document: it's 1.5%"]


def framed(bos: str, bos_id: int) -> Any:
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)]
    )


@functools.cache
def _llama2_tokenizer() -> Any:
    trained = hft.Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trained.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=460, special_tokens=special)
    )
    learnt = json.loads(trained.to_str())["model"]
    return llama2_bpe(learnt["vocab"], [tuple(pair) for pair in learnt["merges"]])


def llama2_bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """A sentencepiece vocabulary as tokenizer.json of Llama-2 writes it."""
    tokenizer = hft.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = framed("<s>", 1)
    return tokenizer


@functools.cache
def _llama3_tokenizer() -> Any:
    tokenizer = hft.Tokenizer(models.BPE(ignore_merges=True))
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(hft.Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [LLAMA3.bos, LLAMA3.eos, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), framed(LLAMA3.bos, LLAMA3.bos_id)]
    )
    return tokenizer


def write_tokenizer(folder: Path, llama: Llama, tokenizer: Any = None) -> int:
    """tokenizer.json and its configuration, without a pad token. Returns the vocabulary's size.

    tokenizer: a small one that is trained here, where none is given.
    """
    if tokenizer is None:
        tokenizer = _llama2_tokenizer() if llama is LLAMA2 else _llama3_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    config: dict[str, Any] = {
        "bos_token": llama.bos,
        "eos_token": llama.eos,
        "clean_up_tokenization_spaces": llama is LLAMA3,
    }
    if llama is LLAMA2:
        config |= {
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        }
    else:
        config |= {
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 131072,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
    write_json(folder / "tokenizer_config.json", config)
    return int(tokenizer.get_vocab_size())
