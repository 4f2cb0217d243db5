"""A long measurement in parts: each in a process of its own, with seconds of its own.

A part that raises, crashes or uses up its seconds is recorded with the reason, and the next one
starts. Rows are on disk as soon as they are reported: a part that is killed keeps what it had.
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dear.artifacts import atomic_path, read_json, write_json

RIGHT = "right"
"""Column of a row that says whether what it measured is also correct."""


class Skip(Exception):
    """Why a part has nothing to do here."""


class Report:
    """What a part has found so far."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Any] = {"rows": [], "notes": []}

    def row(self, what: str, **values: Any) -> None:
        """A line of the part's table. Give numbers their units in the names: `step_s`."""
        say(f"  {what}: " + ", ".join(f"{k} {_cell(v)}" for k, v in values.items()))
        self.found["rows"].append({"what": what, **{k: _plain(v) for k, v in values.items()}})
        write_json(self.file, self.found)

    def note(self, text: str) -> None:
        say(f"  {text}")
        self.found["notes"].append(text)
        write_json(self.file, self.found)

    def end(self, state: str, reason: str = "") -> None:
        self.found |= {"state": state, "reason": reason}
        write_json(self.file, self.found)


@dataclass(frozen=True)
class Part:
    """work: takes the report and the options; a function that other processes can import.
    seconds: after which it is ended; None for no limit."""

    name: str
    title: str
    work: Callable[[Report, Any], None]
    seconds: float | None = None


def run_parts(
    parts: Sequence[Part],
    file: Path,
    options: Any,
    *,
    about: Mapping[str, Any],
    resume: bool = False,
    start_method: str = "spawn",
    patience: float = 1,
) -> dict[str, Any]:
    """Runs the parts in turn and keeps `file` up to date; gives what stands in it.

    about: what all results have in common. resume: parts that an earlier run of the same `about`
    has done are not run again. start_method: of multiprocessing. patience: factor on the parts'
    seconds.
    """
    context: Any = multiprocessing.get_context(start_method)
    results: dict[str, Any] = {"about": dict(about), "parts": {}}
    if resume and file.is_file():
        results = read_json(file)
        if results["about"] != about:
            raise SystemExit(f"{file}: results of another machine or setting; name another --out")
    for part in parts:
        if results["parts"].get(part.name, {}).get("state") == "done":
            say(f"{part.name}: was done before")
            continue
        say(part.name)
        rows = file.with_name(f"{file.stem}.{part.name}.part")
        limited = part if part.seconds is None else replace(part, seconds=part.seconds * patience)
        results["parts"][part.name] = _run(limited, rows, options, context)
        write_json(file, results)
    return results


def _run(part: Part, rows: Path, options: Any, context: Any) -> dict[str, Any]:
    rows.unlink(missing_ok=True)
    process = context.Process(target=_work, args=(part.work, rows, options))
    started = time.perf_counter()
    process.start()
    try:
        process.join(part.seconds)
        alive = process.is_alive()
    finally:
        _end(process)
    found = read_json(rows) if rows.is_file() else {"rows": [], "notes": []}
    rows.unlink(missing_ok=True)
    if alive:
        found |= {"state": "out of time", "reason": f"ended after {part.seconds:.0f} s"}
    elif "state" not in found:
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        found |= {"state": "failed", "reason": f"the process died ({how})"}
    seconds = round(time.perf_counter() - started, 1)
    say(f"{part.name}: {found['state']} in {seconds} s {found['reason']}")
    return {"title": part.title, "seconds": seconds, "limit_s": part.seconds, **found}


def _work(work: Callable[[Report, Any], None], rows: Path, options: Any) -> None:
    os.setsid()  # its own processes are ended with it
    gc.freeze()  # what is imported is no garbage, and looking through it takes seconds
    report = Report(rows)
    try:
        work(report, options)
        report.end("done")
    except Skip as reason:
        report.end("skipped", str(reason))
    except BaseException as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        report.end("failed", f"{type(error).__name__}: {first}"[:300])


def _end(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join()


def start_method() -> str:
    """A forked process shares what is imported, but cannot use a card that was known before."""
    import torch

    return "spawn" if torch.cuda.is_available() else "fork"


def is_right(results: Mapping[str, Any]) -> bool:
    """Whether no part has failed, and nothing that was measured was wrong."""
    return all(
        part["state"] in ("done", "skipped") and all(r.get(RIGHT, True) for r in part["rows"])
        for part in results["parts"].values()
    )


def write_markdown(file: Path, title: str, opening: Iterable[str], results: Any) -> None:
    """The results as a page with a table for each part."""
    lines = [f"# {title}", ""]
    for paragraph in opening:
        lines += [paragraph, ""]
    for name, part in results["parts"].items():
        limit = "" if part["limit_s"] is None else f" of {part['limit_s']:.0f}"
        reason = f": {part['reason']}" if part["reason"] else ""
        lines += [f"## {name}: {part['title']}", ""]
        lines += [f"{part['state']}{reason} ({part['seconds']:.0f}{limit} s)", ""]
        lines += [*_table(part["rows"]), *(f"- {note}" for note in part["notes"])]
        lines += [""] if part["notes"] else []
    with atomic_path(file) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return []
    aligned = ["---"] + ["---:" for _ in columns[1:]]
    cells = [[_cell(row.get(key)).replace("|", "/") for key in columns] for row in rows]
    heads = ["", *(key.replace("_", " ") for key in columns[1:])]
    return [*(f"| {' | '.join(line)} |" for line in (heads, aligned, *cells)), ""]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _plain(value: Any) -> Any:
    """JSON has no NaN, and one is a finding."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
