"""`dear evaluate`: which rows there are, what is compared, and what is said about it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import CORPUS, JUDGEMENTS, QUERIES, dear, first_stage, good, refused, start

from dear.data.collections import open_collection
from dear.data.formats import write_run
from dear.evaluate.compare import compare_all
from dear.evaluate.metrics import MEASURES, evaluate
from dear.records import Ranking
from dear.steps.inputs import run_names

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
    columns = ["run", *found["measures"], "win/tie/loss", "95 % of nDCG@10"]
    assert re.split("  +", lines[0]) == columns
    against = {p["a"]: p for p in found["comparisons"] if p["b"] == "bm25"}
    for row, line in zip(found["runs"], lines[1:4], strict=True):
        cells = re.split("  +", line.removeprefix(row["name"]).removeprefix(" (first stage)"))[1:]
        low, high = row["intervals"]["nDCG@10"]
        assert low <= row["means"]["nDCG@10"] <= high
        assert cells.pop() == f"{low:.4f}–{high:.4f}"
        if pair := against.get(row["name"]):
            assert cells.pop() == f"{pair['wins']}/{pair['ties']}/{pair['losses']}"
            assert pair["wins"] + pair["ties"] + pair["losses"] == 8
        mark = "" if row["first_stage"] else mark_of(against[row["name"]])
        at = found["measures"].index("nDCG@10")
        assert cells[at].removeprefix(f"{row['means']['nDCG@10']:.4f}").strip() == mark
        cells[at] = cells[at].rstrip(" ▲▼")
        assert cells == [f"{row['means'][m]:.4f}" for m in found["measures"]]
    assert lines[4] == "▲ ▼ nDCG@10 above, below the first stage's: corrected p < 0.05"
    for pair, line in zip(found["comparisons"], lines[7:10], strict=True):
        assert line.startswith(f"{pair['a']} − {pair['b']} ")
        assert f"{pair['difference']:+.4f}" in line
        assert re.split("  +", line)[3:] == behind_the_interval(pair)
    assert lines[10] == (
        "8 queries; p: paired randomisation and t test, Holm-corrected over 3 pairs (the "
        "intervals are not); "
        "effect: difference in standard deviations of it"
    )


def mark_of(pair: dict[str, Any]) -> str:
    if pair["holm_randomisation"] >= 0.05:
        return ""
    return "▲" if pair["difference"] > 0 else "▼"


def behind_the_interval(pair: dict[str, Any]) -> list[str]:
    """The last cells of a comparison: corrected p values, effect, counts."""
    by_randomisation, by_t = (
        "<0.0001" if p < 0.0001 else f"{p:.4f}"
        for p in (pair["holm_randomisation"], pair["holm_t"])
    )
    # there is none where all differ alike
    effect = [] if pair["effect"] is None else [f"{pair['effect']:+.2f}"]
    counts = f"{pair['wins']}/{pair['ties']}/{pair['losses']}"
    return [by_randomisation, by_t, *effect, counts]


def test_marks_and_p_values_are_corrected_for_the_number_of_pairs(
    animals: Path, tmp_path: Path
) -> None:
    words: list[object] = [animals]
    for name, losers in (("a", 0), ("b", 1), ("c", 2)):
        run = {}
        for place, (query, ranking) in enumerate(first_stage("test").items()):
            ids = list(ranking.passage_ids)
            # up by one or two, or down by two
            ids.insert(4 if place < losers else place % 2, ids.pop(2))
            run[query] = replace(ranking, passage_ids=tuple(ids))
        write_run(tmp_path / f"{name}.trec", run, name)
        words += ["--run", tmp_path / f"{name}.trec"]
    found, lines = report_of(*words), good("evaluate", *words).splitlines()
    against = {p["a"]: p for p in found["comparisons"] if p["b"] == "bm25"}
    for line in lines[1:5]:
        name = line.split(" ")[0]
        assert any(mark in line for mark in "▲▼") == bool(
            name in against and against[name]["holm_randomisation"] < 0.05
        )
    by_name = {f"{p['a']} − {p['b']}": p for p in found["comparisons"]}
    rows = [re.split("  +", line) for line in lines if line.split("  ")[0] in by_name]
    assert len(rows) == len(by_name) == 6
    for row in rows:
        assert row[3:] == behind_the_interval(by_name[row[0]])
    # a run that would be marked without correction, and p values that differ by it
    assert any(p["p_randomisation"] < 0.05 <= p["holm_randomisation"] for p in against.values())
    assert any(p["p_t"] + 1e-4 < p["holm_t"] < 1 for p in found["comparisons"])


def test_the_default_comparison_is_by_ndcg_10(animals: Path, runs: dict[str, Path]) -> None:
    words = (animals, "--run", runs["good"])
    assert report_of(*words)["compared_by"] == "nDCG@10"
    # asked for in the very order of the default ones, the first is compared all the same
    asked = [word for m in MEASURES for word in ("--measure", m)]
    assert report_of(*words, *asked)["compared_by"] == "nDCG@1"


@pytest.mark.parametrize(
    ("columns", "shown", "hidden"),
    [
        (140, ("win/tie/loss", "95 % of"), ()),
        (104, ("win/tie/loss",), ("95 % of",)),
        (80, (), ("win/tie/loss", "95 % of")),
    ],
)
def test_the_means_keep_their_columns_in_a_narrow_terminal(
    animals: Path,
    runs: dict[str, Path],
    columns: int,
    shown: tuple[str, ...],
    hidden: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text, status = in_terminal("evaluate", animals, "--run", runs["good"])
    assert status == 0, text
    head = text.splitlines()[0]
    assert all(word in head for word in (*MEASURES, *shown))
    assert not any(word in head for word in hidden)
    rows = text.splitlines()[: text.splitlines().index("")]
    assert max(map(len, rows[:3])) <= columns


def in_terminal(*words: object) -> tuple[str, int]:
    """A command whose standard output is a terminal; its output and exit status."""
    ours, theirs = os.openpty()
    process = start(*words, stdout=theirs)
    os.close(theirs)
    parts = []
    with contextlib.suppress(OSError):  # raised at its end
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    os.close(ours)
    _, errors = process.communicate()
    text = re.sub(r"\x1b\[[0-9;]*m", "", b"".join(parts).decode()).replace("\r\n", "\n")
    return text + errors, process.returncode


def test_the_queries_hurt_most_are_shown_with_their_texts(
    animals: Path, runs: dict[str, Path]
) -> None:
    words = (animals, "--run", runs["fair"])
    values = {
        row["name"]: row["per_query"]["nDCG@10"] for row in report_of(*words, "--per-query")["runs"]
    }
    lost = {q: values["fair"][q] - before for q, before in values["bm25"].items()}
    worst = sorted((d, q) for q, d in lost.items() if d < 0)[:2]
    out = good("evaluate", *words, "--hurt", 2)
    lines = out[out.index("hurt most") :].splitlines()
    assert re.split("  +", lines[0]) == [
        *("hurt most (nDCG@10)", "query", "before → after", "difference", "text")
    ]
    assert len(lines) == 1 + len(worst) == 3
    for (difference, query), line in zip(worst, lines[1:], strict=True):
        before, after = values["bm25"][query], values["fair"][query]
        assert re.split("  +", line) == [
            "fair",
            query,
            f"{before:.4f} → {after:.4f}",
            f"{difference:+.4f}",
            QUERIES[query].text,
        ]
    assert "hurt most" not in good("evaluate", *words, "--hurt", 0)


def test_queries_without_texts_are_shown_by_id(mine: Path, runs: dict[str, Path]) -> None:
    (mine / "queries.jsonl").unlink()
    done = dear("evaluate", mine, "--run", runs["fair"], "--hurt", 1)
    assert done.status == 0
    assert "hurt most" in done.out
    assert "queries are shown without their texts" in done.err
    assert dear("evaluate", mine, "--run", runs["fair"], "--hurt", 0).err == ""


def test_of_many_runs_only_pairs_with_the_first_stage_are_shown(
    animals: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    write_run(tmp_path / "last.trec", moved(first_stage("test"), 5), "last")
    words = [animals]
    for path in (*runs.values(), tmp_path / "last.trec"):
        words += ["--run", path]
    few, every = good("evaluate", *words), good("evaluate", *words, "--all-pairs")
    named = {(p["a"], p["b"]) for p in report_of(*words)["comparisons"]}
    assert len(named) == 10
    assert pairs_in(every) == named
    assert pairs_in(few) == {(a, b) for a, b in named if b == "bm25"}
    assert "6 pairs without a first stage: --all-pairs shows them" in few
    assert "--all-pairs" not in every
    # what is corrected for does not depend on what is shown
    assert all(line in every for line in few.splitlines() if " − bm25 " in line)


def pairs_in(out: str) -> set[tuple[str, ...]]:
    return set(re.findall(r"^(\S+) − (\S+) ", out, re.MULTILINE))


def test_missing_queries_count_as_zero_and_are_reported(animals: Path, tmp_path: Path) -> None:
    half = dict(list(first_stage("test").items())[:4])
    write_run(tmp_path / "half.trec", half, "half")
    done = dear("evaluate", animals, "--run", tmp_path / "half.trec")
    lines = done.out.splitlines()
    at = re.split("  +", lines[0]).index("missing")
    assert [re.split("  +", line)[at] for line in lines[1:3]] == ["0", "4"]
    assert "half lacks 4 of 8 judged queries, such as sleep-whale; they count as zero" in done.err
    found = report_of(animals, "--run", tmp_path / "half.trec")
    whole, part = (row["means"]["nDCG@10"] for row in found["runs"])
    assert part == pytest.approx(whole / 2)
    assert len(found["runs"][1]["missing"]) == 4


def test_other_candidates_are_not_compared(animals: Path, tmp_path: Path) -> None:
    run = first_stage("test")
    write_run(tmp_path / "part.trec", {q: r.top(5) for q, r in run.items()}, "part")
    other = {q: r.top(5) for q, r in run.items()}
    other["sleep-otter"] = Ranking(
        query_id="sleep-otter", passage_ids=run["sleep-otter"].passage_ids[-5:], scores=(1.0,) * 5
    )
    write_run(tmp_path / "other.trec", other, "other")
    words = (animals, "--first-stage", tmp_path / "part.trec", "--run", tmp_path / "other.trec")
    done = dear("evaluate", *words)
    assert done.status == 0
    (line,) = (line for line in done.out.splitlines() if " − " in line)
    assert re.split("  +", line) == ["other − part", "not compared", "in 1 of 8"]
    assert "not compared: other candidates in so many queries" in done.out
    assert "--across-candidates compares them" in done.out
    assert "▲" not in done.out
    assert "hurt most" not in done.out
    found = report_of(*words)
    assert found["comparisons"] == []
    assert found["not_compared"] == [{"a": "other", "b": "part", "queries": 1, "shared": 8}]
    assert [row["reranked"] for row in found["runs"]] == [None, "part"]
    told = report_of(*words, "--across-candidates")
    assert told["not_compared"] == []
    assert [(p["a"], p["b"]) for p in told["comparisons"]] == [("other", "part")]


def test_a_part_of_the_first_stage_is_compared(animals: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "part.trec", {q: r.top(5) for q, r in first_stage("test").items()}, "part")
    found = report_of(animals, "--run", tmp_path / "part.trec")
    assert [(p["a"], p["b"]) for p in found["comparisons"]] == [("part", "bm25")]
    assert found["not_compared"] == []


def test_a_passage_twice_is_an_error(animals: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.trec"
    write_run(path, first_stage("test"), "twice")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3]]))
    passage = lines[3].split()[2]
    assert refused("evaluate", animals, "--run", path) == (
        f"{path}:{len(lines) + 1}: passage {passage!r} appears twice for query 'sleep-otter'"
    )


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
    said = "relevant in binary measures (MRR, MAP, R): grade 2 and above"
    assert said in good("evaluate", *words, "--min-grade", 2)
    assert said not in good("evaluate", *words)


def test_a_collection_may_say_which_grades_are_relevant(
    animals: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # dl19's entry says 2
    named = mine.rename(mine.parent / "dl19")
    monkeypatch.setenv("DEAR_DATA", str(named.parent))
    assert report_of("dl19", "--run", "bm25")["min_grade"] == 2
    assert report_of("dl19", "--run", "bm25", "--min-grade", 1)["min_grade"] == 1
    assert report_of(animals, "--run", "bm25")["min_grade"] == 1


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


def test_questions_are_counted_by_the_answers_that_their_best_passages_hold(
    mine: Path, runs: dict[str, Path]
) -> None:
    asked = list(first_stage("test"))
    opened = open_collection(mine)
    # half of the questions are answered by their own best passage, the others by nothing
    rows = [
        {"_id": q, "answers": [opened.corpus[first_stage("test")[q].passage_ids[0]].text]}
        if i % 2
        else {"_id": q, "answers": ["nobody knows"]}
        for i, q in enumerate(asked)
    ]
    (mine / "answers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = (mine, "--run", runs["good"], "--measure", "answer@1", "--measure", "Answer@5")
    found = report_of(*words)
    assert found["measures"] == ["answer@1", "answer@5"]
    assert found["compared_by"] == "answer@1"
    assert found["queries"] == len(asked)
    before, after = (row["means"] for row in found["runs"])
    assert before["answer@1"] == pytest.approx(len(asked) // 2 / len(asked))
    assert after["answer@1"] <= before["answer@1"] <= before["answer@5"]
    line = refused("evaluate", *words, "--measure", "nDCG@10")
    assert "ask for one kind" in line


def test_published_rows_stand_beside_and_own_runs_are_first_stages(shared_data: Path) -> None:
    words = (shared_data / "dl19", "--run", "bm25", "--run", "repllama", "--published")
    found = report_of(*words)
    assert [row["first_stage"] for row in found["runs"]] == [True, True]
    assert found["comparisons"] == []
    assert [(p["a"], p["b"]) for p in found["not_compared"]] == [("repllama", "bm25")]
    values = {row["system"]: row["value"] for row in found["published"]}
    assert values["RankVicuna-7B"] == pytest.approx(0.6682)
    assert "published, not measured here" in good("evaluate", *words)
    assert "published" not in report_of(*words[:-1])
