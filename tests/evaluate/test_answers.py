"""Answer match: DPR's tokens, its matching, and what is averaged."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dear.errors import ConfigError, DataError
from dear.evaluate.answers import answer_cutoff, evaluate_answers, holds_answer, tokens
from dear.records import Passage, Ranking

CORPUS = {
    "a": Passage(id="a", title="Paris", text="The capital of France."),
    "b": Passage(id="b", text="It is Paris, on the Seine."),
    "c": Passage(id="c", text="Lyon is not."),
}
RUN = {
    "1": Ranking(query_id="1", passage_ids=("a", "b", "c"), scores=(3.0, 2.0, 1.0)),
    "2": Ranking(query_id="2", passage_ids=("c",), scores=(1.0,)),
    "9": Ranking(query_id="9", passage_ids=("c",), scores=(1.0,)),
}


@given(st.text())
@example("Don't, naïve ½ Ⅻ 2₂ x_y — 東京 e\u0301 \u200b\ufeff")
def test_tokens_are_those_of_dpr(text: str) -> None:
    regex = pytest.importorskip("regex")
    # the two expressions of DPR's SimpleTokenizer
    pattern = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.UNICODE)
    decomposed = unicodedata.normalize("NFD", text)
    # a sign of a Unicode release that only one of the two libraries knows
    if all(unicodedata.category(c) != "Cn" for c in decomposed):
        assert tokens(text) == [m.group().lower() for m in pattern.finditer(decomposed)]


words = st.lists(st.text("abcé12", min_size=1, max_size=5), min_size=1, max_size=6)


@given(words, words, words)
def test_an_answer_is_found_wherever_it_stands(
    before: list[str], answer: list[str], after: list[str]
) -> None:
    text = " ".join([*before, *answer, *after])
    assert holds_answer(text, ["zz", " ".join(answer).upper()])
    assert holds_answer(unicodedata.normalize("NFD", text), [" ".join(answer)])
    assert not holds_answer(text, [" ".join([*answer, "zz"])])


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("the parish church", "Paris", False),  # whole words only
        ("in Paris.", "paris", True),
        ("U.S. Navy", "U.S", True),
        ("U S Navy", "U.S", False),
        ("on 14 July 1789", "July 14", False),  # in this order
        ("July 14, 1789", "July 14", True),
        ("Beyonce\u0301", "Beyoncé", True),
        ("Beyonce", "Beyoncé", False),
        ("anything", "", False),
        ("anything", "\u200b", False),
        ("", "anything", False),
    ],
)
def test_matching(text: str, answer: str, holds: bool) -> None:
    assert holds_answer(text, [answer]) is holds


def test_every_question_with_answers_counts() -> None:
    answers = {"1": ("Paris",), "2": ("Lyon", "Paris"), "3": ("Nice",)}
    found = evaluate_answers(RUN, answers, CORPUS, ["answer@1", "ANSWER@2"])
    # the title of `a` holds Paris; its text does not
    assert found.per_query == {
        "answer@1": {"1": 0.0, "2": 1.0, "3": 0.0},
        "answer@2": {"1": 1.0, "2": 1.0, "3": 0.0},
    }
    assert found.means == {"answer@1": pytest.approx(1 / 3), "answer@2": pytest.approx(2 / 3)}
    assert found.missing == ("3",)
    assert found.unjudged == 1


def test_faults() -> None:
    with pytest.raises(ConfigError, match="'nDCG@10' does not read like answer@1"):
        evaluate_answers(RUN, {"1": ("x",)}, CORPUS, ["nDCG@10"])
    with pytest.raises(DataError, match="no question has answers"):
        evaluate_answers(RUN, {}, CORPUS)
    with pytest.raises(DataError, match="query '1': passage 'a' is not in the corpus"):
        evaluate_answers(RUN, {"1": ("x",)}, {})


def test_names() -> None:
    assert [answer_cutoff(m) for m in ("answer@1", "Answer@20", "answer@0", "answer", "P@1")] == [
        *(1, 20, None, None, None)
    ]
