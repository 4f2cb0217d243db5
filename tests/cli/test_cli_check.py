"""`dear check`, as a user runs it: a model, lists, and one behind the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import contents, dear, good, read, refused
from tiny_lists import save_language_model

from dear.backends import BACKENDS
from dear.evaluate.robustness import CHECKS, LIMITS

SMALL = ("--run", "bm25", "--queries", 3, "--depth", 6, "--dtype", "float32")
LISTS = ("--prompt", "list", "--window", 4, "--step", 2, "--batch-tokens", 2048)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random language model, read under constraints."""
    folder = tmp_path_factory.mktemp("lists") / "tiny"
    return f"local:{save_language_model(folder)}#constrained"


def test_a_model_is_checked(animals: Path, reranker: Path, tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    out = good("check", reranker, animals, *SMALL, "--json", file)
    assert "order: holds" in out
    assert "3 queries, 18 passages, nDCG@10 " in out
    report = read(file)
    assert list(report["checks"]) == list(CHECKS)
    assert set(report["limits"]) == set(LIMITS)
    assert report["pointwise"] is True
    assert (report["queries"], report["judged_queries"], report["top"]) == (3, 3, 3)
    assert {line["check"] for line in report["lines"]} == set(CHECKS)
    assert report["versions"]["python"]
    for line in report["lines"]:
        assert line["error"] is None, line
        # the table shows every line, whole
        assert any(f"{line['check']} " in row and line["name"] in row for row in out.splitlines())


def test_standard_output_holds_json_alone(animals: Path, reranker: Path) -> None:
    words = ("check", reranker, animals, *SMALL, "--only", "queries,order")
    done = dear(*words, "--json", "-")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert list(report["checks"]) == ["order", "queries"]
    assert report["lines"] == json.loads(good(*words, "--json", "-"))["lines"]
    assert report["lines"] != json.loads(good(*words, "--json", "-", "--seed", 1))["lines"]


def test_lists_are_checked_and_guarded(animals: Path, lists: str, tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    words = ("check", lists, animals, *SMALL, *LISTS, "--only", "order,injection")
    good(*words, "--json", file)
    plain = read(file)
    assert plain["pointwise"] is False
    names = [line["name"] for line in plain["lines"] if line["check"] == "order"]
    assert "between any two" in names
    # greedy, and by windows alone
    once_more = next(line for line in plain["lines"] if line["name"] == "once more")
    assert once_more["value"] == 0
    good(*words, "--guard", "--json", file)
    guarded = read(file)
    assert (plain["guard"], guarded["guard"]) == (False, True)
    assert [line["name"] for line in guarded["lines"]] == [line["name"] for line in plain["lines"]]


def test_the_cascade_is_checked(animals: Path, reranker: Path, lists: str, tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    words = ("check", reranker, animals, *SMALL, *LISTS, "--listwise", lists)
    good(*words, "--only", "order", "--json", file)
    report = read(file)
    assert report["model"] == f"{reranker} + {lists}"
    assert report["lists"]["strategy"] == "sliding"
    # the pointwise model undoes every order
    assert report["checks"] == {"order": "holds"}


def test_unjudged_queries_can_be_checked(mine: Path, reranker: Path) -> None:
    (mine / "qrels" / "test.tsv").unlink()
    done = dear("check", reranker, mine, *SMALL, "--only", "order,truncation")
    assert done.status == 0, done.err
    assert "nDCG is not known" in done.err
    assert "pairs turned" in done.out


def test_refusals_are_one_line(animals: Path, reranker: Path, lists: str, tmp_path: Path) -> None:
    before = contents(animals)
    check = ("check", reranker, animals, *SMALL)
    assert "did you mean 'order'" in refused(*check, "--only", "ordre")
    assert "guard is for a listwise backend" in refused(*check, "--guard")
    assert "no --listwise behind it" in refused(
        "check", lists, animals, *SMALL, "--listwise", lists
    )
    assert "no-such" in refused("check", tmp_path / "no-such", animals, *SMALL)
    assert "no run 'nothing'" in refused("check", reranker, animals, "--run", "nothing")
    assert "is a folder" in refused(*check, "--json", tmp_path)
    for backend in BACKENDS:
        assert backend not in ("biencoder", "upr")  # a MODEL's kind is one or the other
    assert contents(animals) == before
