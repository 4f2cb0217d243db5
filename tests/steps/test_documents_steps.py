"""Documents to passages, called from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import dear, good, refused

from dear import Passage, Reranker, steps
from dear.data.collections import open_collection
from dear.data.formats import read_run, write_beir
from dear.data.origins import read_origin
from dear.records import Query
from dear.steps.options import ModelOptions, RankOptions, RetrieveOptions, SplitOptions

FLOAT32 = ModelOptions(dtype="float32", device="cpu")


def facts(animal: str, count: int = 12) -> str:
    rest = " ".join(f"Fact {n} of the {animal} is about nothing much at all." for n in range(count))
    return f"{rest} The {animal} eats what a {animal} eats."


@pytest.fixture
def pages(tmp_path: Path) -> str:
    """Long documents, one of which is called like a passage of another."""
    documents = [
        Passage(id=i, title=f"All about the {animal}", text=facts(animal))
        for i, animal in (("a", "owl"), ("a#1", "bee"), ("b", "cow"))
    ]
    documents.append(Passage(id="short", text="Nothing."))
    queries = {i: Query(id=i, text=f"what eats a {i}") for i in ("owl", "bee", "cow")}
    grades = {"owl": {"a": 1}, "bee": {"a#1": 1}, "cow": {"b": 1}}
    folder = tmp_path / "pages"
    write_beir(folder, corpus=documents, queries=queries.values(), judgements={"test": grades})
    return str(folder)


@pytest.mark.usefixtures("silent")
def test_documents_are_split_retrieved_and_ranked(
    pages: str, reranker: str, tmp_path: Path
) -> None:
    output = tmp_path / "split"
    options = SplitOptions(collection=pages, output=output, model=reranker, tokens=40, overlap=12)
    found = steps.split.split(options)
    assert (found.documents, found.divided) == (4, 3)
    made = open_collection(output)
    assert len(made.corpus) == found.passages > 12
    assert made.documents is not None
    # no passage of `a` may be called `a#1`
    assert made.documents["a##1"] == "a"
    assert made.documents["a#1##2"] == "a#1"
    assert {p.title for i, p in made.corpus.items() if made.documents[i] == "a"} == {
        "All about the owl"
    }
    assert made.judgements("test") == open_collection(pages).judgements("test")
    note = json.loads((output / "split.json").read_text("utf-8"))
    assert note["model"] == reranker
    assert set(note["inputs"]) >= {"corpus", "tokenizer"}

    first = tmp_path / "first.trec"
    steps.retrieve.retrieve(RetrieveOptions(collection=str(output), output=first))
    ranked = tmp_path / "ranked.trec"
    common = {"collection": str(output), "run": str(first), "model": reranker}
    best = steps.rank.rank(
        RankOptions(**common, output=ranked, aggregate="max", model_options=FLOAT32)  # type: ignore[arg-type]
    )
    plain = steps.rank.rank(
        RankOptions(**common, output=tmp_path / "plain.trec", model_options=FLOAT32)  # type: ignore[arg-type]
    )
    for query, ranking in best.run.items():
        assert set(ranking.passage_ids) <= {"a", "a#1", "b", "short"}
        passages = plain.run[query]
        assert ranking.scores[0] == passages.scores[0]
        assert ranking.passages[0].text == passages.passages[0].text
    assert set(read_run(ranked)) == set(best.run)
    origin = read_origin(ranked)
    assert origin is not None
    assert origin.values["aggregate"] == "max"


def test_documents_are_measured(pages: str, reranker: str, tmp_path: Path) -> None:
    output, first, ranked = tmp_path / "split", tmp_path / "first.trec", tmp_path / "ranked.trec"
    good("split", pages, "--output", output, "--model", "words", "--tokens", 40)
    good("retrieve", output, "--output", first)
    rank = ("rank", output, "--run", first, "--model", reranker, "--output", ranked)
    good(*rank, "--aggregate", "max", "--fuse", "0.5")
    evaluate = ("evaluate", output, "--run", ranked, "--json", "-")
    report = json.loads(good(*evaluate, "--aggregate", "max"))
    means = {run["name"]: run["means"]["nDCG@10"] for run in report["runs"]}
    assert means["first"] > 0.9
    assert not report["not_compared"]
    assert "holds passages of documents" in dear(*evaluate).err
    assert "max" in refused(*evaluate, "--aggregate", "mean")
    assert "max" in refused(*rank, "--aggregate", "sum")


def test_the_same_from_python(reranker: str) -> None:
    passages = [Passage(id=f"{a}#{n}", text=facts(a, n)) for a in ("owl", "cow") for n in (1, 2)]
    one = Reranker({"model": reranker, "aggregate": "max"}, dtype="float32", device="cpu")
    each = Reranker(reranker, dtype="float32", device="cpu")
    found = one.rank("what eats the owl", passages)
    best = each.rank("what eats the owl", passages)
    assert sorted(found.passage_ids) == ["cow", "owl"]
    assert found.scores[0] == best.scores[0]
    assert found.to_list()[0]["corpus_id"] == best.positions[0]
    assert len(one.rank("what eats the owl", passages, top_k=1)) == 1
    assert one.score([("owl", "cow")]) == each.score([("owl", "cow")])


def test_what_cannot_be_split_is_refused_in_one_line(
    pages: str, animals: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    write_beir(
        empty, corpus=[Passage(id="a", text=" ")], queries=[Query(id="q", text="is it there")]
    )
    new = tmp_path / "new"
    assert "no document has a text" in refused("split", empty, "--output", new)
    assert "is what would be read" in refused("split", pages, "--output", pages)
    assert "holds a collection already" in refused("split", animals, "--output", pages)
    assert "half" in refused("split", pages, "--output", new, "--tokens", 10, "--overlap", 9)
    assert "no model" in refused("split", pages, "--output", new, "--model", "nowhere")
    (tmp_path / "none").mkdir()
    assert "holds no corpus" in refused("split", tmp_path / "none", "--output", new)


def test_a_collection_without_queries_and_with_an_endless_word(tmp_path: Path) -> None:
    folder, output = tmp_path / "mine", tmp_path / "out"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "one word.txt").write_text("x" * 100_000, "utf-8")
    good("split", folder, "--output", output, "--model", "minilm-l6")
    made = open_collection(output)
    assert max(len(p.text) for p in made.corpus.values()) <= 192 * 24
    assert set(made.documents or {}) == set(made.corpus)
    assert set((made.documents or {}).values()) == {"one%20word.txt"}
    # made once more in its own folder
    good("split", folder, "--output", output, "--model", "words", "--tokens", 100)


def test_passages_that_are_cut_are_told_of_with_their_share(
    pages: str, animals: str, tmp_path: Path
) -> None:
    first, output = tmp_path / "first.trec", tmp_path / "ranked.trec"
    good("retrieve", pages, "--output", first)
    rank = ("rank", pages, "--run", first, "--output", output, "--model", "biencoder:minilm-l6")
    assert "read" not in dear(*rank).err
    long = tmp_path / "long"
    grades = {"test": {"q": {"a": 1}}}
    write_beir(
        long,
        corpus=[Passage(id=i, text=facts("owl", 99)) for i in "ab"],
        queries=[Query(id="q", text="what eats an owl")],
        judgements=grades,
    )
    good("retrieve", long, "--output", first)
    said = dear("rank", long, "--run", first, "--output", output, *rank[-2:]).err
    assert (
        f"100% of the passages to their end (of 2 that were looked at); `dear split {long}" in said
    )
