"""Recorded answers: which window a row is about, whatever was done to its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dear.backends import Completion, open_backend
from dear.backends.replay import Replay, passages_in, text_key
from dear.errors import BackendError, ConfigError, DataError
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.records import Passage, Query

QUERY = Query(id="q1", text="Who eats bamboo?")
PANDA = Passage(id="panda", text="The panda eats bamboo, and little else than that, all day.")
OTTER = Passage(
    id="otter", title="Otters", text="An otter [3] can’t live without fish &amp; rivers."
)
BEE = Passage(id="bee", text="Bees.")


def ask(*passages: Passage, query: Query = QUERY, prompt: str = "rankvicuna") -> WindowPrompt:
    return LISTWISE_PROMPTS[prompt].render(query, passages)


def as_text(prompt: WindowPrompt) -> str:
    names = {"system": "", "user": "USER: ", "assistant": "ASSISTANT: "}
    return " ".join(names[role] + text for role, text in prompt.messages)


def row(prompt: WindowPrompt, response: str, **more: Any) -> dict[str, Any]:
    return {
        "qid": prompt.query.id,
        "query": prompt.query.text,
        "prompt": as_text(prompt),
        "response": response,
        **more,
    }


def replay(tmp_path: Path, *rows: dict[str, Any], name: str = "answers.jsonl") -> Replay:
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Replay(path)


@pytest.mark.parametrize("recorded", ["rankvicuna", "rankgpt"])
@pytest.mark.parametrize("asked", ["rankvicuna", "rankgpt", "reasoning"])
def test_a_window_is_known_by_its_passages_whatever_the_words_around_them(
    tmp_path: Path, recorded: str, asked: str
) -> None:
    backend = replay(
        tmp_path,
        row(ask(PANDA, OTTER, prompt=recorded), "[2] > [1]"),
        row(ask(PANDA, BEE, prompt=recorded), "[1] > [2]"),
    )
    prompts = [ask(PANDA, BEE, prompt=asked), ask(PANDA, OTTER, prompt=asked)]
    assert [c.text for c in backend.generate(prompts)] == ["[1] > [2]", "[2] > [1]"]


def test_the_query_decides_too(tmp_path: Path) -> None:
    other = Query(id="q2", text=QUERY.text)
    backend = replay(
        tmp_path,
        row(ask(PANDA, OTTER), "[2] > [1]"),
        row(ask(PANDA, OTTER, query=other), "[1] > [2]"),
    )
    assert backend.generate([ask(PANDA, OTTER, query=other)])[0].text == "[1] > [2]"


def test_mended_and_cut_texts_are_known(tmp_path: Path) -> None:
    broken = Passage(id="x", text="It isnâ€™t 70Â° â€” a scientiﬁc ï¬\x81nding &#39;of&#39; this")
    mended = Passage(id="y", text="It isn't 70° - a scientific finding 'of' this")
    assert text_key(broken.text) == text_key(mended.text)
    cut = Passage(id="z", text=" ".join(PANDA.text.split()[:10]))
    backend = replay(tmp_path, row(ask(cut, mended), "[2] > [1]"))
    assert backend.generate([ask(PANDA, broken)])[0].text == "[2] > [1]"


def test_a_short_passage_is_not_taken_for_the_beginning_of_another(tmp_path: Path) -> None:
    bees = Passage(id="bees", text="Bees. They fly.")
    backend = replay(tmp_path, row(ask(PANDA, BEE), "[2] > [1]"))
    with pytest.raises(BackendError, match="no answer was recorded for the window"):
        backend.generate([ask(PANDA, bees)])


def test_another_order_is_answered_with_its_own_identifiers(tmp_path: Path) -> None:
    backend = replay(tmp_path, row(ask(PANDA, OTTER, BEE), "[2] > [3] > [1], not [7]"))
    (answer,) = backend.generate([ask(BEE, PANDA, OTTER)])
    assert answer.text == "[3] > [1] > [2], not [7]"
    assert backend.generate([ask(PANDA, OTTER, BEE)])[0].text == "[2] > [3] > [1], not [7]"


def test_the_first_of_two_recordings_answers(tmp_path: Path) -> None:
    window = ask(PANDA, OTTER)
    backend = replay(tmp_path, row(window, "[2] > [1]"), row(window, "[1] > [2]"))
    assert [c.text for c in backend.generate([window, window])] == ["[2] > [1]"] * 2


def test_rows_without_an_id_go_by_the_text_of_the_query(tmp_path: Path) -> None:
    recorded = row(ask(PANDA, OTTER), "[2] > [1]")
    del recorded["qid"]
    backend = replay(tmp_path, recorded)
    assert backend.generate([ask(PANDA, OTTER)])[0].text == "[2] > [1]"


def test_a_history_of_a_query_is_read(tmp_path: Path) -> None:
    window = ask(PANDA, OTTER)
    messages = [{"role": role, "content": text} for role, text in window.messages]
    history = [
        {
            "prompt": messages,
            "response": "[2] > [1]",
            "input_token_count": 90,
            "output_token_count": 7,
        }
    ]
    path = tmp_path / "history.json"
    query = {"text": QUERY.text, "qid": QUERY.id}
    path.write_text(json.dumps([{"query": query, "invocations_history": history}]))
    assert Replay(path).generate([window]) == [
        Completion(text="[2] > [1]", prompt_tokens=90, completion_tokens=7)
    ]


def test_what_was_not_recorded_is_named(tmp_path: Path) -> None:
    backend = replay(tmp_path, row(ask(PANDA, OTTER), "[2] > [1]"))
    with pytest.raises(BackendError, match=r"query 'q1'.* 2 passages from 'panda' to 'bee' \(1 ot"):
        backend.generate([ask(PANDA, BEE)])
    with pytest.raises(BackendError, match=r"query 'q9'.*0 others"):
        backend.generate([ask(PANDA, OTTER, query=Query(id="q9", text="what?"))])


def test_broken_files_are_named(tmp_path: Path) -> None:
    good = row(ask(PANDA, OTTER), "[2] > [1]")
    with pytest.raises(DataError, match=r"answers\.jsonl:2: no passages \[1\]"):
        replay(tmp_path, good, good | {"prompt": "Rank these 3 passages."})
    with pytest.raises(DataError, match=r"answers\.jsonl:1: no 'response'"):
        replay(tmp_path, {k: v for k, v in good.items() if k != "response"})
    with pytest.raises(DataError, match="cannot be read"):
        open_backend(f"replay:{tmp_path / 'nothing.jsonl'}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("repaly:x.jsonl", "did you mean 'replay'"),
        ("replay", "expected KIND:WHERE"),
        ("replay:", "expected KIND:WHERE"),
    ],
)
def test_unknown_backends_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_backend(name)


def test_an_example_in_the_prompt_is_no_passage() -> None:
    texts = ["a", "b", "c"]
    prompt = ask(*(Passage(id=t, text=t) for t in texts))
    assert passages_in(as_text(prompt).replace("[2] > [1]", "[4] > [2]")) == texts
    assert passages_in("nothing here") == []


@pytest.mark.parametrize("name", ["rankvicuna-7b", "vicuna-7b-v1.5", "vicuna-13b-v1.5"])
def test_every_recorded_prompt_is_read(shared_data: Path, name: str) -> None:
    path = shared_data / "rankllm-listwise-responses" / f"{name}.bm25.dl19.jsonl.gz"
    backend = Replay(path)
    assert backend.name == f"replay:{path}"
    windows = [w for of_query in backend._windows.values() for w in of_query]
    assert len(windows) == 387
    assert {len(w.passages) for w in windows} == {20}
    assert all(all(w.passages) for w in windows)
