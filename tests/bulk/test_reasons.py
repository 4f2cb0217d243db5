"""`dear reason --on ray` writes what one process writes, and goes on after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import contents, read
from leaves import generate_but_once, score_but_for_one
from tiny_lists import save_language_model

from dear.backends.ledger_file import LedgerFile
from dear.errors import BackendError
from dear.reason.generate import Drafts
from dear.steps.options import ModelOptions, PlaceOptions, ReasonOptions
from dear.steps.reason import reason
from kills import dies_at

HOW: dict[str, Any] = {"model_options": ModelOptions(dtype="float32", device="cpu")}
RAY = PlaceOptions(on="ray")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Read, never changed."""
    folder = save_language_model(tmp_path_factory.mktemp("models") / "lm")
    return f"local:{folder}#constrained"


def job(animals: str, output: Path, **more: Any) -> None:
    reason(
        ReasonOptions(
            collection=animals, run="bm25", output=output, size="4-6", examples=3, keep_tau=-1.0,
            **HOW, **more,
        )
    )  # fmt: skip


def files(folder: Path) -> dict[str, Any]:
    """Every file of a set; of the ledgers, whose lines come as leaves are answered, the lines."""
    found: dict[str, Any] = dict(contents(folder))
    for name in found.keys() & {"drafts.jsonl", "answers.jsonl"}:
        found[name] = sorted(found[name].splitlines())
    return found


@pytest.mark.parametrize(
    "within",
    [
        pytest.param("drafts", marks=pytest.mark.ci),
        pytest.param("answers", marks=pytest.mark.by_hand),
    ],
)
def test_a_set_is_that_of_one_process_though_the_driver_is_killed(
    cluster: Any, animals: str, reranker: str, language_model: str, tmp_path: Path, within: str
) -> None:
    asked = {"llm": language_model, "teacher": reranker}
    job(animals, tmp_path / "one", shard="0/1", **asked)
    arguments = ", ".join(map(repr, (animals, str(tmp_path), asked, within)))
    program = f"from test_reasons import killed; killed({arguments})"
    # a process of its own: what a fork holds of Ray is of another driver
    driver = subprocess.run([sys.executable, "-c", program], check=False, timeout=300)
    assert driver.returncode == -signal.SIGKILL
    there = {f.stem: len(f.read_text().splitlines()) for f in (tmp_path / "ray").glob("*.jsonl")}
    # two leaves; or all of them, the header and an answer of the second leaf
    assert there == ({"drafts": 6} if within == "drafts" else {"drafts": 24, "answers": 1 + 4})
    job(animals, tmp_path / "ray", place=RAY, **asked)
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    assert read(tmp_path / "ray" / "report.json")["kept"] == 24


def killed(animals: str, folder: str, asked: dict[str, Any], within: str) -> None:
    """A driver that dies when two leaves are scored, or between two answers of one leaf."""
    if within == "drafts":
        Drafts.append = dies_at(2, Drafts.append, after=True)  # type: ignore[method-assign]
    else:
        LedgerFile.add = dies_at(4, LedgerFile.add, after=True)  # type: ignore[method-assign]
    job(animals, Path(folder) / "ray", place=PlaceOptions(on="ray", workers=1), **asked)


@pytest.mark.by_hand
def test_workers_that_die_are_replaced_and_what_none_can_do_is_named(
    cluster: Any,
    animals: str,
    reranker: str,
    language_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job(animals, tmp_path / "one", shard="0/1", teacher=reranker)
    monkeypatch.setattr("dear.steps.reason._open_scoring", score_but_for_one)
    with pytest.raises(
        BackendError, match=r"no scores for the 3 lists of queries 'eat-otter': bad text; all oth"
    ):
        job(animals, tmp_path / "ray", place=RAY, teacher=reranker)
    assert len((tmp_path / "ray" / "drafts.jsonl").read_text().splitlines()) == 7 * 3
    monkeypatch.undo()
    job(animals, tmp_path / "ray", place=RAY, teacher=reranker)
    assert files(tmp_path / "ray") == files(tmp_path / "one")

    asked = {"llm": language_model, "keep_ndcg": 0.0}
    job(animals, tmp_path / "asked", shard="0/1", **asked)
    opener = partial(generate_but_once, str(tmp_path))
    monkeypatch.setattr("dear.steps.reason.open_answering", opener)
    with pytest.raises(BackendError, match=r"no answer to 3 of 24 prompts: .*bad text; 21 answers"):
        job(animals, tmp_path / "far", place=RAY, **asked)
    assert (tmp_path / "died").exists()
    monkeypatch.undo()
    job(animals, tmp_path / "far", place=RAY, **asked)
    assert files(tmp_path / "far") == files(tmp_path / "asked")
