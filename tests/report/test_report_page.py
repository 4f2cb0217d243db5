"""The page: well-formed, safe, accessible, small, and showing what the study holds."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import EVIL, small_part, small_report, small_study, with_file

from dear.errors import ConfigError, DataError
from dear.report import Cost, Report, ReportPart, write_report
from dear.report.page import MAX_BYTES

VOID = {"meta", "input", "br"}


@dataclass
class Node:
    name: str
    attributes: dict[str, str]
    children: list[Node] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def all(self, name: str | None = None, **wanted: str) -> list[Node]:
        found = (
            [self]
            if name in (None, self.name) and wanted.items() <= self.attributes.items()
            else []
        )
        return [*found, *(node for child in self.children for node in child.all(name, **wanted))]


class Strict(HTMLParser):
    """A tree; fails where an element is left open or closed twice."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        twice = [k for k, n in Counter(k for k, _ in attrs).items() if n > 1]
        assert not twice, f"<{tag}> has {twice} twice"
        node = Node(tag, {k: v or "" for k, v in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for node in self.open:
            node.parts.append(data)


def written(path: Path, report: Report, **options: int) -> Node:
    write_report(path, report, **options)
    parser = Strict()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert len(parser.open) == 1
    return parser.open[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return written(tmp_path_factory.mktemp("page") / "r.html", small_report())


def test_nothing_is_fetched_and_no_script_is_foreign(page: Node, tmp_path: Path) -> None:
    for node in page.all():
        assert node.name not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "action", "style", "background"} & node.attributes.keys()
        assert not any(name.startswith("on") for name in node.attributes), node
        if "href" in node.attributes:
            assert node.attributes["href"].startswith("#")
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    (script,) = page.all("script")
    digest = hashlib.sha256(script.text.encode()).digest()
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    (named,) = re.findall(r"script-src 'sha256-([^']+)'", policy.attributes["content"])
    assert base64.b64decode(named) == digest
    assert "default-src 'none'" in policy.attributes["content"]


def test_text_of_others_is_text(page: Node) -> None:
    (title,) = page.all("title")[:1]
    assert title.text == f"A report {EVIL}"
    assert any(node.text == f"{EVIL}" for node in page.all("span", **{"class": "asked"}))
    assert any(EVIL in node.text for node in page.all("dd"))
    assert any(EVIL in node.text for node in page.all("details", **{"class": "thought"}))
    assert any(node.text == "other <b>" for node in page.all("th"))


def test_ids_are_unique_and_every_reference_leads_somewhere(page: Node) -> None:
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in page.all():
        for name in node.attributes.get("aria-labelledby", "").split():
            assert name in ids
    links = [node.attributes["href"] for node in page.all("a")]
    assert links
    assert {link[1:] for link in links} <= set(ids)


def test_headings_tables_and_pictures_are_accessible(page: Node) -> None:
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    levels = [int(n.name[1]) for n in page.all() if re.fullmatch("h[1-6]", n.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for kind in ("table", "svg", "select", "input"):
        assert page.all(kind), kind
    for table in page.all("table"):
        assert table.all("caption")
        assert all(th.attributes.get("scope") for th in table.all("th"))
        assert all(row.children[0].name == "th" for row in table.all("tr"))
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img"
        names = [node.name for node in svg.children[:2]]
        assert names == ["title", "desc"]
        assert svg.children[0].text
        assert svg.children[1].text
    for control in (*page.all("select"), *page.all("input")):
        assert any(control in label.children for label in page.all("label"))
    marks = page.all("span", role="img")
    assert marks
    assert all(mark.attributes["aria-label"] for mark in marks)


def test_the_headline_holds_the_means_and_what_they_mean(page: Node) -> None:
    study = small_study()
    (table,) = page.all("table", **{"class": "headline"})
    rows = {row.children[0].text: row for row in table.all("tr")}
    for entry in study.entries:
        value = f"{entry.evaluation.means['nDCG@10']:.4f}"
        cells = rows[entry.name].children[1:]
        assert [cell.text.split()[0] for cell in cells] == [value] * 3  # two collections, the mean
    assert "▲" in rows["helps"].text
    assert "▼" in rows["hurts"].text
    assert rows["helps"].all("b")
    assert not rows["hurts"].all("b")
    refused = rows["other <b>"].children[1]
    assert "⊘" in refused.text
    assert "other candidates for 30 of 30 queries" in refused.attributes["title"]
    assert "other candidates for 30 of 30 queries" in page.text
    (others,) = table.all("tbody", **{"class": "published"})
    assert "not measured here" in others.text
    assert "0.9123" in others.text
    number = int(others.all("sup")[0].text)
    (sources,) = page.all("ol", **{"class": "small"})
    assert sources.all("li")[number - 1].text == "over BM25 top-100; Somebody 2025"


def test_the_tables_hold_every_measure_and_comparison(page: Node) -> None:
    study = small_study()
    cells = [node.text for node in page.all("td")]
    for entry in study.entries:
        for value in entry.evaluation.means.values():
            assert f"{value:.4f}" in cells
    for pair in study.comparisons:
        c = pair.comparison
        assert any(node.text == f"{pair.a} − {pair.b}" for node in page.all("th"))
        assert f"{c.wins} / {c.ties} / {c.losses}" in cells


def test_rankings_stand_side_by_side_with_grades_and_movement(page: Node) -> None:
    study = small_study()
    shown = page.all("details", **{"class": "query"})
    query = next(n for n in shown if n.all("span")[0].text == "what about q1")
    before, after, *_ = query.all("section")
    assert [len(s.all("li")) for s in (before, after)] == [10, 10]
    assert after.all("li")[0].text == "Title 1★ grade 2▲ 5"
    assert before.all("li")[5].attributes["class"] == "rel"
    assert "grade 2→ 1" in before.all("li")[5].text
    value = study.entry("helps").evaluation.per_query["nDCG@10"]["q1"]
    assert f"{value:.3f}" in after.all("h4")[0].text
    link = after.all("a")[0].attributes["href"][1:]
    (text,) = page.all("div", id=link)
    assert "Passage 1." in text.text


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, small_report())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_runs_are_named_with_their_digest(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first.trec"
    run.parent.mkdir()
    run.write_text("q0 Q0 d0 1 1.0 x\n", encoding="utf-8")
    report = replace(small_report(), parts=[with_file(small_part(), run)])
    page = written(tmp_path / "r.html", report)
    assert hashlib.sha256(run.read_bytes()).hexdigest() in page.text
    assert "…/runs/first.trec" in page.text
    assert str(tmp_path) not in page.text
    assert "dear report out.html --study 'x y.toml'" in page.text


def test_as_many_queries_as_asked_for_and_never_too_large(tmp_path: Path) -> None:
    report = Report(parts=[small_part(400, name) for name in ("a", "b", "c")])
    for wanted in (0, 7):
        page = written(tmp_path / "few.html", report, max_queries=wanted)
        assert len(page.all("details", **{"class": "query"})) == 3 * wanted
    write_report(tmp_path / "many.html", report, max_queries=400)
    assert (tmp_path / "many.html").stat().st_size <= MAX_BYTES


def test_little_is_no_error(tmp_path: Path) -> None:
    """No texts, no reranker, a query that a run lacks, one query alone."""
    whole = small_study(1)
    alone = replace(whole, entries=whole.entries[:1], comparisons=(), refusals=())
    study = small_study(8)
    lacking = replace(
        study.entries[1],
        source=replace(
            study.entries[1].source, run=dict(list(study.entries[1].source.run.items())[1:])
        ),
    )
    gap = replace(study, entries=(study.entries[0], lacking, *study.entries[2:]))
    for made in (alone, whole, gap):
        page = written(tmp_path / "r.html", Report(parts=[ReportPart(study=made)]))
        assert page.all("table")
    assert "ranks nothing" in page.text


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report(parts=[]), "one collection at least"),
        (Report(parts=[small_part(), small_part()]), "'animals' twice"),
        (
            Report(parts=[ReportPart(study=small_study(), costs={"nobody": Cost(seconds=1)})]),
            "no run 'nobody'",
        ),
    ],
    ids=["nothing", "twice", "nobody"],
)
def test_what_cannot_be_a_report_is_refused(tmp_path: Path, report: Report, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        write_report(tmp_path / "r.html", report)
    assert not (tmp_path / "r.html").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="no folder"):
        write_report(tmp_path / "file" / "r.html", small_report())
