"""Known first stages over real collections: the numbers that their READMEs state."""

from __future__ import annotations

import pytest

from dear.data.formats import read_run
from dear.evaluate.compare import compare, compare_all, pool
from dear.evaluate.metrics import evaluate
from dear.evaluate.study import RunSource, study


@pytest.mark.parametrize(
    ("collection", "run", "measure", "stated"),
    [
        ("dl19", "bm25", "nDCG@10", 0.5058),
        ("dl19", "bm25", "R@100", 0.4531),
        ("dl19", "splade_pp_ed", "nDCG@10", 0.7308),
        ("scifact", "bm25", "nDCG@10", 0.6762),
        ("scifact", "bm25", "R@100", 0.9127),
        ("noveleval", "bm25", "nDCG@10", 0.6978),
        ("noveleval", "bm25", "nDCG@1", 0.5952),
        ("noveleval", "original", "nDCG@5", 0.5824),
    ],
)
def test_first_stages_score_what_is_stated(load_run, load_qrels, collection, run, measure, stated):
    evaluation = evaluate(load_run(collection, run), load_qrels(collection), [measure])
    assert round(evaluation.means[measure], 4) == stated
    assert not evaluation.missing
    assert evaluation.unjudged == 0


@pytest.mark.parametrize(
    ("run", "stated"),
    [
        ("rankvicuna-7b.bm25", 0.6682),  # published, and 66.82 in the paper's README
        ("rankvicuna-7b.splade_pp_ed", 0.7459),
        ("gpt-3.5-turbo.a.bm25", 0.6799),
        ("gpt-3.5-turbo.b.bm25", 0.6737),
        ("gpt-3.5-turbo.c.bm25", 0.6827),
        ("gpt-3.5-turbo.d.bm25", 0.6938),
        ("gpt-3.5-turbo.e.bm25", 0.6868),
    ],
)
def test_rerankers_of_others_score_what_is_stated(shared_data, load_qrels, run, stated):
    path = shared_data / "rankllm-listwise-responses" / "runs" / f"{run}.dl19.trec.gz"
    evaluation = evaluate(read_run(path), load_qrels("dl19"), ["nDCG@10"])
    assert round(evaluation.means["nDCG@10"], 4) == stated


def test_rerankers_are_compared_with_what_they_reranked_and_no_other(
    shared_data, load_run, load_qrels
):
    folder = shared_data / "rankllm-listwise-responses" / "runs"
    sources = [
        RunSource(name=first, run=load_run("dl19", first)) for first in ("bm25", "splade_pp_ed")
    ] + [
        RunSource(
            name=f"vicuna {first}",
            run=read_run(folder / f"rankvicuna-7b.{first}.dl19.trec.gz"),
            first_stage=first,
        )
        for first in ("bm25", "splade_pp_ed")
    ]
    found = study("dl19", "test", load_qrels("dl19"), sources)
    assert [(p.a, p.b) for p in found.comparisons] == [
        ("vicuna bm25", "bm25"),
        ("vicuna splade_pp_ed", "splade_pp_ed"),
    ]
    assert {(r.queries, r.shared) for r in found.refusals} == {(43, 43)}
    assert len(found.refusals) == 4
    strong, weak = found.comparisons
    assert strong.holm_randomisation < 0.001 < 0.05 < weak.holm_randomisation
    assert strong.comparison.difference == pytest.approx(0.6682 - 0.5058, abs=1e-4)


def test_rounded_scores_count_as_ties_unless_the_written_order_is_kept(load_run, load_qrels):
    # repllama's scores have three decimals, so 2,729 of 4,300 passages repeat one. The
    # stated 0.7439 is the order of the file; trec_eval, which goes by score, sees another.
    judgements = load_qrels("dl19")
    by_score = evaluate(load_run("dl19", "repllama"), judgements, ["nDCG@10"])
    as_written = evaluate(load_run("dl19", "repllama", by="rank"), judgements, ["nDCG@10"])
    assert round(by_score.means["nDCG@10"], 4) == 0.7384
    assert round(as_written.means["nDCG@10"], 4) == 0.7439


def test_every_query_agrees_with_pytrec_eval(load_run, load_qrels):
    import pytrec_eval

    run, judgements = load_run("dl19", "repllama"), load_qrels("dl19")
    ours = evaluate(run, judgements, min_grade=2).per_query
    raw = {q: dict(zip(r.passage_ids, r.scores, strict=True)) for q, r in run.items()}
    oracle = pytrec_eval.RelevanceEvaluator(
        judgements, {"ndcg_cut.10", "map", "recall.100", "recip_rank"}, relevance_level=2
    ).evaluate(raw)
    for query_id, expected in oracle.items():
        assert ours["nDCG@10"][query_id] == pytest.approx(expected["ndcg_cut_10"], abs=1e-6)
        assert ours["MAP"][query_id] == pytest.approx(expected["map"], abs=1e-6)
        assert ours["R@100"][query_id] == pytest.approx(expected["recall_100"], abs=1e-6)
        # trec_eval's has no cut
        rank = expected["recip_rank"] if expected["recip_rank"] >= 0.1 else 0.0
        assert ours["MRR@10"][query_id] == pytest.approx(rank, abs=1e-6)
    assert ours["MRR@10"].keys() == oracle.keys()


def test_real_differences_agree_with_scipy(load_run, load_qrels):
    from scipy.stats import ttest_rel

    judgements = load_qrels("dl19")
    runs = {
        name: evaluate(load_run("dl19", name), judgements, ["nDCG@10"])
        for name in ("bm25", "splade_pp_ed", "repllama")
    }
    for pair in compare_all(runs, "nDCG@10", permutations=20_000):
        a, b = (list(runs[name].per_query["nDCG@10"].values()) for name in (pair.a, pair.b))
        assert pair.comparison.p_t == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-9)
        significant = "bm25" in (pair.a, pair.b)
        assert (pair.holm_t < 0.001) == (pair.holm_randomisation < 0.001) == significant
        low, high = pair.comparison.interval
        assert (high < 0 or low > 0) == significant


def test_collections_pool_into_one_comparison(load_run, load_qrels):
    pooled = {
        name: pool(
            {
                collection: evaluate(load_run(collection, run), load_qrels(collection), ["nDCG@10"])
                for collection, run in (("dl19", name), ("noveleval", "bm25"))
            }
        )
        for name in ("bm25", "repllama")
    }
    found = compare(pooled["repllama"], pooled["bm25"], "nDCG@10", permutations=20_000)
    assert found.n == 43 + 21
    assert found.ties >= 21
    assert found.difference == pytest.approx((0.7384 - 0.5058) * 43 / 64, abs=1e-4)
