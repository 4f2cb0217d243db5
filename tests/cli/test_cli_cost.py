"""What a command took stands in the note beside what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import CORPUS, QUERIES, good, read

from dear.scoring.batching import token_batches
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer

PAIRS = 8 * 24


@pytest.fixture(scope="module")
def lengths(reranker: Path) -> list[int]:
    """Tokens of every pair of the test run."""
    model = open_model(reranker, dtype="float32")
    assert isinstance(model, Scorer)
    asked = [q.text for q in QUERIES.values() if q.id.startswith("sleep")]
    pairs = [(q, p.text) for q in asked for p in CORPUS.values()]
    return [len(e) for e in model.encoder.encode(pairs)]


def test_rank_counts_pairs_and_tokens(
    animals: Path, reranker: Path, lengths: list[int], tmp_path: Path
) -> None:
    out = tmp_path / "out.trec"
    ranked = ("rank", animals, "--run", "bm25", "--model", reranker, "--dtype", "float32")
    good(*ranked, "--batch-tokens", 1024, "-o", out)
    note = read(tmp_path / "out.trec.json")
    cost = note["cost"]
    stage = cost["pointwise"]
    assert stage["pairs"] == note["pairs"] == PAIRS
    assert stage["tokens"] == sum(lengths)
    batches = token_batches(lengths, 1024)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert stage["tokens_padded"] == padded >= stage["tokens"]
    assert stage["pairs_per_second"] == pytest.approx(PAIRS / stage["seconds"], rel=0.1)
    assert 0 < stage["seconds"] <= cost["seconds"] + 0.001
    assert cost["memory_mib"] > 50
    assert cost["threads"] == 1
    assert cost["device"]
    assert set(cost["energy"]) == {"joules", "of", "missing"}
    assert (cost["energy"]["joules"] is None) == (cost["energy"]["of"] == {})


def test_retrieve_counts_queries(animals: Path, tmp_path: Path) -> None:
    good("retrieve", animals, "-o", tmp_path / "bm25.trec")
    cost = read(tmp_path / "bm25.trec.json")["cost"]
    assert cost["search"]["queries"] == len([q for q in QUERIES if q.startswith("sleep")])
    assert cost["seconds"] > 0


def test_labels_say_what_they_took(animals: Path, reranker: Path, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    words = ("label", animals, "--model", reranker, "--dtype", "float32", "-o", folder)
    good(*words, "--run", "bm25", "--split", "train")
    (first,) = read(folder / "manifest.json")["jobs"]
    assert first["cost"]["pointwise"]["pairs"] == PAIRS
    assert first["cost"]["pointwise"]["tokens"] > PAIRS * 5
    before = (folder / "manifest.json").read_bytes()
    good(*words, "--run", "bm25", "--split", "train")
    assert (folder / "manifest.json").read_bytes() == before, "nothing was done, nothing is said"
    good(*words, "--run", "bm25", "--split", "train", "--judged", "dev")
    good(*words, "--run", "bm25", "--split", "dev")
    jobs = read(folder / "manifest.json")["jobs"]
    assert [job["cost"]["pointwise"]["pairs"] for job in jobs] == [PAIRS, PAIRS]


def test_models_count_tokens_without_padding(reranker: Path) -> None:
    model = open_model(reranker, dtype="float32")
    assert isinstance(model, Scorer)
    pairs = [("how does the owl eat", p.text) for p in CORPUS.values()]
    scores = model.score(pairs)
    once = model.tokens_scored
    assert once == sum(len(e) for e in model.encoder.encode(pairs))
    assert model.tokens_padded is not None
    assert model.tokens_padded >= once
    # what is scored once is counted once; streams count, too
    assert np.array_equal(model.score([*pairs, *pairs])[:24], scores)
    assert model.tokens_scored == 2 * once
    assert len(list(model.stream(pairs))) == 24
    assert model.tokens_scored == 3 * once
