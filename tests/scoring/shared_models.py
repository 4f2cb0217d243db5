"""Everything that scores pairs or orders lists, on tiny models, as calls that threads may share.

`groups` gives what `test_threads.py` and `benchmarks/threads.py` run.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from tiny_models import T5_STYLE, llama_tokenizer, make, pairs, save, tokenizer_for, words

from dear import Reranker
from dear.backends.local import Local
from dear.checkpoints.contract import DEAR, ListwiseContract
from dear.checkpoints.files import quiet
from dear.listwise.backbone import Backbone
from dear.listwise.loading import HeadWeights, load_list_model
from dear.listwise.reader import ListReader, Reading
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.rank.cascade import Cascade
from dear.rank.listwise import ListwiseRanker
from dear.rank.pointwise import PointwiseRanker
from dear.records import Candidates, Passage, Query, Ranking
from dear.scoring.biencoder import BiEncoder
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer
from dear.scoring.workers import ScorerPool
from dear.scoring.zero_shot import ZeroShot

T = TypeVar("T")

Call = Callable[[], Any]
"""Gives something that `==` compares: scores to the last bit, rankings as `Rankings` says."""

Calls = list[Call]
Group = dict[str, Calls]
"""What shares one model: the name of an engine or a reading → its calls, all of them different."""

CONTRACT = replace(DEAR, max_query_tokens=32, max_passage_tokens=96)
READINGS: tuple[Reading, ...] = ("text", "constrained", "first", "attention")
VARIANTS = 4
"""Different calls of each engine and reading: what a call must not see of another one."""


def inputs(variant: int) -> list[tuple[str, str]]:
    """Pairs of one call; variants differ in number and in lengths. A decoder's share queries."""
    some = pairs(3 + variant, seed=50 + variant, longest=16 + 6 * variant)
    query = words(14, 70 + variant)
    return [*some, *((query, passage) for _, passage in some)]


def candidates(variant: int) -> Candidates:
    texts = [passage for _, passage in inputs(variant)][: 6 + variant]
    return Candidates(
        query=Query(id=f"q{variant}", text=words(5, 80 + variant)),
        passages=tuple(Passage(id=str(i), text=text) for i, text in enumerate(texts)),
        scores=tuple(float(-i) for i in range(len(texts))),
    )


def windows(variant: int) -> list[WindowPrompt]:
    return [
        LISTWISE_PROMPTS["list"].render(
            Query(id="q", text=words(3, 10 * variant + i)),
            [
                Passage(id=str(p), text=words(4 + (p + variant) % 5, 99 * variant + 9 * i + p))
                for p in range(3 + (variant + i) % 3)
            ],
        )
        for i in range(1 + variant % 2)
    ]


def scoring(score: Callable[[Sequence[tuple[str, str]]], Any]) -> Calls:
    return [lambda some=inputs(v): score(some).tobytes() for v in range(VARIANTS)]


def streaming(scorer: Scorer) -> Calls:
    return [lambda some=inputs(v): list(scorer.stream(some, chunk=5)) for v in range(VARIANTS)]


def reading(reader: ListReader) -> Calls:
    return [lambda some=windows(v): reader.read(some) for v in range(VARIANTS)]


class Rankings(list[Ranking]):
    """The same where the order is, and the scores are to 1e-5: small requests share batches."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rankings)
            and [one.passage_ids for one in self] == [one.passage_ids for one in other]
            and all(
                np.allclose(a.scores, b.scores, rtol=0, atol=1e-5)
                for a, b in zip(self, other, strict=True)
            )
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def ranking(reranker: Reranker) -> Calls:
    """A ranking of one query, and of all together."""
    alone = [
        lambda one=candidates(v): Rankings([reranker.rank(one.query.text, one.passages)])
        for v in range(VARIANTS - 1)
    ]
    everything = [candidates(v) for v in range(VARIANTS)]
    return [*alone, lambda: Rankings(reranker.rank_candidates(everything))]


def lora(model: Any, folder: Path, *, seed: int, **options: Any) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, **options
    )
    with quiet():
        wrapped = get_peft_model(model, config)
        for name, weight in wrapped.named_parameters():
            if name.endswith("score.modules_to_save.default.weight"):
                torch.nn.init.normal_(weight)
        wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def two_adapters(folder: Path, kind: str = "llama") -> tuple[Path, Path]:
    """A pointwise and a listwise adapter on one causal base."""
    base = save(folder / "base", make(kind, hf.AutoModelForCausalLM), tokenizer_for(kind))
    model = hf.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    points = folder / "points"
    lora(model, points, seed=1, task_type="SEQ_CLS", modules_to_save=["score"])
    CONTRACT.save(points)
    causal = hf.AutoModelForCausalLM.from_pretrained(base)
    lists = lora(causal, folder / "lists", seed=2, task_type="CAUSAL_LM")
    ListwiseContract(max_window=26, max_tokens=2000).save(lists)
    return points, lists


def t5(folder: Path) -> Path:
    torch.manual_seed(0)
    config = hf.T5Config(
        vocab_size=400,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        initializer_factor=1.0,
    )
    tokenizer = llama_tokenizer(T5_STYLE, pad_token="<unk>")
    return save(folder, hf.T5ForConditionalGeneration(config), tokenizer)


# -- groups ------------------------------------------------------------------------------------


def pointwise(folder: Path, kind: str, dtype: Any = "float32") -> Group:
    """Every engine of one model at once."""
    source = save(folder / kind, make(kind), tokenizer_for(kind))
    model = load_scoring_model(source, contract=CONTRACT, dtype=dtype, device="cpu")
    found = {
        "padded": scoring(Scorer(model, engine="padded", batch_tokens=200).score),
        "packed": scoring(Scorer(model, engine="packed", batch_tokens=200).score),
    }
    if model.is_decoder:
        prefix = Scorer(model, engine="prefix", batch_tokens=2048)
        found["prefix"] = scoring(prefix.score)
        found["stream"] = streaming(prefix)
    return found | {"reranker": ranking(Reranker(Scorer(model)))}


def listwise(folder: Path, kind: str) -> Group:
    """Every reading of one model at once."""
    source = save(folder / kind, make(kind, hf.AutoModelForCausalLM), tokenizer_for(kind))
    model = load_list_model(source, dtype="float32", device="cpu")
    config = model.model.config
    draw = np.random.default_rng(0).normal(
        size=(config.num_hidden_layers, config.num_attention_heads)
    )
    found: Group = {r: reading(ListReader(model, reading=r)) for r in READINGS}
    thinking = ListReader(
        model, reading="constrained", thought=True, thought_tokens=24, temperature=0.8, seed=3
    )
    return found | {
        "thinking": reading(thinking),
        "weighted heads": reading(
            ListReader(
                model, reading="attention", heads=HeadWeights(tuple(map(tuple, draw.tolist())))
            )
        ),
    }


def backbone(folder: Path, how: Reading) -> Group:
    """Both adapters of one base at once, and a cascade over them."""
    both = Backbone(*two_adapters(folder), dtype="float32", device="cpu", reading=how)
    lists = ListwiseRanker(Local(both.lists), depth=5)
    cascade = Reranker(Cascade(PointwiseRanker(both.pairs), lists))
    return {
        "pairs": scoring(both.pairs.score),
        "lists": [lambda some=windows(v): both.lists.read(some) for v in range(VARIANTS)],
        "cascade": ranking(cascade),
    }


def biencoder(folder: Path) -> Group:
    source = save(folder / "embed", make("bert", hf.AutoModel), tokenizer_for("bert"))
    fresh = BiEncoder(source, dtype="float32", batch_tokens=200)
    prepared = BiEncoder(source, dtype="float32", batch_tokens=200)
    prepared.prepare([pair for v in range(VARIANTS) for pair in inputs(v)])
    return {"biencoder": scoring(fresh.score), "biencoder, prepared": scoring(prepared.score)}


def zero_shot(folder: Path) -> Group:
    source = save(folder / "lm", make("llama", hf.AutoModelForCausalLM), llama_tokenizer())
    options: Any = {"dtype": "float32", "batch_tokens": 1500, "max_passage_tokens": 40}
    found = {p: scoring(ZeroShot(source, prompt=p, **options).score) for p in ("upr", "yes-no")}
    seq2seq = ZeroShot(t5(folder / "t5"), prompt="monot5", **options)
    return found | {"monot5": scoring(seq2seq.score)}


def export(folder: Path) -> Group:
    from dear.export.openvino import export_openvino
    from dear.scoring.opening import open_model

    source = save(folder / "source", make("bert"), tokenizer_for("bert"))
    model = load_scoring_model(source, contract=CONTRACT, dtype="float32", device="cpu")
    export_openvino(model, folder / "export", "float32")
    opened = open_model(folder / "export", batch_tokens=200)
    return {"openvino": scoring(opened.score)}


def pool(folder: Path) -> Group:
    source = save(folder / "source", make("bert"), tokenizer_for("bert"))
    workers = ScorerPool(source, devices=["cpu", "cpu"], contract=CONTRACT, dtype="float32")
    return {"pool": scoring(workers.score)}


GROUPS: dict[str, Callable[[Path], Group]] = {
    "bert": lambda folder: pointwise(folder, "bert"),
    "modernbert": lambda folder: pointwise(folder, "modernbert"),
    "llama": lambda folder: pointwise(folder, "llama"),
    "qwen3": lambda folder: pointwise(folder, "qwen3"),
    "llama, bfloat16": lambda folder: pointwise(folder, "llama", "bfloat16"),
    "lists": lambda folder: listwise(folder, "llama"),
    **{
        f"backbone, {how}": lambda folder, how=how: backbone(folder, how)  # type: ignore[misc]
        for how in READINGS
    },
    "biencoder": biencoder,
    "zero-shot": zero_shot,
    "export": export,
    "pool": pool,
}
"""Name → what makes the group in an empty folder."""


# -- running them --------------------------------------------------------------------------------


def in_threads(work: Sequence[Callable[[], T]], limit_s: float = 300) -> list[T]:
    """What each of `work` gives, all begun at once in threads of their own.

    An error of one is raised; AssertionError where one has not ended within the limit.
    """
    ready = threading.Barrier(len(work))
    found: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(place: int) -> None:
        try:
            ready.wait(limit_s)
            found[place] = work[place]()
        except BaseException as error:
            errors.append(error)

    # daemons: what hangs shall not keep the process from ending
    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit_s)
    if errors:
        raise errors[0]
    assert len(found) == len(work), f"{len(work) - len(found)} threads hang"
    return [found[place] for place in range(len(work))]


@dataclass
class Outcome:
    """calls: by all threads.  faults: what went wrong → how often.  seconds: by the clock."""

    calls: int
    faults: Counter[str]
    seconds: float


def one_after_the_other(group: Mapping[str, Calls]) -> dict[str, list[Any]]:
    """What every call gives, in this thread."""
    return {name: [call() for call in calls] for name, calls in group.items()}


def at_once(
    group: Mapping[str, Calls],
    expected: Mapping[str, Sequence[Any]],
    *,
    threads: int = 8,
    each: int = 30,
    limit_s: float = 300,
) -> Outcome:
    """Every thread makes `each` calls, drawn from all of the group's in an order of its own."""
    deal = [(name, i) for name, calls in group.items() for i in range(len(calls))]

    def work(seed: int) -> Counter[str]:
        draw = random.Random(seed)
        rounds = (draw.sample(deal, len(deal)) for _ in range(-(-each // len(deal))))
        faults: Counter[str] = Counter()
        for name, i in [place for some in rounds for place in some][:each]:
            try:
                if group[name][i]() != expected[name][i]:
                    faults[f"{name}: other bits"] += 1
            except Exception as error:
                said = (str(error).splitlines() or [""])[0][:80]
                faults[f"{name}: {type(error).__name__}: {said}"] += 1
        return faults

    started = time.perf_counter()
    faults = in_threads([partial(work, seed) for seed in range(threads)], limit_s)
    seconds = time.perf_counter() - started
    return Outcome(threads * each, sum(faults, Counter()), seconds)
