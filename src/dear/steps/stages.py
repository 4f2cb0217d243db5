"""Stages of a long pipeline in one folder: each is done once, and again when its inputs change."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dear.artifacts import read_json, write_json
from dear.checkpoints.registry import DISTILLATION
from dear.digests import Input, Inputs, file_input, value_differences
from dear.errors import ConfigError


class Stages:
    """What was done in a folder: for each stage a note of what it was made from and what it made.

    note: told a line about each stage.  seconds: name of a stage → what it took, now or before.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder = folder
        self.note = note
        self.seconds: dict[str, float] = {}
        self._done_now = False

    def claim(self, plan: Mapping[str, Any]) -> None:
        """The folder is for what `plan` says, or ConfigError."""
        plan = json.loads(json.dumps(plan))
        path = self.folder / DISTILLATION
        if path.is_file():
            there = read_json(path)
            if found := value_differences({key: there.get(key) for key in plan}, plan):
                raise ConfigError(
                    f"{self.folder} holds another distillation ({'; '.join(found[:3])}); choose "
                    "another --output, or remove it"
                )
        else:
            write_json(path, plan)

    def run(
        self,
        name: str,
        inputs: Mapping[str, Input],
        work: Callable[[], dict[str, Any]],
        made: Path,
        digest: Callable[[Path], str],
    ) -> None:
        """Do `work` unless its note says that it is done, from the same inputs, and what it made
        is unchanged."""
        path = self._note_path(name)
        there = read_json(path) if path.is_file() and made.exists() else None
        why = ""
        if there is not None and "inputs" not in there:  # an earlier version's
            why = "a stage before it is another now" if self._done_now else ""
        elif there is not None:
            why = _why_again(there, Inputs(inputs), made, digest)
        if there is not None and not why:
            self.seconds[name] = there["stage_seconds"]
            unverified = "" if "inputs" in there else ", unverified: it does not say what it is of"
            self.note(f"{name}: done before, kept{unverified}")
            return
        if why:
            self.note(f"{name}: done again, {why}")
        started = time.perf_counter()
        result = work()
        seconds = round(time.perf_counter() - started, 1)
        about = {"inputs": Inputs(inputs).to_dict(), "made": digest(made)}
        write_json(path, {**result, "stage_seconds": seconds, **about})
        self.seconds[name] = seconds
        self._done_now = True
        self.note(f"{name}: {seconds:.0f} s")

    def _note_path(self, name: str) -> Path:
        return self.folder / "stages" / f"{name.replace(' ', '-')}.json"

    def note_of(self, name: str) -> dict[str, Any]:
        """What a stage left; {} where it was not done."""
        path = self._note_path(name)
        return read_json(path) if path.is_file() else {}


def _why_again(
    there: Mapping[str, Any], inputs: Inputs, made: Path, digest: Callable[[Path], str]
) -> str:
    """Why a stage with this note is to be done again; "" where it is not."""
    if found := Inputs.from_dict(there["inputs"]).changes(inputs):
        return f"its inputs differ ({found})"
    return "" if there.get("made") == digest(made) else f"{made.name} is not as it was made"


def file_digest_of(path: Path) -> str:
    """For stages that make one file."""
    return file_input(path).digest
