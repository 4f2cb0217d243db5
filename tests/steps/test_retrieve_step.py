"""Retrieval called from Python, and refused on the command line."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from command_line import QUERIES, SPLITS, dear, refused, start
from test_ranking_steps import Watched
from tiny_models import bert_tokenizer, make, save, words

from dear import steps
from dear.data.formats import read_run, write_beir
from dear.data.origins import read_origin
from dear.errors import ConfigError, DataError
from dear.records import Passage, Query
from dear.retrieve.blocks import BLOCK
from dear.steps.options import EncoderOptions, RetrieveOptions

TEST = [query for query in QUERIES if query.startswith(SPLITS["test"])]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random ones: a bi-encoder and a masked language model."""
    folder = tmp_path_factory.mktemp("models")
    masked: Any = make("bert", hf.AutoModelForMaskedLM)
    with torch.no_grad():
        masked.cls.predictions.bias -= 3
    dense = save(folder / "dense", make("bert", hf.AutoModel), bert_tokenizer())
    splade = save(folder / "splade", masked, bert_tokenizer())
    return {"dense": f"dense:{dense}", "splade": f"splade:{splade}"}


def encoders(folder: Path) -> EncoderOptions:
    return EncoderOptions(dtype="float32", device="cpu", vectors=folder)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("kind", ["dense", "splade"])
def test_a_model_retrieves(kind: str, models: dict[str, str], animals: str, tmp_path: Path) -> None:
    output, watch = tmp_path / "out.trec", Watched()
    options = RetrieveOptions(
        collection=animals,
        output=output,
        top_k=5,
        retriever=models[kind],
        encoder_options=encoders(tmp_path / "vectors"),
    )
    found = steps.retrieve.retrieve(options, watch=watch)
    assert (list(found.run), found.searched) == (TEST, 8)
    assert all(len(ranking) <= 5 for ranking in found.run.values())
    written = read_run(output, ties="written")
    assert {q: r.passage_ids for q, r in written.items()} == {
        q: r.passage_ids for q, r in found.run.items()
    }
    assert list(found.quality[models[kind]]) == ["R@5", "nDCG@10"]
    assert watch.work == [
        (f"encoding for {models[kind]}", "passages"),
        ("searching", "queries"),
    ]
    origin = read_origin(output)
    assert origin is not None
    assert origin.model is None
    assert origin.values["retriever"] == models[kind]
    reading = models[kind].replace("dense:", "biencoder:")
    assert origin.values[reading]["revision"].startswith("local-")
    assert set(origin.values["inputs"]) == {"corpus", "queries", "model", "contract", "search"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "vectors").rglob("*")}
    assert steps.retrieve.retrieve(options).run == found.run
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "vectors").rglob("*")} == before


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("weights", [None, "1,2,0.5"])
def test_a_hybrid_is_measured_with_its_parts(
    weights: str | None, models: dict[str, str], animals: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.trec"
    options = RetrieveOptions(
        collection=animals,
        output=output,
        top_k=3,
        retriever="hybrid",
        parts=f"bm25,{models['dense']},{models['splade']}",
        weights=weights,
        stemmer="none",
        encoder_options=encoders(tmp_path / "vectors"),
    )
    found = steps.retrieve.retrieve(options)
    assert list(found.quality) == ["bm25", models["dense"], models["splade"], "hybrid"]
    assert all(len(ranking) == 3 for ranking in found.run.values())
    origin = read_origin(output)
    assert origin is not None
    fusion = origin.values["fusion"]
    assert fusion.get("weights") == ([1.0, 2.0, 0.5] if weights else None)
    assert fusion.get("rrf_k") == (None if weights else 60)
    assert origin.values["bm25"]["stemmer"] is None
    assert origin.values["quality"]["hybrid"] == found.quality["hybrid"]


def test_the_command_line_shows_recall(
    models: dict[str, str], animals: str, tmp_path: Path
) -> None:
    words = ("--retriever", "hybrid", "--parts", f"bm25,{models['dense']}", "--top-k", 4)
    where = ("--vectors", tmp_path / "vectors", "--output", tmp_path / "out.trec")
    done = dear("retrieve", animals, *words, "--dtype", "float32", *where)
    assert done.status == 0, done.err
    first, *rows = done.out.splitlines()
    assert "8 queries, 32 passages" in first
    assert [row.split()[0] for row in rows] == ["bm25", models["dense"], "hybrid"]
    assert all(re.search(r" R@4 [01]\.\d{4}  nDCG@10 [01]\.\d{4}$", row) for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--retriever", "dens:x"), r"no retriever 'dens'; did you mean 'dense'"),
        (("--retriever", "dense:nothing"), r"no model 'nothing'"),
        (("--retriever", "splade:nothing"), r"no model 'nothing'"),
        (("--retriever", "hybrid"), r"--parts bm25,dense:minilm-l6"),
        (("--retriever", "dense:minilm-l6", "--k1", "1"), r"--k1 is for bm25"),
        (("--retriever", "dense:minilm-l6", "--top-k", "0"), r"dense top_k = 0"),
        (("--revision", "main"), r"--revision is for one model, and there are 0"),
        (("--instruction", "find"), r"--instruction is for models"),
        (("--retriever", "hybrid", "--parts", "bm25,splade:x", "--weights", "1,x"), r"--weights"),
        (("--parts", "bm25,splade:x"), r"parts and weights are for hybrid"),
    ],
)
def test_wrong_options(words: tuple[str, ...], message: str, animals: str, tmp_path: Path) -> None:
    line = refused("retrieve", animals, *words, "--output", tmp_path / "x")
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == []


def test_vectors_need_a_folder_that_can_be_written(
    models: dict[str, str], animals: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    options = RetrieveOptions(
        collection=animals,
        output=tmp_path / "out.trec",
        retriever=models["dense"],
        encoder_options=encoders(tmp_path / "file"),
    )
    with pytest.raises(DataError, match="is no folder"):
        steps.retrieve.retrieve(options)


def test_options_check_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="for one model, and there are 2"):
        RetrieveOptions(
            collection="animals",
            output=tmp_path / "x",
            retriever="hybrid",
            parts="dense:a,splade:b",
            encoder_options=EncoderOptions(revision="main"),
        )


def test_a_pair_model_of_this_kind_ranks(
    models: dict[str, str], animals: str, tmp_path: Path
) -> None:
    """`--model splade:MODEL`, as any other reading."""
    output = tmp_path / "ranked.trec"
    words = ("--model", models["splade"], "--dtype", "float32", "--top-k", 6)
    done = dear("rank", animals, "--run", "bm25", *words, "--output", output)
    assert done.status == 0, done.err
    assert all(len(ranking) == 6 for ranking in read_run(output).values())
    labels = dear(
        *("label", animals, "--run", "bm25", "--model", models["splade"]),
        *("--dtype", "float32", "--output", tmp_path / "labels"),
    )
    assert labels.status == 0, labels.err


def test_a_killed_command_goes_on(models: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL once the first block is there: it is neither lost nor made again."""
    passages = [Passage(id=f"p{i}", text=words(20, i)) for i in range(5 * BLOCK)]
    queries = [Query(id="q", text="river bank")]
    write_beir(tmp_path / "many", corpus=passages, queries=queries, judgements={}, runs={})
    vectors, output = tmp_path / "vectors", tmp_path / "out.trec"
    command = ("retrieve", tmp_path / "many", "--retriever", models["dense"], "--device", "cpu")
    where = ("--dtype", "float32", "--vectors", vectors, "--output", output)
    process = start(*command, *where)
    while not list(vectors.rglob("*.npy")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    there = {path: path.stat().st_mtime_ns for path in vectors.rglob("*.npy")}
    assert 1 <= len(there) < 5
    assert not output.exists()
    assert dear(*command, *where).status == 0
    blocks = {path: path.stat().st_mtime_ns for path in vectors.rglob("*.npy")}
    assert len(blocks) == 5
    assert there.items() <= blocks.items()
    assert len(read_run(output)["q"]) == 100
    assert not list(vectors.rglob("*.tmp"))


@pytest.mark.usefixtures("silent")
def test_one_question_is_asked_of_a_collection(models: dict[str, str], animals: str) -> None:
    question = "how does the whale sleep"
    found = steps.retrieve.ask(RetrieveOptions(collection=animals, query=question))
    assert [row["rank"] for row in found] == list(range(1, 11))
    assert "whale" in found[0]["text"]
    assert [row["score"] for row in found] == sorted((r["score"] for r in found), reverse=True)
    two = RetrieveOptions(
        collection=animals, query=question, top_k=2, retriever="hybrid", weights="0.3,1",
        parts=f"bm25,{models['dense']}",
    )  # fmt: skip
    assert len(steps.retrieve.ask(two)) == 2
    assert steps.retrieve.ask(RetrieveOptions(collection=animals, query="zzz")) == []
    for output, query in ((None, None), (Path("x.trec"), "both")):
        with pytest.raises(ConfigError, match="--output RUN for all queries, or --query TEXT"):
            RetrieveOptions(collection=animals, output=output, query=query)
