"""A distillation's folder in a model's place, and a recipe of another command: said in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import refused

from dear import Reranker
from dear.errors import ConfigError

COMMANDS = {
    "rank": ("rank", "{c}", "--run", "bm25", "--model", "{m}", "--output", "{o}"),
    "lists": ("rank", "{c}", "--run", "bm25", "--listwise", "local:{m}", "--output", "{o}"),
    "label": ("label", "{c}", "--run", "bm25", "--model", "biencoder:{m}", "--output", "{o}"),
    "rerank": ("rerank", "a query", "{c}/corpus.jsonl", "--model", "{m}"),
    "export": ("export", "{m}", "--output", "{o}"),
    "calibrate": ("calibrate", "{m}", "--collection", "{c}", "--run", "bm25", "--output", "{o}"),
    "check": ("check", "{m}", "{c}", "--run", "bm25"),
    "bench": ("bench", "{m}"),
    "retrieve": ("retrieve", "{c}", "--retriever", "dense:{m}", "--output", "{o}"),
}


@pytest.fixture
def distilled(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "student").mkdir(parents=True)
    (folder / "distillation.json").write_text("{}\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_distillations_folder_names_its_student(
    animals: Path, distilled: Path, tmp_path: Path, command: str
) -> None:
    words = [word.format(c=animals, m=distilled, o=tmp_path / "out") for word in COMMANDS[command]]
    assert f"take its student, {distilled / 'student'}" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_in_python_too(distilled: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(distilled / "student"))):
        Reranker(distilled)
    (distilled / "student").rmdir()
    with pytest.raises(ConfigError, match="it has no student yet"):
        Reranker(str(distilled))


def test_each_command_lists_its_own_recipes(animals: Path, tmp_path: Path) -> None:
    nothing = refused("distill", animals, "--recipe", "nope")
    assert nothing == "no recipe 'nope': no such file; known: folder, laptop, quick"
    assert "it is one of `dear train`" in refused("distill", animals, "--recipe", "nano/teacher")
    for command in (("train", "{}", "--output", tmp_path / "o"), ("plan", "{}")):
        other = [str(word).format("laptop") for word in command]
        assert "it is one of `dear distill`" in refused(*other)
        unknown = [str(word).format("nope") for word in command]
        assert "distill/" not in refused(*unknown)
