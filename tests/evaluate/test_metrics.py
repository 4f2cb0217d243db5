"""Measures against their formulas and pytrec_eval; and what happens at the edges."""

from __future__ import annotations

import logging
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.errors import ConfigError, DataError
from dear.evaluate.metrics import MEASURES, Evaluation, evaluate, parse_measures
from dear.records import Ranking

PASSAGES = [*"abcdefghijklmn", "ä", "文", "A", "a b"]


def ranked(query_id: str, *passage_ids: str) -> Ranking:
    scores = tuple(float(-rank) for rank in range(len(passage_ids)))
    return Ranking(query_id=query_id, passage_ids=passage_ids, scores=scores)


def run_of(**passages: str) -> dict[str, Ranking]:
    return {query_id: ranked(query_id, *ids.split()) for query_id, ids in passages.items()}


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Ranking], dict[str, dict[str, int]]]:
    """A run with ties and judgements, both over some of five queries."""
    queries = [f"q{i}" for i in range(5)]
    ranked_ids = draw(st.lists(st.sampled_from(queries), unique=True))
    judged_ids = draw(st.lists(st.sampled_from(queries), unique=True, min_size=1))
    run = {}
    for query_id in ranked_ids:
        ids = draw(st.lists(st.sampled_from(PASSAGES), unique=True, min_size=1))
        scores = draw(st.lists(st.integers(0, 5), min_size=len(ids), max_size=len(ids)))
        run[query_id] = Ranking.sorted(query_id, ids, scores)
    grades = st.dictionaries(st.sampled_from(PASSAGES), st.integers(-2, 3), min_size=1)
    return run, {query_id: draw(grades) for query_id in judged_ids}


def by_formula(ids: tuple[str, ...], grades: dict[str, int], min_grade: int) -> dict[str, float]:
    """The default measures of one query, straight from their definitions."""
    gains = [max(grades.get(passage, 0), 0) for passage in ids]
    relevant = [grades.get(passage, 0) >= min_grade for passage in ids]
    ideal = sorted((max(grade, 0) for grade in grades.values()), reverse=True)
    total = sum(grade >= min_grade for grade in grades.values())
    hits = [rank for rank, hit in enumerate(relevant, 1) if hit]

    def ndcg(cutoff: int) -> float:
        found, best = (
            sum(gain / math.log2(rank + 1) for rank, gain in enumerate(values[:cutoff], 1))
            for values in (gains, ideal)
        )
        return found / best if best else 0.0

    return {
        "nDCG@1": ndcg(1),
        "nDCG@5": ndcg(5),
        "nDCG@10": ndcg(10),
        "MRR@10": 1 / hits[0] if hits and hits[0] <= 10 else 0.0,
        "MAP": sum(n / rank for n, rank in enumerate(hits, 1)) / total if total else 0.0,
        "R@100": sum(relevant[:100]) / total if total else 0.0,
        "judged@10": sum(p in grades for p in ids[:10]) / len(ids[:10]) if ids else 0.0,
    }


@settings(deadline=None)
@given(problem=problems(), min_grade=st.integers(1, 3))
def test_every_judged_query_has_the_value_of_the_formula(problem, min_grade):
    run, judgements = problem
    evaluation = evaluate(run, judgements, min_grade=min_grade)
    assert tuple(evaluation.per_query) == tuple(evaluation.means) == MEASURES
    for name, values in evaluation.per_query.items():
        assert list(values) == list(judgements)
        for query_id, value in values.items():
            ids = run[query_id].passage_ids if query_id in run else ()
            expected = by_formula(ids, judgements[query_id], min_grade)[name]
            assert value == pytest.approx(expected, abs=1e-6), (name, query_id)
        assert evaluation.means[name] == pytest.approx(sum(values.values()) / len(judgements))
    assert set(evaluation.missing) == judgements.keys() - run.keys()
    assert evaluation.unjudged == len(run.keys() - judgements.keys())


@settings(deadline=None)
@given(problem=problems())
def test_ties_count_as_pytrec_eval_counts_them(problem):
    import pytrec_eval

    run, judgements = problem
    judgements = {q: {p: max(g, 0) for p, g in grades.items()} for q, grades in judgements.items()}
    raw = {q: dict(zip(r.passage_ids, r.scores, strict=True)) for q, r in run.items()}
    oracle = pytrec_eval.RelevanceEvaluator(judgements, {"ndcg_cut.10", "map", "recall.100"})
    ours = evaluate(run, judgements).per_query
    for query_id, expected in oracle.evaluate(raw).items():
        assert ours["nDCG@10"][query_id] == pytest.approx(expected["ndcg_cut_10"], abs=1e-6)
        assert ours["MAP"][query_id] == pytest.approx(expected["map"], abs=1e-6)
        assert ours["R@100"][query_id] == pytest.approx(expected["recall_100"], abs=1e-6)


def test_scores_that_float32_cannot_tell_apart_keep_their_order():
    import pytrec_eval

    scores = (1.0 + 2e-12, 1.0 + 1e-12, 1.0)
    run = {"q": Ranking(query_id="q", passage_ids=("a", "b", "c"), scores=scores)}
    judgements = {"q": {"a": 1, "b": 0, "c": 0}}
    assert evaluate(run, judgements).means["MRR@10"] == 1.0
    assert evaluate(run, judgements).means["MAP"] == 1.0
    # the trap itself: the oracle sees three ties and puts c first
    raw = {"q": dict(zip("abc", scores, strict=True))}
    collapsed = pytrec_eval.RelevanceEvaluator(judgements, {"map"}).evaluate(raw)
    assert collapsed["q"]["map"] == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=30)
@given(problem=problems(), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_the_scale_of_scores_does_not_matter(problem, scale, shift):
    run, judgements = problem
    moved = {
        q: Ranking(
            query_id=q,
            passage_ids=r.passage_ids,
            scores=tuple(scale * s + shift for s in r.scores),
        )
        for q, r in run.items()
    }
    assert evaluate(moved, judgements) == evaluate(run, judgements)


def test_a_missing_query_counts_as_zero_and_an_unjudged_one_not_at_all():
    run = run_of(there="a b", unjudged="a b")
    evaluation = evaluate(run, {"there": {"a": 1}, "away": {"a": 1}}, ["MAP"])
    assert evaluation.means == {"MAP": 0.5}
    assert evaluation.per_query == {"MAP": {"there": 1.0, "away": 0.0}}
    assert evaluation.missing == ("away",)
    assert evaluation.unjudged == 1


def test_a_ranking_without_passages_is_a_missing_query():
    run = {"q": Ranking(query_id="q", passage_ids=(), scores=()), **run_of(r="a")}
    evaluation = evaluate(run, {"q": {"a": 1}, "r": {"a": 1}})
    assert evaluation.missing == ("q",)
    assert evaluation.means["judged@10"] == 0.5


def test_an_empty_run_is_zero_everywhere_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate({}, {"q": {"a": 1}})
    assert evaluation.means == dict.fromkeys(MEASURES, 0.0)
    assert evaluation.missing == ("q",)
    assert "none of the run's 0 queries is judged" in caplog.text


def test_a_query_without_a_relevant_passage_counts_as_zero():
    run = run_of(hopeless="a b", fine="a b")
    evaluation = evaluate(run, {"hopeless": {"a": 0, "b": -1}, "fine": {"a": 2}})
    for name in ("nDCG@10", "MRR@10", "MAP", "R@100"):
        assert evaluation.per_query[name] == {"hopeless": 0.0, "fine": 1.0}
    assert evaluation.per_query["judged@10"]["hopeless"] == 1.0
    assert not evaluation.missing


@pytest.mark.parametrize("judgements", [{}, {"q": {}}])
def test_no_judgements_is_an_error(judgements):
    with pytest.raises(DataError, match="no query is judged"):
        evaluate(run_of(q="a"), judgements)


def test_min_grade_moves_binary_measures_and_leaves_graded_ones():
    run, judgements = run_of(q="a b c"), {"q": {"a": 1, "b": 2, "c": 3}}
    names = ["nDCG@10", "MRR@10", "P@2", "MRR(rel=3)@10"]
    one, two = evaluate(run, judgements, names), evaluate(run, judgements, names, min_grade=2)
    assert one.means["nDCG@10"] == two.means["nDCG@10"]
    assert (one.means["MRR@10"], two.means["MRR@10"]) == (1.0, 0.5)
    assert (one.means["P@2"], two.means["P@2"]) == (1.0, 0.5)
    # a level in the name stands, and may coincide with the one asked for
    assert one.means["MRR(rel=3)@10"] == two.means["MRR(rel=3)@10"] == pytest.approx(1 / 3)
    same = evaluate(run, judgements, ["MRR@10", "MRR(rel=2)@10"], min_grade=2)
    assert same.means == {"MRR@10": 0.5, "MRR(rel=2)@10": 0.5}


def test_min_grade_below_one_is_an_error():
    with pytest.raises(ConfigError, match="min_grade is 0"):
        evaluate(run_of(q="a"), {"q": {"a": 1}}, min_grade=0)


@pytest.mark.parametrize(
    ("given_name", "canonical"),
    [
        ("nDCG@10", "nDCG@10"),
        ("NDCG@5", "nDCG@5"),
        ("mrr@10", "MRR@10"),
        ("RR@10", "MRR@10"),
        ("map", "MAP"),
        ("AP@100", "MAP@100"),
        ("Recall@20", "R@20"),
        ("JUDGED@10", "judged@10"),
        (" p(rel=2)@5 ", "P(rel=2)@5"),
        ("rprec", "Rprec"),
        ("nDCG(dcg='exp-log2')@10", "nDCG(dcg='exp-log2')@10"),
    ],
)
def test_names_in_any_case_become_canonical(given_name, canonical):
    (measure,) = parse_measures([given_name])
    assert measure.name == canonical
    assert parse_measures([canonical]) == [measure]


def test_what_ir_measures_reads_reads_the_same_here():
    import ir_measures

    for name in ("AP", "RR@10", "P(rel=2)@5", "nDCG(gains={1:0,2:5})@3", "Success@5", "IPrec@0.1"):
        (measure,) = parse_measures([name])
        assert measure.definition == ir_measures.parse_measure(name)


@settings(deadline=None, max_examples=20)
@given(problem=problems(), min_grade=st.integers(1, 3))
def test_measures_of_every_provider_have_its_values(problem, min_grade):
    import ir_measures

    run, judgements = problem
    names = {
        "nDCG(gains={0:0,1:3})@5": "nDCG(gains={0:0,1:3})@5",
        "Success@3": f"Success(rel={min_grade})@3",
        "Success(rel=1)@3": "Success(rel=1)@3",
        "P@3": f"P(rel={min_grade})@3",
    }
    grades = {q: {p: max(g, 0) for p, g in of.items()} for q, of in judgements.items()}
    scores = {q: {p: -float(rank) for rank, p in enumerate(r.passage_ids)} for q, r in run.items()}
    expected = {name: dict.fromkeys(grades, 0.0) for name in names}
    for name, theirs in names.items():
        for metric in ir_measures.iter_calc([ir_measures.parse_measure(theirs)], grades, scores):
            # ir-measures gives an unranked query what it likes; here it is zero
            if metric.query_id in run:
                expected[name][metric.query_id] = pytest.approx(metric.value, abs=1e-6)
    assert evaluate(run, judgements, list(names), min_grade=min_grade).per_query == {
        m.name: expected[name] for name, (m,) in ((n, parse_measures([n])) for n in names)
    }


def test_the_same_measure_twice_is_one():
    assert [m.name for m in parse_measures(["R@5", "recall@5", "MAP"])] == ["R@5", "MAP"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nDGC@10", "did you mean 'nDCG'"),
        ("foo@3", "known: nDCG@1, nDCG@5, nDCG@10"),
        ("R", "needs a cutoff, as in R@10"),
        ("nDCG@0", "the cutoff must be 1 or more"),
        ("nDCG@-1", "the cutoff must be 1 or more"),
        ("nDCG@10.5", "invalid param cutoff=10.5"),
        ("nDCG(k=1)@3", "unsupported params found"),
        ("nDCG(gains={1:-2})@3", "gains must be whole numbers, 0 or more"),
        ("nDCG(gains={1:0.5})@3", "gains must be whole numbers, 0 or more"),
        ("nDCG@x", "does not read like"),
        ("P(2)@5", "does not read like"),
        ("", "does not read like"),
        ("nDCG@10, MAP", "does not read like"),
    ],
)
def test_a_wrong_name_is_an_error_of_one_line(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_measures(["MAP", name])
    assert "\n" not in str(caught.value)


def test_grades_far_below_zero_are_not_relevant_and_crash_nothing():
    # in a process of its own: unguarded, they end pytrec_eval with a segmentation fault
    program = (
        "from dear.evaluate.metrics import evaluate; from dear.records import Ranking; "
        "run = {'q': Ranking(query_id='q', passage_ids=('a', 'b'), scores=(2.0, 1.0))}; "
        "found = [evaluate(run, {'q': {'a': -2 - i % 9, 'b': 1}}) for i in range(500)]; "
        "assert all(e.means['MAP'] == 0.5 and e.means['judged@10'] == 1.0 for e in found)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("measure", ["nDCG@10", "Success@5"])
def test_an_impossible_grade_is_an_error(measure):
    with pytest.raises(DataError, match="a grade of 1000000000000000000000 is beyond 64 bits"):
        evaluate(run_of(q="a b"), {"q": {"a": 10**21, "b": 1}}, [measure])


def test_an_evaluation_takes_its_means_from_its_queries():
    evaluation = Evaluation.of({"MAP": {"q": 0.25, "r": 0.75}})
    assert evaluation.means == {"MAP": 0.5}
