"""Training rows at MS MARCO's size: memory, rows a second, and the same examples as a run gives.

    python benchmarks/msmarco.py --rows 10000 500000 --output benchmarks/results/msmarco.json

Rows are made of real texts (the passages of dl19 and the questions of insuranceqa, from DEAR_DATA),
in Tevatron's layout: one positive, seven negatives, gzip. Each measurement is a process of its own;
memory is its peak without the pages of mapped files (RssAnon, looked at every 20 ms), beside the
peak with them (VmHWM). Rates are by the clock and by the processor's time, for a machine that is
shared. The second part writes the training split of real collections as rows, with
what their BM25 run found as negatives, and compares the examples with those of the run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

PASSAGES = 8
READS = 20_000


def main() -> int:
    options = parse_arguments()
    found: dict[str, Any] = {"scale": [], "same": []}
    with tempfile.TemporaryDirectory(prefix="dear-rows-", dir=options.place) as place:
        root = Path(place)
        for rows in options.rows:
            found["scale"].append(scale(root, rows, in_memory=rows <= options.memory_rows))
            print(json.dumps(found["scale"][-1]), file=sys.stderr)
        for name in options.collections:
            found["same"].append(in_a_process(compare, root, name, options.queries))
            print(json.dumps(found["same"][-1]), file=sys.stderr)
    write_report(options, found)
    return 0 if all(one["identical"] for one in found["same"]) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 500_000])
    parser.add_argument("--collections", nargs="*", default=["insuranceqa", "medquad"])
    parser.add_argument(
        "--memory-rows", type=int, default=50_000, help="also held as objects up to this number"
    )
    parser.add_argument("--queries", type=int, default=2000, help="of each collection")
    parser.add_argument("--place", type=Path, default=None, help="of temporary files")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/msmarco.json"))
    return parser.parse_args()


def scale(root: Path, rows: int, *, in_memory: bool) -> dict[str, Any]:
    """What sampling, opening and reading take for so many rows."""
    path = root / f"rows-{rows}.jsonl.gz"
    found: dict[str, Any] = {"rows": rows, "passages": rows * PASSAGES}
    found["start_anon_mib"] = in_a_process(idle)["anon_mib"]
    found["file_mib"] = in_a_process(write_rows, path, rows)
    found["sample"] = in_a_process(sample, path, root / "tables")
    found["open_again"] = in_a_process(sample, path, root / "tables")
    found["read"] = in_a_process(read, path, root / "tables")
    if in_memory:
        found["as_objects"] = in_a_process(sample, path, root / "tables-none", 1 << 60)
        if found["as_objects"]["fingerprint"] != found["sample"]["fingerprint"]:
            raise SystemExit("the table is not what is drawn in memory")
    path.unlink()
    return found


class Memory:
    """Peaks of this process, in MiB, while the block runs."""

    def __enter__(self) -> Memory:
        self.anon, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.started, self.cpu_s = time.perf_counter(), time.process_time()
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.seconds = time.perf_counter() - self.started
        self.cpu_s = time.process_time() - self.cpu_s
        self.done.set()
        self.thread.join()
        self.anon = max(self.anon, status("RssAnon"))

    def _look(self) -> None:
        while not self.done.wait(0.02):
            self.anon = max(self.anon, status("RssAnon"))

    def report(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 2),
            "cpu_s": round(self.cpu_s, 2),
            "anon_mib": self.anon >> 10,
            "with_mapped_mib": status("VmHWM") >> 10,
        }


def status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def idle() -> dict[str, Any]:
    """A process that has everything imported and does nothing."""
    import dear.train.examples  # noqa: F401

    with Memory() as memory:
        pass
    return memory.report()


def write_rows(path: Path, rows: int) -> float:
    from dear.data.collections import open_collection

    dice = random.Random(rows)
    passages = list(open_collection("dl19").corpus.values())
    queries = [q.text for q in open_collection("insuranceqa").queries().values()]
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for number in range(rows):
            fields = [
                {"docid": p.id, "title": p.title, "text": p.text}
                for p in dice.sample(passages, PASSAGES)
            ]
            row = {
                "query_id": str(number),
                "query": f"{queries[number % len(queries)]} {number}",
                "positive_passages": fields[:1],
                "negative_passages": fields[1:],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return round(path.stat().st_size / 2**20, 1)


def examples(path: Path, tables: Path, in_memory: int) -> Any:
    from dear.recipes import DataRecipe, GroupsRecipe
    from dear.train.examples import load_examples

    return load_examples(
        [DataRecipe(rows=str(path), exclude=("dl19",))],
        GroupsRecipe(size=PASSAGES, negatives="random"),
        seed=42,
        with_labels=False,
        tables=tables,
        in_memory=in_memory,
    )


def sample(path: Path, tables: Path, in_memory: int = 4096) -> dict[str, Any]:
    from dear.train.examples import fingerprint

    with Memory() as memory:
        found = examples(path, tables, in_memory)
    done = memory.report()
    done["rows_a_second"] = round(len(found) / memory.seconds)
    done["rows_a_cpu_second"] = round(len(found) / memory.cpu_s)
    done["groups"], done["fingerprint"] = len(found), fingerprint(found)
    done["tables_mib"] = round(sum(p.stat().st_size for p in tables.glob("*")) / 2**20, 1)
    return done


def read(path: Path, tables: Path) -> dict[str, Any]:
    """Examples in random order, as training reads them."""
    found = examples(path, tables, 4096)
    dice = random.Random(1)
    places = [dice.randrange(len(found)) for _ in range(READS)]
    with Memory() as memory:
        letters = sum(len(passage) for place in places for passage in found[place].passages)
    done = memory.report() | {
        "examples_a_second": round(READS / memory.seconds),
        "examples_a_cpu_second": round(READS / memory.cpu_s),
    }
    return done | {"letters_a_passage": round(letters / READS / PASSAGES)}


def compare(root: Path, name: str, limit: int) -> dict[str, Any]:
    """The training split as rows and as a run: the same groups, passages and texts?"""
    from dataclasses import replace

    from dear.data.collections import open_collection
    from dear.data.formats import write_tevatron
    from dear.data.formats.training import TrainingRow
    from dear.recipes import DataRecipe, GroupsRecipe
    from dear.train.examples import load_examples

    collection = open_collection(name)
    queries, corpus = collection.queries(), collection.corpus
    run, judgements = collection.run("bm25", "train"), collection.judgements("train")

    def rows() -> Any:
        for query_id, ranking in islice(run.items(), limit):
            grades = judgements.get(query_id, {})
            relevant = [p for p, grade in grades.items() if grade > 0]
            if relevant:
                yield TrainingRow(
                    query=queries[query_id],
                    positives=tuple(corpus[p] for p in relevant),
                    negatives=tuple(
                        corpus[p] for p in ranking.passage_ids if grades.get(p, 0) <= 0
                    ),
                )

    path = root / f"{name}.jsonl.gz"
    write_tevatron(path, rows())
    results: dict[str, Any] = {"collection": name, "identical": True}
    for negatives in ("random", "hardest", "spread"):
        groups = GroupsRecipe(size=PASSAGES, negatives=negatives)
        options: dict[str, Any] = {"seed": 42, "with_labels": False, "tables": root / "tables"}
        started = time.perf_counter()
        ours = load_examples([DataRecipe(collection=name, queries=limit)], groups, **options)
        middle = time.perf_counter()
        theirs = load_examples([DataRecipe(rows=str(path))], groups, **options)
        ended = time.perf_counter()
        same = len(ours) == len(theirs) and all(
            replace(a.group, grades=tuple(min(1, g) for g in a.group.grades)) == b.group
            and (a.query, a.passages) == (b.query, b.passages)
            for a, b in zip(ours, theirs, strict=True)
        )
        with_repeats = load_examples(
            [DataRecipe(collection=name, queries=limit)],
            replace(groups, drop_same_text=False),
            **options,
        )
        results["groups"], results["identical"] = len(ours), results["identical"] and same
        results[negatives] = {
            "same": same,
            "from_run_s": round(middle - started, 1),
            "from_rows_s": round(ended - middle, 1),
            "groups_changed_by_drop_same_text": sum(
                a != b for a, b in zip(ours, with_repeats, strict=False)
            ),
        }
    kept = load_examples(
        [DataRecipe(rows=str(path), exclude=(name,))], GroupsRecipe(), seed=42, with_labels=False
    )
    results["asked_by_own_test_queries"] = results["groups"] - len(kept)
    return results


def in_a_process(work: Callable[..., Any], *args: Any) -> Any:
    """Its result; a fresh process, so that memory is its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_work, args=(queue, work, args))
    worker.start()
    result = queue.get()
    worker.join()
    if isinstance(result, Exception):
        raise result
    return result


def _work(queue: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        queue.put(work(*args))
    except Exception as error:
        queue.put(error)


def write_report(options: argparse.Namespace, found: dict[str, Any]) -> None:
    from dear.artifacts import versions, write_json
    from dear.checkpoints.processor import processor_name

    write_json(
        options.output,
        {
            "what": "training rows: sampling to a table, reading it, and the same from a run",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {
                "processor": processor_name(),
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}",
            },
            "versions": versions(),
            **found,
        },
    )
    print(f"{'rows':>9}{'rows/s':>9}{'MiB':>7}{'at rest':>9}{'read/s':>9}{'MiB':>7}")
    for one in found["scale"]:
        print(
            f"{one['rows']:>9}{one['sample']['rows_a_second']:>9}{one['sample']['anon_mib']:>7}"
            f"{one['start_anon_mib']:>9}{one['read']['examples_a_second']:>9}"
            f"{one['read']['anon_mib']:>7}"
        )


if __name__ == "__main__":
    sys.exit(main())
