"""Properties of the changes that the checks make."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from dear.evaluate.robustness.subject import pairs_turned
from dear.evaluate.robustness.texts import (
    ATTACKS,
    EXTREMES,
    LONG,
    NEAR_DUPLICATES,
    attacked,
    behind_filler,
    cut,
    long_query,
    near_duplicate,
    question_word_last,
    typos,
    without_question_mark,
    without_stop_words,
    word_order,
)
from dear.records import Passage, Ranking

TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
PLAIN = st.lists(st.text("abcdefgh", min_size=1, max_size=7), min_size=1, max_size=12).map(" ".join)


@given(TEXT, TEXT, st.sampled_from([*ATTACKS]))
def test_an_attack_keeps_the_passage(text: str, query: str, attack: str) -> None:
    passage = Passage(id="p", text=text, title="A title")
    found = attacked(passage, query, attack)
    assert found.id == "p"
    assert found.full_text.endswith(passage.full_text)
    assert len(found.full_text) > len(passage.full_text)


@given(PLAIN, st.integers(0, 99))
def test_typos_are_small(text: str, seed: int) -> None:
    assert typos(text, 0.0, random.Random(seed)) == text
    found = typos(text, 1.0, random.Random(seed))
    assert found == typos(text, 1.0, random.Random(seed))
    for before, after in zip(text.split(), found.split(), strict=True):
        assert abs(len(after) - len(before)) <= 1
        if len(before) < 3:
            assert after == before
        elif len(after) == len(before):
            assert sorted(after) == sorted(before)


def duplicated(text: str, kind: str, seed: int = 0) -> str:
    found = near_duplicate(text, kind, random.Random(seed))
    assert near_duplicate(text, kind, random.Random(seed)) == found
    return found


@given(TEXT)
def test_more_white_space_is_the_same_words(text: str) -> None:
    found = duplicated(text, "white space")
    assert found.split() == text.split()
    assert len(found) == len(text) + text.count(" ") + 3


# letters that change their case and back: ß and ı do not
@given(st.text(st.sampled_from(string.printable + "äéøжд")))
def test_another_case_is_every_letter_in_the_other_one(text: str) -> None:
    found = duplicated(text, "case")
    assert found.lower() == text.lower()
    assert (found == text) == (not any(c.isalpha() for c in text))


@given(TEXT)
def test_without_punctuation_nothing_else_is_gone(text: str) -> None:
    kept = [c for c in text if c not in string.punctuation]
    assert list(duplicated(text, "punctuation")) == kept


@given(PLAIN, st.integers(0, 99))
def test_one_word_is_another_and_no_other(text: str, seed: int) -> None:
    before, after = text.split(" "), duplicated(text, "one word", seed).split(" ")
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1
    assert changed[0][1] not in before


def test_every_word_may_be_the_one() -> None:
    found = {duplicated("a b c", "one word", seed) for seed in range(30)}
    assert len(found) == 3


def test_every_near_duplicate_is_another_text() -> None:
    assert all(
        duplicated("Otters, eat fish.", kind) != "Otters, eat fish." for kind in NEAR_DUPLICATES
    )


@given(PLAIN, st.floats(0.01, 1.0))
def test_a_cut_is_a_beginning(text: str, share: float) -> None:
    found = cut(text, share).split()
    assert 1 <= len(found) <= len(text.split())
    assert text.split()[: len(found)] == found
    assert cut(text, 1.0) == text


@given(PLAIN, st.integers(0, 500))
def test_filler_stands_before_it(text: str, words: int) -> None:
    found = behind_filler(Passage(id="p", text=text), words).full_text
    assert found.endswith(text)
    assert len(found.split()) == words + len(text.split())


@given(PLAIN, st.integers(0, 99))
def test_rules_add_no_words(text: str, seed: int) -> None:
    assert sorted(word_order(text, random.Random(seed)).split()) == sorted(text.split())
    assert set(without_stop_words(text).split()) <= set(text.split())
    assert sorted(question_word_last(text).split()) == sorted(text.split())


def test_rules_by_example() -> None:
    assert question_word_last("what is the capital?") == "is the capital what"
    assert question_word_last("in which city") == "city in which"
    assert question_word_last("otter food") == "otter food"
    assert without_stop_words("What is the food of otters?") == "food otters?"
    assert without_stop_words("who is it") == "who is it"
    assert without_question_mark("why ? ") == "why"
    assert without_question_mark("why") == "why?"
    assert len(long_query("a b c").split()) == len(long_query("").split()) == 2000


def test_extremes_are_what_they_are_called() -> None:
    assert {name for name, text in EXTREMES.items() if not text.strip()} == {"empty"}
    assert EXTREMES["white space"].strip("\u200b \n\t\u00a0") == ""
    assert {name: len(text) for name, text in EXTREMES.items() if len(text) > 999} == {
        "very long": LONG,
        "one long word": LONG,
    }
    assert len(EXTREMES["very long"].split()) > LONG / 5
    assert EXTREMES["one long word"].isalpha()
    for name in ("control characters", "no words", "emoji"):
        assert not any(map(str.isalnum, EXTREMES[name])), name


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_pairs_turned_is_kendalls_tau(a: list[int], b: list[int]) -> None:
    def ranking(order: list[int]) -> Ranking:
        scores = tuple(float(-i) for i in range(9))
        return Ranking(query_id="q", passage_ids=tuple(map(str, order)), scores=scores)

    places = [b.index(i) for i in a]
    tau = kendalltau(range(9), places).statistic
    assert pairs_turned(ranking(a), ranking(b)) == pytest.approx((1 - tau) / 2)
