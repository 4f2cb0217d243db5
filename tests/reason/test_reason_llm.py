"""A language model writes thought and order: asked once each, then selected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, completion, failure, right_answer
from command_line import Done, contents, dear, read, write_animals, write_reranker

from dear.data.formats import read_lists


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_animals(tmp_path_factory.mktemp("collections") / "animals")


def reason(animals: Path, folder: Path, server: ChatServer, *more: object) -> Done:
    return dear(
        *("reason", animals, "--run", "bm25", "--llm", server.url, "-o", folder),
        *("--size", "4-6", "--examples", 4, "--leak-passages", "none", *more),
    )


def sensible(body: dict[str, Any], _: int) -> str:
    """The passage that says what the query asks for comes first, and is cited."""
    text = body["messages"][-1]["content"]
    verb = re.search(r"Query: how does the (\w+) eat", text)
    assert verb
    passages = re.findall(r"^\[([0-9]+)\] (.*)$", text, re.MULTILINE)
    hits = [i for i, words in passages if words.startswith(f"The {verb[1]} eats")]
    order = [*hits, *(i for i, _ in passages if i not in hits)]
    chain = " > ".join(f"[{i}]" for i in order)
    return f"Food is asked for, and passage {order[0]} says it.\n### Final Reranking:\n{chain}"


def test_thought_and_order_are_its(animals: Path, tmp_path: Path) -> None:
    with ChatServer(sensible) as server:
        done = reason(animals, tmp_path / "set", server, "--keep-ndcg", 1.0)
    assert done.status == 0, done.err
    assert "32 answers asked for; 3,200 tokens in, 320 out in all" in done.out
    examples = list(read_lists(tmp_path / "set" / "examples.jsonl"))
    assert len(examples) == 32 == len(server.requests)
    for example in examples:
        best = example.order[0]
        assert example.passages[best].id == f"{example.query.id.removeprefix('eat-')}-eat"
        assert example.thought == f"Food is asked for, and passage [{best + 1}] says it."
        assert example.scores is None
    report = read(tmp_path / "set" / "report.json")
    assert report["generator"]["kind"] == "llm"
    assert report["generator"]["prompt_tokens"] == 3200


def test_what_it_gets_wrong_is_dropped(animals: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], before: int) -> Any:
        return {
            0: completion("no idea"),
            1: completion("[1] > [2] >", finish="length"),
            2: completion("[1] > [2]"),
            3: completion("as [9] says\n" + right_answer(body)),
            4: completion(" > ".join(sensible(body, 0).rsplit("\n", 1)[1].split(" > ")[::-1])),
            5: completion(None),
        }.get(before, sensible(body, before))

    (tmp_path / "slow.toml").write_text("")
    with ChatServer(reply) as server:
        options = f'base_url = "{server.url}"\nmodel = "m"\nconcurrency = 1\n'
        (tmp_path / "slow.toml").write_text(options)
        words = ("--llm", f"backend:{tmp_path / 'slow.toml'}", "--keep-ndcg", 0.9)
        done = reason(animals, tmp_path / "set", server, *words)
    assert done.status == 0, done.err
    assert read(tmp_path / "set" / "report.json")["dropped"] == {
        "cut off": 1,
        "disagrees": 1,
        "incomplete": 1,
        "no ranking": 2,
        "unknown identifier": 1,
    }
    assert "26 examples of" in done.out


def test_a_thought_that_comes_apart_is_kept(animals: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], before: int) -> Any:
        chain = sensible(body, before).rsplit("\n", 1)[1]
        return completion(chain, reasoning_content="I took [1] and document 2.")

    with ChatServer(reply) as server:
        assert reason(animals, tmp_path / "set", server).status == 0
    thoughts = {e.thought for e in read_lists(tmp_path / "set" / "examples.jsonl")}
    assert thoughts == {"I took [1] and document [2]."}


def test_a_teacher_agrees_or_not(animals: Path, tmp_path: Path) -> None:
    teacher = write_reranker(tmp_path / "teacher")
    with ChatServer(sensible) as server:
        words = ("--teacher", teacher, "--dtype", "float32", "--keep-tau", 0.0)
        done = reason(animals, tmp_path / "set", server, *words)
    assert done.status == 0, done.err
    dropped = read(tmp_path / "set" / "report.json")["dropped"]
    assert 0 < dropped["disagrees"] < 32
    for example in read_lists(tmp_path / "set" / "examples.jsonl"):
        assert example.scores is not None


def test_a_run_that_failed_goes_on_and_pays_nothing_twice(animals: Path, tmp_path: Path) -> None:
    with ChatServer(sensible) as server:
        assert reason(animals, tmp_path / "whole", server).status == 0
        port = server.port

    def fails(body: dict[str, Any], before: int) -> Any:
        return sensible(body, before) if before < 11 else failure(401, "no more money")

    with ChatServer(fails, port=port) as poor:
        done = reason(animals, tmp_path / "set", poor)
    assert done.status == 2
    assert "the same command goes on" in done.err
    assert not (tmp_path / "set" / "report.json").exists()
    with ChatServer(sensible, port=port) as server:
        done = reason(animals, tmp_path / "set", server)
        assert done.status == 0, done.err
    paid = server.answered + poor.answered
    assert len(paid) == 32
    assert set(paid.values()) == {1}
    assert f"{sum(poor.answered.values())} kept from before" in done.out

    def finished(folder: Path) -> dict[str, bytes]:
        return {k: v for k, v in contents(folder).items() if k != "answers.jsonl"}

    assert finished(tmp_path / "set") == finished(tmp_path / "whole")
    held = [
        sorted(json.loads(line).get("key", "") for line in file.read_text().splitlines())
        for file in (tmp_path / "set" / "answers.jsonl", tmp_path / "whole" / "answers.jsonl")
    ]
    assert held[0] == held[1]
