"""What every command writes, by an earlier source tree and by this one, compared to the byte.

    python benchmarks/golden.py --commit 39c3f75 --work FOLDER [--out OUT.json]

COMMIT is taken out of this repository's history (39c3f75: before there was one way to rank). Both
run the same commands in one process each, over the tests' small collection, a tiny cross-encoder
and a tiny language model, into the same folder, one after the other. Files are compared byte by
byte, JSON without what no two runs share (times, costs, versions), standard output with its
numbers of seconds left out. What differs is listed with its first difference: it is stated where
it was meant, or it is a fault. Minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VOLATILE = {
    *("seconds", "cost", "versions", "machine", "pairs_per_second", "pairs_per_s", "started"),
    *(
        "finished",
        "created",
        "jobs",
        "steps_per_second",
        "fit_s",
        "wall_s",
        "score_s",
        "stage_seconds",
    ),
}
SECONDS = re.compile(r"[\d,.]+\s(?:ms|s|min)\b(?:\s\d+ s)?|[\d,.]+/s|\d+\.\d+ times as fast")
STATED = {
    r"\.trec\.json: .*inputs\.lists\.digest": "options of the listwise stage have other names",
    r"^(rank|top|fuse|auto|cascade)\S*\.trec\.json: ": "a run's note has no early exit any more",
    r"^evaluate\.stdout: \.runs\[1\]\.made_by": "the same note",
    r"^report\.html: ": "it shows times, and that note",
    r"^distill\.stdout: .* M +[\d,]+": "its table shows pairs a second",
    r"^models\.stdout: ": "`dear models` says what to install",
    r"^plan\.stdout: ": "`--json -` prints the plan instead of writing a file of that name",
}
"""What differs on purpose, by the line that says so."""


def commands(at: Path) -> dict[str, list[str]]:
    """Name → words; {out} is the folder that is compared."""
    animals, model, lists = str(at / "animals"), str(at / "reranker"), f"local:{at / 'lists'}"
    exact = ["--dtype", "float32"]
    rank = ["rank", animals, "--run", "bm25"]
    answers = ["--no-ledger", "--prompt", "list"]
    found = {
        "collections": ["collections", "--json"],
        "models": ["models", "--json"],
        "retrieve": ["retrieve", animals, "-o", "{out}/test.trec"],
        "retrieve-dev": ["retrieve", animals, "--split", "dev", "-o", "{out}/dev.trec"],
        "label": [
            "label",
            animals,
            "--run",
            "bm25",
            "--split",
            "train",
            "--model",
            model,
            *exact,
            "-o",
            "{out}/labels",
        ],
        "label-first": [
            "label",
            animals,
            "--run",
            "bm25",
            "--split",
            "train",
            "--model",
            "first-stage",
            "-o",
            "{out}/first",
        ],
        "rank": [*rank, "--model", model, *exact, "-o", "{out}/rank.trec"],
        "rank-top": [*rank, "--model", model, *exact, "--top-k", "5", "-o", "{out}/top.trec"],
        "rank-fuse": [*rank, "--model", model, *exact, "--fuse", "0.3", "-o", "{out}/fuse.trec"],
        "rank-auto": [*rank, "--model", model, *exact, "--fuse", "auto", "-o", "{out}/auto.trec"],
        "rerank": [
            "rerank",
            "what does the owl eat",
            str(at / "passages.txt"),
            "--model",
            model,
            "--json",
            *exact,
        ],
        "evaluate": [
            "evaluate",
            animals,
            "--first-stage",
            "bm25",
            "--run",
            "{out}/rank.trec",
            "--json",
            "-",
        ],
        "compare": [
            "compare",
            animals,
            "{out}/test.trec",
            "{out}/rank.trec",
            "--query",
            "sleep-owl",
        ],
        "report": ["report", "{out}/report.html", animals, "--run", "Ours={out}/rank.trec"],
        "check": [
            "check",
            model,
            animals,
            "--run",
            "bm25",
            "--queries",
            "3",
            "--depth",
            "6",
            *exact,
            "--json",
            "{out}/check.json",
        ],
        "train": ["train", str(at / "recipe.toml"), "-o", "{out}/student"],
        "calibrate": [
            "calibrate",
            "biencoder:minilm-l6",
            "--collection",
            animals,
            "--run",
            "bm25",
            "--unjudged",
            "irrelevant",
            "--probability",
            "platt",
            "-o",
            "{out}/map",
            *exact,
        ],
        "reason": [
            "reason",
            animals,
            "--run",
            "bm25",
            "--teacher",
            model,
            "--size",
            "4-6",
            "-o",
            "{out}/set",
            *exact,
        ],
        "plan": ["plan", str(at / "recipe.toml"), "--json", "-"],
    }
    changes = [word for change in _small(model) for word in ("--set", change)]
    distill = ["distill", animals, "--recipe", "laptop", "--output", "{out}/distilled"]
    found["distill"] = [*distill, *changes]
    passages = str(at / "passages.txt")
    for packaged in ("biencoder:minilm-l6", "upr:smollm2-135m", "yes-no:smollm2-135m"):
        words = ["rerank", "what does the owl eat", passages, "--model", packaged, "--json"]
        found[packaged.replace(":", "-")] = [*words, *exact]
    for reading in ("attention", "first", "constrained", "text"):
        words = [*rank, "--listwise", f"{lists}#{reading}", "--window", "6", "--step", "3"]
        found[f"lists-{reading}"] = [*words, *exact, *answers, "-o", f"{{out}}/{reading}.trec"]
    for strategy in ("sliding", "topdown", "setwise", "tournament", "full"):
        words = [*rank, "--listwise", f"{lists}#constrained", "--strategy", strategy]
        words += ["--window", "6", "--step", "3", "--depth", "12"]
        found[f"lists-{strategy}"] = [*words, *exact, *answers, "-o", f"{{out}}/{strategy}.trec"]
    words = [*rank, "--model", model, "--listwise", f"{lists}#constrained", "--depth", "8"]
    words += ["--window", "6", "--step", "3", *exact, *answers]
    found["cascade"] = [*words, "-o", "{out}/cascade.trec"]
    found["cascade-fused"] = [*words, "--fuse", "0.5", "-o", "{out}/cascade-fused.trec"]
    return found


def _small(model: str) -> list[str]:
    return [
        f'teacher.zero_shot="biencoder:{model}"',
        f'teacher.model.base="{model}"',
        f'student.model.base="{model}"',
        "student.groups.size=4",
        "test.top_k=6",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commit", help="the earlier tree")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/golden.json")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work: Path = options.work.resolve()
    if options.run:
        run(work)
        return 0
    if options.commit is None:
        parser.error("--commit COMMIT is needed")
    shutil.rmtree(work, ignore_errors=True)
    (work / "tree").mkdir(parents=True)
    packed = subprocess.run(
        ["git", "archive", options.commit, "src", "recipes"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(work / "tree", filter="data")
    for name, source in (("before", work / "tree" / "src"), ("now", ROOT / "src")):
        subprocess.run(
            [sys.executable, __file__, "--run", "--work", str(work)],
            env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
            | {"HF_HUB_OFFLINE": "1", "DEAR_CACHE": str(work / "cache")},
            check=True,
        )
        (work / "out").rename(work / name)
    from dear.artifacts import write_json

    found = compare(work)
    for kind in ("stated", "different"):
        for line in found[kind]:
            print(f"{kind}: {line}")
    counts = {kind: len(found[kind]) for kind in ("stated", "different")}
    print(f"the same {found['same']}, {counts}")
    write_json(options.out, {"commit": options.commit, **found})
    return 0


def run(work: Path) -> None:
    """All commands, by whatever `dear` is on the path."""
    for beside in ("cli", "scoring"):
        sys.path.insert(0, str(ROOT / "tests" / beside))
    make_inputs(work)
    from dear.cli.main import main as dear

    out = work / "out"
    out.mkdir()
    for name, words in commands(work).items():
        said, told = io.StringIO(), io.StringIO()
        filled = [word.format(out=out) if "{out}" in word else word for word in words]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            status = 2
            if "--listwise" in filled and "--fuse" in filled:  # an earlier name of the option
                status = dear(["--blend" if word == "--fuse" else word for word in filled])
                told.truncate(0)
            if status == 2:
                status = dear(filled)
        print(name, status, told.getvalue()[-1000:] if status else "", flush=True)
        (out / f"{name}.stdout").write_text(f"{status}\n{said.getvalue()}", "utf-8")


def make_inputs(work: Path) -> None:
    if (work / "reranker").exists():
        return
    import transformers as hf
    from command_line import CORPUS, write_animals, write_recipe, write_reranker
    from tiny_models import make, save, tokenizer_for

    write_animals(work / "animals")
    write_reranker(work / "reranker", layers=2)
    save(work / "lists", make("llama", hf.AutoModelForCausalLM), tokenizer_for("llama"))
    (work / "passages.txt").write_text("\n".join(p.text for p in CORPUS.values()), "utf-8")
    places = {"base": work / "reranker", "collection": work / "animals"}
    write_recipe(work / "recipe.toml", **places, labels=work / "out" / "labels")


def compare(work: Path) -> dict[str, Any]:
    """How many are the same, and a line for each that is not."""
    before, now = (dict(files(work / name)) for name in ("before", "now"))
    different, same = [], 0
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now:
            different.append(f"{name}: only {'before' if name in before else 'now'}")
        elif (a := before[name]) != (b := now[name]):
            different.append(f"{name}: {first_difference(a, b)}")
        else:
            same += 1
    stated = [line for line in different if any(re.search(p, line) for p in STATED)]
    different = [line for line in different if line not in stated]
    return {"same": same, "stated": stated, "different": different}


def files(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            yield str(path.relative_to(folder)), content(path)


def content(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        with contextlib.suppress(ValueError):
            return [steady(json.loads(line)) for line in _objects(path, data)]
    if path.suffix in (".stdout", ".md", ".html", ".svg", ".tex", ".txt"):
        text = data.decode("utf-8", "replace")
        if path.suffix == ".stdout" and text.partition("\n")[2].startswith("{"):
            with contextlib.suppress(ValueError):
                return steady(json.loads(text.partition("\n")[2]))
        return SECONDS.sub("…", text)
    return data


def _objects(path: Path, data: bytes) -> list[str]:
    text = data.decode("utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def steady(value: Any) -> Any:
    """Without what no two runs share."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in sorted(value.items()) if k not in VOLATILE}
    if isinstance(value, list):
        return [steady(inner) for inner in value]
    return value


def first_difference(a: Any, b: Any, where: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{where}.{key}")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return first_difference(x, y, f"{where}[{i}]")
    if isinstance(a, str) and isinstance(b, str):
        for x, y in zip(a.splitlines(), b.splitlines(), strict=False):
            if x != y:
                return f"{where} {x[:120]!r} → {y[:120]!r}"
    return f"{where} {str(a)[:120]!r} → {str(b)[:120]!r}"


if __name__ == "__main__":
    raise SystemExit(main())
