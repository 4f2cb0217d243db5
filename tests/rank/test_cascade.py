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

from dear import Reranker, open_ranker
from dear.backends import Completion
from dear.backends.local import open_local
from dear.checkpoints.contract import DEAR, ListwiseContract
from dear.checkpoints.files import quiet
from dear.errors import Cancelled, ConfigError
from dear.listwise.strategies import STRATEGIES, Sliding, open_strategy
from dear.prompts.listwise import WindowPrompt
from dear.rank.cascade import Cascade, deepest
from dear.rank.listwise import ListwiseRanker
from dear.rank.pointwise import PointwiseRanker
from dear.records import Candidates, Passage, Query, Ranking, Reasoning
from listwise_calls import rank_listwise


class Halves:
    """Scores by the passage's number, its last two digits unread: 12345 is 123."""

    name, revision, contract, fingerprint, parameters = "halves", "0", None, "0", 0

    def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> Any:
        for done in range(32, len(pairs) + 32, 32):  # its batches
            if progress is not None:
                progress(min(done, len(pairs)), len(pairs))
        return np.array([int(p) // 100 for _, p in pairs], dtype=np.float32)


class Clock:
    """Time that passes in windows alone: a busy machine changes nothing."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in ("cascade", "listwise", "pointwise", "ranker"):
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


def cascade_of(
    backend: Any, *, depth: int | None = None, strategy: Any = None, fuse: float = 0.0, **how: Any
) -> Cascade:
    lists = ListwiseRanker(backend, depth=depth, strategy=strategy, fuse_weight=fuse)
    return Cascade(PointwiseRanker(Halves()), lists, **how)


def depth_of(ranking: Ranking, strategy: Any) -> int:
    """The depth that takes as many windows."""
    assert ranking.cost is not None
    found = [d for d in range(1, 101) if strategy.calls(d) <= ranking.cost.windows]
    return max(found)


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
    cascade = cascade_of(Sorter(), depth=depth)
    for one, ranking in zip(many, cascade.rank_candidates(many), strict=True):
        texts = [int(p.text) for p in one.passages]
        pairs = sorted(texts, key=lambda n: -(n // 100))
        # a stable sort: what the pairs cannot tell keeps its order
        expected = sorted(pairs[:depth], reverse=True) + pairs[depth:]
        assert ranking.passage_ids == tuple(f"{one.query.id}-{n}" for n in expected)
        assert ranking.scores == tuple(range(len(texts), 0, -1))
        assert ranking.complete
        assert ranking.cost is not None
        assert ranking.cost.pairs == len(texts)
        assert [p.id for p in ranking.passages] == list(ranking.passage_ids)
        assert [one.passages[i].id for i in ranking.positions] == list(ranking.passage_ids)


class Worst(Sorter):
    """Always wrong: the right order, backwards."""

    def generate(self, prompts: Sequence[WindowPrompt], on_answer: Any = None) -> list[Completion]:
        right = super().generate(prompts, on_answer)
        chains = [c.text.rsplit("\n", 1)[-1].split(" > ")[::-1] for c in right]
        return [Completion(text=" > ".join(chain)) for chain in chains]


def test_a_fused_score_keeps_a_bad_listwise_model_from_doing_harm() -> None:
    many = [candidates(f"q{i}", 12, i) for i in range(3)]
    best = [r.passage_ids for r in cascade_of(Sorter()).rank_candidates(many)]

    def ranked(fuse: float) -> list[tuple[str, ...]]:
        cascade = cascade_of(Worst(), depth=12, fuse=fuse)
        return [r.passage_ids for r in cascade.rank_candidates(many)]

    assert ranked(0.0) == [ids[::-1] for ids in best]
    assert ranked(1e6) == best
    with pytest.raises(ConfigError, match="weight must be 0 or more"):
        cascade_of(Sorter(), fuse=-1)


def test_one_query_and_its_reasoning() -> None:
    reranker = Reranker(cascade_of(Sorter(), depth=3))
    ranking = reranker.rank("most?", ["120", "990", "180", "5", "170"], top_k=2)
    assert (ranking.query_id, ranking.passage_ids) == ("", ("1", "2"))
    assert ranking.reasoning == (Reasoning(("1", "0", "2"), "[1] is most"),)
    assert ranking.to_list() == [
        {"corpus_id": 1, "id": "1", "score": 5.0, "text": "990"},
        {"corpus_id": 2, "id": "2", "score": 4.0, "text": "180"},
    ]
    nothing = reranker.rank("most?", [])
    assert (nothing.passage_ids, nothing.reasoning, nothing.to_list()) == ((), (), [])
    with pytest.raises(ConfigError, match="orders lists and has no score"):
        reranker.score([("most?", "120")])


def test_the_reasoning_of_every_window_is_kept() -> None:
    many = [candidates(f"q{i}", 50, i) for i in range(3)]
    for ranking in cascade_of(Sorter(), depth=40).rank_candidates(many):
        assert len(ranking.reasoning) == Sliding().calls(40)
        assert all(len(r.passage_ids) == 20 for r in ranking.reasoning)
        assert ranking.mended == {"thought stripped": Sliding().calls(40)}


@given(st.sampled_from(sorted(STRATEGIES)), st.integers(1, 100), st.integers(0, 40))
def test_a_call_budget_picks_the_largest_depth_that_fits(name: str, depth: int, calls: int) -> None:
    strategy = open_strategy(name)
    found = deepest(strategy, depth, calls)
    assert found <= depth
    assert strategy.calls(found) <= calls
    assert all(strategy.calls(d) > calls for d in range(max(found + 1, 2), depth + 1))


def test_a_call_budget_is_kept() -> None:
    backend = Sorter()
    cascade = cascade_of(backend, depth=100, strategy=Sliding(), calls=4)
    found = list(cascade.rank_candidates([candidates(f"q{i}", 100, i) for i in range(2)]))
    assert backend.windows == 8
    assert [depth_of(r, Sliding()) for r in found] == [50, 50]
    (ranking,) = cascade_of(backend, calls=0).rank_candidates([candidates("q", 30)])
    assert backend.windows == 8
    assert len(ranking.passage_ids) == 30


@given(
    st.sampled_from(["sliding", "topdown", "tournament"]), st.integers(0, 12), st.integers(1, 12)
)
def test_of_two_budgets_the_smaller_counts(name: str, calls: int, affordable: int) -> None:
    strategy, backend = open_strategy(name), Sorter()
    # windows of an hour, beside which the stage before takes nothing
    seconds = 3600.0 * (affordable + 0.5)
    cascade = cascade_of(backend, depth=60, strategy=strategy, calls=calls, seconds=seconds)
    cascade._window_s = 3600.0
    list(cascade.rank_candidates([candidates("q", 60)]))
    most = deepest(strategy, 60, min(calls, affordable))
    assert backend.windows <= strategy.calls(most)
    assert (backend.windows == 0) == (strategy.calls(most) == 0)


def test_a_time_budget_picks_the_depth(clock: Clock) -> None:
    backend = Sorter(clock, seconds=0.02)
    cascade = cascade_of(backend, depth=100, strategy=Sliding(), seconds=0.155)
    many = [candidates(f"q{i}", 100, i) for i in range(8)]
    found = list(cascade.rank_candidates(many))
    # four windows were timed; 0.145 s are left for each of the eight queries: seven windows of
    # 20, ten further on each
    assert backend.windows == 4 + 8 * 7
    assert [depth_of(r, Sliding()) for r in found] == [80] * 8
    assert sum(r.cost.listwise_s for r in found if r.cost) == pytest.approx(8 * 7 * 0.02)
    # what was learnt is used: no probe again
    list(cascade.rank_candidates(many))
    assert backend.windows == 4 + 2 * 8 * 7
    (poor,) = cascade_of(backend, seconds=1e-6).rank_candidates(many[:1])
    assert poor.cost is not None
    assert (poor.cost.windows, poor.complete) == (0, True)


def test_a_deadline_ends_with_what_was_scored_in_front(clock: Clock) -> None:
    class Slow(Halves):
        def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> Any:
            clock.now += 0.001 * len(pairs)
            return super().score(pairs, progress)

    many = [candidates(f"q{i}", 100, i) for i in range(3)]
    ranker = PointwiseRanker(Slow())
    found = list(ranker.rank_candidates(many, deadline=clock.now + 0.1))
    for one, ranking in zip(many, found, strict=True):
        assert ranking.cost is not None
        done = ranking.cost.pairs
        # 32 pairs between two looks: four pieces of the three queries' first passages
        assert done in (42, 43)
        assert not ranking.complete
        order = sorted(range(done), key=lambda i: -(int(one.passages[i].text) // 100))
        assert ranking.positions == (*order, *range(done, 100))
        assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    whole = list(ranker.rank_candidates(many, deadline=clock.now + 1e6))
    assert whole == list(ranker.rank_candidates(many))
    assert all(r.complete for r in whole)


def test_a_deadline_leaves_windows_as_they_are(clock: Clock) -> None:
    backend = Sorter(clock, seconds=0.02)
    ranker = ListwiseRanker(backend, strategy=Sliding())
    many = [candidates(f"q{i}", 100, i) for i in range(2)]
    found = list(ranker.rank_candidates(many, deadline=clock.now + 0.09))
    # two queries a round of 0.04 s: the third round begins before the deadline
    assert backend.windows == 6
    for one, ranking in zip(many, found, strict=True):
        assert not ranking.complete
        assert ranking.positions[:50] == tuple(range(50))
        assert sorted(ranking.positions) == list(range(len(one.passages)))


def test_a_cascade_keeps_a_deadline_and_says_what_it_left_out(clock: Clock) -> None:
    many = [candidates("q", 100)]
    for seconds in (None, 1e6):
        backend = Sorter(clock, seconds=1.0)
        cascade = cascade_of(backend, depth=100, strategy=Sliding(), seconds=seconds)
        (ranking,) = cascade.rank_candidates(many, deadline=clock.now + 4.5)
        # one window was timed; of the 3.5 s that are left, three windows
        assert (backend.windows, depth_of(ranking, Sliding())) == (4, 40)
        assert not ranking.complete
        (late,) = cascade.rank_candidates(many, deadline=clock.now)
        assert (backend.windows, late.complete) == (4, False)
        (whole,) = cascade.rank_candidates(many, deadline=clock.now + 1e6)
        assert (depth_of(whole, Sliding()), whole.complete) == (100, True)


def test_who_has_gone_away_is_computed_nothing_for() -> None:
    asked = []
    many = [candidates("q", 100)]
    for ranker in (PointwiseRanker(Halves()), cascade_of(Sorter())):
        with pytest.raises(Cancelled, match="cancelled"):
            list(ranker.rank_candidates(many, cancel=lambda: len(asked) > 1 or asked.append(1)))
        asked.clear()


@pytest.mark.parametrize(
    "options", [{"depth": 0}, {"calls": -1}, {"seconds": 0.0}, {"seconds": float("nan")}]
)
def test_budgets_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        cascade_of(Sorter(), **options)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    cascade = cascade_of(Sorter(), depth=40)
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
    points, lists = map(str, checkpoints)
    how: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
    spec = {"model": points, "listwise": lists, "depth": 8}
    cascade = open_ranker(spec, **how)
    assert isinstance(cascade, Cascade)
    assert cascade.one_backbone
    passages = [words(6, i) for i in range(20)]
    found = Reranker(cascade).rank("river bank", passages)
    # the two models, one after the other
    first = Reranker(points, **how).rank("river bank", passages)
    backend = open_local(f"{lists}#first", **how)
    apart = Cascade(Reranker(points, **how), ListwiseRanker(backend, depth=8))
    assert not apart.one_backbone
    other = Reranker(apart).rank("river bank", passages)
    assert other.passage_ids == found.passage_ids
    assert other.scores == pytest.approx(found.scores, abs=1e-4)
    assert set(found.passage_ids[:8]) == set(first.passage_ids[:8])
    assert found.passage_ids[8:] == first.passage_ids[8:]
    only = Candidates(
        query=Query(id="q", text="river bank"),
        passages=tuple(Passage(id=i, text=passages[int(i)]) for i in first.passage_ids),
        scores=first.scores,
    )
    (listed,), _ = rank_listwise([only], backend, depth=8)
    assert listed.passage_ids == found.passage_ids
    toml = Path(points).parent / "cascade.toml"
    toml.write_text(f"model = '{points}'\nlistwise = 'local:{lists}'\ndepth = 8\n")
    assert Reranker(toml, **how).rank("river bank", passages) == found
