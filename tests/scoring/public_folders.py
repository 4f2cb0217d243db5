"""Small random folders in the layout of well-known public models.

Architecture, kind of tokenizer, special tokens and settings files are those of the repositories, to
the best of what their cards and the libraries' sources say: the hub was not at hand. Only the sizes
are small.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_models import WORDS
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

HIDDEN = 32
IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"

TEXTS = [
    *(" ".join(WORDS[i::3]) for i in range(3)),
    "query: document: passage: Instruct Query Document A: B: yes no Yes No true false 0 1",
    "system user assistant Judge whether the Document meets the requirements Relevance:",
    "A query, and a passage; (an answer) to it! naïve 漢字",
    *["yes", "no", "Yes", "true", "false"] * 20,  # tokens of their own
]


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


# ---------------------------------------------------------------- tokenizers


def _fast(tokenizer: Tokenizer, folder: Path, limit: int, **tokens: Any) -> Any:
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **tokens)
    fast.save_pretrained(folder)
    return fast


def _pair(tokenizer: Tokenizer, single: str, pair: str) -> None:
    special = {word for word in pair.replace(":1", "").split() if not word.startswith("$")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in sorted(special)],
    )


def bert_tokenizer(folder: Path, limit: int = 512) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    )
    _pair(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _fast(
        tokenizer, folder, limit, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def _unigram(special: list[str], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def xlm_roberta_tokenizer(folder: Path, limit: int = 512) -> Any:
    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>")
    _pair(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return _fast(
        tokenizer, folder, limit, bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def deberta_tokenizer(folder: Path, limit: int = 512) -> Any:
    tokenizer = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    _pair(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _fast(
        tokenizer, folder, limit, bos_token="[CLS]", eos_token="[SEP]", cls_token="[CLS]",
        sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def t5_tokenizer(folder: Path, limit: int = 512) -> Any:
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], "<unk>")
    _pair(tokenizer, "$A </s>", "$A </s> $B </s>")
    return _fast(
        tokenizer, folder, limit, eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _byte_level(special: list[str], size: int = 420) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def modernbert_tokenizer(folder: Path, limit: int = 8192) -> Any:
    tokenizer = _byte_level(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    # runs of spaces are tokens of their own, and no special ones
    tokenizer.add_tokens([AddedToken("    ", normalized=True)])
    _pair(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")
    return _fast(
        tokenizer, folder, limit, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def mpnet_tokenizer(folder: Path, limit: int = 512) -> Any:
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    )
    _pair(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    return _fast(
        tokenizer, folder, limit, bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", unk_token="[UNK]", pad_token="<pad>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


QWEN_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content"
    " + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def qwen_tokenizer(folder: Path, limit: int = 131072, *, ends: bool = False) -> Any:
    """<think> is an added token, and no special one.  ends: an end token behind every text."""
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    if ends:
        _pair(tokenizer, "$A <|endoftext|>", "$A <|endoftext|> $B <|endoftext|>")
    return _fast(
        tokenizer, folder, limit, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        chat_template=QWEN_CHAT, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def gemma_tokenizer(folder: Path, limit: int = 10**30, *, ends: bool = False) -> Any:
    """Spaces become ▁, what is unknown falls to bytes, a begin token stands in front.

    ends: an end token, too (EmbeddingGemma)."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "\n"], trainer)
    end = " <eos>" if ends else ""
    _pair(tokenizer, f"<bos> $A{end}", f"<bos> $A{end} <bos> $B{end}")
    return _fast(
        tokenizer, folder, limit, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        pad_token="<pad>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


# ---------------------------------------------------------------- models


def save_model(folder: Path, auto: Any, config: Any, seed: int = 0) -> None:
    """Random weights that tell texts apart."""
    torch.manual_seed(seed)
    model = auto(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower():
                continue
            scale = 0.5 if any(p in name for p in ("score", "classifier", "lm_head")) else 0.15
            weight.copy_(torch.randn_like(weight) * scale)
    model.eval().save_pretrained(folder)


def _encoder(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "num_labels": 1,
        "pad_token_id": tokenizer.pad_token_id,
    } | changes


def _decoder(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    return _encoder(
        tokenizer,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=40960,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **changes,
    )


def ms_marco_minilm(folder: Path, *, old: bool = False) -> None:
    """old: as before version 4 of sentence-transformers."""
    tokenizer = bert_tokenizer(folder)
    config = hf.BertConfig(**_encoder(tokenizer))
    save_model(folder, hf.BertForSequenceClassification, config)
    mark = {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.0.1"}}
    if old:
        mark = {"sbert_ce_default_activation_function": IDENTITY}
    edit_json(folder / "config.json", **mark)


def bge_reranker_base(folder: Path, *, positions: int = 514, limit: int = 512) -> None:
    tokenizer = xlm_roberta_tokenizer(folder, limit)
    config = _encoder(tokenizer, max_position_embeddings=positions, type_vocab_size=1)
    save_model(folder, hf.XLMRobertaForSequenceClassification, hf.XLMRobertaConfig(**config))


def bge_reranker_v2_m3(folder: Path) -> None:
    bge_reranker_base(folder, positions=8194, limit=8192)


def mxbai_rerank_v1(folder: Path) -> None:
    tokenizer = deberta_tokenizer(folder)
    config = hf.DebertaV2Config(
        **_encoder(tokenizer, type_vocab_size=0),
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        pooler_hidden_size=HIDDEN,
    )
    save_model(folder, hf.DebertaV2ForSequenceClassification, config)


def _modernbert(folder: Path, **changes: Any) -> Any:
    tokenizer = modernbert_tokenizer(folder)
    return hf.ModernBertConfig(
        **_encoder(tokenizer, num_hidden_layers=4, max_position_embeddings=8192),
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        local_attention=16,
        **changes,
    )


def gte_reranker_modernbert(folder: Path) -> None:
    config = _modernbert(folder, classifier_pooling="mean")
    save_model(folder, hf.ModernBertForSequenceClassification, config)


def granite_reranker(folder: Path) -> None:
    config = _modernbert(folder, classifier_pooling="cls")
    save_model(folder, hf.ModernBertForSequenceClassification, config)


def gte_multilingual_reranker(folder: Path) -> None:
    """In the form that transformers has a class for."""
    tokenizer = xlm_roberta_tokenizer(folder, 8192)
    config = _encoder(tokenizer, max_position_embeddings=8192, type_vocab_size=1)
    save_model(folder, hf.GteForSequenceClassification, hf.GteConfig(**config))


def ettin_reranker(folder: Path) -> None:
    """Transformer, Pooling, Dense, LayerNorm, Dense: written by the library itself."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    base = folder.parent / f"{folder.name}-base"
    save_model(base, hf.ModernBertModel, _modernbert(base))
    torch.manual_seed(1)
    head = [
        Dense(
            HIDDEN,
            HIDDEN,
            bias=False,
            activation_function=torch.nn.GELU(),
        ),
        LayerNorm(HIDDEN),
        Dense(
            HIDDEN,
            1,
            activation_function=torch.nn.Identity(),
            module_output_name="scores",
        ),
    ]
    parts = [Transformer(str(base)), Pooling(HIDDEN, pooling_mode="cls"), *head]
    model = CrossEncoder(modules=parts, activation_fn=torch.nn.Identity(), device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)


def qwen3_reranker(folder: Path) -> None:
    tokenizer = qwen_tokenizer(folder)
    config = hf.Qwen3Config(**_decoder(tokenizer), tie_word_embeddings=True)
    save_model(folder, hf.Qwen3ForCausalLM, config)


def mxbai_rerank_v2(folder: Path) -> None:
    tokenizer = qwen_tokenizer(folder)
    values = _decoder(tokenizer)
    del values["head_dim"]
    save_model(folder, hf.Qwen2ForCausalLM, hf.Qwen2Config(**values, tie_word_embeddings=True))


def bge_reranker_gemma(folder: Path) -> None:
    tokenizer = gemma_tokenizer(folder)
    values = _decoder(tokenizer) | {"bos_token_id": tokenizer.bos_token_id}
    save_model(folder, hf.GemmaForCausalLM, hf.GemmaConfig(**values))


def monot5(folder: Path) -> None:
    tokenizer = t5_tokenizer(folder)
    config = hf.T5Config(
        vocab_size=len(tokenizer),
        d_model=HIDDEN,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    save_model(folder, hf.T5ForConditionalGeneration, config)


BARE_PAIRS: dict[str, Callable[[Path], None]] = {
    "cross-encoder/ms-marco-MiniLM-L6-v2": ms_marco_minilm,
    "BAAI/bge-reranker-base": bge_reranker_base,
    "BAAI/bge-reranker-v2-m3": bge_reranker_v2_m3,
    "mixedbread-ai/mxbai-rerank-base-v1": mxbai_rerank_v1,
    "Alibaba-NLP/gte-reranker-modernbert-base": gte_reranker_modernbert,
    "alibaba-nlp-community/gte-multilingual-reranker-base": gte_multilingual_reranker,
    "ibm-granite/granite-embedding-reranker-english-r2": granite_reranker,
    "cross-encoder/ettin-reranker-150m-v1": ettin_reranker,
}
"""Public rerankers that CrossEncoder computes as they are."""

TEMPLATES: dict[str, Callable[[Path], None]] = {
    "Qwen/Qwen3-Reranker-0.6B": qwen3_reranker,
    "mixedbread-ai/mxbai-rerank-base-v2": mxbai_rerank_v2,
    "BAAI/bge-reranker-v2-gemma": bge_reranker_gemma,
    "castorini/monot5-base-msmarco": monot5,
}
"""Public rerankers with a template of their own."""


# ---------------------------------------------------------------- embedders


def sentence_folder(
    folder: Path,
    auto: Any,
    config: Any,
    modules: list[tuple[str, dict[str, Any]]],
    *,
    settings: dict[str, Any] | None = None,
    max_seq_length: int = 512,
    seed: int = 0,
) -> None:
    """Files as versions 2 to 5 of sentence-transformers wrote them; the tokenizer is there.

    modules: (kind, settings) behind the transformer; dense layers get random weights.
    """
    from safetensors.torch import save_file

    save_model(folder, auto, config, seed)
    entries = [("", "Transformer")]
    for place, (kind, values) in enumerate(modules, 1):
        entries.append((f"{place}_{kind}", kind))
        (folder / f"{place}_{kind}").mkdir()
        if values:
            write_json(folder / f"{place}_{kind}" / "config.json", values)
        if kind == "Dense":
            weights = {"linear.weight": torch.randn(values["out_features"], values["in_features"])}
            if values["bias"]:
                weights["linear.bias"] = torch.randn(values["out_features"])
            save_file(weights, folder / f"{place}_{kind}" / "model.safetensors")
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(entries)
        ],
    )
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": max_seq_length, "do_lower_case": False},
    )
    versions = {"sentence_transformers": "2.7.0", "transformers": "4.41.0", "pytorch": "2.3.0"}
    write_json(
        folder / "config_sentence_transformers.json", {"__version__": versions, **(settings or {})}
    )


def pooling(mode: str, size: int = HIDDEN) -> tuple[str, dict[str, Any]]:
    """mode: the old switch that is on."""
    switches = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    return "Pooling", {
        "word_embedding_dimension": size,
        **{f"pooling_mode_{switch}": False for switch in switches},
        f"pooling_mode_{mode}": True,
    }


def dense(into: int, out: int, activation: str, *, bias: bool) -> tuple[str, dict[str, Any]]:
    return "Dense", {
        "in_features": into,
        "out_features": out,
        "bias": bias,
        "activation_function": activation,
    }


NORMALIZE: tuple[str, dict[str, Any]] = ("Normalize", {})


def _bert(folder: Path, limit: int = 512) -> Any:
    return hf.BertConfig(**_encoder(bert_tokenizer(folder, limit)))


def all_minilm(folder: Path) -> None:
    modules = [pooling("mean_tokens"), NORMALIZE]
    sentence_folder(folder, hf.BertModel, _bert(folder), modules, max_seq_length=256)


def multi_qa_mpnet_dot(folder: Path) -> None:
    config = hf.MPNetConfig(**_encoder(mpnet_tokenizer(folder), max_position_embeddings=514))
    settings = {"similarity_fn_name": "dot", "prompts": {}, "default_prompt_name": None}
    sentence_folder(folder, hf.MPNetModel, config, [pooling("cls_token")], settings=settings)


def bge_small(folder: Path) -> None:
    sentence_folder(folder, hf.BertModel, _bert(folder), [pooling("cls_token"), NORMALIZE])


def e5_base(folder: Path) -> None:
    sentence_folder(folder, hf.BertModel, _bert(folder), [pooling("mean_tokens"), NORMALIZE])


def arctic_embed(folder: Path) -> None:
    prompts = {"query": "Represent this sentence for searching relevant passages: "}
    sentence_folder(
        folder,
        hf.BertModel,
        _bert(folder),
        [pooling("cls_token"), NORMALIZE],
        settings={"prompts": prompts, "default_prompt_name": None},
    )


def gte_modernbert(folder: Path) -> None:
    config = _modernbert(folder)
    modules = [pooling("cls_token")]
    sentence_folder(folder, hf.ModernBertModel, config, modules, max_seq_length=8192)


def qwen3_embedding(folder: Path) -> None:
    tokenizer = qwen_tokenizer(folder, ends=True)
    edit_json(folder / "tokenizer_config.json", padding_side="left")
    prompts = {
        "query": "Instruct: Given a web search query, retrieve relevant passages that answer the "
        "query\nQuery:",
        "document": "",
    }
    sentence_folder(
        folder,
        hf.Qwen3Model,
        hf.Qwen3Config(**_decoder(tokenizer)),
        [pooling("lasttoken"), NORMALIZE],
        settings={"prompts": prompts, "similarity_fn_name": "cosine"},
        max_seq_length=32768,
    )


def embedding_gemma(folder: Path) -> None:
    tokenizer = gemma_tokenizer(folder, 2048, ends=True)
    values = _decoder(tokenizer) | {"max_position_embeddings": 2048}
    config = hf.Gemma3TextConfig(
        **values, sliding_window=16, use_bidirectional_attention=True, query_pre_attn_scalar=8
    )
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    sentence_folder(
        folder,
        hf.Gemma3TextModel,
        config,
        [
            pooling("mean_tokens"),
            dense(HIDDEN, 96, IDENTITY, bias=False),
            dense(96, HIDDEN, IDENTITY, bias=False),
            NORMALIZE,
        ],
        settings={"prompts": prompts, "similarity_fn_name": "cosine"},
        max_seq_length=2048,
    )


def gtr_t5(folder: Path) -> None:
    tokenizer = t5_tokenizer(folder)
    config = hf.T5Config(
        vocab_size=len(tokenizer),
        d_model=HIDDEN,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    modules = [pooling("mean_tokens"), dense(HIDDEN, 24, IDENTITY, bias=False), NORMALIZE]
    sentence_folder(folder, hf.T5EncoderModel, config, modules)


def labse(folder: Path) -> None:
    tanh = "torch.nn.modules.activation.Tanh"
    modules = [pooling("cls_token"), dense(HIDDEN, HIDDEN, tanh, bias=True), NORMALIZE]
    sentence_folder(folder, hf.BertModel, _bert(folder), modules, max_seq_length=256)


EMBEDDERS: dict[str, Callable[[Path], None]] = {
    "sentence-transformers/all-MiniLM-L6-v2": all_minilm,
    "sentence-transformers/multi-qa-mpnet-base-dot-v1": multi_qa_mpnet_dot,
    "BAAI/bge-small-en-v1.5": bge_small,
    "intfloat/e5-base-v2": e5_base,
    "Snowflake/snowflake-arctic-embed-m": arctic_embed,
    "Alibaba-NLP/gte-modernbert-base": gte_modernbert,
    "Qwen/Qwen3-Embedding-0.6B": qwen3_embedding,
    "google/embeddinggemma-300m": embedding_gemma,
    "sentence-transformers/gtr-t5-base": gtr_t5,
    "sentence-transformers/LaBSE": labse,
}
