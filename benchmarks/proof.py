"""Every benchmark whose results are committed, one after another: what `make proof` runs.

    python benchmarks/proof.py --data FOLDER --work FOLDER [--only demo,plan] [--list]

--data holds the collections of docs/results.md, --work keeps what is made on the way. Parts that
need another's checkpoints come after it. A part that has ended well leaves a note in --work/done
and is not run again until the note is removed; most scripts keep their own steps in --work as
well, so that one that was stopped goes on. A part that fails does not stop those that need
nothing of it; the exit status is 1 then. Hours, or days on a laptop: see `--list` first.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dear.artifacts import write_json

HERE = Path(__file__).parent
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One command of a script in this folder.

    words: `{data}` and `{work}` stand for the two folders, `{encoder}`, `{decoder}`, `{heads}` for
        what stage1 and stage2 leave in --work.
    result: the file or folder that it writes.
    needs: parts that must have ended well.
    reads_data: False for what brings or makes all that it reads.
    """

    script: str
    words: str
    result: Path
    needs: tuple[str, ...] = ()
    reads_data: bool = True


def result(name: str) -> Path:
    return RESULTS / f"{name}.json"


PARTS = {
    "clients": Part(
        script="clients",
        words="--work {work}/clients",
        result=result("clients"),
        reads_data=False,
    ),
    "published": Part(script="published", words="--data {data}", result=result("published")),
    "retrieval": Part(
        script="retrieval",
        words="--data {data} --work {work}/retrieval",
        result=result("retrieval"),
    ),
    "mixtures": Part(
        script="mixtures",
        words="--data {data} --work {work}/mixtures --passages 1200 "
        "--only noveleval,cranfield,cacm,scifact,vaswani,medquad,insuranceqa,dl19,dl21",
        result=result("mixtures"),
    ),
    "install": Part(
        script="install", words="--work {work}/install", result=result("install"), reads_data=False
    ),
    "box": Part(script="box", words="measure --data {data}", result=result("box")),
    "runtimes": Part(
        script="runtimes",
        words="--data {data} --work {work}/runtimes",
        result=result("runtimes"),
    ),
    "ray_faults": Part(
        script="ray_faults",
        words="--data {data} --runs 50",
        result=result("ray_faults"),
    ),
    "bulk": Part(
        script="bulk",
        words="--data {data} --work {work}/bulk",
        result=result("bulk"),
    ),
    "object_storage": Part(
        script="object_storage", words="--data {data} --kills 3", result=result("object_storage")
    ),
    "label_rows": Part(
        script="label_rows",
        words="--work {work}/label_rows",
        result=result("label_rows"),
        reads_data=False,
    ),
    "serving": Part(
        script="serving",
        words="--data {data} --work {work}/serving",
        result=result("serving"),
    ),
    "folders": Part(
        script="folders",
        words="measure --data {data} --work {work}/folders",
        result=result("folders"),
    ),
    "ablation": Part(
        script="ablation",
        words="--work {work}/folders",
        result=result("ablation"),
        needs=("folders",),
        reads_data=False,
    ),
    "plan": Part(script="plan", words="check", result=result("plan"), reads_data=False),
    "scale": Part(script="plan", words="scale", result=result("plan"), reads_data=False),
    "evaluate": Part(
        script="evaluate",
        words="--work {work}/evaluate",
        result=result("evaluate"),
        reads_data=False,
    ),
    "significance": Part(
        script="significance", words="", result=result("significance"), reads_data=False
    ),
    "demo": Part(
        script="demo", words="--folder {work}/demo", result=result("demo"), reads_data=False
    ),
    "gpu-dry": Part(
        script="gpu",
        words="--tiny --out benchmarks/results/gpu_dry",
        result=result("gpu_dry"),
        reads_data=False,
    ),
    "card-dry": Part(
        script="card",
        words="--tiny --data {data} --work {work}/card-tiny --out benchmarks/results/card_dry "
        "--models llama2-13b-rankllama-teacher,dear-3b-reranker-ce-v1,"
        "dear-8b-reranker-listwise-lora-v1 --collections dl19,scifact,noveleval --queries 5",
        result=result("card_dry"),
    ),
    "attacks": Part(script="attacks", words="", result=result("attacks"), reads_data=False),
    "golden": Part(
        script="golden",
        words="--commit 39c3f75 --work {work}/golden",
        result=result("golden"),
        reads_data=False,
    ),
    "fuzz": Part(
        script="fuzz",
        words="--seconds 1200 --seed 0",
        result=result("fuzz"),
        reads_data=False,
    ),
    "digests": Part(
        script="digests",
        words="--work {work}/digests",
        result=result("digests"),
        reads_data=False,
    ),
    "threads": Part(
        script="threads", words="--calls 1000", result=result("threads"), reads_data=False
    ),
    "mutants": Part(
        script="mutants",
        words="--rooms losses data models --sample 30 --seed 0",
        result=result("mutants"),
    ),
    "mutants-ranking": Part(
        script="mutants",
        words="--rooms rank evaluate train --sample 30 --seed 0 "
        "--output benchmarks/results/mutants_rank_evaluate_train.json",
        result=result("mutants_rank_evaluate_train"),
    ),
    "faults": Part(
        script="mutants",
        words="--output benchmarks/results/faults.json",
        result=result("faults"),
    ),
    "kill": Part(
        script="kill", words="--kills 20 --what both", result=result("kill"), reads_data=False
    ),
    "kill-parallel": Part(
        script="kill",
        words="--kills 20 --what parallel --output benchmarks/results/kill_parallel.json",
        result=result("kill_parallel"),
        reads_data=False,
    ),
    "parallel": Part(
        script="parallel", words="--steps 50", result=result("parallel"), reads_data=False
    ),
    "msmarco": Part(script="msmarco", words="--rows 10000 500000", result=result("msmarco")),
    "nano-family": Part(
        script="nano_family",
        words="--work {work}/nano-family --queries 60 --set train.max_steps=30",
        result=result("nano_family"),
        reads_data=False,
    ),
    "backbone-memory": Part(
        script="backbone_memory",
        words="--output benchmarks/results/backbone_memory.json",
        result=result("backbone_memory"),
        reads_data=False,
    ),
    "lists": Part(
        script="lists",
        words="--data {data} --queries 2 --rounds 1 --float32",
        result=result("lists"),
    ),
    "stage1": Part(
        script="stage1",
        words="--data {data} --work {work}/stage1 --pairs 6400 --ablation-queries 60 "
        "--ablation-depth 50 --best 'CE + RankNet + KL' --long-pairs 24000 --layers 6 --layers 3 "
        "--llama-pairs 800 --llama-queries 40 --llama-depth 20 --decoder-pairs 6400",
        result=result("stage1"),
    ),
    "stage2": Part(
        script="stage2",
        words="--data {data} --stage1 {work}/stage1 --work {work}/stage2 --size 8 --words 40 "
        "--test-words 40 --models smollm2-135m --readings attention-heads --shuffles 5 "
        "--only lists,heads,test --pointwise {encoder}",
        result=result("stage2"),
        needs=("stage1",),
    ),
    "stage2-lora": Part(
        script="stage2",
        words="--data {data} --stage1 {work}/stage1 --work {work}/stage2-lora --base {decoder} "
        "--lists 1600 --variants first --variants 'first, unshuffled' --variants text "
        "--variants thought --train-queries 600 --test-words 40 --shuffles 5 --table shuffles "
        "--pointwise {decoder} --output benchmarks/results/stage2_lora.json",
        result=result("stage2_lora"),
        needs=("stage1",),
    ),
    "scoring": Part(
        script="scoring",
        words="--data {data} --work {work}/scoring --encoder {encoder} --decoder {decoder}",
        result=result("scoring"),
        needs=("stage1",),
    ),
    "inside": Part(
        script="inside",
        words="--data {data} --encoder {encoder} --decoder {decoder}",
        result=result("inside"),
        needs=("stage1",),
    ),
    "calibration": Part(
        script="calibration",
        words="--model {encoder} --data {data} --work {work}/calibration",
        result=result("calibration"),
        needs=("stage1",),
    ),
    "robustness": Part(
        script="robustness",
        words="--student {encoder} --heads {heads}",
        result=result("robustness"),
        needs=("stage1", "stage2"),
    ),
    "example": Part(
        script="example_report",
        words="--data {data} --work {work}/example --stage1 {work}/stage1 --heads {heads}",
        result=Path("docs/example"),
        needs=("stage1", "stage2"),
    ),
}

MADE = {
    "encoder": "{work}/stage1/students/6-layers--long-24000",
    "decoder": "{work}/stage1/students/smollm2-6400",
    "heads": "{work}/stage2/heads/smollm2-135m-120x8-40",
}


def command(part: Part, data: Path, work: Path) -> list[str]:
    places = {"data": data, "work": work}
    made = {name: place.format(**places) for name, place in MADE.items()}
    words = [word.format(**places, **made) for word in shlex.split(part.words)]
    return [sys.executable, str(HERE / f"{part.script}.py"), *words]


def main(words: Sequence[str] | None = None, parts: Mapping[str, Part] = PARTS) -> int:
    """The exit status: 1 where a part failed or lacks what it needs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="", help="names with commas between; all without")
    parser.add_argument("--list", action="store_true", help="what would run; nothing is run")
    options = parser.parse_args(words)
    wanted = [name for name in options.only.split(",") if name] or list(parts)
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    data, work = options.data.resolve(), options.work.resolve()
    done = {name for name in parts if (work / "done" / f"{name}.json").exists()}
    if not (options.list or data.is_dir()) and any(
        parts[name].reads_data for name in wanted if name not in done
    ):
        parser.error(f"--data: {options.data} is no folder (make proof DATA=FOLDER)")
    failed: list[str] = []
    for name, part in parts.items():
        if name not in wanted:
            continue
        line = command(part, data, work)
        missing = [need for need in part.needs if need not in done]
        state = "done" if name in done else f"needs {', '.join(missing)}" if missing else "to run"
        print(f"{name}: {state}: {shlex.join(line[1:])} → {part.result}", flush=True)
        if state == "done":
            continue
        if options.list or (not missing and run(line, name, data, work)):
            done.add(name)
        else:
            failed.append(name)
    if failed:
        print(f"not done: {', '.join(failed)}; the same command goes on from there", flush=True)
    return 1 if failed else 0


def run(line: Sequence[str], name: str, data: Path, work: Path) -> bool:
    """True if the command ended well, which is noted; what it says goes to a file in `work`."""
    log, note = work / "logs" / f"{name}.log", work / "done" / f"{name}.json"
    for place in (log, note):
        place.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with log.open("ab") as out:
        status = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # collections by name
            env=os.environ | {"DEAR_DATA": str(data)},
            check=False,
        ).returncode
    seconds = round(time.time() - started)
    if status:
        print(f"  ended with {status} after {seconds} s; see {log}", flush=True)
        return False
    write_json(note, {"command": list(line[1:]), "seconds": seconds})
    print(f"  {seconds} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
