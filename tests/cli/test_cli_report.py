"""`dear report`: files from runs, the same from a study file, and refusals in one line."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest
from command_line import first_stage, good, refused

from dear.data.formats import write_run
from dear.records import Ranking


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one run that puts the relevant passage first."""
    best = {}
    for query, ranking in first_stage("test").items():
        ids = (ranking.passage_ids[2], *ranking.passage_ids[:2], *ranking.passage_ids[3:])
        best[query] = Ranking(query_id=query, passage_ids=ids, scores=ranking.scores)
    write_run(tmp_path / "best.trec", best, "best")
    return tmp_path


def test_three_forms_of_one_report(animals: Path, runs: Path) -> None:
    page, text, tex = (runs / f"r.{ending}" for ending in ("html", "md", "tex"))
    words = (animals, "--run", runs / "best.trec", "--measure", "MRR@10", "--title", "A & B")
    out = good("report", page, *words, "--also", text, "--also", tex)
    assert out.splitlines()[0] == f"{page}: 2 runs on 1 collection"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "<h1>A &amp; B</h1>" in page.read_text(encoding="utf-8")
    assert "how does the otter sleep" in page.read_text(encoding="utf-8")
    assert "| best | **1.0000** ▲ |" in text.read_text(encoding="utf-8")
    assert r"\textbf{1.0000}" in tex.read_text(encoding="utf-8")


def test_the_command_in_the_report_makes_it_again(
    animals: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    good(
        "report",
        "r.html",
        animals,
        "--run",
        "My run=best.trec",
        "--queries",
        "3",
        "--min-grade",
        "1",
    )
    first = Path("r.html").read_bytes()
    (code,) = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", first.decode(), re.DOTALL)
    name, *words = shlex.split(html.unescape(code))
    assert name == "dear"
    Path("r.html").unlink()
    good(*words)
    assert Path("r.html").read_bytes() == first


def test_a_study_file_says_the_same(animals: Path, runs: Path) -> None:
    (runs / "study.toml").write_text(
        f'[[collection]]\nname = "{animals}"\nruns = {{ "My run" = "best.trec" }}\n',
        encoding="utf-8",
    )
    good("report", runs / "a.md", "--study", runs / "study.toml")
    good("report", runs / "b.md", animals, "--run", f"My run={runs / 'best.trec'}")
    a, b = ((runs / n).read_text(encoding="utf-8").split("## How")[0] for n in ("a.md", "b.md"))
    assert a == b
    assert "My run" in a


def test_no_texts_are_read_where_none_are_shown(mine: Path, runs: Path) -> None:
    for file in (*mine.glob("corpus*"), *mine.glob("queries*")):
        file.write_bytes(b"broken")
    good("report", runs / "r.md", mine, "--run", runs / "best.trec")
    good("report", runs / "r.html", mine, "--run", runs / "best.trec", "--queries", "0")
    shown = ("report", runs / "shown.html", mine, "--run", runs / "best.trec")
    assert "queries.jsonl" in refused(*shown)


def test_a_report_to_pass_on_holds_ids_and_no_texts(animals: Path, runs: Path) -> None:
    (runs / "study.toml").write_text(
        f'texts = false\n[[collection]]\nname = "{animals}"\nruns = {{ best = "best.trec" }}\n',
        encoding="utf-8",
    )
    good("report", runs / "a.html", animals, "--run", runs / "best.trec", "--no-texts")
    good("report", runs / "b.html", "--study", runs / "study.toml")
    good("report", runs / "texts.html", animals, "--run", runs / "best.trec")
    for name, texts in (("a.html", False), ("b.html", False), ("texts.html", True)):
        page = (runs / name).read_text(encoding="utf-8")
        assert ("how does the otter sleep" in page) == texts
        assert ("sleeps after the meal" in page) == texts
        assert "sleep-otter" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("r.pdf", "{c}", "--run", "{r}"), "a report ends in .html"),
        (("r.html", "{c}", "--run", "{r}", "--also", "r.doc"), "a report ends in .html"),
        (("r.html",), "name a collection and its runs, or --study"),
        (("r.html", "{c}"), "no run to report on"),
        (("r.html", "{c}", "--run", "{r}", "--study", "s.toml"), "COLLECTION and --study"),
        (("r.html", "--run", "{r}", "--study", "s.toml"), "--run and --study"),
        (("r.html", "--study", "s.toml"), "s.toml: cannot be read"),
        (("r.html", "{c}", "--run", "gone"), "no run 'gone'"),
        (("r.html", "{c}", "--run", "=x"), "expected NAME=RUN"),
        (("r.html", "{c}", "--run", "a={r}", "--run", "a=bm25"), "two runs are called 'a'"),
        (("r.html", "{c}", "--run", "{r}", "--split", "tset"), "no judgements for split 'tset'"),
        (("{c}/corpus.jsonl/r.html", "{c}", "--run", "{r}"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    animals: Path,
    runs: Path,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    before = sorted(path.name for path in runs.iterdir())
    places = {"{c}": str(animals), "{r}": str(runs / "best.trec")}
    for key, value in places.items():
        words = tuple(word.replace(key, value) for word in words)
    assert said in refused("report", *words)
    assert sorted(path.name for path in runs.iterdir()) == before
