"""Which runs are compared, by what, and what is said about those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.errors import ConfigError
from dear.evaluate.compare import compare_all
from dear.evaluate.metrics import COMPARED, MEASURES, evaluate
from dear.evaluate.paired import bootstrap_interval
from dear.evaluate.study import RunSource, Study, other_candidates, study
from dear.records import Ranking, Run

PASSAGES = tuple(f"d{i}" for i in range(8))
QUERIES = tuple(f"q{i}" for i in range(6))
JUDGEMENTS = {q: {PASSAGES[i]: 2, PASSAGES[i + 1]: 1, "d7": 0} for i, q in enumerate(QUERIES)}


def run_of(*orders: str) -> dict[str, Ranking]:
    """One word of digits for each query: its passages, best first."""
    return {
        q: Ranking(
            query_id=q,
            passage_ids=tuple(f"d{digit}" for digit in order),
            scores=tuple(range(len(order), 0, -1)),
        )
        for q, order in zip(QUERIES, orders, strict=False)
    }


FIRST = run_of(*["01234567"] * 6)
BACK = run_of(*["76543210"] * 6)
TOP = run_of(*["21034"] * 6)


def source(name: str, run: Run, first: str | None = None) -> RunSource:
    return RunSource(name=name, run=run, first_stage=first)


def of(*sources: RunSource, **options: object) -> Study:
    return study("made", "test", JUDGEMENTS, sources, **options)  # type: ignore[arg-type]


def pairs(found: Study) -> list[tuple[str, str]]:
    return [(pair.a, pair.b) for pair in found.comparisons]


# ---- candidates


@given(st.permutations("01234567"), st.permutations("01234567"))
def test_any_two_orders_of_the_same_passages_are_compared(one: list[str], other: list[str]) -> None:
    a, b = source("a", run_of("".join(one))), source("b", run_of("".join(other)))
    assert other_candidates(a, b) is None


def test_one_passage_more_or_another_is_refused() -> None:
    b = source("b", run_of("0123", "0123", "0123"))
    more, another = run_of("0123", "01234", "0123"), run_of("0123", "0124", "0125")
    refusal = other_candidates(source("a", more), b)
    assert refusal is not None
    assert (refusal.a, refusal.b, refusal.queries, refusal.shared) == ("a", "b", 1, 3)
    refusal = other_candidates(source("a", another), b)
    assert refusal is not None
    assert refusal.reason == "other candidates for 2 of 3 queries"


def test_only_queries_that_both_rank_are_looked_at() -> None:
    fewer = dict(list(BACK.items())[:2])
    found = of(source("bm25", FIRST), source("fewer", fewer, "bm25"))
    assert pairs(found) == [("fewer", "bm25")]
    assert found.notes == ("fewer lacks 4 of 6 judged queries, such as q2; they count as zero",)


def test_the_best_of_the_own_first_stage_is_compared_with_it_alone() -> None:
    found = of(source("bm25", FIRST), source("deep", BACK, "bm25"), source("top", TOP, "bm25"))
    assert pairs(found) == [("deep", "bm25"), ("top", "bm25")]
    # reranked to another depth
    assert [(r.a, r.b, r.queries, r.shared) for r in found.refusals] == [("top", "deep", 6, 6)]
    # the same passages, but nothing says that they are bm25's best
    assert of(source("bm25", FIRST), source("top", TOP)).comparisons == ()


def test_runs_without_a_common_query_are_refused() -> None:
    one = {q: r for q, r in FIRST.items() if q < "q3"}
    other = {q: r for q, r in BACK.items() if q >= "q3"}
    found = of(source("one", one), source("other", other))
    assert pairs(found) == []
    (refusal,) = found.refusals
    assert (refusal.shared, refusal.reason) == (0, "no query in common")
    # one query is enough to be compared by
    assert pairs(of(source("one", one), source("other", other | {"q0": BACK["q0"]})))
    assert pairs(of(source("one", one), source("other", other), across_candidates=True))


@given(st.permutations("2345"), st.integers(1, 5))
def test_any_of_equal_candidates_may_be_cut(tied: list[str], depth: int) -> None:
    ids = ("d0", "d1", *(f"d{i}" for i in tied))
    scores = (9.0, 8.0, 5.0, 5.0, 5.0, 5.0)
    first = {"q0": Ranking(query_id="q0", passage_ids=ids, scores=scores)}
    other = Ranking.sorted("q0", ids, scores)
    part = {"q0": other.top(depth)}
    assert other_candidates(source("a", part, "b"), source("b", first)) is None
    # but not one that scores less than one that was left out
    wrong = {"q0": Ranking(query_id="q0", passage_ids=("d0", "d5"), scores=(2.0, 1.0))}
    assert other_candidates(source("a", wrong, "b"), source("b", first)) is not None


def test_a_part_that_is_not_the_first_stages_best_is_refused() -> None:
    odd = run_of(*["01237"] * 6)
    found = of(source("bm25", FIRST), source("odd", odd, "bm25"))
    assert found.comparisons == ()
    assert found.against_first_stage(found.entry("odd")) is None
    assert found.hurt(found.entry("odd"), 5) == []
    assert found.to_dict()["not_compared"] == [{"a": "odd", "b": "bm25", "queries": 6, "shared": 6}]


def test_when_told_to_all_pairs_are_compared() -> None:
    sources = source("bm25", FIRST), source("deep", BACK, "bm25"), source("top", TOP, "bm25")
    found = of(*sources, across_candidates=True)
    assert pairs(found) == [("deep", "bm25"), ("top", "bm25"), ("top", "deep")]
    assert found.refusals == ()
    # one correction for all of them
    evaluations = {e.name: e.evaluation for e in found.entries}
    expected = {(p.b, p.a): p.holm_t for p in compare_all(evaluations, COMPARED)}
    assert {(p.a, p.b): p.holm_t for p in found.comparisons} == pytest.approx(expected)


# ---- what is compared, and in which direction


def test_the_reranker_is_a_in_whichever_order_the_runs_are_named() -> None:
    first, second = source("bm25", FIRST), source("back", BACK, "bm25")
    one, other = of(first, second), of(second, first)
    assert pairs(one) == pairs(other) == [("back", "bm25")]
    assert [e.name for e in other.entries] == ["back", "bm25"]
    assert one.comparisons == other.comparisons


def test_ndcg_10_is_compared_by_default_and_else_the_first_measure() -> None:
    runs = source("bm25", FIRST), source("back", BACK, "bm25")
    assert COMPARED in MEASURES
    assert of(*runs).compared == COMPARED == "nDCG@10"
    assert of(*runs, measures=("map", "nDCG@10")).compared == "MAP"
    asked = of(*runs, measures=("MAP", "mrr@10"), compared="RR@10")
    assert asked.compared == "MRR@10"
    assert {p.comparison.measure for p in asked.comparisons} == {"MRR@10"}
    assert asked.to_dict()["compared_by"] == "MRR@10"
    with pytest.raises(ConfigError, match=r"nDCG@10 is to be compared, but it is not measured"):
        of(*runs, measures=("MAP",), compared="nDCG@10")
    with pytest.raises(ConfigError, match="no measure"):
        of(*runs, measures=())


def test_the_lowest_relevant_grade_is_kept_and_used() -> None:
    one, two = of(source("bm25", FIRST)), of(source("bm25", FIRST), min_grade=2)
    assert (one.min_grade, two.min_grade) == (1, 2)
    assert two.entries[0].evaluation == evaluate(FIRST, JUDGEMENTS, min_grade=2)
    assert two.entries[0].evaluation.means["MAP"] < one.entries[0].evaluation.means["MAP"]


# ---- query by query


def test_changes_are_against_the_own_first_stage_worst_first() -> None:
    other = run_of(*["10234567"] * 6)
    found = of(source("other", other), source("bm25", FIRST), source("back", BACK, "bm25"))
    entry = found.entry("back")
    after = entry.evaluation.per_query["nDCG@10"]
    before = found.entry("bm25").evaluation.per_query["nDCG@10"]
    assert found.differences(entry) == {q: after[q] - before[q] for q in QUERIES}
    values = list(found.differences(entry).values())
    assert values == sorted(values)
    pair = found.against_first_stage(entry)
    assert pair is not None
    assert pair.b == "bm25"
    assert pair.comparison.difference == pytest.approx(sum(values) / 6)
    for change in found.changes(entry):
        assert (change.before, change.after) == (before[change.query_id], after[change.query_id])
    hurt = found.hurt(entry, 2)
    assert [change.query_id for change in hurt] == list(found.differences(entry))[:2]
    assert all(change.difference < 0 for change in hurt)
    assert {c.query_id for c in found.hurt(entry, 6)} == {
        q for q in QUERIES if after[q] < before[q]
    }
    assert found.hurt(entry, 0) == []
    for first in ("bm25", "other"):
        assert found.differences(found.entry(first)) == {}
        assert found.hurt(found.entry(first), 5) == []


@given(st.permutations(QUERIES), st.lists(st.sampled_from(["210", "012"]), min_size=6, max_size=6))
def test_of_equal_changes_the_first_by_id_comes_first(order: list[str], lists: list[str]) -> None:
    judgements = {q: {"d0": 1} for q in order}
    found = study(
        *("made", "test", judgements),
        [source("bm25", run_of(*["102"] * 6)), source("new", run_of(*lists), "bm25")],
        measures=["MRR@3"],
    )
    changes = found.changes(found.entry("new"))
    assert len({c.difference for c in changes}) == len(set(lists))
    assert changes == sorted(changes, key=lambda c: (c.difference, c.query_id))


def test_equal_runs_hurt_nothing() -> None:
    found = of(source("bm25", FIRST), source("same", FIRST, "bm25"))
    (pair,) = found.comparisons
    assert (pair.comparison.ties, pair.holm_t, pair.comparison.effect) == (6, 1.0, 0.0)
    assert found.hurt(found.entry("same"), 5) == []


def test_every_mean_has_its_interval() -> None:
    entry = of(source("bm25", FIRST)).entries[0]
    for measure, values in entry.evaluation.per_query.items():
        low, high = entry.interval(measure)
        assert (low, high) == bootstrap_interval(list(values.values()))
        assert low <= entry.evaluation.means[measure] + 1e-12
        assert entry.evaluation.means[measure] <= high + 1e-12


# ---- what is refused, and what is said


def test_names_must_be_different_and_first_stages_there() -> None:
    with pytest.raises(ConfigError, match="two runs are called 'a'"):
        of(source("a", FIRST), source("b", BACK), source("a", BACK))
    with pytest.raises(ConfigError, match="b: its first stage 'bm25' is not among the runs"):
        of(source("a", FIRST), source("b", BACK, "bm25"))
    with pytest.raises(ConfigError, match="no run to evaluate"):
        of()
    with pytest.raises(ConfigError, match="no run 'c'; there are: a, b"):
        of(source("a", FIRST), source("b", BACK)).entry("c")


def test_a_run_that_reranked_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="a: a run cannot be its own first stage"):
        of(source("a", FIRST, "a"))


def test_one_judged_query_is_measured_and_not_compared() -> None:
    judgements = {"q0": JUDGEMENTS["q0"]}
    runs = source("bm25", FIRST), source("back", BACK, "bm25")
    found = study("made", "test", judgements, runs)
    assert found.query_ids == ("q0",)
    assert found.comparisons == found.refusals == ()
    assert "one judged query is too few to compare runs" in found.notes
    assert "bm25 ranks for 5 queries that nobody judged; they count nowhere" in found.notes


def test_the_dictionary_is_json_and_holds_everything() -> None:
    sources = (
        RunSource(name="bm25", run=FIRST, path=Path("bm25.trec")),
        RunSource(name="back", run=BACK, first_stage="bm25", origin={"model": "m"}),
        source("top", TOP, "bm25"),
    )
    found = study("made", "test", JUDGEMENTS, sources)
    held = json.loads(json.dumps(found.to_dict(per_query=True), allow_nan=False))
    assert (held["collection"], held["split"], held["queries"]) == ("made", "test", 6)
    assert held["measures"] == list(MEASURES)
    bm25, back, top = held["runs"]
    assert (bm25["path"], bm25["first_stage"], bm25["made_by"]) == ("bm25.trec", True, None)
    assert (back["reranked"], back["made_by"], top["path"]) == ("bm25", {"model": "m"}, None)
    for row, entry in zip(held["runs"], found.entries, strict=True):
        assert row["means"] == entry.evaluation.means
        assert row["per_query"] == entry.evaluation.per_query
        assert row["intervals"] == {m: list(entry.interval(m)) for m in MEASURES}
    assert [(p["a"], p["b"]) for p in held["comparisons"]] == pairs(found)
    for row, pair in zip(held["comparisons"], found.comparisons, strict=True):
        assert row["effect"] == pair.comparison.effect
        assert row["interval"] == list(pair.comparison.interval)
    assert held["not_compared"] == [{"a": "top", "b": "back", "queries": 6, "shared": 6}]
    assert "per_query" not in found.to_dict()["runs"][0]
