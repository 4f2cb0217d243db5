"""What is kept is whole and agrees; what is dropped has one reason."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reason_cases import question
from scipy.stats import kendalltau

from dear.errors import ConfigError
from dear.evaluate.metrics import evaluate
from dear.prompts.permutations import render_permutation
from dear.prompts.reasoning import render_answer, split_answer
from dear.reason.select import (
    REASONS,
    Answer,
    HeldOut,
    Reason,
    Threshold,
    kendall_tau,
    ndcg,
    normalised,
    select,
    select_all,
)
from dear.records import ListExample, Ranking

TEXTS = ["otters eat fish", "cows eat grass", "bees eat nectar"]
THREE = question(TEXTS, scores=[3.0, 1.0, 2.0], grades=[0, 0, 1])
SEEN: set[Reason] = set()


def ask(text: str, thought: str = "", **changes: object) -> Answer:
    return Answer(**{"question": THREE, "text": text, "thought": thought} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ask("I can not rank these."), "no ranking"),
        (ask("<think>hm, [1] or"), "no ranking"),
        (ask("<think>hm, [1] or", cut=True), "cut off"),
        (ask("[1] > [3] > [2]", cut=True), "cut off"),
        (ask("[1] > [3] >"), "cut off"),
        (ask("[1] > [3]"), "incomplete"),
        (ask("[1] > [3] > [1] > [2]"), "incomplete"),
        (ask("[1] > [3] > [2] > [4]"), "unknown identifier"),
        (ask("[1] > [3] > [2]", "as [4] says"), "unknown identifier"),
        (ask("[1] > [3] > [2]", "as [0] says"), "unknown identifier"),
        (ask("[2] > [3] > [1]"), "disagrees"),
        (ask("[1] > [3] > [2]", question=None), "no passages"),
        (ask("[A] > [C] > [B]"), "no ranking"),
    ],
)
def test_what_is_dropped(answer: Answer, reason: Reason) -> None:
    assert select(answer, Threshold(keep_tau=0.3)) == reason


def test_what_is_kept() -> None:
    kept = select(ask("[1] > [3] > [2]", "as [3] says", source="me"), Threshold(keep_tau=1.0))
    assert kept == ListExample(
        query=THREE.query,
        passages=THREE.passages,
        order=(0, 2, 1),
        thought="as [3] says",
        scores=THREE.scores,
        source="me",
    )
    letters = select(ask("[A] > [C] > [B]", identifiers="letters"))
    assert isinstance(letters, ListExample)
    assert letters.order == (0, 2, 1)


def test_a_passage_twice_is_no_list() -> None:
    twice = question(TEXTS[:2])
    twice = type(twice)(query=twice.query, passages=twice.passages[:1] * 2)
    assert select(ask("[1] > [2]", question=twice)) == "no passages"


def test_leaks_and_duplicates() -> None:
    again = question([TEXTS[i].upper() + "!" for i in (2, 0, 1)])
    held = HeldOut({normalised("Who are you?"): "x"}, {normalised("Lions eat zebras."): "y"})
    answers = [
        ask("[1] > [3] > [2]"),
        ask("[1] > [3] > [2]", question=again),
        ask("[1] > [3] > [2]", question=question(TEXTS, query="who are  you")),
        ask("[1] > [2]", question=question(["lions EAT zebras", "x"], query="what else")),
        ask("[1] > [2]"),
    ]
    selected = select_all(answers, held_out=held)
    assert [e.passages for e in selected.examples] == [THREE.passages]
    assert selected.dropped == {"duplicate": 1, "leaks": 2, "incomplete": 1}
    assert selected.answers == 5
    assert select_all(answers).dropped == {"duplicate": 1, "incomplete": 1}
    assert set(selected.dropped) <= set(REASONS)


ORDERS = st.integers(2, 12).flatmap(lambda n: st.permutations(range(n)))


@given(ORDERS, st.randoms(use_true_random=False))
def test_tau_is_scipys_without_ties_and_one_for_every_allowed_order(order, random) -> None:
    scores = [float(i) for i in random.sample(range(99), len(order))]
    places = [order.index(i) for i in range(len(order))]
    oracle = kendalltau([-p for p in places], scores).statistic
    assert kendall_tau(order, scores) == pytest.approx(oracle)
    tied = [random.randrange(3) for _ in order]
    allowed = sorted(order, key=lambda i: -tied[i])
    tau, reverse = kendall_tau(allowed, tied), kendall_tau(allowed[::-1], tied)
    if len(set(tied)) == 1:
        assert math.isnan(tau)
    else:
        assert (tau, reverse) == (pytest.approx(1.0), pytest.approx(-1.0))


@given(ORDERS, st.randoms(use_true_random=False))
def test_ndcg_is_that_of_the_evaluation(order, random) -> None:
    grades = [random.randrange(4) for _ in order]
    if not any(grades):
        assert math.isnan(ndcg(order, grades))
        return
    ids = tuple(f"p{i:02d}" for i in order)
    scores = tuple(map(float, range(len(order), 0, -1)))
    run = {"q": Ranking(query_id="q", passage_ids=ids, scores=scores)}
    judged = {"q": {f"p{i:02d}": grade for i, grade in enumerate(grades)}}
    assert ndcg(order, grades) == pytest.approx(evaluate(run, judged, ["nDCG@10"]).means["nDCG@10"])


@pytest.mark.parametrize(("threshold", "kept"), [(0.6, False), (0.4, True)])
def test_judgements_are_asked_where_a_threshold_says(threshold: float, kept: bool) -> None:
    # the relevant one is third of three: nDCG 0.5
    found = select(ask("[1] > [2] > [3]"), Threshold(keep_ndcg=threshold))
    assert isinstance(found, ListExample) is kept


def test_nobody_disagrees_who_has_no_opinion() -> None:
    strict = Threshold(keep_tau=1.0, keep_ndcg=1.0)
    for one in (
        question(TEXTS),
        question(TEXTS, scores=[1.0] * 3),
        question(TEXTS, grades=[0, 0, 0]),
    ):
        assert isinstance(select(ask("[2] > [3] > [1]", question=one), strict), ListExample)


@pytest.mark.parametrize("wrong", [{"keep_tau": 1.5}, {"keep_ndcg": -0.1}])
def test_thresholds_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="lies in"):
        Threshold(**wrong)


@given(
    ORDERS.filter(lambda o: len(o) <= 9),
    st.sampled_from(["numbers", "letters"]),
    st.booleans(),
    st.sampled_from(
        [
            'Needs: food\n[1]: "passage 3 of the document 4"\n[2]: "say "no" to [this]"',
            "[2] says so, [1] does not; [2] > [1] then",
            "First. Passage 12% of it.",
            "",
        ]
    ),
)
def test_thought_and_answer_are_split_as_they_were_joined(order, kind, heading, thought) -> None:
    text = render_answer(order, kind, thought=thought, heading=heading)
    if heading and kind == "letters":
        return  # no prompt of ours asks for both
    assert split_answer(text, kind) == thought


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>a</think>\nb\n**Final Reranking:** [1] > [2]", "a\nb"),
        ("<think>Final answer: none\nyet</think>[1] > [2]", "Final answer: none\nyet"),
        ("as [1, 3] and passages 2 and 4\n[1] > [2]", "as [1], [3] and passages [2] and [4]"),
        ("[Passage 2] wins\n## Final Ranking\n[2] > [1]", "[2] wins"),
        ("in document 3.5 and passage 2020s\n[2] > [1]", "in document 3.5 and passage 2020s"),
        (render_permutation([1, 0]), ""),
        ("nothing to see", ""),
    ],
)
def test_thoughts_of_others(text: str, thought: str) -> None:
    assert split_answer(text) == thought
