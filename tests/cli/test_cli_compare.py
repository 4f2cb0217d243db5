"""`dear compare`: which query it takes, what it shows of it, and in what shape."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_line import CORPUS, JUDGEMENTS, dear, first_stage, good, refused, start
from hypothesis import given
from hypothesis import strategies as st

from dear.data.formats import write_run
from dear.evaluate.side_by_side import beside, largest_changes, most_different
from dear.records import Ranking


def ranking(query_id: str, ids: list[str]) -> Ranking:
    return Ranking(query_id=query_id, passage_ids=tuple(ids), scores=tuple(range(len(ids), 0, -1)))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The relevant passage goes up for otters, away for pandas, and down for koalas."""
    run = dict(first_stage("test"))
    for animal in ("otter", "panda", "koala"):
        query, relevant = f"sleep-{animal}", f"{animal}-sleep"
        ids = [p for p in run[query].passage_ids if p != relevant]
        where = {"otter": 0, "koala": 6}.get(animal)
        run[query] = ranking(
            query, ids if where is None else [*ids[:where], relevant, *ids[where:]]
        )
    write_run(tmp_path / "other.trec", run, "other")
    return tmp_path / "other.trec"


def compared(*words: object) -> dict[str, Any]:
    return json.loads(good("compare", *words, "--json"))


# ---- two rankings ----

ids = st.lists(st.sampled_from([f"p{i}" for i in range(9)]), unique=True, max_size=9)


@given(ids, ids, st.integers(1, 9), st.dictionaries(st.sampled_from(["p1", "p2"]), st.integers()))
def test_both_sides_agree_with_each_other(
    a: list[str], b: list[str], top: int, grades: dict[str, int]
) -> None:
    both = beside("q", {"q": ranking("q", a)}, {"q": ranking("q", b)}, grades, top)
    swapped = beside("q", {"q": ranking("q", b)}, {"q": ranking("q", a)}, grades, top)
    assert (both.a, both.b) == (swapped.b, swapped.a)
    assert [p.passage_id for p in both.a] == a[:top]
    for place in both.a:
        there = b.index(place.passage_id) + 1 if place.passage_id in b else None
        assert place.other == there
        assert place.moved == (None if there is None else there - place.rank)
        assert place.grade == grades.get(place.passage_id)
    assert {p.passage_id for p in both.only_a} == set(a[:top]) - set(b[:top])
    assert both.shared == len(set(a[:top]) & set(b[:top]))


def test_a_run_may_lack_the_query() -> None:
    both = beside("q", {}, {"q": ranking("q", ["p"])}, {}, 3)
    assert both.a == ()
    assert both.only_b == both.b
    assert both.b[0].other is None


def test_largest_changes_are_by_size_and_only_real_ones() -> None:
    before, after = {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0}, {"a": 0.5, "b": 0.0, "c": 0.5, "d": 1}
    assert largest_changes(before, after, 5) == ["a", "b"]
    assert largest_changes(before, after, 1) == ["a"]
    assert largest_changes(before, after, 5, gains=True) == ["d"]


few = st.permutations("abcdef").flatmap(
    lambda names: st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 6).map(
        lambda values: dict(zip(names, values, strict=True))
    )
)


@given(few, few, st.integers(1, 6), st.booleans())
def test_of_equal_changes_the_first_by_id_counts(
    before: dict[str, float], after: dict[str, float], count: int, gains: bool
) -> None:
    by = {q: (after[q] - before[q]) * (1 if gains else -1) for q in before}
    expected = [q for q in sorted(by, key=lambda q: (-by[q], q)) if by[q] > 0]
    assert largest_changes(before, after, count, gains=gains) == expected[:count]


@given(
    st.permutations("abcd"), st.lists(ids, min_size=8, max_size=8), st.sets(st.sampled_from("abcd"))
)
def test_the_most_different_query_is_a_judged_one_and_the_first_of_equals(
    order: list[str], lists: list[list[str]], judged: set[str]
) -> None:
    a = {q: ranking(q, one) for q, one in zip(order, lists[:4], strict=True)}
    b = {q: ranking(q, one) for q, one in zip(order[:3], lists[4:], strict=False)}
    shared = {q: len(set(a[q].passage_ids[:3]) & set(b[q].passage_ids[:3])) for q in b}
    for judgements in (None, {q: {"p1": 1} for q in judged}):
        among = [q for q in shared if judgements is None or q in judged] or list(shared)
        expected = min(among, key=lambda q: (shared[q], q))
        assert most_different(a, b, judgements, 3) == expected
    assert most_different(a, {}, None, 3) is None


# ---- which query ----


def test_without_a_query_the_largest_loss_is_shown(animals: Path, other: Path) -> None:
    found = compared(animals, "bm25", other)
    (query,) = found["queries"]
    assert query["id"] == "sleep-panda"
    assert (query["a"], query["b"]) == (0.5, 0.0)
    assert (found["a"], found["b"], found["measure"]) == ("bm25", "other", "nDCG@10")
    assert "panda-sleep" not in [p["id"] for p in query["ranking_b"]]
    (relevant,) = [p for p in query["ranking_a"] if p["relevant"]]
    assert relevant == {
        "rank": 3,
        "other_rank": None,
        "id": "panda-sleep",
        "score": 22.0,
        "grade": 1,
        "relevant": True,
        "title": "",
        "text": CORPUS["panda-sleep"].text,
    }


def test_worst_and_best(animals: Path, other: Path) -> None:
    worst = compared(animals, "bm25", other, "--worst", 5)["queries"]
    assert [q["id"] for q in worst] == ["sleep-panda", "sleep-koala"]
    best = compared(animals, "bm25", other, "--best", 5)["queries"]
    assert [q["id"] for q in best] == ["sleep-otter"]
    # the other way round, gains are losses
    assert compared(animals, other, "bm25")["queries"][0]["id"] == "sleep-otter"


@pytest.mark.parametrize("typed", ["sleep-owl", "how does the owl sleep", "OWL  sleep"])
def test_a_query_by_id_by_text_or_by_words(animals: Path, other: Path, typed: str) -> None:
    (query,) = compared(animals, "bm25", other, "--query", typed)["queries"]
    assert (query["id"], query["text"]) == ("sleep-owl", "how does the owl sleep")


def test_where_nothing_is_lost_the_most_different_is_shown(animals: Path, tmp_path: Path) -> None:
    run = dict(first_stage("test"))
    ids = run["sleep-bee"].passage_ids
    run["sleep-bee"] = ranking("sleep-bee", [*ids[:3], *reversed(ids[3:])])
    write_run(tmp_path / "same.trec", run, "same")
    done = dear("compare", animals, "bm25", tmp_path / "same.trec", "--json")
    assert json.loads(done.out)["queries"][0]["id"] == "sleep-bee"
    assert "same loses against bm25 for no query (nDCG@10); this is the one" in done.err
    message = refused("compare", animals, "bm25", tmp_path / "same.trec", "--worst", 3)
    assert message == "same loses against bm25 for no query (nDCG@10)"


def test_a_split_without_judgements(mine: Path, other: Path) -> None:
    (mine / "qrels" / "test.tsv").unlink()
    found = compared(mine, "bm25", other)
    assert found["measure"] is None
    assert (found["queries"][0]["a"], found["queries"][0]["b"]) == (None, None)
    shown = good("compare", mine, "bm25", other, "--query", "sleep-panda")
    assert "nobody judged this query" in shown
    assert "●" not in shown
    message = refused("compare", mine, "bm25", other, "--best", 1)
    assert message == "nobody judged these queries: name one with --query"


# ---- what is shown ----


def test_two_columns_in_a_pipe_without_colours(
    animals: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = good("compare", animals, "bm25", other, "--query", "sleep-koala", "--top", 7)
    assert "\x1b" not in shown
    lines = shown.splitlines()
    assert lines[0] == "query sleep-koala  how does the koala sleep"
    assert lines[1] == "nDCG@10  bm25 0.5000  other 0.3333  −0.1667"
    assert lines[3].split() == ["#", "bm25", "#", "other"]
    assert lines[6].split()[:3] == ["3", "→7", "●1"]
    assert "7 ▼4 ●1 Every koala sleeps after the meal" in lines[10]
    assert all(len(line) <= 120 for line in lines[3:11])
    assert lines[-1].startswith("● relevant, ○ not, ? not judged; → its rank in other; ▲ ▼ ")
    quiet = good("compare", animals, "bm25", other, "--quiet")
    assert "relevant, ○ not" not in quiet


def test_what_only_one_has_is_said(animals: Path, other: Path) -> None:
    shown = good("compare", animals, "bm25", other, "--top", 3, "--ids")
    assert "only in the top 3 of bm25: 1, 1 of them relevant (3 ●1)" in shown
    assert "only in the top 3 of other: 1, 0 of them relevant (3 ?)" in shown
    assert "gone ●1 panda-sleep Every panda" in shown


def test_a_narrow_terminal_gets_one_list_below_the_other(
    animals: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    heads = [
        line.split()[-1]
        for line in good("compare", animals, "bm25", other).splitlines()
        if line.startswith("#") or line.lstrip().startswith("#")
    ]
    assert heads == ["bm25", "other"]


def test_another_encoding_gets_other_signs(
    animals: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start("compare", animals, "bm25", other, "--query", "sleep-koala", "--top", 7)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "*1 Every koala" in shown
    assert "v4" in shown
    assert "?1" not in shown


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("plain", [False, True])
def test_colours_in_a_terminal_unless_told_otherwise(
    animals: Path, other: Path, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    ours, theirs = os.openpty()
    process = start("compare", animals, "bm25", other, "--top", 3, stdout=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (b"\x1b[31m" in shown) != plain  # the loss, in red


def test_a_run_that_lacks_the_query(animals: Path, tmp_path: Path) -> None:
    run = {q: r for q, r in first_stage("test").items() if q != "sleep-cow"}
    write_run(tmp_path / "short.trec", run, "short")
    shown = good("compare", animals, "bm25", tmp_path / "short.trec")
    assert "query sleep-cow" in shown
    assert "short ranks nothing for it" in shown


def test_other_candidates_are_said(animals: Path, tmp_path: Path) -> None:
    run = {q: ranking(q, list(r.passage_ids[5:])) for q, r in first_stage("test").items()}
    write_run(tmp_path / "cut.trec", run, "cut")
    done = dear("compare", animals, "bm25", tmp_path / "cut.trec")
    assert "bm25 and cut rank other candidates for 8 of 8 queries" in done.err


def test_another_measure_and_split(animals: Path, other: Path) -> None:
    found = compared(animals, "bm25", other, "--measure", "mrr@10", "--query", "sleep-koala")
    (query,) = found["queries"]
    assert found["measure"] == "MRR@10"
    assert (query["a"], query["b"]) == (pytest.approx(1 / 3), pytest.approx(1 / 7))
    assert set(JUDGEMENTS["dev"]) == set(first_stage("dev"))
    message = refused("compare", animals, "bm25", "bm26", "--split", "dev")
    assert message.startswith("no run 'bm26': no such file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--query", "sleep-owk"), "no query 'sleep-owk' in these runs; did you mean sleep-owl "),
        (
            ("--query", "how does the ovl sleep"),
            "no query 'how does the ovl sleep' in these runs; ",
        ),
        (("--query", "zzzz"), "no query 'zzzz' in these runs"),
        (("--query", "sleep"), "'sleep' is in 8 queries, such as sleep-otter (how does the otter"),
        (("--query", "sleep-owl", "--best", "2"), "--query, --worst and --best each choose"),
        (("--worst", "0"), "invalid value for '--worst'"),
        (("--measure", "nDGC@10"), "unknown measure 'nDGC'; did you mean 'nDCG'?"),
    ],
)
def test_faults_are_one_line(
    animals: Path, other: Path, words: tuple[str, ...], message: str
) -> None:
    assert refused("compare", animals, "bm25", other, *words).lower().startswith(message.lower())


def test_a_run_is_not_held_against_itself(animals: Path) -> None:
    own = animals / "runs" / "bm25.test.trec"
    assert refused("compare", animals, "bm25", own).startswith(f"bm25 and {own} are the same run")
