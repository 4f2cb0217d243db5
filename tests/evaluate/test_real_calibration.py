"""Maps on judged queries of real collections: fitted on one split, held to another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from dear.data.collections import open_collection
from dear.errors import DataError
from dear.evaluate.calibration import KINDS
from dear.evaluate.reliability import JudgedScores, assess, judged_scores


def pairs(shared_data: Path, name: str, split: str) -> JudgedScores:
    collection = open_collection(shared_data / name)
    run = collection.run("bm25", split)
    return judged_scores(run, collection.judgements(split), unjudged="irrelevant")


@pytest.mark.parametrize(
    ("name", "split", "most"), [("nfcorpus", "dev", 0.03), ("scifact", "train", 0.01)]
)
def test_bm25_as_a_probability(shared_data: Path, name: str, split: str, most: float) -> None:
    fit, test = pairs(shared_data, name, split), pairs(shared_data, name, "test")
    rate = assess(np.full(len(test), fit.relevant.mean()), test.relevant)
    assert assess(expit(test.scores), test.relevant).ece > 0.8
    for kind in ("platt", "isotonic"):
        found = assess(KINDS[kind](fit.scores, fit.relevant)(test.scores), test.relevant)
        assert found.ece < most
        # more than knowing how many are relevant
        assert found.brier < rate.brier
        assert found.nll < rate.nll
    with pytest.raises(DataError, match="do not rise"):
        # BM25 is above 0 for every passage, and most are not relevant: a bias is needed
        KINDS["temperature"](fit.scores, fit.relevant)


def test_nfcorpus_judges_relevant_passages_alone(shared_data: Path) -> None:
    collection = open_collection(shared_data / "nfcorpus")
    found = judged_scores(collection.run("bm25", "dev"), collection.judgements("dev"))
    with pytest.raises(DataError, match="count as irrelevant"):
        found.require_both()
