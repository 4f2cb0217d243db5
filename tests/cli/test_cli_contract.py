"""How a pair is read: said in one line; `--contract`, `--instruction`, `--revision`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command_line import dear, write_reranker

from dear import Reranker
from dear.checkpoints.contract import CARD, PLAIN
from dear.cli.main import COMMANDS

OPENS = ("rank", "rerank", "label", "check", "calibrate", "bench", "export", "reason")
"""Commands that open a model."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "passages.txt"
    path.write_text("the otter eats fish\nthe bee eats nectar\n")
    return path


def rerank(model: Path | str, passages: Path, *options: Any) -> tuple[list[float], str]:
    """(scores in the order of the file, standard error)"""
    found = dear("rerank", "otter", passages, "--model", model, "--json", *options)
    assert found.status == 0, found.err
    results = json.loads(found.out)["results"]
    return [r["score"] for r in sorted(results, key=lambda r: int(r["id"]))], found.err


@pytest.mark.parametrize("command", OPENS)
def test_every_command_that_opens_a_model_takes_them(command: str) -> None:
    place, _, name = COMMANDS[command][0].partition(":")
    function: Callable[..., Any] = getattr(import_module(place), name)
    names = inspect.signature(function).parameters
    assert {"contract", "instruction", "revision"} <= set(names)


def test_the_line_and_the_choice(model: Path, passages: Path, tmp_path: Path) -> None:
    pairs = [("otter", text) for text in passages.read_text().splitlines()]
    card, said = rerank(model, passages, "--dtype", "float32")
    assert said.count("\n") == 1
    assert "dear: warning: " in said
    assert "(contract card): nothing in the folder says how it was trained" in said
    expected = Reranker(model, dtype="float32", contract=CARD).score(pairs)
    assert card == pytest.approx(expected.tolist(), abs=1e-6)

    plain, said = rerank(model, passages, "--dtype", "float32", "--contract", "plain")
    assert "(contract plain): as asked for" in said
    assert "warning" not in said
    expected = Reranker(model, dtype="float32", contract=PLAIN).score(pairs)
    assert plain == pytest.approx(expected.tolist(), abs=1e-6)
    assert plain != pytest.approx(card, abs=1e-4)

    replace(PLAIN, name="mine").save(tmp_path)
    file = tmp_path / "scoring_contract.json"
    by_file, said = rerank(model, passages, "--dtype", "float32", "--contract", file)
    assert by_file == plain
    assert "(contract mine): as asked for" in said

    _, said = rerank(model, passages, "--contract", "plain", "--quiet")
    assert said == ""


def test_what_is_wrong_is_one_line(model: Path, passages: Path) -> None:
    for options, says in (
        (("--contract", "plian"), "no contract 'plian': no such file, and no known name; did you"),
        (("--instruction", "Find code."), "card takes no instruction"),
        (("--max-passage-tokens", 9), "max_passage_tokens is for zero-shot readings"),
    ):
        found = dear("rerank", "otter", passages, "--model", model, *options)
        assert found.status == 2
        assert found.out == ""
        assert says in found.err
        assert found.err.count("\n") == 1


def test_a_revision_is_the_hubs(passages: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A tag, a branch or a commit, out of the hub's cache."""
    commits = {"main": "a" * 40, "v2": "b" * 40}
    repository = tmp_path / "models--some--reranker"
    for seed, (name, commit) in enumerate(commits.items()):
        folder = write_reranker(repository / "snapshots" / commit)
        PLAIN.save(folder) if seed else CARD.save(folder)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    # the two differ in their contract
    first, _ = rerank("some/reranker", passages, "--dtype", "float32")
    second, _ = rerank("some/reranker", passages, "--dtype", "float32", "--revision", "v2")
    third, _ = rerank("some/reranker", passages, "--dtype", "float32", "--revision", "b" * 40)
    assert second == third
    assert first != pytest.approx(second, abs=1e-4)
