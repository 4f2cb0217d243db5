"""Queries made from documents, called from Python and from the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import dear, good, refused

from dear import Passage, Query, steps
from dear.backends import Completion, OnAnswer, Price
from dear.data.collections import open_collection
from dear.data.formats import write_beir, write_corpus
from dear.errors import ConfigError, DataError
from dear.prompts.listwise import WindowPrompt
from dear.records import MADE, MADE_SPLIT
from dear.steps import queries as step
from dear.steps.options import ModelOptions, QueriesOptions
from dear.steps.query_splits import split_queries

ANIMALS = {
    "otter": "fish and crabs",
    "panda": "bamboo",
    "koala": "eucalyptus leaves",
    "owl": "mice and voles",
    "whale": "krill",
    "bee": "nectar and pollen",
}


@pytest.fixture
def zoo(tmp_path: Path) -> str:
    corpus = [
        Passage(id=a, title=f"The common {a}", text=f"Every {a} likes to eat {food} in summer.")
        for a, food in ANIMALS.items()
    ]
    asked = [Query(id="1", text="the common owl"), Query(id="2", text="what does a bee eat")]
    grades = {"dev": {"2": {"bee": 1}}, "test": {"1": {"owl": 1}}}
    folder = tmp_path / "zoo"
    write_beir(
        folder, corpus=[*corpus, Passage(id="no", text="")], queries=asked, judgements=grades
    )
    return str(folder)


@pytest.mark.usefixtures("silent")
def test_queries_by_rule_become_a_collection(zoo: str, tmp_path: Path) -> None:
    output = tmp_path / "made"
    found = steps.queries.make_queries(QueriesOptions(collection=zoo, output=output, per_passage=2))
    assert found.passages == 6
    assert found.dropped["like a test query"] == 1
    assert len(found.kept) == 11
    collection = open_collection(output)
    queries = collection.queries(MADE_SPLIT)
    judgements = collection.judgements(MADE_SPLIT)
    assert set(queries) == set(judgements)
    assert all(query_id.startswith(f"{MADE}rule:") for query_id in queries)
    assert "the common owl" not in {query.text.lower() for query in queries.values()}
    for one in found.kept:
        assert judgements[one.query.id] == {one.passage_id: 1}
    # what was there before
    assert collection.judgements("test") == {"1": {"owl": 1}}
    assert collection.queries("test")["1"].text == "the common owl"
    assert collection.corpus == open_collection(zoo).corpus
    note = json.loads((output / "qrels" / "made.json").read_text("utf-8"))
    assert (note["made"], note["queries"]) == ("rule", 11)
    assert "not to evaluate on" in note["about"]
    rows = [json.loads(line) for line in (output / "queries.jsonl").read_text().splitlines()]
    assert {row["metadata"]["made"] for row in rows if row["_id"].startswith(MADE)} == {"rule"}
    # once more, from what was made: the made ones are made anew
    again = tmp_path / "again"
    steps.queries.make_queries(QueriesOptions(collection=str(output), output=again, per_passage=2))
    assert open_collection(again).queries() == collection.queries()


@pytest.mark.usefixtures("silent")
def test_distillation_trains_on_them_and_tests_on_others(zoo: str, tmp_path: Path) -> None:
    output = tmp_path / "made"
    steps.queries.make_queries(QueriesOptions(collection=zoo, output=output))
    split = split_queries(open_collection(output), None, 0)
    assert all(query_id.startswith(MADE) for query_id in split.train)
    assert set(split.test) == {"1"}
    assert split.train_judgements is not None


def test_without_any_query_they_are_tested_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = tmp_path / "bare", tmp_path / "made"
    write_corpus(
        folder / "corpus.jsonl",
        [
            Passage(id=f"{a}-{b}", text=f"The {a} {b} likes to eat {food}.")
            for a, food in ANIMALS.items()
            for b in ("cub", "hunter", "mother", "of the north")
        ],
    )
    steps.queries.make_queries(QueriesOptions(collection=str(folder), output=output))
    with caplog.at_level(logging.WARNING):
        split = split_queries(open_collection(output), None, 0)
    assert "were made from documents" in caplog.text
    assert not set(split.train) & set(split.test)
    assert set(split.train) == set(split.train_judgements or ())


class Writer:
    """A language model that asks what the animal of a document eats."""

    name = "writer"
    price = Price(tokens_in=1.0, tokens_out=1.0)

    def __init__(self) -> None:
        self.prompts: list[WindowPrompt] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.name}

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        self.prompts += prompts
        asked = [p.passages[0].id for p in prompts]
        texts = ["" if a == "whale" else f"Query: what does every {a} like" for a in asked]
        return [Completion(text=t, prompt_tokens=10, completion_tokens=5) for t in texts]


@pytest.mark.usefixtures("silent")
def test_a_language_model_writes_them_and_is_asked_once(
    zoo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer()
    monkeypatch.setattr(step, "open_backend", lambda name: writer)
    options = QueriesOptions(
        collection=zoo,
        output=tmp_path / "made",
        llm="openai:writer",
        examples="dev",
        teacher="biencoder:minilm-l6",
        model_options=ModelOptions(device="cpu", dtype="float32"),
    )
    found = steps.queries.make_queries(options)
    assert found.unreadable == 1
    assert {one.made for one in found.kept} == {"llm"}
    assert {one.passage_id for one in found.kept} <= set(ANIMALS)
    assert len(found.kept) + found.dropped.total() == 5
    assert found.usage is not None
    assert (found.usage.asked, found.usage.kept) == (6, 0)
    # the examples are the collection's own
    assert writer.prompts[0].messages[1] == ("assistant", "what does a bee eat")
    assert found.ledger == tmp_path / "made" / "answers.jsonl"
    again = steps.queries.make_queries(options)
    assert again.usage is not None
    assert (again.usage.asked, again.usage.kept) == (0, 6)
    note = json.loads((tmp_path / "made" / "qrels" / "made.json").read_text("utf-8"))
    assert note["made"] == "llm"
    assert {"model", "contract", "corpus", "queries"} <= set(note["inputs"])


def test_a_local_model_that_writes_nothing_useful(zoo: str, tmp_path: Path) -> None:
    from tiny_lists import save_language_model

    model = save_language_model(tmp_path / "random")
    options = {"collection": zoo, "output": tmp_path / "made", "passages": 2}
    with pytest.raises(DataError, match="no query is left"):
        steps.queries.make_queries(QueriesOptions(**options, llm=f"local:{model}"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="#text"):
        steps.queries.make_queries(QueriesOptions(**options, llm=f"local:{model}#first"))  # type: ignore[arg-type]


def test_from_the_command_line_and_never_evaluated_in_silence(zoo: str, tmp_path: Path) -> None:
    output, run = tmp_path / "made", tmp_path / "made.trec"
    said = dear("queries", zoo, "--output", output).err.splitlines()
    assert said[0] == "1 query dropped (like a test query 1)"
    assert said[1].endswith("5 queries made from 6 passages; to train on, not to evaluate on")
    good("retrieve", output, "--split", "made", "--output", run)
    done = dear("evaluate", output, "--split", "made", "--run", run)
    assert done.status == 0
    assert "were made from documents" in done.err
    assert "made from" not in dear("evaluate", zoo, "--split", "dev", "--run", run).err
    good("report", tmp_path / "r.md", output, "--split", "made", "--run", run)
    assert "made from documents" in (tmp_path / "r.md").read_text("utf-8")
    file = tmp_path / "made.jsonl"
    good("queries", zoo, "--output", file, "--kinds", "title")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {row["metadata"]["kind"] for row in rows} == {"title"}
    assert {row["metadata"]["passage"] for row in rows} == set(ANIMALS) - {"owl"}


def test_what_cannot_be_is_refused_in_one_line(zoo: str, tmp_path: Path) -> None:
    make = ("queries", zoo, "--output", tmp_path / "made")
    assert "did you mean 'title'" in refused(*make, "--kinds", "titel")
    assert "for an --llm" in refused(*make, "--examples", "dev")
    assert "test queries" in refused(*make, "--llm", "local:x", "--examples", "test")
    assert "--teacher" in refused(*make, "--margin", 1)
    assert "unknown backend" in refused(*make, "--llm", "nobody:x")
    assert "holds a collection already" in refused("queries", "pydocs", "--output", zoo)
    assert "is what would be read" in refused("queries", zoo, "--output", zoo)
    empty = tmp_path / "empty"
    write_corpus(empty / "corpus.jsonl", [Passage(id="a", text="")])
    assert "no document has a text" in refused("queries", empty, "--output", tmp_path / "new")
    (tmp_path / "dull").mkdir()
    write_corpus(tmp_path / "dull" / "corpus.jsonl", [Passage(id="a", text="x" * 9_999)])
    line = refused("queries", tmp_path / "dull", "--output", tmp_path / "new")
    assert "no query is left: none could be made from 1 passages" in line
