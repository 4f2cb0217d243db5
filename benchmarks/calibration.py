"""How far a student's scores can be read as probabilities, before and after a map.

    python benchmarks/calibration.py --model CHECKPOINT --data FOLDER --work FOLDER

Maps are fitted on --queries judged queries of a collection's dev split (train where it has none)
and applied to the test split: of the same collection, and of the other, which is what happens to
those who do not fit their own. `base rate` says the same of every pair, the share that is relevant
where it was fitted: its calibration error is small, too, and its Brier score and likelihood show
that it tells nothing apart. A student that was trained on a train split knows its queries; one
that was not is better to fit on. The judgements name relevant passages alone, so that what nobody
judged counts as irrelevant. Ranked runs are kept in --work and made once; the table goes to
benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from scipy.special import expit

from dear.artifacts import write_json
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.data.formats import read_run, write_run
from dear.evaluate.calibration import KINDS
from dear.evaluate.reliability import JudgedScores, assess, judged_scores, reliability
from dear.rank.reranker import Reranker
from dear.records import Run, every_nth, gather

FIT = {"nfcorpus": "dev", "scifact": "train"}
RESULTS = Path(__file__).parent / "results" / "calibration.json"


def ranked(options: argparse.Namespace, name: str, split: str, queries: int | None) -> Run:
    path: Path = options.work / f"{name}.{split}.{queries or 'all'}.{options.depth}.trec"
    if not path.is_file():
        collection = open_collection(options.data / name)
        judgements, run = collection.judgements(split), collection.run("bm25", split)
        asked = [q for q in run if q in judgements]
        asked = asked if queries is None else every_nth(asked, queries)
        texts, corpus = collection.queries(), collection.corpus
        candidates = [gather(run[q].top(options.depth), texts, corpus) for q in asked]
        rankings = Reranker(options.model).rank_candidates(candidates)
        write_run(path, {r.query_id: r for r in rankings}, "student")
    return read_run(path)


def pairs(options: argparse.Namespace, name: str, split: str, queries: int | None) -> JudgedScores:
    judgements = open_collection(options.data / name).judgements(split)
    return judged_scores(ranked(options, name, split, queries), judgements, unjudged="irrelevant")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--depth", type=int, default=50)
    options = parser.parse_args()
    fits = {name: pairs(options, name, split, options.queries) for name, split in FIT.items()}
    tests = {name: pairs(options, name, "test", None) for name in FIT}
    maps = {
        name: {k: fit(p.scores, p.relevant) for k, fit in KINDS.items()} for name, p in fits.items()
    }
    rows: list[dict[str, Any]] = []
    for name, test in tests.items():
        found = {("none", "sigmoid"): expit(test.scores)}
        found |= {
            (on, "base rate"): np.full(len(test), of.relevant.mean()) for on, of in fits.items()
        }
        found |= {(on, k): m(test.scores) for on, of in maps.items() for k, m in of.items()}
        for (on, kind), p in found.items():
            row = {
                "test": name,
                "fitted_on": on if on == "none" else f"{on} {FIT[on]}",
                "map": kind,
                **assess(p, test.relevant).to_dict(),
                "curve": [
                    [b.count, round(b.probability, 4), round(b.relevant, 4)]
                    for b in reliability(p, test.relevant, by="mass")
                ],
            }
            rows.append(row)
            numbers = "  ".join(
                f"{k} {row[k]:.4f}" for k in ("ece", "ece_mass", "mce", "brier", "nll")
            )
            print(f"{name:10} {row['fitted_on']:14} {kind:12} {numbers}")
    write_json(
        RESULTS,
        {
            "machine": describe("cpu"),
            "model": Path(options.model).name,
            "depth": options.depth,
            "first_stage": "bm25",
            "unjudged": "irrelevant",
            "fitted_on": {
                f"{name} {FIT[name]}": {
                    "queries": p.queries,
                    "pairs": len(p),
                    "relevant": int(p.relevant.sum()),
                    "maps": {k: m.to_dict() for k, m in maps[name].items() if k != "isotonic"},
                }
                for name, p in fits.items()
            },
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
