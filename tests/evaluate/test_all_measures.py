"""Every measure that ir-measures knows: right for any query ids, or refused in one line."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures.measures import registry
from ir_measures.providers.accuracy_provider import AccuracyProvider

from dear.errors import ConfigError, DataError
from dear.evaluate.counting import FORMULAS
from dear.evaluate.metrics import BY_IR_MEASURES, REFUSED, evaluate, parse_measures
from dear.records import Ranking

# pytrec_eval's name for each of ours that it has
BY_TREC_EVAL = {
    "nDCG": "ndcg",
    "nDCG@3": "ndcg_cut_3",
    "MRR": "recip_rank",
    "MAP": "map",
    "MAP@3": "map_cut_3",
    "R@3": "recall_3",
    "P@3": "P_3",
    "Success@3": "success_3",
    "Rprec": "Rprec",
    "SetP": "set_P",
    "SetP(relative=True)": "set_relative_P",
    "SetR": "set_recall",
    "SetAP": "set_map",
    "SetF": "set_F",
    "Bpref": "bpref",
    **{f"IPrec@{r / 10}": f"iprec_at_recall_{r / 10:.2f}" for r in range(11)},
}
PASSAGES = [*"abcdefghij", "ä", "文"]
QUERIES = ["PLAIN-2", "PLAIN-12", "2", "x-2", "文"]


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Ranking], dict[str, dict[str, int]]]:
    run = {}
    for query_id in draw(st.lists(st.sampled_from(QUERIES), unique=True, min_size=1)):
        ids = draw(st.lists(st.sampled_from(PASSAGES), unique=True, min_size=1))
        scores = tuple(float(-n) for n in range(len(ids)))
        run[query_id] = Ranking(query_id=query_id, passage_ids=tuple(ids), scores=scores)
    grades = st.dictionaries(st.sampled_from(PASSAGES), st.integers(0, 4), min_size=1)
    return run, {query_id: draw(grades) for query_id in QUERIES}


def raw_scores(run: dict[str, Ranking]) -> dict[str, dict[str, float]]:
    return {q: dict(zip(r.passage_ids, r.scores, strict=True)) for q, r in run.items()}


@settings(deadline=None)
@given(problem=problems(), level=st.integers(1, 4), judged_only=st.booleans())
def test_measures_are_those_of_trec_eval(problem, level, judged_only):
    import pytrec_eval

    run, judgements = problem
    oracle = pytrec_eval.RelevanceEvaluator(
        judgements,
        {name.replace("cut_3", "cut.3") for name in BY_TREC_EVAL.values()},
        relevance_level=level,
        judged_docs_only_flag=judged_only,
    ).evaluate(raw_scores(run))
    for name, official in BY_TREC_EVAL.items():
        if judged_only:
            if name in ("SetR", "Bpref"):  # ir-measures gives them no such parameter
                continue
            base, at, cutoff = name.partition("@")
            name = base.removesuffix(")") + (", " if "(" in base else "(") + "judged_only=True)"
            name += at + cutoff
        values = evaluate(run, judgements, [name], min_grade=level).per_query
        (ours,) = values.values()
        for query_id in run:
            expected = oracle[query_id][official]
            # trec_eval divides by zero where no judged passage was retrieved
            expected = 0.0 if judged_only and math.isnan(expected) else expected
            assert ours[query_id] == pytest.approx(expected, abs=1e-6), (name, query_id)
        assert all(ours[q] == 0 for q in QUERIES if q not in run)


@settings(deadline=None, max_examples=30)
@given(problem=problems(), beta=st.sampled_from([0.5, 2.0]), level=st.integers(1, 2))
def test_f_weighs_recall_by_beta_squared(problem, beta, level):
    run, judgements = problem
    ours = evaluate(run, judgements, [f"SetF(beta={beta}, rel={level})"]).per_query
    parts = evaluate(run, judgements, [f"SetP(rel={level})", f"SetR(rel={level})"]).per_query
    for values in ours.values():
        for query_id, value in values.items():
            p, r = (part[query_id] for part in parts.values())
            denominator = beta**2 * p + r
            expected = (1 + beta**2) * p * r / denominator if denominator else 0
            assert value == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_gains_are_those_of_ir_measures(problem):
    run, judgements = problem
    gains = "{0: 3, 1: 0, 2: 7}"
    (ours,) = evaluate(run, judgements, [f"nDCG(gains={gains})@5"]).per_query.values()
    measure = ir_measures.nDCG(gains={0: 3, 1: 0, 2: 7}) @ 5
    for metric in ir_measures.iter_calc([measure], judgements, raw_scores(run)):
        assert ours[metric.query_id] == pytest.approx(metric.value, abs=1e-6)


@pytest.mark.skipif(shutil.which("perl") is None, reason="gdeval, the oracle, needs perl")
@settings(deadline=None, max_examples=25)
@given(problem=problems(), cutoff=st.integers(1, 12))
def test_err_and_exponential_gains_are_those_of_gdeval(problem, cutoff):
    run, judgements = problem
    measures = [f"ERR@{cutoff}", f"nDCG(dcg='exp-log2')@{cutoff}"]
    ours = list(evaluate(run, judgements, measures).per_query.values())
    # the oracle reads numbers as query ids and nothing else
    number = {query_id: str(n) for n, query_id in enumerate(QUERIES, 1)}
    official = [ir_measures.ERR @ cutoff, ir_measures.nDCG(dcg="exp-log2") @ cutoff]
    found = ir_measures.iter_calc(
        official,
        {number[q]: grades for q, grades in judgements.items()},
        {number[q]: scores for q, scores in raw_scores(run).items()},
    )
    named = {n: q for q, n in number.items()}
    for metric in found:
        value = ours[official.index(metric.measure)][named[metric.query_id]]
        assert value == pytest.approx(metric.value, abs=6e-6), metric  # five places are printed


@settings(deadline=None)
@given(problem=problems(), cutoff=st.integers(1, 12))
def test_accuracy_is_that_of_ir_measures_where_it_has_a_value(problem, cutoff):
    run, judgements = problem
    (ours,) = evaluate(run, judgements, [f"Accuracy@{cutoff}"]).per_query.values()
    for query_id, ranking in run.items():
        hits = [judgements[query_id].get(p, 0) >= 1 for p in ranking.passage_ids[:cutoff]]
        if not any(hits) or all(hits):  # there the oracle has no value, or divides by zero
            assert ours[query_id] == float(any(hits))
            continue
        oracle = AccuracyProvider().evaluator([ir_measures.Accuracy @ cutoff], judgements)
        (metric,) = oracle.iter_calc(raw_scores({query_id: ranking}))
        assert ours[query_id] == pytest.approx(metric.value)


@settings(deadline=None, max_examples=50)
@given(problem=problems(), p=st.floats(0.05, 0.95), level=st.integers(1, 3))
def test_rank_biased_precision_by_its_formula(problem, p, level):
    run, judgements = problem
    (ours,) = evaluate(run, judgements, [f"RBP(p={p!r}, rel={level})@5"]).per_query.values()
    for query_id, ranking in run.items():
        hits = [judgements[query_id].get(i, 0) >= level for i in ranking.passage_ids[:5]]
        expected = (1 - p) * math.fsum(p**n for n, hit in enumerate(hits) if hit)
        assert ours[query_id] == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_compatibility_is_one_for_an_ideal_ranking_and_by_its_definition(problem):
    run, judgements = problem
    (ours,) = evaluate(run, judgements, ["Compat(p=0.8)"]).per_query.values()
    for query_id, ranking in run.items():
        grades = judgements[query_id]
        places = {p: n for n, p in enumerate(ranking.passage_ids)}
        ideal = sorted(
            (p for p, g in grades.items() if g > 0),
            key=lambda p: (-grades[p], places.get(p, len(places))),
        )
        if not ideal:
            assert ours[query_id] == 0
            continue
        depth = max(len(ideal), len(ranking))

        def overlap(ids: tuple[str, ...], ideal: list[str] = ideal, depth: int = depth) -> float:
            return math.fsum(
                0.8**d * len({*ids[: d + 1]} & {*ideal[: d + 1]}) / (d + 1) for d in range(depth)
            )

        assert ours[query_id] == pytest.approx(overlap(ranking.passage_ids) / overlap((*ideal,)))


def test_every_measure_is_computed_or_refused_by_name():
    official = {measure.NAME for measure in registry.values()}
    assert official == {*FORMULAS, *BY_IR_MEASURES, *REFUSED}
    assert len(official) == len(FORMULAS) + len(BY_IR_MEASURES) + len(REFUSED)
    for name in registry:
        needs = "recall" if name == "IPrec" else "cutoff"
        at = {"recall": "@0.5", "cutoff": "@10"}[needs]
        spelled = f"{name}(max_rel=3){at}" if registry[name].NAME in REFUSED else name
        if registry[name].NAME in REFUSED:
            with pytest.raises(ConfigError, match="is not computed: it "):
                parse_measures([spelled])
        else:
            asked = "RBP(rel=1)" if name == "RBP" else name
            takes = registry[name].AT_PARAM in registry[name].SUPPORTED_PARAMS
            (measure,) = parse_measures([asked + (at if takes else "")])
            evaluation = evaluate(
                {"PLAIN-2": Ranking(query_id="PLAIN-2", passage_ids=("a",), scores=(1.0,))},
                {"PLAIN-2": {"a": 1}},
                [measure.name],
            )
            value = evaluation.means[measure.name]
            assert 0 < value <= 1, name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RBP@5", "needs a lowest relevant grade"),
        ("RBP(rel=1, p=1.0)", "p must lie between 0 and 1"),
        ("Compat(p=2.0)", "p must lie between 0 and 1"),
        ("P(rel=0)@5", "grades below 1 are never relevant"),
        ("IPrec@1.5", "the recall must lie between 0 and 1"),
        ("SetF(beta=-1.0)", "beta must be 0 or more"),
        ("ERR@0", "the cutoff must be 1 or more"),
    ],
)
def test_parameters_out_of_range_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        parse_measures([name])


def test_whole_numbers_are_taken_where_fractions_are():
    names = [m.name for m in parse_measures(["IPrec@1", "SetF(beta=2)"])]
    assert names == ["IPrec@1.0", "SetF(beta=2.0)"]


def test_a_grade_beyond_the_scale_of_err_is_named():
    run = {"q": Ranking(query_id="q", passage_ids=("a",), scores=(1.0,))}
    with pytest.raises(DataError, match="a grade of 5: ERR is defined for grades up to 4"):
        evaluate(run, {"q": {"a": 5}}, ["ERR@10"])
    assert evaluate(run, {"q": {"a": 5}}, ["nDCG@10"]).means["nDCG@10"] == 1


def test_the_table_in_the_documents_names_every_measure():
    page = Path(__file__).parents[2] / "docs" / "measures.md"
    rows = [row.split(" | ") for row in page.read_text(encoding="utf-8").splitlines()]
    listed = {row[0].removeprefix("| "): row[1:] for row in rows if len(row) == 5}
    assert listed.keys() - {"measure"} == {measure.NAME for measure in registry.values()}
    refused = {
        name: row[3].removesuffix(" |") for name, row in listed.items() if row[1] == "refused"
    }
    assert refused == REFUSED
