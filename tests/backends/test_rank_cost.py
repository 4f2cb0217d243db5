"""What lists took, in the note beside a run: calls, tokens and dollars of this run alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from small_collection import make_collection, rank_words, write_toml

from dear.cli.main import main

WINDOWS = 2 * 5


def cost(words: list[str], run: Path) -> dict[str, Any]:
    assert main(words) == 0
    return dict(json.loads(run.with_name(f"{run.name}.json").read_text())["cost"])


def test_answers_are_paid_once(tmp_path: Path) -> None:
    collection, run = make_collection(tmp_path / "mine", queries=5), tmp_path / "out.trec"
    with ChatServer() as server:
        path = write_toml(
            tmp_path / "s.toml", base_url=server.url, model="m", price_in=2.5, price_out=10.0
        )
        words = rank_words(collection, f"backend:{path}", run)
        first, second = cost(words, run), cost(words, run)
    lists = first["lists"]
    assert (lists["windows"], lists["calls"]) == (WINDOWS, WINDOWS)
    assert (lists["prompt_tokens"], lists["completion_tokens"]) == (1000, 100)
    assert lists["dollars"] == pytest.approx(0.0035)
    assert lists["windows_per_second"] > 0
    assert first["device"] is None, "nothing was computed here"
    assert "pointwise" not in first
    kept = second["lists"]
    assert (kept["windows"], kept["calls"], kept["prompt_tokens"]) == (WINDOWS, 0, 0)
    assert kept["dollars"] == 0


def test_a_price_that_nobody_knows_is_none(tmp_path: Path) -> None:
    collection, run = make_collection(tmp_path / "mine", queries=5), tmp_path / "out.trec"
    with ChatServer() as server:
        lists = cost(rank_words(collection, server.url, run, ["--no-ledger"]), run)["lists"]
    assert (lists["calls"], lists["prompt_tokens"], lists["dollars"]) == (WINDOWS, 1000, None)
