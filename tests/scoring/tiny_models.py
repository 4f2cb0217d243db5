"""Models of a few thousand weights with tokenizers trained here: small, random, and complete."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_WORDS = """river bank water open file read write close python code model query passage rank score
teacher student logit token bridge mountain cloud engine signal paper garden window"""
WORDS = _WORDS.split()


def words(count: int, seed: int = 0) -> str:
    """A text of `count` known words."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def pairs(count: int, seed: int = 0, longest: int = 40) -> list[tuple[str, str]]:
    """Different pairs of very different lengths, with punctuation and letters of other scripts."""
    rng = np.random.default_rng(seed)
    spice = ["", " né?", " 漢字", " 😀", " {query}", "\n\n", " it's 1.5%"]
    return [
        (
            words(int(rng.integers(1, 12)), seed * 999 + i) + str(rng.choice(spice)),
            words(int(rng.integers(1, longest)), seed * 999 + i + 500) + str(rng.choice(spice)),
        )
        for i in range(count)
    ]


def _corpus() -> list[str]:
    return [words(30, i) for i in range(20)] + ["query: document: Passage: yes no true false ."]


@functools.cache
def _wordpiece() -> str:
    # by hand: the trainer breaks its ties at random
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [*special, *letters, *(f"##{c}" for c in letters if c.isalpha()), *WORDS]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "query", "document"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer.to_str()


@functools.cache
def _byte_bpe(template: str) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    if template:
        single, pair = template.split(" | ")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return tokenizer.to_str()


BOS_ONCE = "<s> $A | <s> $A $B"
BOS_TWICE = "<s> $A | <s> $A <s> $B"
T5_STYLE = "$A </s> | $A </s> $B </s>"


def bert_tokenizer(**options: Any) -> Any:
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_wordpiece()),
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **options,
    )


def llama_tokenizer(template: str = BOS_ONCE, **options: Any) -> Any:
    """No pad token unless `options` name one."""
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_bpe(template)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # 0.02 gives scores so close that no test could fail
}
DECODER = SHAPE | {
    "vocab_size": 400,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "max_position_embeddings": 2048,
    "head_dim": 8,
}
ENCODER = SHAPE | {"vocab_size": 200, "pad_token_id": 0}

CONFIGS: dict[str, Any] = {
    "llama": lambda **o: hf.LlamaConfig(**DECODER | o),
    "mistral": lambda **o: hf.MistralConfig(**DECODER | {"sliding_window": 64} | o),
    "qwen3": lambda **o: hf.Qwen3Config(
        **DECODER
        | {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "sliding_window": 16,
            "use_sliding_window": True,
        }
        | o
    ),
    "gemma2": lambda **o: hf.Gemma2Config(
        **DECODER | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8} | o
    ),
    "granite": lambda **o: hf.GraniteConfig(
        **{k: v for k, v in DECODER.items() if k != "head_dim"} | {"logits_scaling": 3.0} | o
    ),
    "gpt2": lambda **o: hf.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=400, n_positions=600, initializer_range=0.2, **o
    ),
    "bloom": lambda **o: hf.BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, vocab_size=400, initializer_range=0.2, **o
    ),
    "roberta": lambda **o: hf.RobertaConfig(
        **ENCODER | {"max_position_embeddings": 514, "pad_token_id": 1} | o
    ),
    "bert": lambda **o: hf.BertConfig(**ENCODER | o),
    "modernbert": lambda **o: hf.ModernBertConfig(
        **ENCODER
        | {
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "local_attention": 16,
        }
        | o
    ),
}
ENCODERS = ("bert", "modernbert", "roberta")


def tokenizer_for(kind: str) -> Any:
    return bert_tokenizer() if kind in ENCODERS else llama_tokenizer()


def make(kind: str, auto: Any = None, *, seed: int = 0, **options: Any) -> Any:
    """A random model of `kind` in float32: a one-logit classifier unless `auto` says else."""
    auto = auto or hf.AutoModelForSequenceClassification
    if auto is hf.AutoModelForSequenceClassification:
        options = {"num_labels": 1} | options
    torch.manual_seed(seed)
    model = auto.from_config(CONFIGS[kind](**options))
    for name, weight in model.named_parameters():
        if name.split(".")[-2] in ("score", "classifier"):
            torch.nn.init.normal_(weight)  # biases too: a lost bias must show
    return model.eval()


def save(folder: Path, model: Any, tokenizer: Any, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


def checkpoint(folder: Path, kind: str, **options: Any) -> Path:
    return save(folder, make(kind, **options), tokenizer_for(kind))
