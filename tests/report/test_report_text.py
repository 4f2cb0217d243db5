"""Markdown and LaTeX hold the same numbers, and no text can break them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import EVIL, small_report, small_study

from dear.data.formats import read_run
from dear.errors import ConfigError
from dear.evaluate.study import RunSource, study
from dear.report import Report, ReportPart, write_latex, write_markdown, writer_of
from dear.report.rows import run_files, signed
from dear.report.text import escaped_latex, escaped_markdown


def test_markdown_tables_keep_their_columns(tmp_path: Path) -> None:
    write_markdown(tmp_path / "r.md", small_report())
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    blocks = [b.splitlines() for b in text.split("\n\n") if b.startswith("|")]
    assert len(blocks) == 1 + 2 * 2
    for lines in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, lines
    (helps,) = [line for line in blocks[0] if line.startswith("| helps")]
    value = small_study().entry("helps").evaluation.means["nDCG@10"]
    assert f"**{value:.4f}** ▲" in helps
    assert any("⊘" in line for line in blocks[0])
    assert "not measured here" in text
    assert "<script>" not in text


def test_latex_is_balanced_and_marked(tmp_path: Path) -> None:
    write_latex(tmp_path / "r.tex", small_report())
    text = (tmp_path / "r.tex").read_text(encoding="utf-8")
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1 + 2 * 2
    for table in text.split(r"\begin{tabular}{")[1:]:
        columns, _, body = table.partition("}")
        rows = [r for r in body.split(r"\end{tabular}")[0].splitlines() if r.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    value = small_study().entry("helps").evaluation.means["nDCG@10"]
    assert rf"\textbf{{{value:.4f}}}\rlap{{$^{{\uparrow}}$}}" in text
    assert r"\rlap{$^{\dagger}$}" in text
    assert "other \\textless{}b\\textgreater{}" in text


@given(st.text())
def test_latex_escapes_whatever_tex_reads_as_a_command(text: str) -> None:
    plain = re.sub(r"\\(text\w+|ldots)\{\}|\$-\$|\\[&%$#_{}]", "", escaped_latex(text))
    assert not set(plain) & set('\\&%$#_{}~^<>|"\n')


@given(st.text())
def test_markdown_escapes_markup(text: str) -> None:
    assert not re.search(
        r"(?<!\\)(\\\\)*[`*_\[\]|~#]", re.sub(r"\\[\\`*_\[\]|~#]", "", escaped_markdown(text))
    )
    assert "<" not in escaped_markdown(text)
    assert "\n" not in escaped_markdown(EVIL + text)


def test_signs() -> None:
    assert [signed(v) for v in (0.5, -0.5, 0.0, -0.00001)] == [
        "+0.5000",
        "−0.5000",
        "0.0000",
        "0.0000",
    ]


def test_the_ending_says_the_form() -> None:
    assert writer_of(Path("a/b.MD")) is write_markdown
    with pytest.raises(ConfigError, match=r"report.pdf: a report ends in \.html"):
        writer_of(Path("report.pdf"))


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("/home/me/runs/student", "…/runs/student"),
        ("biencoder:/home/me/teachers/small", "biencoder:…/teachers/small"),
        ("biencoder:minilm-l6", "biencoder:minilm-l6"),
        ("owner/name", "owner/name"),
    ],
)
def test_no_place_of_this_machine_is_named(model: str, shown: str, tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 p 1 1.0 t\n", encoding="utf-8")
    source = RunSource(name="x", run=read_run(path), path=path, origin={"model": model})
    made = study("c", "test", {"q": {"p": 1}}, [source])
    (file,) = run_files(Report(parts=[ReportPart(study=made)]))
    assert file.made_by == shown
