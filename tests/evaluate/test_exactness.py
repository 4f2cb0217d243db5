"""Our numbers are trec_eval's: every measure, every judged collection at hand, and random ones."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.data.formats import read_run
from dear.evaluate.metrics import MEASURES, evaluate, parse_measures
from dear.evaluate.paired import bootstrap_interval, paired_randomisation, paired_t
from dear.records import Ranking, every_nth

Qrels = dict[str, dict[str, int]]
Scores = dict[str, dict[str, float]]
Values = dict[str, dict[str, float]]

COLLECTIONS = (
    *("cacm", "cranfield", "dl19", "dl21", "insuranceqa", "medquad"),
    *("nfcorpus", "noveleval", "scifact", "vaswani"),
)
NAMES = (
    *MEASURES,
    *("nDCG", "nDCG@20", "nDCG@1000", "MRR", "MRR@1", "MRR@1000", "MAP@10", "MAP@100"),
    *("R@1", "R@10", "R@1000", "P@1", "P@5", "P@10", "P@200", "judged@1", "judged@100", "judged"),
)


def by_pytrec_eval(run: Scores, qrels: Qrels, names: Iterable[str], level: int) -> Values:
    """Every value, from what trec_eval reads and by its own names."""
    import pytrec_eval

    # it crashes on grades far below zero
    grades = {q: {p: max(g, 0) for p, g in of.items()} for q, of in qrels.items()}
    asked = {"recip_rank"}
    judged = {"num_ret"}
    for name in names:
        base, _, at = name.partition("@")
        kind = {"nDCG": "ndcg", "MAP": "map", "R": "recall", "P": "P"}.get(base)
        if kind in ("ndcg", "map"):
            asked.add(f"{kind}_cut.{at}" if at else kind)
        elif kind:
            asked.add(f"{kind}.{at}")
        elif base == "judged" and at:
            judged.add(f"P.{at}")
    evaluator = pytrec_eval.RelevanceEvaluator(grades, asked, relevance_level=level)
    found = evaluator.evaluate(run)
    # judged@k is precision where whatever is judged is relevant, over what there is
    every = {q: dict.fromkeys(of, 1) for q, of in grades.items()}
    counted = pytrec_eval.RelevanceEvaluator(every, judged | {"num_rel_ret"}).evaluate(run)
    values: Values = {name: dict.fromkeys(qrels, 0.0) for name in names}
    for query_id in found:
        one, other = found[query_id], counted[query_id]
        for name in names:
            values[name][query_id] = _value(name, one, other)
    return values


def _value(name: str, one: Mapping[str, float], judged: Mapping[str, float]) -> float:
    base, _, at = name.partition("@")
    if base == "MRR":
        value = one["recip_rank"]
        return value if not at or value > 1 / (int(at) + 1) else 0.0
    if base == "judged":
        size = judged["num_ret"]
        if not at:
            return judged["num_rel_ret"] / size
        return judged[f"P_{at}"] * int(at) / min(int(at), size)
    kind = {"nDCG": "ndcg", "MAP": "map", "R": "recall", "P": "P"}[base]
    cut = "_cut" if kind in ("ndcg", "map") and at else ""
    return one[f"{kind}{cut}_{at}" if at else kind]


def assert_equal(run: Mapping[str, Ranking], raw: Scores, qrels: Qrels, level: int) -> None:
    ours = evaluate(run, qrels, NAMES, min_grade=level)
    theirs = by_pytrec_eval(raw, qrels, NAMES, level)
    assert list(ours.per_query) == list(NAMES)
    for name, values in theirs.items():
        assert ours.per_query[name].keys() == values.keys()
        far = [q for q, value in values.items() if abs(ours.per_query[name][q] - value) > 1e-6]
        assert not far, (name, far[0], ours.per_query[name][far[0]], values[far[0]])
        assert ours.means[name] == pytest.approx(sum(values.values()) / len(values), abs=1e-6)


def scores_of(path: Path) -> Scores:
    """A run as pytrec_eval takes it, read without any of our code."""
    found: Scores = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for query_id, _, passage_id, _, score, _ in map(str.split, lines):
            found.setdefault(query_id, {})[passage_id] = float(score)
    return found


def qrels_of(path: Path) -> Qrels:
    found: Qrels = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return found


def runs_of(folder: Path) -> list[tuple[Path, Qrels]]:
    """Every run of a collection that is judged."""
    found = []
    for judged in sorted(folder.glob("qrels/*.tsv")):
        qrels = qrels_of(judged)
        found += [(p, qrels) for p in sorted(folder.glob(f"runs/*.{judged.stem}.trec.gz"))]
    return found


def test_no_judged_collection_is_left_out(shared_data: Path) -> None:
    assert {p.parent.name for p in shared_data.glob("*/qrels")} == set(COLLECTIONS)


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_value_of_every_run_is_that_of_pytrec_eval(
    shared_data: Path, collection: str
) -> None:
    runs = runs_of(shared_data / collection)
    assert any(path.name.startswith("bm25.") for path, _ in runs)
    for path, qrels in runs:
        run, raw = read_run(path), scores_of(path)
        asked = every_nth(list(qrels), MOST_QUERIES)
        qrels = {q: qrels[q] for q in asked}
        run, raw = ({q: r[q] for q in asked if q in r} for r in (run, raw))
        assert_equal(run, raw, qrels, 1)
        # with queries that the run lacks, and the other level of graded judgements
        some = list(run)[::4]
        assert_equal({q: run[q] for q in some}, {q: raw[q] for q in some}, qrels, 2)


MOST_QUERIES = 300
"""Of a collection, evenly spread: pytrec_eval takes a minute for those of a large one."""

PASSAGES = [*(f"d{i}" for i in range(30)), "ä", "文", "A"]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Scores, Qrels]:
    """Scores with ties and judgements with negative grades, both over some of six queries."""
    queries = [f"q{i}" for i in range(6)]
    raw = {}
    for query_id in draw(st.lists(st.sampled_from(queries), unique=True)):
        ids = draw(st.lists(st.sampled_from(PASSAGES), unique=True, min_size=1))
        # whole numbers: float32, which trec_eval reads, holds them
        scores = draw(st.lists(st.integers(-3, 9), min_size=len(ids), max_size=len(ids)))
        raw[query_id] = dict(zip(ids, map(float, scores), strict=True))
    grades = st.dictionaries(st.sampled_from(PASSAGES), st.integers(-2, 4), min_size=1)
    judged = draw(st.lists(st.sampled_from(queries), unique=True, min_size=1))
    return raw, {query_id: draw(grades) for query_id in judged}


@settings(deadline=None, max_examples=80)
@given(problem=problems(), level=st.integers(1, 4))
def test_random_runs_have_the_values_of_pytrec_eval(
    problem: tuple[Scores, Qrels], level: int
) -> None:
    raw, qrels = problem
    run = {q: Ranking.sorted(q, of, of.values()) for q, of in raw.items()}
    assert_equal(run, raw, qrels, level)


@settings(deadline=None, max_examples=50)
@given(problem=problems(), data=st.data())
def test_what_is_counted_here_is_what_ir_measures_has(
    problem: tuple[Scores, Qrels], data: st.DataObject
) -> None:
    import ir_measures

    raw, qrels = problem
    qrels = {q: {p: max(g, 0) for p, g in of.items()} for q, of in qrels.items()}
    bases = ("MRR(rel={})@{}", "MAP(rel={})@{}", "R(rel={})@{}", "P(rel={})@{}")
    names = [
        data.draw(st.sampled_from(bases)).format(
            data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
        )
        for _ in range(3)
    ]
    measures = parse_measures(names)
    run = {q: Ranking.sorted(q, of, of.values()) for q, of in raw.items()}
    ours = evaluate(run, qrels, names).per_query
    called = {measure.definition: measure.name for measure in measures}
    # without ties: for RR@k ir-measures breaks them by id ascending, against trec_eval
    untied = {q: {p: -float(rank) for rank, p in enumerate(r.passage_ids)} for q, r in run.items()}
    for metric in ir_measures.iter_calc(list(called), qrels, untied):
        if metric.query_id in raw:
            value = ours[called[metric.measure]][metric.query_id]
            assert value == pytest.approx(metric.value, abs=1e-6), metric


# ---- ranx, and scipy

RANX = """
import json, sys
import numpy as np
from ranx import Qrels, Run, evaluate
from ranx.statistical_tests import fisher_randomization_test, paired_student_t_test

qrels, runs, names = json.load(sys.stdin)
found = {}
for name, scores in runs.items():
    run = Run(scores)
    evaluate(Qrels(qrels), run, names)
    found[name] = {m: {q: float(v) for q, v in of.items()} for m, of in run.scores.items()}
p_values = []
for one, other in (("bm25_rm3", "bm25"), ("splade_pp_ed", "bm25")):
    a, b = (np.array([found[n]["ndcg@10"][q] for q in qrels]) for n in (one, other))
    fisher, student = fisher_randomization_test(a, b, 4000), paired_student_t_test(a, b)
    p_values.append([one, other, float(fisher[0]), float(student[0])])
print(json.dumps([found, p_values]))
"""
RANX_NAMES = {
    "nDCG@1": "ndcg@1",
    "nDCG@5": "ndcg@5",
    "nDCG@10": "ndcg@10",
    "MRR@10": "mrr@10",
    "MAP": "map",
    "R@100": "recall@100",
    "P@10": "precision@10",
}


def test_values_and_tests_agree_with_ranx_and_scipy(shared_data: Path) -> None:
    from scipy.stats import bootstrap, permutation_test, ttest_rel

    folder = shared_data / "dl19"
    files = {n: folder / f"runs/{n}.test.trec.gz" for n in ("bm25", "bm25_rm3", "splade_pp_ed")}
    qrels = qrels_of(folder / "qrels" / "test.tsv")
    runs = {n: read_run(path) for n, path in files.items()}
    # ranx leaves ties in any order: it gets scores without them, in ours
    raw = {
        n: {q: {p: -rank for rank, p in enumerate(r.passage_ids)} for q, r in run.items()}
        for n, run in runs.items()
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RANX],
        input=json.dumps([qrels, raw, [*RANX_NAMES.values()]]),
        capture_output=True,
        text=True,
        check=False,
        # its compiler takes most of a minute for a few queries
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert done.returncode == 0, done.stderr
    theirs, p_values = json.loads(done.stdout)
    ours = {n: evaluate(run, qrels, RANX_NAMES) for n, run in runs.items()}
    for name, evaluation in ours.items():
        for measure, called in RANX_NAMES.items():
            assert evaluation.per_query[measure] == pytest.approx(theirs[name][called], abs=1e-6)
    for one, other, fisher, student in p_values:
        a, b = (list(ours[n].per_query["nDCG@10"].values()) for n in (one, other))
        assert paired_t(a, b) == pytest.approx(student, rel=1e-9)
        assert paired_t(a, b) == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-9)
        p = paired_randomisation(a, b)
        oracle = permutation_test(
            (a, b),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            n_resamples=20_000,
            vectorized=True,
            rng=1,
        ).pvalue
        assert p == pytest.approx(oracle, abs=drawn_within(p, 20_000))
        assert p == pytest.approx(fisher, abs=drawn_within(p, 4000))
        differences = [x - y for x, y in zip(a, b, strict=True)]
        low, high = bootstrap_interval(differences)
        interval = bootstrap(
            (differences,), lambda x, axis: x.mean(axis=axis), method="percentile", rng=1
        ).confidence_interval
        # a twentieth of the interval: two draws of 10,000 come closer
        assert low == pytest.approx(interval.low, abs=(high - low) / 20)
        assert high == pytest.approx(interval.high, abs=(high - low) / 20)


def drawn_within(p: float, draws: int) -> float:
    """Five standard deviations of a share of so many draws, and one draw."""
    return 5 * float(np.sqrt(p * (1 - p) / draws)) + 1 / draws
