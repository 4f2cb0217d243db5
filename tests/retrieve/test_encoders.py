"""Dense and learned sparse retrieval find what their models' own scores put first."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))
from tiny_models import bert_tokenizer, make, save, words

from dear.errors import BackendError, ConfigError
from dear.records import Passage, Query, Ranking
from dear.retrieve import blocks
from dear.retrieve.bm25 import DEFAULTS, Bm25Index
from dear.retrieve.table import Retriever, RetrieverSpec, Setting, open_retriever
from dear.scoring.opening import open_model

CORPUS = {f"p{i}": Passage(id=f"p{i}", text=words(3 + i % 9, i), title="a") for i in range(23)}
QUERIES = {f"q{i}": Query(id=f"q{i}", text=words(4, 900 + i)) for i in range(5)}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 7)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    return save(folder, make("bert", hf.AutoModel), bert_tokenizer())


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most weights are 0, as in those that were trained."""
    model: Any = make("bert", hf.AutoModelForMaskedLM)
    with torch.no_grad():
        model.cls.predictions.bias -= 3
    return save(tmp_path_factory.mktemp("splade"), model, bert_tokenizer())


def opened(kind: str, model: Path, folder: Path, **options: Any) -> Retriever:
    setting = Setting(
        corpus=CORPUS,
        bm25=DEFAULTS,
        options={"dtype": "float32", "device": "cpu", **options},
        folder=folder,
    )
    return open_retriever(RetrieverSpec.of(f"{kind}:{model}"), setting)


def by_the_model(spec: str, top_k: int) -> dict[str, Ranking]:
    """Every pair scored, as a reranker does."""
    model = open_model(spec, dtype="float32", device="cpu")
    run = {}
    for query in QUERIES.values():
        scores = model.score([(query.text, p.full_text) for p in CORPUS.values()])
        run[query.id] = Ranking.sorted(query.id, CORPUS, scores.tolist()).top(top_k)
    return run


def assert_same(found: dict[str, Ranking], expected: dict[str, Ranking]) -> None:
    assert list(found) == list(expected)
    for query_id, ranking in expected.items():
        assert found[query_id].passage_ids == ranking.passage_ids
        np.testing.assert_allclose(found[query_id].scores, ranking.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_dense_is_the_bi_encoder(similarity: str, embedder: Path, tmp_path: Path) -> None:
    settings = {"similarity_fn_name": similarity, "prompts": {"query": "query: "}}
    (embedder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    retriever = opened("dense", embedder, tmp_path)
    assert retriever.name == f"dense:{embedder}"
    assert_same(retriever.search(QUERIES, 9), by_the_model(f"biencoder:{embedder}", 9))
    assert set(retriever.inputs) == {"model", "contract"}
    assert retriever.values[f"biencoder:{embedder}"]["revision"].startswith("local-")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_dense_takes_what_only_the_library_computes(similarity: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    static = modules.StaticEmbedding(bert_tokenizer().backend_tokenizer, embedding_dim=32)
    model = SentenceTransformer(modules=[static], similarity_fn_name=similarity, device="cpu")
    model.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    retriever = opened("dense", tmp_path / "static", tmp_path / "vectors")
    expected = by_the_model(f"biencoder:{tmp_path / 'static'}", 9)
    assert_same(retriever.search(QUERIES, 9), expected)


def test_splade_is_the_model_s_dot_product(splade: Path, tmp_path: Path) -> None:
    retriever = opened("splade", splade, tmp_path)
    assert retriever.name == f"splade:{splade}"
    found, expected = retriever.search(QUERIES, 9), by_the_model(f"splade:{splade}", 9)
    assert any(len(ranking) == 9 for ranking in found.values())
    matching = {
        q: ranking.top(sum(score > 0 for score in ranking.scores))
        for q, ranking in expected.items()
    }
    assert_same(found, {q: ranking for q, ranking in matching.items() if len(ranking)})


def test_the_inverted_index_is_the_dense_product(splade: Path, tmp_path: Path) -> None:
    from dear.retrieve.splade import SparseEncoder
    from dear.scoring.splade import Splade

    encoder = SparseEncoder(Splade(splade, dtype="float32", device="cpu"))
    queries = encoder.encode_queries([q.text for q in QUERIES.values()])
    passages = encoder.encode_passages([p.full_text for p in CORPUS.values()])
    assert 0 < passages.nnz < 0.8 * passages.shape[0] * passages.shape[1]
    encoder.save(tmp_path / "block", passages)
    postings = encoder.load(tmp_path / "block", len(CORPUS))
    np.testing.assert_array_equal(postings.toarray(), passages.toarray().T)
    found = encoder.scores(queries, postings)
    expected = queries.toarray() @ passages.toarray().T
    np.testing.assert_allclose(np.where(found == -np.inf, 0, found), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="must be < 3"):
        encoder.load(tmp_path / "block", 3)
    whole = (tmp_path / "block").read_bytes()
    for damaged in (whole[:-30], whole[: len(whole) // 2], b"", b"no block"):
        (tmp_path / "block").write_bytes(damaged)
        with pytest.raises((ValueError, EOFError)):
            encoder.load(tmp_path / "block", len(CORPUS))
    with (tmp_path / "block").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="no postings"):
        encoder.load(tmp_path / "block", len(CORPUS))


def test_vectors_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model: Any = make("bert", hf.AutoModel)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[:] = float("nan")
    folder = save(tmp_path / "m", model, bert_tokenizer())
    with pytest.raises(BackendError, match=r"the embedding of .* is not finite"):
        opened("dense", folder, tmp_path / "vectors")


@pytest.mark.parametrize("kind", ["dense", "splade"])
def test_several_devices_are_refused(
    kind: str, embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"dear.retrieve.{kind}.open_model", lambda *_a, **_o: object())
    with pytest.raises(ConfigError, match="on one device"):
        opened(kind, embedder, tmp_path, device="cpu,cpu")


def test_hybrid_opens_its_parts(embedder: Path, splade: Path, tmp_path: Path) -> None:
    spec = RetrieverSpec.of("hybrid", f"bm25,dense:{embedder},splade:{splade}")
    options = {"dtype": "float32", "device": "cpu"}
    setting = Setting(corpus=CORPUS, bm25=DEFAULTS, options=options, folder=tmp_path)
    hybrid = open_retriever(spec, setting)
    seen: list[tuple[int, int]] = []
    run = hybrid.search(QUERIES, 5, progress=lambda *at: seen.append(at))
    assert all(len(ranking) == 5 for ranking in run.values())
    assert seen == sorted(seen)
    assert seen[-1] == (5, 5)
    assert hybrid.values["fusion"] == {
        "parts": ["bm25", f"dense:{embedder}", f"splade:{splade}"],
        "depth": 100,
        "rrf_k": 60,
    }
    assert {"bm25 options", f"dense:{embedder} model", f"splade:{splade} contract"} <= set(
        hybrid.inputs
    )
    assert Bm25Index(CORPUS).values == {"bm25": hybrid.values["bm25"]}
