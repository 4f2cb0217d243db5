"""`--on ray` writes what one process writes, bit for bit, and goes on after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import FOOD, contents, read, refused
from leaves import open_but_for_one

from dear.data.label_stores import look_into
from dear.data.labels import LabelStore
from dear.errors import BackendError
from dear.rank.leaves import RankedLeaves
from dear.steps.label import label
from dear.steps.options import LabelOptions, ModelOptions, PlaceOptions, RankOptions
from dear.steps.rank import rank
from kills import dies_at
from object_storage import ObjectStorage

HOW: dict[str, Any] = {"model_options": ModelOptions(dtype="float32", device="cpu")}
RAY = PlaceOptions(on="ray")


def job(animals: str, model: str, output: Path, dies: int = 0, **more: Any) -> None:
    """dies: the file after which the driver is killed."""
    if dies:
        LabelStore.append = dies_at(dies, LabelStore.append, after=True)  # type: ignore[method-assign]
    label(
        LabelOptions(
            collection=animals, runs=("bm25",), models=(model,), output=output, split="test",
            judged="test", **HOW, **more,
        )
    )  # fmt: skip


def files(folder: Path) -> dict[str, Any]:
    """Every file of a store; of the manifest all but what jobs took."""
    manifest = read(folder / "manifest.json")
    manifest.pop("jobs", None)
    return contents(folder) | {"manifest.json": manifest}


@pytest.mark.ci
def test_labels_are_those_of_one_process_though_the_driver_is_killed(
    cluster: Any, animals: str, reranker: str, tmp_path: Path
) -> None:
    job(animals, reranker, tmp_path / "one", shard="0/1")
    program = f"from test_jobs import killed; killed({animals!r}, {reranker!r}, {str(tmp_path)!r})"
    # a process of its own: what a fork holds of Ray is of another driver
    driver = subprocess.run([sys.executable, "-c", program], check=False, timeout=300)
    assert driver.returncode == -signal.SIGKILL
    half = look_into(tmp_path / "ray")
    assert not half.finished
    assert 0 < half.rows < 192
    job(animals, reranker, tmp_path / "ray", place=RAY)
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    assert look_into(tmp_path / "ray").problems == ()
    took = read(tmp_path / "ray" / "manifest.json")["jobs"][-1]["cost"]["pointwise"]
    assert took["tokens"] > 0


@pytest.mark.ci
def test_the_driver_mirrors_what_it_writes(
    s3: ObjectStorage, cluster: Any, animals: str, reranker: str, tmp_path: Path
) -> None:
    job(animals, reranker, tmp_path / "one", shard="0/1")
    job(animals, reranker, tmp_path / "ray", place=RAY, mirror="s3://bucket/l")
    there = s3.contents("s3://bucket/l")
    assert there.pop("writer.json")
    assert there == contents(tmp_path / "ray")
    assert files(tmp_path / "ray") == files(tmp_path / "one")


def killed(animals: str, model: str, folder: str) -> None:
    """A driver that dies behind its second file."""
    job(animals, model, Path(folder) / "ray", 2, place=RAY)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.by_hand
def test_a_run_is_that_of_one_process(
    cluster: Any, animals: str, reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ranked(name: str, **more: Any) -> Path:
        output = tmp_path / name
        rank(
            RankOptions(
                collection=animals, run="bm25", output=output, model=reranker, fuse="0.1", **HOW,
                **more,
            )
        )  # fmt: skip
        return output

    one = ranked("one.trec", shard="0/1")
    # begun by one process, ended by workers
    write = RankedLeaves.write
    with monkeypatch.context() as soon:
        soon.setattr(RankedLeaves, "write", lambda *given: (write(*given), interrupt()))
        with pytest.raises(KeyboardInterrupt):
            ranked("ray.trec", shard="0/1")
    assert len(list((tmp_path / "ray.trec.leaves").glob("leaf-*.json"))) == 1
    far = ranked("ray.trec", place=RAY)
    assert far.read_bytes() == one.read_bytes()
    mine, theirs = (read(path.with_name(f"{path.name}.json")) for path in (one, far))
    for name in ("model", "revision", "contract", "share", "pairs", "inputs"):
        assert theirs[name] == mine[name]
    assert theirs["cost"]["pointwise"]["tokens"] == mine["cost"]["pointwise"]["tokens"]


@pytest.mark.by_hand
def test_the_commands_start_a_ray_of_their_own(
    animals: str, reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ("label", animals, "--run", "bm25", "--split", "test", "--model", reranker)
    # in a process of its own: one that had a Ray of its own is none for a cluster's
    more = ("-o", tmp_path / "l", "--on", "ray", "--cpus-per-worker", 1)
    command = [sys.executable, "-m", "dear", *map(str, (*words, *more))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "192 pairs" in done.stdout + done.stderr
    assert look_into(tmp_path / "l").finished
    assert "did you mean 'ray'" in refused(*words, "-o", tmp_path / "m", "--on", "rai")
    assert "--workers is for --on ray" in refused(*words, "-o", tmp_path / "m", "--workers", 2)
    two = (*words, "--model", "minilm-l6", "-o", tmp_path / "m", "--on", "ray")
    assert "take one --model at a time" in refused(*two)
    first = ("label", animals, "--run", "bm25", "--model", "first-stage", "-o", tmp_path / "m")
    assert "first-stage scores nothing" in refused(*first, "--on", "ray")
    lists = ("rank", animals, "--run", "bm25", "--listwise", "local:x", "-o", tmp_path / "r")
    assert "--on ray is for a --model alone" in refused(*lists, "--on", "ray")
    assert not (tmp_path / "m").exists()


@pytest.mark.by_hand
def test_leaves_that_no_worker_scores_are_named_and_the_others_written(
    cluster: Any, animals: str, reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dear.steps.label.open_scorer", open_but_for_one)
    with pytest.raises(BackendError, match=r"no labels for the \d+ pairs of queries '.*bad text"):
        job(animals, reranker, tmp_path / "l", place=RAY)
    store = look_into(tmp_path / "l")
    assert not store.finished
    # of one query no leaf was scored, of the other seven all but one pair
    assert store.rows == 7 * 23
    assert {(f.query_id, f.passage_id) for f in store.failures} == {
        (f"sleep-{animal}", "bee-eat") for animal in FOOD if animal != "otter"
    }
    assert {f.reason for f in store.failures} == {"RuntimeError: half a character"}
    monkeypatch.undo()
    job(animals, reranker, tmp_path / "l", place=RAY)
    job(animals, reranker, tmp_path / "one", shard="0/1")
    assert files(tmp_path / "l") == files(tmp_path / "one")
