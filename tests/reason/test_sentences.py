"""What may be quoted is an exact part of the text, short, and names no passage."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reason_cases import TEXTS

from dear.reason.extractive import quotable


@given(TEXTS, st.integers(5, 40))
def test_pieces_are_exact_in_order_and_short(text: str, words: int) -> None:
    at = 0
    for piece in quotable(text, max_words=words):
        found = text.find(piece, at)
        assert found >= at, piece
        at = found + len(piece)
        assert len(piece.split()) <= words
        assert "\n" not in piece
        assert piece == piece.strip() != ""
        assert not re.search(r"\[(?:[0-9]+|[A-Z])\]|</?(?:think|answer)>", piece)


@given(TEXTS)
def test_nothing_is_lost_but_signs_identifiers_and_short_pieces(text: str) -> None:
    pieces = quotable(text, max_words=30)
    if re.search(r"[^\W_]", re.sub(r"\[(?:[0-9]+|[A-Z])\]|</?(?:think|answer)>", "", text)):
        assert pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Otters eat fish every day. They sleep in dens at night.", 2),
        ("Dr. Smith saw J. Brown, e.g. near St. Ives. They spoke for a long time.", 2),
        ("It cost 3.14 dollars in the U.S. and more elsewhere.", 1),
        ("Is that really so, you ask? Yes, it is so, I say! Then we go on as before.", 3),
        ("no full stop in this one", 1),
        ("カワウソは魚や蟹などを食べて暮らしている。夜は川の近くの巣で静かに眠ることが多い。", 2),
        ("Lee found [12] the otters eat only fish.", 1),
        ("The extract of saffron (Crocus sativus Linn.) in mice helped.", 1),
        ("One line of a long text\nand then one more line", 2),
        ("too short. but all there is", 1),
        ("...", 0),
        ("", 0),
    ],
)
def test_examples(text: str, pieces: int) -> None:
    assert len(quotable(text)) == pieces, quotable(text)


def test_long_sentences_are_cut_at_clauses() -> None:
    first, second = "one " * 15 + "end,", "two " * 20 + "end"
    assert quotable(f"{first} {second}", max_words=30) == [first, second]
    assert [len(p.split()) <= 8 for p in quotable("word " * 30, max_words=8)] == [True] * 4
