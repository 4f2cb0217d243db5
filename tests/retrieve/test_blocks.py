"""Exact search through blocks on disk: a sort of all scores is the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dear.digests import Input
from dear.errors import ConfigError, DataError
from dear.records import Passage, Query, Ranking
from dear.retrieve import blocks
from dear.retrieve.blocks import BlockIndex
from dear.scoring.batching import Progress

Vectors = NDArray[np.float32]


class Numbers:
    """Texts of numbers as vectors; fails on "fail", and remembers what it encoded."""

    name, suffix = "numbers", ".npy"

    def __init__(self, revision: str = "1") -> None:
        self.encoded: list[str] = []
        self.inputs: Mapping[str, Input] = {"model": Input(revision)}
        self.values: Mapping[str, object] = {}

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return np.array([[float(n) for n in text.split()] for text in texts], dtype=np.float32)

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        if "fail" in texts:
            raise KeyboardInterrupt
        self.encoded += texts
        if progress is not None:
            progress(len(texts), len(texts))
        return self.encode_queries(texts)

    def save(self, path: Path, block: Vectors) -> None:
        with path.open("wb") as file:
            np.save(file, block)

    def load(self, path: Path, rows: int) -> Vectors:
        block: Vectors = np.load(path, mmap_mode="r")
        if len(block) != rows:
            raise ValueError
        return block

    def scores(self, queries: Vectors, block: Vectors) -> Vectors:
        found: Vectors = queries @ block.T
        found[found < -3] = -np.inf
        return found


def corpus_of(*texts: str) -> dict[str, Passage]:
    return {f"p{i}": Passage(id=f"p{i}", text=text) for i, text in enumerate(texts)}


def queries_of(*texts: str) -> dict[str, Query]:
    return {f"q{i}": Query(id=f"q{i}", text=text) for i, text in enumerate(texts)}


def brute_force(
    corpus: Mapping[str, Passage], queries: Mapping[str, Query], top_k: int
) -> dict[str, Ranking]:
    run = {}
    for query_id, query in queries.items():
        wanted = [float(n) for n in query.text.split()]
        scores = {
            p: float(np.dot(wanted, [float(n) for n in passage.text.split()]))
            for p, passage in corpus.items()
        }
        found = {p: score for p, score in scores.items() if score >= -3}
        if found:
            run[query_id] = Ranking.sorted(query_id, found.keys(), found.values()).top(top_k)
    return run


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)
    monkeypatch.setattr(blocks, "SCORES", 40)
    monkeypatch.setattr(blocks, "QUERIES", 3)


NUMBERS = st.tuples(st.integers(-2, 2), st.integers(-2, 2)).map(lambda pair: f"{pair[0]} {pair[1]}")


@given(
    texts=st.lists(NUMBERS, min_size=1, max_size=30),
    asked=st.lists(NUMBERS, min_size=1, max_size=8),
    top_k=st.integers(1, 35),
)
@settings(max_examples=150, deadline=None)
def test_what_is_found_is_the_head_of_a_sort_of_everything(
    texts: list[str], asked: list[str], top_k: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Small numbers: most scores are ties, also at the cut and between blocks."""
    corpus, queries = corpus_of(*texts), queries_of(*asked)
    index = BlockIndex(corpus, Numbers(), folder=tmp_path_factory.mktemp("vectors"))
    assert index.search(queries, top_k) == brute_force(corpus, queries, top_k)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 9])
def test_sizes_around_a_block_and_the_progress(size: int, tmp_path: Path) -> None:
    corpus = corpus_of(*(f"{i} 1" for i in range(size)))
    seen: list[tuple[int, int]] = []
    index = BlockIndex(corpus, Numbers(), folder=tmp_path, progress=lambda *at: seen.append(at))
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert len(list(index.folder.glob("*.npy"))) == -(-size // 4)
    seen.clear()
    queries = queries_of("1 0", "0 1", "-1 0", "0 -1", "1 1")
    run = index.search(queries, 3, progress=lambda *at: seen.append(at))
    assert run == brute_force(corpus, queries, 3)
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


def test_what_is_on_disk_is_not_encoded_again(tmp_path: Path) -> None:
    texts = [f"{i} 1" for i in range(11)]
    first, second = Numbers(), Numbers()
    a = BlockIndex(corpus_of(*texts), first, folder=tmp_path)
    assert (first.encoded, a.encoded) == (texts, 11)
    b = BlockIndex(corpus_of(*texts), second, folder=tmp_path)
    assert (second.encoded, b.encoded) == ([], 0)
    queries = queries_of("1 0")
    assert a.search(queries) == b.search(queries)


def test_a_job_that_was_stopped_goes_on(tmp_path: Path) -> None:
    texts = [f"{i} 1" for i in range(12)]
    stopped = [*texts[:9], "fail", *texts[10:]]
    with pytest.raises(KeyboardInterrupt):
        BlockIndex(corpus_of(*stopped), Numbers(), folder=tmp_path)
    encoder = Numbers()
    BlockIndex(corpus_of(*texts), encoder, folder=tmp_path)
    assert encoder.encoded == texts[8:]


def test_a_changed_text_and_another_model_are_encoded_anew(tmp_path: Path) -> None:
    texts = [f"{i} 1" for i in range(10)]
    before = BlockIndex(corpus_of(*texts), Numbers(), folder=tmp_path)
    changed = [*texts[:5], "9 9", *texts[6:]]
    encoder = Numbers()
    after = BlockIndex(corpus_of(*changed), encoder, folder=tmp_path)
    assert encoder.encoded == changed[4:8]
    query = queries_of("1 1")
    assert after.search(query, 1)["q0"].passage_ids == ("p5",)
    assert before.search(query, 1)["q0"].passage_ids == ("p9",)
    other = Numbers(revision="2")
    assert BlockIndex(corpus_of(*texts), other, folder=tmp_path).folder != before.folder
    assert other.encoded == texts


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"none"])
def test_a_damaged_block_is_made_again(damage: bytes, tmp_path: Path) -> None:
    corpus, queries = corpus_of(*(f"{i} 1" for i in range(6))), queries_of("1 0")
    index = BlockIndex(corpus, Numbers(), folder=tmp_path)
    expected = index.search(queries)
    path = sorted(index.folder.glob("*.npy"))[0]
    path.write_bytes(damage or path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is gone or damaged"):
        index.search(queries)
    again = BlockIndex(corpus, Numbers(), folder=tmp_path)
    assert again.encoded > 0
    assert again.search(queries) == expected


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="numbers: the corpus has no passages"):
        BlockIndex({}, Numbers(), folder=tmp_path)
    index = BlockIndex(corpus_of("1 1"), Numbers(), folder=tmp_path)
    with pytest.raises(ConfigError, match="numbers top_k = 0"):
        index.search(queries_of("1 1"), 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is no folder"):
        BlockIndex(corpus_of("1 1"), Numbers(), folder=tmp_path / "file")
