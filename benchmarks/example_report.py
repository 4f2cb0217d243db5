"""The example report: four collections, from first stage to cascade, with nothing but `dear`.

    python benchmarks/example_report.py --data FOLDER --work FOLDER --stage1 FOLDER --heads HEADS

--stage1 is the work folder of benchmarks/stage1.py (teacher, students); --heads holds weights of
attention heads as `dear train` leaves them. BM25's best 50 are reranked by each system, on the
test queries of every collection; each run is made once and kept in --work, with its cost. Written
to docs/example/ without any text of the collections, whose licences forbid to pass them on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dear.data.collections import open_collection
from dear.data.formats import read_run, write_run
from dear.data.origins import write_origin
from dear.records import limit_run

COLLECTIONS = ("dl19", "noveleval", "scifact", "nfcorpus")
DEPTH, LISTS, BLEND, FUSE = 50, 10, 8, 0.3
"""Candidates; of which lists; weights as chosen in docs/results.md, on other queries."""

OUT = Path(__file__).parents[1] / "docs" / "example"
BM25 = "BM25"


def systems(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name to show → options of `dear rank`."""
    students = options.stage1 / "students"
    six = str(students / "6-layers--long-24000")
    lists = ["--listwise", f"local:{options.heads}", "--strategy", "full", "--window", str(LISTS)]
    return {
        "Bi-encoder": ["--model", "biencoder:minilm-l6"],
        "Teacher": [
            *("--model", f"biencoder:{options.stage1 / 'teachers' / 'biencoder'}"),
            *("--fuse", str(FUSE)),
        ],
        "Student, 6 layers": ["--model", six],
        "Student, 3 layers": ["--model", str(students / "3-layers--long-24000")],
        "Cascade": ["--model", six, *lists, "--depth", str(LISTS), "--fuse", str(BLEND)],
    }


def dear(*words: object) -> None:
    command = [sys.executable, "-m", "dear.cli", *map(str, words)]
    print(" ".join(command[3:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


def first_stage(name: str, path: Path) -> None:
    collection = open_collection(name)
    run = limit_run(collection.run("bm25", "test"), top_k=DEPTH)
    judged = collection.judgements("test")
    write_run(path, {q: ranking for q, ranking in run.items() if q in judged}, "bm25")
    write_origin(path, {"model": None, "collection": name, "split": "test", "top_k": DEPTH})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("--data", "--work", "--stage1", "--heads"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    os.environ["DEAR_DATA"] = str(options.data)
    options.work.mkdir(parents=True, exist_ok=True)
    ranked = systems(options)
    tables = ['title = "From BM25 to a cascade, on four collections"', "texts = false"]
    tables.append('published = ["RankVicuna-7B", "monoT5-3B", "DeAR-P-8B", "DeAR-L-8B"]')
    for name in COLLECTIONS:
        first = options.work / f"bm25.{name}.trec"
        if not first.exists():
            first_stage(name, first)
        tables += ["", "[[collection]]", f'name = "{name}"', "[collection.runs]"]
        tables.append(f'"{BM25}" = "{first.name}"')
        for system, words in ranked.items():
            run = options.work / f"{system.replace(', ', '-').replace(' ', '-')}.{name}.trec"
            if not run.with_name(f"{run.name}.json").exists():
                dear("rank", name, "--run", first, *words, "--output", run)
            read_run(run)
            tables.append(f'"{system}" = "{run.name}"')
    study = options.work / "study.toml"
    study.write_text("\n".join(tables) + "\n", encoding="utf-8")
    # in the folder itself, so that the report names no place of this machine
    os.chdir(options.work)
    dear("report", "report.html", "--study", study.name, "--queries", 12, "--also", "report.md")
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.md", study.name):
        shutil.copy(name, OUT / name)


if __name__ == "__main__":
    main()
