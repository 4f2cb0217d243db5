"""What is written is read again, through DeAR-COT rows and through chats, under every prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from reason_cases import TEXTS, Overlap, question

from dear.data.formats import CotExample, text_id, write_chat, write_cot, write_lists
from dear.errors import DataError
from dear.prompts.listwise import LISTWISE_PROMPTS, clean
from dear.reason.extractive import Evidence, extract
from dear.reason.files import chat, cot, read_answers
from dear.reason.generate import open_drafts
from dear.reason.select import normalised, select, select_all
from dear.records import ListExample, Passage, Query

WRITERS = {"cot": (write_cot, cot), "chat": (write_chat, chat)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(
    st.lists(TEXTS.filter(normalised), min_size=2, max_size=7),
    TEXTS.filter(normalised),
    # a prompt for trained models alone is not written (`dear reason` refuses it)
    st.sampled_from(sorted(name for name, p in LISTWISE_PROMPTS.items() if not p.ends)),
    st.sampled_from(sorted(WRITERS)),
)
@example(
    texts=["Otters eat fish. ", "<THINK>"], query="Dr. Smith saw it. ", name="list", form="chat"
)
def test_write_then_read(
    tmp_path: Path, texts: list[str], query: str, name: str, form: str
) -> None:
    template = replace(LISTWISE_PROMPTS[name], max_words=60)
    kind = template.identifiers
    shown = [clean(text, 60, kind) for text in texts]
    asked = clean(query, None, kind)
    assume(len(set(shown)) == len(shown))
    evidence = Evidence(passage_words=60)
    with open_drafts(tmp_path / "drafts.jsonl") as drafts:
        (answer,) = extract([question(texts, query=query)], Overlap(), drafts, evidence)
    example = select(answer)
    assert isinstance(example, ListExample)
    write, row = WRITERS[form]
    write(tmp_path / "x.jsonl", [row(example, template)])
    (found,) = select_all(read_answers(tmp_path / "x.jsonl")).examples
    assert found == ListExample(
        query=Query(id=text_id(asked), text=asked),
        passages=tuple(Passage(id=text_id(text), text=text) for text in shown),
        order=example.order,
        thought=example.thought,
        source="x.jsonl",
    )
    # once more changes nothing
    write(tmp_path / "x.jsonl", [row(found, template)])
    assert select_all(read_answers(tmp_path / "x.jsonl")).examples == [found]


def test_our_own_rows_are_read_as_they_are(tmp_path: Path) -> None:
    one = question(["a b", "c d", "e f"], scores=[1.0, 3.0, 2.0])
    example = ListExample(
        query=one.query,
        passages=one.passages,
        order=(1, 2, 0),
        thought="[2]",
        scores=one.scores,
        source="me",
    )
    write_lists(tmp_path / "x.jsonl", [example])
    assert select_all(read_answers(tmp_path / "x.jsonl")).examples == [example]


OTHERS = (
    "I will provide you with some passages, each indicated by a numerical identifier [].\n"
    "Rank the passages based on their relevance to the search query: what is it?.\n\n"
    "[1] Title: One\nContent: first.\n[2] second\n[3] third (1999) says\n\n"
    "Search Query: what is it?.\nList the needs. Output format: [2] > [1], e.g.\n[4] > [1]"
)


@pytest.mark.parametrize(
    ("output", "think", "thought"),
    [
        ("I see 1999 and [2].\n### Final Reranking:\n[2] > [3] > [1]", "", "I see 1999 and [2]."),
        ("<think>hm [3]</think>\n[2] > [3] > [1]", "", "hm [3]"),
        ("[2] > [3] > [1]", "passage 3 is it", "passage [3] is it"),
        ("hm [3]</think> so\n[2] > [3] > [1]", "hm [3]", "hm [3] so"),
    ],
)
def test_rows_of_others(tmp_path: Path, output: str, think: str, thought: str) -> None:
    path = tmp_path / "hub.jsonl"
    write_cot(path, [CotExample(instruction=OTHERS, output=output, think=think)])
    (found,) = select_all(read_answers(path)).examples
    assert found.query.text == "what is it?"
    assert [p.text for p in found.passages] == [
        "Title: One\nContent: first.",
        "second",
        "third (1999) says",
    ]
    assert (found.order, found.thought) == ((1, 2, 0), thought)


def test_what_can_not_be_read_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "hub.jsonl"
    rows = [
        CotExample(instruction="Tell me a joke.", output="[1] > [2]"),
        CotExample(instruction="[1] a\n[2] b\n", output="[1] > [2]"),
        CotExample(instruction="Query: x\n[1] a\n[2] a\n", output="[1] > [2]"),
        CotExample(instruction="Query: x\n[1] a\n[2] b\n", output="[1]"),
    ]
    write_cot(path, rows)
    assert select_all(read_answers(path)).dropped == {"no passages": 3, "incomplete": 1}


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"query": "x"}) + "\n")
    with pytest.raises(DataError, match=r"x.jsonl:1: no reasoning data: expected one of the keys"):
        read_answers(path)
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n")
    with pytest.raises(DataError, match="the last message is no assistant's"):
        list(read_answers(path))
