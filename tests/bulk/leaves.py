"""What workers do in the tests of the transport."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dear.bulk.models import about, open_answering
from dear.errors import BackendError
from dear.reason.extractive import Evidence, score_questions
from dear.scoring.failing import score_each
from dear.scoring.opening import open_model
from kills import die


def open_worker(folder: Path) -> tuple[Any, Callable[[tuple[str, int]], Any]]:
    """A leaf says what becomes of it."""
    node = os.environ.get("RAY_NODE_ID", "") or _node()

    def work(leaf: tuple[str, int]) -> tuple[int, str]:
        what, number = leaf
        with (folder / "log").open("a") as file:
            file.write(f"{number} {node}\n")
        first = not (folder / f"seen-{number}").exists()
        (folder / f"seen-{number}").touch()
        if what == "kills" or (what == "kills once" and first):
            die()
        if what == "hangs once" and first:
            time.sleep(600)
        if what == "is slow":
            time.sleep(0.2)
        if what == "raises" or (what == "raises once" and first):
            raise ValueError(f"leaf {number}\nis bad")
        if what == "refuses":
            raise BackendError("no score")
        return number * number, node

    return {"name": "squares"}, work


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def open_nothing() -> tuple[Any, Callable[[Any], Any]]:
    raise BackendError("these weights do not load")


def dies_while_opening() -> tuple[Any, Callable[[Any], Any]]:
    die()
    raise AssertionError


def opens_differently() -> tuple[Any, Callable[[Any], Any]]:
    return {"pid": os.getpid()}, lambda leaf: leaf


def open_but_for_one(spec: str, options: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """A model that refuses what is about otters, and cannot read what bees eat."""
    model = open_model(spec, **options)

    def score(pairs: Any) -> Any:
        if any("otter" in query for query, _ in pairs):
            raise BackendError("bad text")
        if any("bee eats" in passage for _, passage in pairs):
            raise RuntimeError("half a character")
        return model.score(pairs)

    return about(model), lambda pairs: (score_each(score, pairs), 0)


def score_but_for_one(
    name: str, how: dict[str, Any], evidence: Evidence
) -> tuple[Any, Callable[[Any], Any]]:
    """A teacher that refuses what is asked about otters."""
    model = open_model(name, **how)

    def score(questions: Any) -> Any:
        if any("otter" in one.query.text for one in questions):
            raise BackendError("bad text")
        return score_questions(questions, model, evidence)

    return about(model), score


def generate_but_once(folder: str, name: str) -> tuple[Any, Callable[[Any], Any]]:
    """A language model whose first worker dies at work, and that refuses otters."""
    found, generate = open_answering(name)

    def answer(prompts: Any) -> Any:
        if not (Path(folder) / "died").exists():
            (Path(folder) / "died").touch()
            die()
        if any("otter" in one.query.text for one in prompts):
            raise BackendError("bad text")
        return generate(prompts)

    return found, answer
