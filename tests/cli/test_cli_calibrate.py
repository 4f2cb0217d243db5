"""`dear calibrate` and `dear rank --early`, as a user runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import CORPUS, dear, write_reranker

from dear import Reranker
from dear.records import Passage


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers: something to leave from."""
    return write_reranker(tmp_path_factory.mktemp("deep") / "deep", layers=3)


@pytest.fixture(scope="module")
def run(animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "bm25.trec"
    assert dear("retrieve", animals, "--split", "dev", "--top-k", 20, "-o", path).status == 0
    return path


@pytest.fixture(scope="module")
def early(animals: Path, deep: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early") / "exit"
    done = dear(
        *("calibrate", deep, "-o", folder, "--collection", animals, "--run", run),
        *("--split", "dev", "--top-k", 1, "--keep", 0.5, "--dtype", "float32"),
    )
    assert done.status == 0, done.err
    assert "of the full top 1 stayed" in done.out
    # what it is worth here is measured, whichever way it comes out
    said = f"{done.out}{done.err}"
    assert re.search(r"\d\.\d\d times as fast", said)
    return folder


def test_the_top_is_ranked_and_said_how(
    animals: Path, deep: Path, run: Path, early: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.trec"
    done = dear(
        *("rank", animals, "--run", run, "--split", "dev", "--model", deep),
        *("--early", early, "-o", out, "--dtype", "float32"),
    )
    assert done.status == 0, done.err
    assert len(out.read_text().splitlines()) == len(run.read_text().splitlines())
    assert json.loads(out.with_suffix(".trec.json").read_text())["early"] == str(early)


def test_the_reranker_leaves_early_in_rankings_alone(deep: Path, early: Path) -> None:
    passages: list[str | Passage] = list(CORPUS.values())[:12]
    quick = Reranker(deep, dtype="float32", early=early)
    whole = Reranker(deep, dtype="float32")
    pairs = [("how does the owl eat", p) for p in passages]
    assert quick.score(pairs).tolist() == pytest.approx(whole.score(pairs).tolist(), abs=1e-5)
    ranking = quick.rank("how does the owl eat", passages)
    assert ranking.query_id == ""
    assert sorted(ranking.passage_ids) == sorted(list(CORPUS)[:12])
    assert quick.rank("nothing", []).passage_ids == ()
    # what finished has the full model's score
    full = whole.rank("how does the owl eat", passages)
    scores = dict(zip(full.passage_ids, full.scores, strict=True))
    assert ranking.scores[0] == pytest.approx(scores[ranking.passage_ids[0]], abs=1e-5)


def test_refusals_are_one_line(
    animals: Path, deep: Path, run: Path, early: Path, tmp_path: Path
) -> None:
    rank = ("rank", animals, "--run", run, "--split", "dev", "-o", tmp_path / "out.trec")
    line = dear(*rank, "--model", deep, "--early", early, "--fuse", 0.3).line
    assert "no --fuse" in line
    line = dear(*rank, "--model", "biencoder:minilm-l6", "--early", early).line
    assert "one-logit checkpoint" in line
    line = dear(*rank, "--model", deep, "--early", tmp_path / "nothing").line
    assert "nothing" in line
    again = ("calibrate", deep, "-o", early, "--collection", animals, "--run", run)
    assert (
        "settings.keep: 0.5 there, 0.99 now, settings.top_k: 1 there, 10 now" in dear(*again).line
    )
    same = dear(*again, "--split", "dev", "--top-k", 1, "--keep", 0.5)
    assert "made from the same inputs; nothing was done" in same.out
    assert not (tmp_path / "out.trec").exists()
