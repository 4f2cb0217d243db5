"""Every function that reads a text from outside takes time in proportion to its length."""

from __future__ import annotations

import pytest
from tests.attacks.ceilings import attack_python, linear

READERS = """
from dear.data import held_out
from dear.retrieve import bm25
from dear.data.formats import plain
from dear.data.formats import lines as headers
from dear.errors import DearError
from dear.evaluate import answers
from dear.evaluate.robustness import texts
from dear.prompts import permutations, reasoning
from dear.prompts import listwise as guarding
from dear.prompts import listwise
from dear.reason import extractive as sentences
import random

few = [chr(97 + i) for i in range(26)]
words = bm25.words_of()
readers = {
    "title": lambda t: (plain._title("# a" + t + "b"), plain._title(t)),
    "header": lambda t: headers.is_header([t, t]),
    "permutation": lambda t: permutations.parse_permutation(t + "x", 20),
    "permutation behind a chain": lambda t: permutations.parse_permutation("[1] > [2]\\n" + t, 3),
    "letters": lambda t: permutations.parse_permutation(t + "x", 20, "letters"),
    "renumber": lambda t: permutations.renumber(t, range(9)),
    "answer": lambda t: (reasoning.split_answer(t), reasoning.split_answer(t, "letters")),
    "citations": lambda t: (reasoning.numbered(t), reasoning.cited(t)),
    "window": lambda t: (
        reasoning.read_window(t),
        reasoning.read_window("[1] a\\n[2] b\\n\\nSearch Query:" + t + "x\\nquery: y"),
        reasoning.read_window("[1] a\\n[2] b\\n\\nrelevance to query:" + t + "x"),
    ),
    "quotable": lambda t: (
        sentences.quotable(t), sentences.quotable(" ".join(few * 2) + t + "%", max_words=5)
    ),
    "held out": lambda t: (held_out.normalised(t), t in held_out.SameText(["abc", "x"])),
    "words": lambda t: (words(t), bm25.split_identifiers(t)),
    "guarded": lambda t: (guarding.guarded(t, 300), guarding.guarded(t)),
    "clean": lambda t: (listwise.clean(t), listwise.clean(t, 300, "letters")),
    "answers": lambda t: answers.holds_answer(t, [t[: len(t) // 2] + " zz", t]),
    "changes": lambda t: (
        texts.without_question_mark("a" + t + "b?"), texts.without_question_mark(t),
        texts.typos(t, 0.1, random.Random(1)), texts.question_word_last(t),
        texts.word_order(t, random.Random(1)), texts.without_stop_words(t), texts.cut(t, 0.5),
    ),
}

def read(texts):
    for text in texts:
        try:
            one(text)
        except DearError:
            pass
"""

PIECES = [
    *(" ", "\t", "\n", " \n", "\n \n", "\r", "\x0b", "\u2028", ".", "!?", ". ", "e.g. ", '"', "'"),
    *("[", "]", "[1", "[1] ", "[1] > ", "[1]>>>>", "[1],", "[1] 2. ", "1, ", "1>", "(1) > ", "- "),
    *("passage 1, ", "passages 1 and ", "[doc 1, ", "1. Passage ", "1. 3\n", "ID: 1, ", "#", "*_"),
    *("<", "<think>", "</think>", "<answer>", "Query: ", "query:", "final ", "Final Ranking "),
    *(
        "\u0300\u0316",
        "a\u0300\u0316",
        "\u0344\u0316",
        "\u0f71\u0f72",
        "İ",
        "ﷺ",
        "가",
        "漢，",
        "、",
    ),
    *(
        "漢",
        "a, ",
        " - ",
        "[A] > ",
        '{"id": 1, ',
        "[1, ",
        "aB",
        "_a",
        "\u200d",
        "20 passages ",
        "?",
    ),
    *("[1] a\n", "[2] b\n[3] c\n", "? ", "\\", "*", "`", "=", "> 1. ", "1) [1] ", "0", "?"),
]


@pytest.mark.parametrize(
    "reader",
    [
        *("title", "header", "permutation", "permutation behind a chain", "letters", "renumber"),
        *("answer", "citations", "window", "quotable", "held out", "words", "guarded", "clean"),
        *("answers", "changes"),
    ],
)
def test_four_times_the_length_takes_four_times_as_long(reader: str) -> None:
    code = f"""{READERS}
one = readers[{reader!r}]
def make(n):
    return [(piece * (n // len(piece) + 1))[:n] for piece in {PIECES!r}]
"""
    linear(code, sizes=(15_000, 60_000), times=8)


def test_a_megabyte_of_the_worst() -> None:
    """What took minutes and hours: now each of them in seconds, all together."""
    code = f"""{READERS}
for one, piece in [
    (readers["title"], " "), (readers["permutation"], " "), (readers["permutation"], "\\t"),
    (readers["permutation behind a chain"], " "), (readers["letters"], "[1] "),
    (readers["permutation"], "(1) > "), (readers["permutation"], "[1]>"),
    (readers["window"], " "), (readers["window"], "query:"), (readers["citations"], "[1,"),
    (readers["quotable"], "."), (readers["quotable"], " "), (readers["quotable"], "\\n"),
    (readers["quotable"], "，"), (readers["held out"], "\\u0300\\u0316"),
    (readers["words"], "\\u0300\\u0316"), (readers["answers"], ". "), (readers["changes"], " "),
]:
    read([(piece * (1_000_000 // len(piece) + 1))[:1_000_000]])
"""
    ended = attack_python(code, seconds=100, mebibytes=1500)
    assert ended.status == 0, ended.err[-2000:]


def test_a_grade_that_no_one_gives(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("grades")
    qrels = folder / "test.qrels"
    run = folder / "a.trec"
    qrels.write_text(f"q 0 p {'9' * 18}\nq 0 r -{'9' * 18}\n")
    run.write_text("q Q0 p 1 1.0 t\nq Q0 r 2 0.5 t\n")
    code = """
import sys
from dear.data.formats import read_qrels, read_run
from dear.errors import DearError
from dear.evaluate.metrics import evaluate
try:
    print(evaluate(read_run(sys.argv[2]), read_qrels(sys.argv[1])).means)
except DearError as error:
    print(error)
"""
    ended = attack_python(code, qrels, run, seconds=10, mebibytes=600)
    assert ended.status == 0, ended.err[-1000:]
