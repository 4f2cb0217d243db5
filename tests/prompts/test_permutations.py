"""Prompts of many passages, and what is read of the answers: rendered orders, damage, real ones."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dear.errors import ParseError
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt, clean
from dear.prompts.permutations import parse_permutation
from dear.records import Passage, Query

QUERY = Query(id="q", text="who reads [1]?")
RESPONSES = "rankllm-listwise-responses"


def passages(*texts: str) -> list[Passage]:
    return [Passage(id=str(i), text=text) for i, text in enumerate(texts)]


def chain(order: tuple[int, ...] | list[int]) -> str:
    return " > ".join(f"[{i + 1}]" for i in order)


def recorded(shared_data: Path, name: str) -> list[dict[str, Any]]:
    path = shared_data / RESPONSES / f"{name}.bm25.dl19.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


orders = st.integers(1, 40).flatmap(lambda n: st.permutations(range(n)).map(tuple))

FORMS = {
    "chain": lambda order: chain(order),
    "wide": lambda order: "  >  ".join(f"[ {i + 1} ]" for i in order),
    "tight": lambda order: ">".join(f"[{i + 1}]" for i in order),
    "bold": lambda order: " > ".join(f"**[{i + 1}]**" for i in order),
    "full width": lambda order: " ＞ ".join(f"【{i + 1}】" for i in order),
    "named": lambda order: " > ".join(f"[Passage {i + 1}]" for i in order),
    "numbered chain": lambda order: " > ".join(f"{n}. [{i + 1}]" for n, i in enumerate(order, 1)),
    "numbered": lambda order: " ".join(f"{n}. [{i + 1}]" for n, i in enumerate(order, 1)),
    "commas": lambda order: ", ".join(f"[{i + 1}]" for i in order),
    "lines": lambda order: "\n".join(f"[{i + 1}]" for i in order),
    "bullets": lambda order: "\n".join(f"- [{i + 1}] says so in 1998" for i in order),
    "listed": lambda order: "\n".join(f"{n}. [{i + 1}] why" for n, i in enumerate(order, 1)),
    "tagged": lambda order: f"<answer>\n{chain(order)}\n</answer>",
    "sentence": lambda order: f"The ranking is {chain(order)}.",
}


@given(orders, st.sampled_from(sorted(FORMS)))
def test_an_order_that_is_written_is_read(order: tuple[int, ...], form: str) -> None:
    parsed = parse_permutation(FORMS[form](order), len(order))
    assert parsed.order == order
    assert parsed.complete
    assert parsed.mends == {}


# what chat models write that were asked for brackets, and for JSON
BARE_FORMS = {
    "chain": lambda order: " > ".join(str(i + 1) for i in order),
    "arrows": lambda order: "Ranking: " + " -> ".join(str(i + 1) for i in order),
    "parentheses": lambda order: " > ".join(f"({i + 1})" for i in order),
    "nouns": lambda order: ", ".join(f"Document {i + 1}" for i in order),
    "ids": lambda order: " > ".join(f"ID {i + 1}" for i in order),
    "JSON": lambda order: json.dumps([i + 1 for i in order]),
    "JSON of text": lambda order: json.dumps([str(i + 1) for i in order]),
    "JSON, indented": lambda order: json.dumps({"ranking": [i + 1 for i in order]}, indent=2),
    "JSON, fenced": lambda order: f"```json\n{json.dumps([i + 1 for i in order])}\n```",
    "objects": lambda order: json.dumps(
        {"results": [{"passage_id": i + 1, "score": 9 - n / 5} for n, i in enumerate(order)]}
    ),
    "objects, indented": lambda order: json.dumps(
        [{"rank": n, "id": str(i + 1)} for n, i in enumerate(order, 1)], indent=1
    ),
    "a line each": lambda order: "\n".join(str(i + 1) for i in order),
    "bullets": lambda order: "\n".join(f"- {i + 1}" for i in order),
    "listed": lambda order: "\n".join(f"{n}. Passage {i + 1}" for n, i in enumerate(order, 1)),
    "listed, why": lambda order: "\n".join(
        f"{n}. Document #{i + 1}: it is from 1998" for n, i in enumerate(order, 1)
    ),
    "listed numbers": lambda order: "\n".join(f"{n}. {i + 1}" for n, i in enumerate(order, 1)),
    "relevance": lambda order: "\n".join(
        f"Doc: {i + 1}, Relevance: {10 - n}" for n, i in enumerate(order)
    ),
}


@given(
    st.integers(3, 20).flatmap(lambda n: st.permutations(range(n)).map(tuple)),
    st.sampled_from(sorted(BARE_FORMS)),
    st.sampled_from(["", "Here is the ranking of the 20 passages:\n\n"]),
)
def test_an_order_without_brackets_is_read(order: tuple[int, ...], form: str, head: str) -> None:
    parsed = parse_permutation(head + BARE_FORMS[form](order), len(order))
    assert parsed.order == order
    assert parsed.complete
    assert parsed.mends == {"no brackets": 1}


CHAINS = ("chain", "wide", "tight", "bold", "full width", "named", "sentence", "tagged")


@given(
    st.integers(3, 20).flatmap(lambda n: st.tuples(*[st.permutations(range(n)).map(tuple)] * 3)),
    st.integers(1, 19),
    st.sampled_from(CHAINS),
)
def test_the_last_complete_chain_wins_over_a_draft_and_a_remark(
    orders: tuple[tuple[int, ...], ...], shown: int, form: str
) -> None:
    order, draft, other = orders
    part = other[: min(shown, len(order) - 1)]
    text = f"At first {chain(draft)}, but:\n\n{FORMS[form](order)}\n\nNote {chain(part)}."
    assert parse_permutation(text, len(order)).order == order


@given(
    st.integers(4, 20).flatmap(lambda n: st.tuples(*[st.permutations(range(n)).map(tuple)] * 2)),
    st.sampled_from(sorted(FORMS.keys() - set(CHAINS)) + sorted(BARE_FORMS)),
)
def test_a_complete_list_wins_over_a_remark(orders: tuple[tuple[int, ...], ...], form: str) -> None:
    order, other = orders
    assume(list(order) != sorted(order))  # what was given, gone through
    part = chain(other[: len(order) // 2])
    if form in BARE_FORMS:
        part = re.sub(r"[\[\]]", "", part)
    text = f"{(FORMS | BARE_FORMS)[form](order)}\n\nNote that {part} was close."
    assert parse_permutation(text, len(order)).order == order


def test_a_list_of_what_was_given_is_no_ranking() -> None:
    text = "[1] is about otters.\n[2] is about fish.\n[3] is about both.\n\n[3] > [1]"
    assert parse_permutation(text, 3).order == (2, 0, 1)
    text = "Passage 1 is about otters.\nPassage 2 is about fish.\nPassage 3: both.\n\n3 > 1 > 2"
    assert parse_permutation(text, 3).order == (2, 0, 1)


@pytest.mark.parametrize(
    "text", ["In 2019, 3 of 4 agree.", '{"year": 2019, "pages": 3}', "2019\n\n1998", "[2019, 1998]"]
)
def test_other_numbers_are_no_ranking(text: str) -> None:
    with pytest.raises(ParseError, match="no identifier"):
        parse_permutation(text, 4)


THOUGHTS = (
    "Step 3: in 1998 and 2019, passages 2 and 1 were written; 20 of 100 agree.",
    "First [1] looked best, then [2].",
    "The order given is [1] > [2] > [3]. Hmm.",
    "### Step 1\n1. What it is\n2. Since when: 1492\n\n[2] holds both",
)


@given(
    st.integers(3, 20).flatmap(lambda n: st.permutations(range(n)).map(tuple)),
    st.lists(st.sampled_from(THOUGHTS), min_size=1, max_size=4),
    st.sampled_from(["<think>{}</think>\n{}", "{}\n</think>\n\n{}", "<THINKING>{}</THINKING>{}"]),
)
def test_a_thought_is_stripped(order: tuple[int, ...], thoughts: list[str], form: str) -> None:
    parsed = parse_permutation(form.format("\n".join(thoughts), chain(order)), len(order))
    assert parsed.order == order
    assert parsed.mends == {"thought stripped": 1}


@given(
    st.integers(3, 20).flatmap(lambda n: st.permutations(range(n)).map(tuple)),
    st.lists(st.sampled_from(THOUGHTS), min_size=1, max_size=4),
    st.sampled_from(["\n", "\n### Final Reranking:\n", "\n**Final ranking:** ", "\n\nAnswer: "]),
)
def test_reasoning_without_tags_never_counts_as_ranks(
    order: tuple[int, ...], thoughts: list[str], head: str
) -> None:
    parsed = parse_permutation("\n".join(thoughts) + head + chain(order), len(order))
    assert parsed.order == order
    assert parsed.mends == {}


# letters alone hardly ever make an identifier
ANY_TEXT = st.lists(
    st.sampled_from(
        [
            *("[1]", "[2]", "[3]", "[17]", "[31]", "[Passage 2]", " > ", ">", ", ", "\n", "1. "),
            *("2 > 1", "3, 1", "<think>", "</think>", "<answer>", "Final answer: ", "as in ", "."),
        ]
    )
    | st.text(alphabet="[]0123456789> ,.\nab<>/think-", max_size=6),
    max_size=14,
).map("".join)


@given(ANY_TEXT, st.integers(0, 30))
@example("[2] > [1]", 2)
def test_any_text_gives_a_permutation_or_a_parse_error(text: str, count: int) -> None:
    try:
        parsed = parse_permutation(text, count)
    except ParseError:
        return
    assert sorted(parsed.order) == list(range(count))
    assert parsed.complete == ("missing" not in parsed.mends)
    assert all(number > 0 for number in parsed.mends.values())


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.integers(1, 40))
def test_the_rule_for_mends(ids: list[int], count: int) -> None:
    text = " > ".join(f"[{i}]" for i in ids)
    inside = [i - 1 for i in ids if 1 <= i <= count]
    if not inside:
        with pytest.raises(ParseError):
            parse_permutation(text, count)
        return
    first = list(dict.fromkeys(inside))
    rest = [i for i in range(count) if i not in first]
    parsed = parse_permutation(text, count)
    assert list(parsed.order) == first + rest
    expected = {
        "missing": len(rest),
        "duplicate": len(inside) - len(first),
        "out of range": len(ids) - len(inside),
    }
    assert parsed.mends == {kind: number for kind, number in expected.items() if number}


SHORT = st.lists(
    # five at most of ten, so that no chain names more than half
    st.permutations(range(10)).flatmap(lambda p: st.integers(2, 5).map(lambda n: p[:n])),
    min_size=1,
    max_size=5,
)


@given(SHORT, st.sampled_from([" > ", ", ", " "]))
def test_of_several_short_answers_the_longest_counts_the_last_of_equals(
    orders: list[list[int]], between: str
) -> None:
    said = [between.join(f"[{i + 1}]" for i in order) for order in orders]
    found = parse_permutation(" and then, which may be, ".join(said), 10).order
    longest = max(map(len, orders))
    expected = [order for order in orders if len(order) == longest][-1]
    assert list(found[:longest]) == expected


@given(SHORT)
def test_of_several_lines_of_bare_numbers_too(orders: list[list[int]]) -> None:
    said = [" > ".join(str(i + 1) for i in order) for order in orders]
    parsed = parse_permutation("\n".join(said), 10)
    longest = max(map(len, orders))
    expected = [order for order in orders if len(order) == longest][-1]
    assert list(parsed.order[:longest]) == expected
    assert parsed.mends["no brackets"] == 1


@pytest.mark.parametrize(
    ("text", "count", "order", "mends"),
    [
        # the last complete chain counts, a remark behind it does not
        ("[1] > [2] > [3]. On second thought, [3] > [1] > [2]", 3, [3, 1, 2], {}),
        ("[4] > [2] > [1] > [3]. In short, [4] > [3].", 4, [4, 2, 1, 3], {}),
        ("[2] > [1] > [4] > [3]. Mind that [4] > [3].", 4, [2, 1, 4, 3], {}),
        ("First [1] > [2]. Better: [3] > [1]", 3, [3, 1, 2], {"missing": 1}),
        # candidates that are only listed are no ranking where a chain follows
        ("[1], [2], [3], [4], [5] are on the topic. Best: [5] > [2]", 5, [5, 2, 1, 3, 4], 3),
        ("[1] a\n[2] b\n[3] c\n[4] d\nso [4] > [2]", 4, [4, 2, 1, 3], 2),
        # behind the last heading even a short answer is the answer
        ("[1] > [2] > [3] > [4]\n### Final Reranking:\n[3] > [1]", 4, [3, 1, 2, 4], 2),
        ("[1] > [2] > [3]\n### Final\n[2]", 3, [2, 1, 3], 2),
        ("[1] > [2]\nFinal ranking: 2 > 1", 2, [2, 1], {"no brackets": 1}),
        ("[1] > [2]\n<answer>[2] > [1]</answer> as [1] > [2] is wrong", 2, [2, 1], {}),
        ("[2] > [1] > [3]\nFinal thoughts: [3] is bad", 3, [2, 1, 3], {}),
        ("[2] > [1] > [3]\nFinal answer: see above", 3, [2, 1, 3], {}),
        ("3 > 1 > 2", 3, [3, 1, 2], {"no brackets": 1}),
        ("Ranking: 3, 1, 2.", 3, [3, 1, 2], {"no brackets": 1}),
        ("[3, 1, 2]", 3, [3, 1, 2], {"no brackets": 1}),
        ("Passage 3 > Passage 1 > Passage 2", 3, [3, 1, 2], {"no brackets": 1}),
        ("3 > 1 >", 3, [3, 1, 2], {"no brackets": 1, "cut off": 1, "missing": 1}),
        ("[2] > [3] > [1", 3, [2, 3, 1], {"missing": 1, "cut off": 1}),
        ("[2] > [3] >", 3, [2, 3, 1], {"missing": 1, "cut off": 1}),
        ("The best one is [3], of 2019.", 3, [3, 1, 2], 2),
        ("[1998] > [2]", 3, [2, 1, 3], {"out of range": 1, "missing": 2}),
        ("<think>\n\n</think>\n[2] > [1]", 2, [2, 1], {}),
    ],
)
def test_known_answers(text: str, count: int, order: list[int], mends: Any) -> None:
    parsed = parse_permutation(text, count)
    assert [i + 1 for i in parsed.order] == order
    assert parsed.mends == (mends if isinstance(mends, dict) else {"missing": mends})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20 passages are provided, so the ranking should be from 1 to 20.",
        "In 1998, 12 > 3 was known; step 3 of 20.",
        "2019, 2020, 2021",
        "[] > []",
        "[21] > [22]",
        "<think>[1] > [2] > [3]",
        "[1] > [2] > [3]</think>I can not tell.",
        "Step 1: [1] > [2] > [3]\n### Final Reranking:\n",
    ],
)
def test_no_identifier_is_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError):
        parse_permutation(text, 20)


def test_long_answers_are_read_fast() -> None:
    for piece in ("[1] > ", "[ ", "1. ", "> ", "[1", "<think>", "\n", "1, ", "passage "):
        with_rank = piece * 20_000 + "\n[2] > [1]"
        try:
            parse_permutation(with_rank, 2)
        except ParseError:
            assert "think" in piece


@pytest.mark.parametrize("name", LISTWISE_PROMPTS)
def test_prompts_number_the_passages_and_hold_no_other_identifier(name: str) -> None:
    prompt = LISTWISE_PROMPTS[name].render(
        QUERY, passages("one [2] two", "{query} {i}", "three\n\nlines [99]", "four")
    )
    text = "\n".join(text for _, text in prompt.messages)
    assert "who reads (1)?" in text
    assert "one (2) two" in text
    second, third, fourth = prompt.identifiers[1:4]
    if prompt.pieces is None:
        assert f"[{second}] {{query}} {{i}}" in text
        assert f"[{third}] three lines (99)" in text
        assert f"[{fourth}] > [{second}]" in text
    else:  # the identifier comes behind its passage, and nobody is told what to answer
        assert f"{{query}} {{i}} [{second}]" in text
        assert f"three lines (99) [{third}]" in text
    assert "[99]" not in text
    assert prompt.messages[-1][0] == "user"
    assert [p.id for p in prompt.passages] == ["0", "1", "2", "3"]


def test_two_passages_are_shown_no_fourth() -> None:
    prompt = LISTWISE_PROMPTS["rankvicuna"].render(QUERY, passages("a", "b"))
    assert "[4]" not in prompt.messages[-1][1]
    assert "2 passages" in prompt.messages[-1][1]


def test_titles_come_first_and_long_passages_are_cut() -> None:
    template = ListwisePrompt(before="", after="{query}", max_words=3)
    prompt = template.render(QUERY, [Passage(id="1", title="T", text="a b c d")])
    assert prompt.messages == (("user", "[1] T a b\nwho reads (1)?"),)
    assert clean(" a  b\n[3] ", 2) == "a b"


def test_recorded_prompts_are_rendered_to_the_letter(shared_data: Path) -> None:
    for record in recorded(shared_data, "rankvicuna-7b"):
        texts, query = _passages(record["prompt"]), Query(id=record["qid"], text=record["query"])
        prompt = LISTWISE_PROMPTS["rankvicuna"].render(query, passages(*texts))
        (_, system), (_, user) = prompt.messages
        # a passage of one query holds a line end, which ours does not keep
        assert f"{system} USER: {user} ASSISTANT:".split() == record["prompt"].split()


def test_recorded_turns_are_rendered_to_the_letter(shared_data: Path) -> None:
    compared = 0
    for record in recorded(shared_data, "vicuna-7b-v1.5"):
        texts, query = _turns(record["prompt"]), Query(id=record["qid"], text=record["query"])
        if any(re.search(r"\[[0-9]+\]|\s\s", text) for text in texts):
            continue  # their passages kept what looks like an identifier; ours do not
        prompt = LISTWISE_PROMPTS["rankgpt"].render(query, passages(*texts))
        parts = [prompt.messages[0][1].replace("RankGPT", "Vicuna")]
        for role, text in prompt.messages[1:]:
            parts.append(f" USER: {text}" if role == "user" else f" ASSISTANT: {text}</s>")
        joined = "".join(parts).replace("</s> USER", "</s>USER").replace("[4] > [2]", "[1] > [2]")
        assert joined == record["prompt"]
        compared += 1
    assert compared > 300


def _passages(prompt: str) -> list[str]:
    body = prompt.split("\n\n", 1)[1].rsplit("\nSearch Query: ", 1)[0]
    return re.split(r"\n\[[0-9]+\] ", "\n" + body)[1:]


def _turns(prompt: str) -> list[str]:
    turns = prompt.split("</s>USER: ")[1:-1]
    return [t.split("] ", 1)[1].split(" ASSISTANT: Received passage [")[0] for t in turns]


def test_every_recorded_malformed_answer_becomes_a_permutation(shared_data: Path) -> None:
    mends: Counter[str] = Counter()
    windows: Counter[str] = Counter()
    for name in ("vicuna-7b-v1.5", "vicuna-13b-v1.5"):
        for record in recorded(shared_data, name):
            windows["all"] += 1
            try:
                parsed = parse_permutation(record["response"], 20)
            except ParseError:
                windows["parse error"] += 1
                assert "[1]" not in record["response"]
                continue
            assert sorted(parsed.order) == list(range(20))
            mends.update(parsed.mends)
            windows["clean"] += not parsed.mends
            windows["complete"] += parsed.complete
    # the 13 B model answered "20 passages are provided." to almost everything
    assert windows == {"all": 774, "parse error": 387, "clean": 366, "complete": 366}
    assert mends == {"missing": 191, "duplicate": 23, "cut off": 2}


def test_every_recorded_good_answer_needs_no_mend(shared_data: Path) -> None:
    for record in recorded(shared_data, "rankvicuna-7b"):
        parsed = parse_permutation(record["response"], 20)
        assert parsed.mends == {}
        assert chain(parsed.order) == record["response"]


def test_a_recorded_answer_is_read_out_of_any_reasoning(shared_data: Path) -> None:
    draw = random.Random(0)
    for record in recorded(shared_data, "rankvicuna-7b"):
        thought = "\n".join(draw.choices(THOUGHTS, k=3))
        text = f"{thought}\n### Final Reranking:\n{record['response']}"
        assert chain(parse_permutation(text, 20).order) == record["response"]


def test_a_word_without_an_end_leaves_room_for_the_others() -> None:
    endless = Passage(id="long", text="x" * 100_000 + " end")
    others = [Passage(id=str(i), text=f"passage {i}") for i in range(3)]
    window = LISTWISE_PROMPTS["list"].render(Query(id="q", text="what?"), [endless, *others])
    text = window.messages[-1][1]
    assert len(text) < 2000
    assert " end" in text
    assert "passage 2" in text
