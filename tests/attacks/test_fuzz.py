"""Parsers of outside text, fed by hypothesis for a few seconds; `benchmarks/fuzz.py` goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from tests.attacks.parsers import PARSERS, Given, strategy_of, withstands

FOUND: list[tuple[str, Given]] = [
    ("qrels", f"q 0 d {'9' * 5000}"),
    ("corpus", '{"_id": "\\ud800", "text": ' + "[" * 900 + "]" * 900 + "}"),
    ("note of a run", json.dumps({"first_stage": 7, "model": []})),
    ("manifest of labels", '{"format": "dear-labels/2", "next_shard": 1e999}'),
    ("manifest of labels", '{"format": "dear-labels/2", "former": [1]}'),
    ("ensemble of labels", json.dumps({"members": {"a": "x"}})),
    ("ensemble of labels", json.dumps({"members": {".": 1}})),
    ("recipe", f"a = {'9' * 5000}"),
    ("recipe", "a = " + "[" * 5000),
    ("plan of a report", ".".join("a" * 3000) + " = 1"),
    ("held out", "\u0300\u0316" * 20_000),
    ("document", "# a" + " " * 20_000 + "b"),
    ("quotable", "." * 50_000 + "x"),
    ("window", "Search Query: x" + " " * 20_000 + "y"),
    ("permutation", " " * 50_000 + "x"),
]
"""What was found once: by the fuzzer, by reading, or by an attack."""


@pytest.mark.parametrize(("parser", "given_to_it"), FOUND)
def test_what_was_found_once(parser: str, given_to_it: Given) -> None:
    withstands(PARSERS[parser], given_to_it)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_reads_or_refuses(parser: str) -> None:
    @settings(
        max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy_of(parser))
    def one(given_to_it: Given) -> None:
        withstands(PARSERS[parser], given_to_it)

    one()


def test_the_fuzzer_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that trips over one letter, and one that is quadratic."""
    import importlib.util

    script = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", script)
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)

    def trips(text: str) -> None:
        if "[" in text:
            raise KeyError(text)

    monkeypatch.setitem(fuzz.PARSERS, "renumbered", trips)
    found = fuzz.fuzz("renumbered", 5.0, 0)
    assert "KeyError" in found["finding"]["error"]
    assert "[" in found["finding"]["input"]
    assert fuzz.fuzz("citations", 0.5, 0)["finding"] is None


def test_a_parser_that_takes_too_long_is_found() -> None:
    def slow(_: str) -> None:
        end = time.process_time() + 1.1
        while time.process_time() < end:
            pass

    with pytest.raises(AssertionError, match=" s"):
        withstands(slow, "a" * 1000)
