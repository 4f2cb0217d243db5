"""The cascade: pairs over all, lists over the best, within a budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import make, save, tokenizer_for, words

from dear import Cascade, Reranker
from dear.backends import Completion
from dear.errors import ConfigError
from dear.models.contract import DEAR
from dear.models.files import quiet
from dear.models.listwise_contract import ListwiseContract
from dear.prompts.listwise import WindowPrompt
from dear.rank.cascade import deepest
from dear.rank.listwise import rank_listwise
from dear.rank.strategies import STRATEGIES, Sliding, open_strategy
from dear.rank.thoughts import Thought
from dear.records import Candidates, Passage, Query


class Halves:
    """Scores by the passage's number, its last two digits unread: 12345 is 123."""

    name, revision, contract, fingerprint, parameters = "halves", "0", None, "0", 0

    def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> Any:
        if progress is not None:
            progress(len(pairs), len(pairs))
        return np.array([int(p) // 100 for _, p in pairs], dtype=np.float32)


class Clock:
    """Time that passes in windows alone: a busy machine changes nothing."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in ("cascade", "listwise"):
        monkeypatch.setattr(f"dear.rank.{module}.time", found)
    return found


class Sorter:
    """Orders by the whole number, the highest first, and says why."""

    name = "sorter"

    def __init__(self, clock: Clock | None = None, seconds: float = 0.0) -> None:
        self.windows, self.clock, self.seconds = 0, clock, seconds

    def generate(self, prompts: Sequence[WindowPrompt], on_answer: Any = None) -> list[Completion]:
        self.windows += len(prompts)
        if self.clock is not None:
            self.clock.now += self.seconds * len(prompts)
        out = []
        for prompt in prompts:
            numbers = [int(p.text) for p in prompt.passages]
            order = sorted(range(len(numbers)), key=lambda i: -numbers[i])
            chain = " > ".join(f"[{i + 1}]" for i in order)
            out.append(Completion(text=f"<think>\n[{order[0] + 1}] is most\n</think>\n{chain}"))
        return out


def candidates(query: str, count: int, seed: int = 0) -> Candidates:
    numbers = random.Random(seed).sample(range(100, 99999), count)
    return Candidates(
        query=Query(id=query, text="which is most?"),
        passages=tuple(Passage(id=f"{query}-{n}", text=str(n)) for n in numbers),
        scores=tuple(float(-i) for i in range(count)),
    )


@given(st.lists(st.integers(0, 60), max_size=4), st.integers(1, 30), st.integers(0, 999))
def test_the_best_by_pairs_are_ordered_as_lists(counts: list[int], depth: int, seed: int) -> None:
    many = [candidates(f"q{i}", n, seed + i) for i, n in enumerate(counts)]
    cascade = Cascade(Halves(), Sorter(), depth=depth)
    for one, ranking in zip(many, cascade.rank_candidates(many), strict=True):
        texts = [int(p.text) for p in one.passages]
        pairs = sorted(texts, key=lambda n: -(n // 100))
        # a stable sort: what the pairs cannot tell keeps its order
        expected = sorted(pairs[:depth], reverse=True) + pairs[depth:]
        assert ranking.passage_ids == tuple(f"{one.query.id}-{n}" for n in expected)
        assert ranking.scores == tuple(range(len(texts), 0, -1))
    assert cascade.report.depth == min(depth, max(counts, default=0))


class Worst(Sorter):
    """Always wrong: the right order, backwards."""

    def generate(self, prompts: Sequence[WindowPrompt], on_answer: Any = None) -> list[Completion]:
        right = super().generate(prompts, on_answer)
        chains = [c.text.rsplit("\n", 1)[-1].split(" > ")[::-1] for c in right]
        return [Completion(text=" > ".join(chain)) for chain in chains]


def test_a_blend_keeps_a_bad_listwise_model_from_doing_harm() -> None:
    many = [candidates(f"q{i}", 12, i) for i in range(3)]
    best = [r.passage_ids for r in Cascade(Halves(), Sorter()).rank_candidates(many)]

    def ranked(blend: float) -> list[tuple[str, ...]]:
        cascade = Cascade(Halves(), Worst(), depth=12, blend=blend)
        return [r.passage_ids for r in cascade.rank_candidates(many)]

    assert ranked(0.0) == [ids[::-1] for ids in best]
    assert ranked(1e6) == best
    with pytest.raises(ConfigError, match="weight must be 0 or more"):
        Cascade(Halves(), Sorter(), blend=-1)


def test_one_query_and_its_thoughts() -> None:
    cascade = Cascade(Halves(), Sorter(), depth=3)
    ranking = cascade.rank("most?", ["120", "990", "180", "5", "170"], top_k=2)
    assert (ranking.query_id, ranking.passage_ids) == ("", ("1", "2"))
    assert cascade.thoughts == {"": [Thought(("1", "0", "2"), "[1] is most")]}
    assert cascade.rank("most?", []).passage_ids == ()
    assert cascade.thoughts == {}


def test_thoughts_of_every_window_are_kept() -> None:
    many = [candidates(f"q{i}", 50, i) for i in range(3)]
    cascade = Cascade(Halves(), Sorter(), depth=40)
    list(cascade.rank_candidates(many))
    assert cascade.thoughts.keys() == {"q0", "q1", "q2"}
    assert all(len(t) == Sliding().calls(40) for t in cascade.thoughts.values())
    assert all(len(t[0].passage_ids) == 20 for t in cascade.thoughts.values())


@given(st.sampled_from(sorted(STRATEGIES)), st.integers(1, 100), st.integers(0, 40))
def test_a_call_budget_picks_the_largest_depth_that_fits(name: str, depth: int, calls: int) -> None:
    strategy = open_strategy(name)
    found = deepest(strategy, depth, calls)
    assert found <= depth
    assert strategy.calls(found) <= calls
    assert all(strategy.calls(d) > calls for d in range(max(found + 1, 2), depth + 1))


def test_a_call_budget_is_kept() -> None:
    backend = Sorter()
    cascade = Cascade(Halves(), backend, depth=100, strategy=Sliding(), calls=4)
    list(cascade.rank_candidates([candidates(f"q{i}", 100, i) for i in range(2)]))
    assert (backend.windows, cascade.report.depth) == (8, 50)
    nothing = Cascade(Halves(), backend, calls=0)
    (ranking,) = nothing.rank_candidates([candidates("q", 30)])
    assert (nothing.report.depth, backend.windows) == (0, 8)
    assert len(ranking.passage_ids) == 30


@given(
    st.sampled_from(["sliding", "topdown", "tournament"]), st.integers(0, 12), st.integers(1, 12)
)
def test_of_two_budgets_the_smaller_counts(name: str, calls: int, affordable: int) -> None:
    strategy = open_strategy(name)
    cascade = Cascade(Halves(), Sorter(), depth=60, strategy=strategy, calls=calls)
    # windows of an hour, beside which the stage before takes nothing
    cascade.window_s, cascade.seconds = 3600.0, 3600.0 * (affordable + 0.5)
    list(cascade.rank_candidates([candidates("q", 60)]))
    assert cascade.report.depth == deepest(strategy, 60, min(calls, affordable))


def test_a_time_budget_picks_the_depth_and_says_what_it_cost(clock: Clock) -> None:
    backend = Sorter(clock, seconds=0.02)
    cascade = Cascade(Halves(), backend, depth=100, strategy=Sliding(), seconds=0.155)
    many = [candidates(f"q{i}", 100, i) for i in range(8)]
    list(cascade.rank_candidates(many))
    report = cascade.report
    assert report.probe_s == pytest.approx(4 * 0.02)
    assert report.window_s == pytest.approx(0.02)
    # 0.145 s are left for each of the eight queries: seven windows of 20, ten further on each
    assert report.depth == 80
    assert report.lists_s == pytest.approx(8 * 7 * 0.02)
    assert report.over == pytest.approx(0.0)
    # what was learnt is used: no probe again
    list(cascade.rank_candidates(many))
    assert cascade.report.probe_s == 0
    poor = Cascade(Halves(), backend, seconds=1e-6)
    list(poor.rank_candidates(many[:1]))
    assert poor.report.depth == 0
    assert poor.report.over == pytest.approx(0.02 - 1e-6)


@pytest.mark.parametrize(
    "options", [{"depth": 0}, {"calls": -1}, {"seconds": 0.0}, {"seconds": float("nan")}]
)
def test_budgets_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Cascade(Halves(), Sorter(), **options)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    cascade = Cascade(Halves(), Sorter(), depth=40)
    many = [candidates("q", 50)]
    list(cascade.rank_candidates(many, progress=lambda done, total: seen.append((done, total))))
    assert seen[-1] == (53, 53)
    assert {total for _, total in seen} == {53}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A pointwise and a listwise adapter on one tiny base."""
    at = tmp_path_factory.mktemp("cascade")
    base = save(at / "base", make("llama", hf.AutoModelForCausalLM), tokenizer_for("llama"))
    with quiet():
        causal = hf.AutoModelForCausalLM.from_pretrained(base)
        scorer = hf.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        for model, folder, kind, more in (
            (scorer, at / "points", "SEQ_CLS", ["score"]),
            (causal, at / "lists", "CAUSAL_LM", None),
        ):
            config = LoraConfig(
                task_type=kind, r=4, target_modules=["q_proj"], modules_to_save=more
            )
            torch.manual_seed(len(kind))
            wrapped = get_peft_model(model, replace(config, init_lora_weights=False))
            wrapped.save_pretrained(folder, save_embedding_layers=False)
    replace(DEAR, max_query_tokens=32, max_passage_tokens=96).save(at / "points")
    ListwiseContract(learnt="first").save(at / "lists")
    return at / "points", at / "lists"


def test_two_adapters_of_a_base_are_one_backbone(checkpoints: tuple[Path, Path]) -> None:
    points, lists = checkpoints
    cascade = Cascade(points, lists, depth=8, dtype="float32", device="cpu")
    assert cascade.one_backbone
    passages = [words(6, i) for i in range(20)]
    found = cascade.rank("river bank", passages)
    # the two models, one after the other
    reranker = Reranker(points, dtype="float32", device="cpu")
    first = reranker.rank("river bank", passages)
    apart = Cascade(reranker, f"local:{lists}#first", depth=8, dtype="float32", device="cpu")
    assert not apart.one_backbone
    assert apart.rank("river bank", passages) == found
    assert set(found.passage_ids[:8]) == set(first.passage_ids[:8])
    assert found.passage_ids[8:] == first.passage_ids[8:]
    only = Candidates(
        query=Query(id="q", text="river bank"),
        passages=tuple(Passage(id=i, text=passages[int(i)]) for i in first.passage_ids),
        scores=first.scores,
    )
    (listed,), _ = rank_listwise([only], apart.backend, prompt=apart.prompt, depth=8)
    assert listed.passage_ids == found.passage_ids
