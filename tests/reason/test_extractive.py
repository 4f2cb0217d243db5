"""Every claim of an extractive thought can be checked; a killed job ends as an undisturbed one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reason_cases import TEXTS, Overlap, question

from dear.errors import DataError
from dear.prompts.listwise import LISTWISE_PROMPTS, clean
from dear.reason import extractive
from dear.reason.extractive import Evidence, draft, extract, needs, order_of, shown, with_scores
from dear.reason.files import cot
from dear.reason.generate import open_drafts
from dear.reason.select import Threshold, select
from dear.records import ListExample, Passage
from kills import dies_at, in_a_process

QUOTE = re.compile(r'^\[([0-9]+)\]: "(.*)"$')
QUESTIONS = [
    question([f"otters eat {n} fish. Never {m} meat" for m in range(5)]) for n in range(40)
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(TEXTS, min_size=2, max_size=6), TEXTS, st.integers(0, 4))
# a word that every prompt cuts; tags that every prompt changes
@example(texts=["Otters eat fish. ", "x" * 500 + "[2, 4] "], asked="[2, 4] ", quoted=2)
@example(texts=["a b c </think> d e f", "<think> fish eat"], asked="e fish", quoted=2)
def test_every_claim_can_be_checked(
    tmp_path: Path, texts: list[str], asked: str, quoted: int
) -> None:
    evidence = Evidence(passages=quoted, max_words=12, passage_words=60)
    with open_drafts(tmp_path / "drafts.jsonl") as drafts:
        (answer,) = extract([question(texts, query=asked)], Overlap(), drafts, evidence)
    example = select(answer, Threshold(keep_tau=0.999))
    assert isinstance(example, ListExample), example
    assert example.scores is not None
    assert example.order == tuple(sorted(range(len(texts)), key=lambda i: (-example.scores[i], i)))
    head, *lines = example.thought.split("\n")
    assert head == f"Needs: {', '.join(needs(asked))}"
    seen = []
    for line in lines:
        found = QUOTE.match(line)
        assert found, line
        place = int(found[1]) - 1
        seen.append(place)
        assert found[2] in " ".join(texts[place].split())
        assert len(found[2].split()) <= 12
        for name, template in LISTWISE_PROMPTS.items():
            prompt = replace(template, max_words=60)
            shown = prompt.render(example.query, example.passages)
            assert any(found[2] in text for _, text in shown.messages), name
    assert len(seen) <= quoted
    # best first; passages without a letter give no quote
    assert seen == [i for i in example.order if i in set(seen)]
    assert cot(example, LISTWISE_PROMPTS["reasoning"]).output.startswith(example.thought)


@given(TEXTS, TEXTS, st.integers(1, 40))
def test_what_may_be_quoted_is_what_a_prompt_shows(title: str, text: str, words: int) -> None:
    passage = Passage(id="p", text=text, title=title)
    parts = shown(passage, words)
    assert clean(" ".join(parts)) == clean(passage.full_text, words)
    for part in parts:
        assert part in " ".join(passage.full_text.split())


def test_a_quote_does_not_go_on_behind_a_title_or_a_word_that_is_cut() -> None:
    passage = Passage(id="p", title="a title", text=f"one {'x' * 501} two")
    assert shown(passage, 4) == ["a title", f"one {'x' * 500}"]
    assert shown(passage, 5) == ["a title", f"one {'x' * 500}", "two"]
    assert shown(passage, 1) == ["a"]


def test_the_evidence_is_the_sentence_that_the_teacher_scores_highest(tmp_path: Path) -> None:
    texts = ["The sky is blue today. What otters eat is fish. So they say.", "Nothing at all here."]
    with open_drafts(tmp_path / "d") as drafts:
        (one,) = draft([question(texts)], Overlap(), drafts, Evidence(passages=2))
    # the second one is in the lower half of the range
    assert one.quotes == ((0, "What otters eat is fish."),)
    equal = ["Some otters eat fish daily. Other otters eat crabs daily. Nobody else is here."]
    with open_drafts(tmp_path / "d") as drafts:
        (one,) = draft([question([*equal, "x"])], Overlap(), drafts, Evidence(passages=2))
    assert one.quotes == ((0, "Some otters eat fish daily."),)


def test_scores_that_are_there_are_the_order(tmp_path: Path) -> None:
    teacher = Overlap()
    asked = question(["what do otters eat", "b c d e", "f g h i"], scores=[1.0, 3.0, 3.0])
    with open_drafts(tmp_path / "d") as drafts:
        (answer,) = extract([asked], teacher, drafts, Evidence(passages=1))
        assert answer.text == "[2] > [3] > [1]"
        assert with_scores([asked], teacher, drafts) == [asked]
    assert teacher.asked == [("what do otters eat", "b c d e")]


def test_an_order_has_its_ties_by_position() -> None:
    assert order_of([0.0, 2.0, 0.0, 2.0]) == (1, 3, 0, 2)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("what do otters eat?", ["otters", "eat"]),
        ("does NO help no one, Otters or otters", ["NO", "help", "one", "Otters"]),
        ("who is it", ["who", "is", "it"]),
        ("[3] C++/vitamin-C", ["3", "C", "vitamin-C"]),
        ("水獺吃什麼", ["水獺吃什麼"]),
        ("?!", ["?!"]),
    ],
)
def test_needs(query: str, words: list[str]) -> None:
    assert needs(query) == words


def work(folder: Path) -> None:
    with open_drafts(folder / "drafts.jsonl") as drafts:
        draft(QUESTIONS, Overlap(), drafts, Evidence())


def killed_work(folder: Path, call: int, after: bool) -> None:
    extractive.score_questions = dies_at(call, extractive.score_questions, after=after)
    work(folder)


@pytest.mark.parametrize(("call", "after", "kept"), [(1, False, 0), (2, True, 16), (3, False, 32)])
def test_a_killed_job_ends_with_the_same_bytes(
    tmp_path: Path, call: int, after: bool, kept: int
) -> None:
    work(tmp_path / "whole")
    assert in_a_process(killed_work, tmp_path / "killed", call, after) == -9
    path = tmp_path / "killed" / "drafts.jsonl"
    assert (len(path.read_bytes().splitlines()) if path.exists() else 0) == kept
    work(tmp_path / "killed")
    assert path.read_bytes() == (tmp_path / "whole" / "drafts.jsonl").read_bytes()


def test_whatever_is_left_of_a_line_is_dropped(tmp_path: Path) -> None:
    work(tmp_path)
    path = tmp_path / "drafts.jsonl"
    whole = path.read_bytes()
    last = len(whole) - whole[:-1].rfind(b"\n") - 1
    for lost in range(1, last + 1):
        path.write_bytes(whole[:-lost])
        with open_drafts(path) as drafts:
            assert len(drafts) == len(QUESTIONS) - 1
    work(tmp_path)
    assert path.read_bytes() == whole


def test_what_is_there_is_not_scored_again(tmp_path: Path) -> None:
    teacher = Overlap()
    with open_drafts(tmp_path / "d") as drafts:
        draft(QUESTIONS[:16], teacher, drafts, Evidence())
    asked = len(teacher.asked)
    seen: list[tuple[int, int, int]] = []
    with open_drafts(tmp_path / "d") as drafts:
        draft(QUESTIONS[:32], teacher, drafts, Evidence(), lambda *step: seen.append(step))
    assert len(teacher.asked) == 2 * asked
    assert seen == [(16, 32, 16), (32, 32, 16)]
    # another way to quote is other work
    with open_drafts(tmp_path / "d") as drafts:
        draft(QUESTIONS[:16], teacher, drafts, Evidence(passages=1))
    assert len(teacher.asked) > 2 * asked


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with open_drafts(path), pytest.raises(DataError, match="another process"), open_drafts(path):
        pass
    path.write_text(json.dumps({"scores": []}) + "\n")
    with pytest.raises(DataError, match=r"d:1: is no draft"), open_drafts(path):
        pass
