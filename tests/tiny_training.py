"""Tiny models and a tiny collection to train on: a training takes about a second."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dear.data.collections import Collection
from dear.data.inputs import pair_digests, text_keys
from dear.data.labels import Stamp, open_store
from dear.recipes import Recipe, parse_recipe
from dear.records import Passage, Query, Ranking

WORDS = [f"w{i}" for i in range(40)]
TOPICS = 8
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
NO_MODEL = "nobody/has-this-teacher"
"""The teacher of the labels: a training that asked for it would fail."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids, [CLS] query [SEP] passage [SEP]."""
    vocabulary = {w: i for i, w in enumerate([*SPECIAL, "query", "document", ":", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
    )


def save_bert(folder: Path, layers: int = 2) -> str:
    """A random encoder without pooler and head, as embedding models come."""
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=320,
        initializer_range=0.3,  # scores that differ
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def save_reranker(folder: Path) -> str:
    """A random encoder with a one-logit head."""
    torch.manual_seed(8)
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=520,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def save_llama(folder: Path) -> str:
    """A random decoder with a language model's head."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=320,
        pad_token_id=None,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def collection(queries: int = 24, candidates: int = 12) -> Collection:
    """Queries about a topic each; a relevant passage has three of the topic's words."""
    dice = random.Random(3)
    topic = [WORDS[5 * t : 5 * t + 5] for t in range(TOPICS)]
    corpus: dict[str, Passage] = {}
    for t in range(TOPICS):
        for n in range(6):
            words = dice.sample(topic[t], 3) + dice.sample(WORDS, dice.randint(2, 9))
            dice.shuffle(words)
            corpus[f"p{t}-{n}"] = Passage(id=f"p{t}-{n}", text=" ".join(words))
    asked, grades, runs = {}, {}, {}
    for q in range(queries):
        t = q % TOPICS
        name = f"q{q}"
        asked[name] = Query(id=name, text=" ".join(dice.sample(topic[t], 2)))
        grades[name] = {f"p{t}-{n}": dice.randint(1, 2) for n in range(6)}
        found = dice.sample([p for p in corpus if p not in grades[name]], candidates - 3)
        found += dice.sample(sorted(grades[name]), 3)
        dice.shuffle(found)
        runs[name] = Ranking.sorted(name, found, range(candidates, 0, -1))
    cut = queries - 6
    names = list(asked)
    return TinyCollection(
        corpus,
        asked,
        {"train": {q: grades[q] for q in names[:cut]}, "dev": {q: grades[q] for q in names[cut:]}},
        {"train": {q: runs[q] for q in names[:cut]}, "dev": {q: runs[q] for q in names[cut:]}},
    )


class TinyCollection(Collection):
    """A collection of what is in memory, with a run `bm25` for each split."""

    def __init__(
        self,
        corpus: Mapping[str, Passage],
        queries: Mapping[str, Query],
        judgements: Mapping[str, Any],
        runs: Mapping[str, Mapping[str, Ranking]],
    ) -> None:
        super().__init__(
            "tiny",
            corpus=lambda: corpus,
            queries=lambda: queries,
            qrels={split: (lambda split=split: judgements[split]) for split in judgements},  # type: ignore[misc]
        )
        self.tiny_runs = runs

    def run(self, name: str, split: str) -> dict[str, Ranking]:
        assert name == "bm25"
        return dict(self.tiny_runs[split])


def write_labels(
    folder: Path,
    tiny: Collection,
    *,
    leave_out: int = 0,
    factor: float = 1.0,
    corpus: Mapping[str, Passage] | None = None,
) -> str:
    """Scores of a teacher that is not there: word overlap, and noise, times `factor`.

    corpus: passages to score in place of the collection's.
    """
    dice = random.Random(5)
    queries, corpus = tiny.queries(), tiny.corpus if corpus is None else corpus
    grades = tiny.judgements("train")
    pairs = [
        (q, p)
        for q, ranking in tiny.run("bm25", "train").items()
        for p in dict.fromkeys([*grades[q], *ranking.passage_ids])
    ]
    scores = [
        len(set(queries[q].text.split()) & set(corpus[p].text.split())) * 2 + dice.random()
        for q, p in pairs
    ]
    stamp = Stamp(collection="tiny", teacher=NO_MODEL, revision="1", fingerprint="f")
    texts = pair_digests(
        text_keys(queries[q].text for q, _ in pairs),
        text_keys(corpus[p].full_text for _, p in pairs),
    )
    with open_store(folder, stamp) as store:
        kept = len(pairs) - leave_out
        store.append(pairs[:kept], factor * np.array(scores[:kept], dtype=np.float32), texts[:kept])
    return str(folder)


def recipe(base: str, labels: str | None = None, **changes: Any) -> Recipe:
    """Two epochs of 18 groups of 6, 4 groups a step, float32.

    changes: `train__epochs=3` sets train.epochs.
    """
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"base": base},
        "data": [{"collection": "tiny", "labels": [labels] if labels else []}],
        "contract": {"max_query_tokens": 8, "max_passage_tokens": 24},
        "groups": {"size": 6},
        "loss": {"main": ["ce"], "alpha": 0.5 if labels else 0.0},
        "train": {
            "epochs": 2,
            "learning_rate": 1e-2,
            "groups_per_step": 4,
            "autocast": False,
            "log_steps": 2,
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = values
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    return parse_recipe(values)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All saved weights of a finished folder, its adapter's too."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    assert found
    return found


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of two weights."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def pairs_of(tiny: Collection, split: str = "dev") -> Sequence[tuple[str, str]]:
    """Texts to score."""
    queries, corpus = tiny.queries(), tiny.corpus
    return [
        (queries[q].text, corpus[p].full_text)
        for q, ranking in tiny.run("bm25", split).items()
        for p in ranking.passage_ids
    ]
