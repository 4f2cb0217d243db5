"""`dear evaluate`: which rows there are, what is compared, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import CORPUS, JUDGEMENTS, dear, first_stage, good

from dear.cli.evaluate import run_names
from dear.data.formats import write_run
from dear.evaluate.compare import compare_all
from dear.evaluate.metrics import evaluate
from dear.records import Ranking

TEST = JUDGEMENTS["test"]


def moved(run: dict[str, Ranking], places: int) -> dict[str, Ranking]:
    """Every ranking turned by so many places: other numbers, the same candidates."""
    turned = {}
    for number, (query, ranking) in enumerate(run.items()):
        by = (places + number) % len(ranking)
        ids = (*ranking.passage_ids[by:], *ranking.passage_ids[:by])
        turned[query] = Ranking(query_id=query, passage_ids=ids, scores=ranking.scores)
    return turned


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Three runs over the same candidates."""
    files = {}
    for name, places in (("good", 1), ("fair", 22), ("poor", 9)):
        files[name] = tmp_path / f"{name}.trec"
        write_run(files[name], moved(first_stage("test"), places), name)
    return files


def report_of(*words: object) -> Any:
    """What `--json -` prints."""
    return json.loads(good("evaluate", *words, "--json", "-"))


def test_all_pairs_are_compared_as_the_library_does(animals: Path, runs: dict[str, Path]) -> None:
    words = [word for path in runs.values() for word in ("--run", path)]
    found = report_of(animals, *words, "--measure", "mrr@10", "--measure", "nDCG@5")
    assert [row["name"] for row in found["runs"]] == ["bm25", "good", "fair", "poor"]
    assert found["measures"] == ["MRR@10", "nDCG@5"]
    assert found["compared_by"] == "MRR@10"
    stored = {"bm25": first_stage("test")} | {
        name: moved(first_stage("test"), places)
        for name, places in (("good", 1), ("fair", 22), ("poor", 9))
    }
    evaluations = {n: evaluate(run, TEST, ("MRR@10", "nDCG@5")) for n, run in stored.items()}
    expected = {(p.b, p.a): p for p in compare_all(evaluations, "MRR@10")}
    assert len(found["comparisons"]) == 6
    for pair in found["comparisons"]:
        there = expected[pair["a"], pair["b"]]
        # the other way round: a later run minus an earlier one
        assert pair["difference"] == pytest.approx(-there.comparison.difference)
        assert pair["holm_randomisation"] == pytest.approx(there.holm_randomisation)
        assert pair["holm_t"] == pytest.approx(there.holm_t)
        assert (pair["wins"], pair["losses"]) == (there.comparison.losses, there.comparison.wins)
        low, high = pair["interval"]
        assert low <= pair["difference"] <= high
    assert pair["holm_t"] >= pair["p_t"]


def test_the_table_shows_what_the_report_holds(animals: Path, runs: dict[str, Path]) -> None:
    words = (animals, "--run", runs["good"], "--run", runs["poor"])
    found, lines = report_of(*words), good("evaluate", *words).splitlines()
    for row, line in zip(found["runs"], lines[1:4], strict=True):
        assert line.split()[-5:] == [f"{row['means'][m]:.4f}" for m in found["measures"]]
    for pair, line in zip(found["comparisons"], lines[6:9], strict=True):
        assert line.startswith(f"{pair['a']} − {pair['b']} ")
        assert f"{pair['difference']:+.4f}" in line
        assert line.endswith(f"{pair['wins']}/{pair['ties']}/{pair['losses']}")
        assert f"{pair['holm_randomisation']:.4f}" in line
    assert lines[9] == (
        "8 queries; p: paired randomisation and t test, Holm-corrected over 3 pairs"
    )


def test_missing_queries_count_as_zero_and_are_reported(animals: Path, tmp_path: Path) -> None:
    half = dict(list(first_stage("test").items())[:4])
    write_run(tmp_path / "half.trec", half, "half")
    done = dear("evaluate", animals, "--run", tmp_path / "half.trec")
    lines = done.out.splitlines()
    assert lines[0].split()[-1] == "missing"
    assert [line.split()[-1] for line in lines[1:3]] == ["0", "4"]
    assert "half lacks 4 of 8 judged queries, such as sleep-whale; they count as zero" in done.err
    found = report_of(animals, "--run", tmp_path / "half.trec")
    whole, part = (row["means"]["nDCG@10"] for row in found["runs"])
    assert part == pytest.approx(whole / 2)
    assert len(found["runs"][1]["missing"]) == 4


def test_other_candidates_are_reported(animals: Path, tmp_path: Path) -> None:
    run = first_stage("test")
    write_run(tmp_path / "part.trec", {q: r.top(5) for q, r in run.items()}, "part")
    other = {q: r.top(5) for q, r in run.items()}
    other["sleep-otter"] = Ranking(
        query_id="sleep-otter", passage_ids=run["sleep-otter"].passage_ids[-5:], scores=(1.0,) * 5
    )
    write_run(tmp_path / "other.trec", other, "other")
    words = ("--first-stage", tmp_path / "part.trec", "--run", tmp_path / "other.trec")
    err = dear("evaluate", animals, *words).err
    assert "dear: other ranks other candidates for 1 of 8 queries: compare it with part" in err
    err = dear("evaluate", animals, "--run", tmp_path / "part.trec").err
    assert "dear: part ranks only a part of bm25's candidates for 8 of 8 queries" in err


def test_queries_that_nobody_judged_are_reported(animals: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "all.trec", {**first_stage("test"), **first_stage("dev")}, "all")
    err = dear("evaluate", animals, "--run", tmp_path / "all.trec").err
    assert "all ranks for 8 queries that nobody judged; they count nowhere" in err


def test_the_first_stage_is_found_or_asked_for(mine: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "a.trec", moved(first_stage("test"), 1), "a")
    own = mine / "runs" / "bm25.test.trec"
    # named as a run, too: one row
    names = [r["name"] for r in report_of(mine, "--run", tmp_path / "a.trec", "--run", own)["runs"]]
    assert names == ["bm25", "a"]
    own.rename(tmp_path / "elsewhere.trec")
    done = dear("evaluate", mine, "--run", tmp_path / "a.trec")
    assert "no first stage to compare with is known; name it with --first-stage" in done.err
    assert "win/tie/loss" not in done.out
    given = ("--first-stage", tmp_path / "elsewhere.trec")
    found = report_of(mine, "--run", tmp_path / "a.trec", *given)
    assert [(r["name"], r["first_stage"]) for r in found["runs"]] == [
        *(("elsewhere", True), ("a", False))
    ]


def test_a_first_stage_that_is_gone_is_reported(mine: Path, reranker: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.trec"
    good("retrieve", mine, "--output", first)
    output = tmp_path / "second.trec"
    good("rank", mine, "--run", first, "--model", reranker, "--output", output)
    first.unlink()
    done = dear("evaluate", mine, "--run", output)
    assert f"dear: {first.resolve()}, which {output} was made from, is gone" in done.err
    assert done.out.splitlines()[1].startswith("bm25 (first stage)")


def test_per_query_values_are_listed(animals: Path, runs: dict[str, Path]) -> None:
    words = (animals, "--run", runs["poor"], "--per-query")
    lines = good("evaluate", *words).splitlines()[-9:]
    assert lines[0].split() == ["query", "(nDCG@10)", "bm25", "poor"]
    values = report_of(*words)["runs"][1]["per_query"]["nDCG@10"]
    assert {line.split()[0]: line.split()[2] for line in lines[1:]} == {
        q: f"{v:.4f}" for q, v in values.items()
    }


def test_the_lowest_relevant_grade_counts_in_binary_measures(mine: Path) -> None:
    qrels = mine / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("\t1\n", "\t2\n", 4))
    words = (mine, "--run", "bm25", "--measure", "MAP", "--measure", "nDCG@10")
    (any_grade,), (two,) = (report_of(*words, *more)["runs"] for more in ((), ("--min-grade", 2)))
    assert two["means"]["MAP"] == pytest.approx(any_grade["means"]["MAP"] / 2)
    assert two["means"]["nDCG@10"] == any_grade["means"]["nDCG@10"]


def test_one_query_is_shown_and_not_compared(mine: Path, tmp_path: Path) -> None:
    (mine / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nsleep-owl\towl-sleep\t1\n"
    )
    write_run(tmp_path / "a.trec", moved(first_stage("test"), 2), "a")
    done = dear("evaluate", mine, "--run", tmp_path / "a.trec")
    assert done.status == 0
    assert len(done.out.splitlines()) == 3
    assert "one judged query is too few to compare runs" in done.err


def test_names_are_short_and_all_different() -> None:
    paths = [Path(p) for p in ("/a/x/student.trec", "/a/y/student.trec.gz", "/a/bm25.test.trec")]
    names = run_names(paths, {paths[2]: "bm25"})
    assert names == ["x/student", "y/student", "bm25"]
    paths = [Path("/a/r.trec"), Path("/a/r.trec.gz"), Path("/b/a/r.run")]
    assert len(set(run_names(paths, {}))) == 3


def test_every_passage_stands_in_the_run() -> None:
    # the other tests lean on this
    assert all(set(r.passage_ids) == set(CORPUS) for r in first_stage("test").values())
