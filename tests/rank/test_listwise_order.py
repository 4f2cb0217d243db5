"""An order that the backend knows, and the same order through its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from tiny_models import llama_tokenizer, make, words

from dear.backends import Completion, OnAnswer
from dear.backends.ledger import Ledger
from dear.backends.local import Local
from dear.errors import BackendError
from dear.listwise.loading import PLAIN, ListModel
from dear.listwise.reader import ListReader, Reading
from dear.listwise.strategies import Full, Sliding
from dear.prompts.listwise import WindowPrompt
from dear.rank.listwise import ListwiseRanker
from dear.records import Candidates, Passage, Query, Ranking


class Changed:
    """A backend with its completions changed."""

    def __init__(self, backend: Local, **changes: object) -> None:
        self.backend, self.changes = backend, changes
        self.name, self.template = backend.name, backend.template

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        found = self.backend.generate(prompts, on_answer)
        return [replace(completion, **self.changes) for completion in found]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> ListModel:
    return ListModel(
        model=make("llama", hf.AutoModelForCausalLM),
        tokenizer=llama_tokenizer(pad_token="</s>"),
        contract=PLAIN,
        taught=False,
        max_tokens=900,
        name="tiny",
        revision="0",
        device=torch.device("cpu"),
        dtype="float32",
    )


def candidates(count: int, seed: int) -> Candidates:
    return Candidates(
        query=Query(id=f"q{seed}", text=words(3, seed)),
        passages=tuple(
            Passage(id=f"p{i}", text=words(5 + i % 3, 99 * seed + i)) for i in range(count)
        ),
        scores=tuple(float(-i) for i in range(count)),
    )


MANY = [candidates(count, seed) for seed, count in enumerate((2, 7, 12, 1))]


def ranked(backend: object, **options: object) -> list[Ranking]:
    ranker = ListwiseRanker(backend, **options)  # type: ignore[arg-type]
    return list(ranker.rank_candidates(MANY))


@pytest.mark.parametrize("reading", ["first", "constrained", "attention"])
@pytest.mark.parametrize("strategy", [Full(), Sliding(window=4, step=2)])
def test_the_order_is_that_of_the_text(
    model: ListModel, reading: Reading, strategy: Full | Sliding
) -> None:
    backend = Local(ListReader(model, reading=reading))
    direct = ranked(backend, strategy=strategy)
    parsed = ranked(Changed(backend, order=None, scores=None), strategy=strategy)
    assert [r.passage_ids for r in direct] == [r.passage_ids for r in parsed]
    assert [dict(r.mended) for r in direct] == [dict(r.mended) for r in parsed]
    unread = ranked(Changed(backend, text=""), strategy=strategy)
    assert [r.passage_ids for r in unread] == [r.passage_ids for r in direct]


def test_a_thought_is_counted_as_before(model: ListModel) -> None:
    backend = Local(ListReader(model, reading="constrained", thought=True, thought_tokens=20))
    direct, parsed = ranked(backend), ranked(Changed(backend, order=None))
    assert direct == parsed
    for one, other in zip(direct, parsed, strict=True):
        assert one.mended == other.mended
        assert one.reasoning == other.reasoning
        assert one.cost is not None
        assert other.cost is not None
        assert one.cost.mended_windows == other.cost.mended_windows


@pytest.mark.parametrize("reading", ["first", "attention"])
def test_one_window_keeps_the_readers_scores(model: ListModel, reading: Reading) -> None:
    reader = ListReader(model, reading=reading)
    for c, ranking in zip(MANY, ranked(Local(reader), strategy=Full()), strict=True):
        if len(c.passages) == 1:
            assert ranking.scores == (1.0,)
            continue
        (answer,) = reader.read([reader.template.render(c.query, c.passages)])
        assert answer.scores is not None
        assert ranking.scores == tuple(answer.scores[i] for i in ranking.positions)


def test_what_is_below_the_depth_follows(model: ListModel) -> None:
    ranking = ranked(Local(ListReader(model, reading="first")), depth=5)[2]
    assert ranking.positions[5:] == tuple(range(5, 12))
    assert ranking.scores[:5] != tuple(range(12, 7, -1))
    assert ranking.scores[5:] == tuple(ranking.scores[4] - n for n in range(1, 8))


def test_windows_that_overlap_or_are_fused_have_no_scores(model: ListModel) -> None:
    backend = Local(ListReader(model, reading="first"))
    for options in ({"strategy": Sliding(window=4, step=2)}, {"fuse_weight": 0.5}):
        assert ranked(backend, **options)[2].scores == tuple(range(12, 0, -1))


def test_a_ledger_gives_the_same_scores_again(model: ListModel, tmp_path: Path) -> None:
    backend = Local(ListReader(model, reading="first"))
    plain = ranked(backend)
    for _ in range(2):
        with Ledger(backend, tmp_path / "answers.jsonl") as ledger:
            found = ranked(ledger, prompt=backend.template)
        assert found == plain
    assert ledger.usage().kept == 3


@pytest.mark.parametrize(
    "changes", [{"order": (0, 0, 1)}, {"order": (0,)}, {"scores": (1.0, 0.0, 0.0, 0.0)}]
)
def test_an_order_of_other_passages_is_an_error(
    model: ListModel, changes: dict[str, object]
) -> None:
    backend = Changed(Local(ListReader(model, reading="first")), **changes)
    with pytest.raises(BackendError, match="passages"):
        ranked(backend)
