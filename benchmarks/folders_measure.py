"""`dear distill` on a folder of plain files, and what it gave on questions that were held out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from folders_make import TOLD_QUERIES

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.bench.turns import Score, System, in_turns, pairs_of
from dear.checkpoints.contract import CONTRACT_FILE
from dear.checkpoints.files import TRAINING_FILE
from dear.cli.output import table
from dear.data.collections import open_collection
from dear.data.formats import read_run, write_run
from dear.evaluate.compare import compare_pairs
from dear.evaluate.metrics import evaluate
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.records import Candidates, Query, Ranking, Run, gather
from dear.retrieve.bm25 import Bm25Index, options_for
from dear.retrieve.hybrid import Hybrid
from dear.retrieve.table import Retriever, RetrieverSpec, Setting, open_retriever
from dear.steps.distilled import RESULTS

TOP_K, WEIGHT = 100, 0.3
MEASURES = ("nDCG@10", "R@10", "MRR@10")
MODEL = "minilm-l6"
HYBRID = "hybrid, 0.3 bm25 + dense"
ROUNDS = 5
SHOWN = ("system", *MEASURES, "untold", "parameters", "ms", "difference", "interval", "p_holm")
"""Columns of the table; untold: nDCG@10 of the questions that the folder did not hold."""


@dataclass(kw_only=True)
class Measured:
    """Systems of one folder.  scores: what is timed."""

    runs: dict[str, Run] = field(default_factory=dict)
    parameters: dict[str, int | None] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)


class Folder:
    """A folder, its held questions, and where runs are kept."""

    def __init__(self, work: Path, name: str, suffix: str) -> None:
        self.name, self.folder, self.held = name, (work / name).resolve(), work / "held" / name
        self.collection = open_collection(self.held)
        self.queries = self.collection.queries("test")
        self.judgements = self.collection.judgements("test")
        self.vectors = work / "vectors"
        self.distilled = (work / "distilled" / (name + suffix)).resolve()
        self.kept = (work / "measured" / (name + suffix)).resolve()
        self.measured = Measured()

    def run(self, system: str, make: Callable[[], Run]) -> Run:
        """A system's run, which is in the table."""
        self.measured.runs[system] = found = self.keep(system, make)
        return found

    def keep(self, name: str, make: Callable[[], Run]) -> Run:
        """A run; one that is kept is not made again."""
        path = self.kept / f"{name.replace(' ', '-').replace(',', '')}.trec"
        if not path.is_file():
            print(f"{self.name}: {name}", flush=True)
            write_run(path, make(), "folders")
        return read_run(path, ties="written")

    def candidates(self, run: Run) -> list[Candidates]:
        corpus = self.collection.corpus
        return [gather(ranking, self.queries, corpus) for ranking in run.values()]

    def reranked(self, model: Reranker, first: Run) -> dict[str, Ranking]:
        return {r.query_id: r for r in model.rank_candidates(self.candidates(first))}

    def untrained(self) -> None:
        """BM25, embeddings, both as one, and the bi-encoder as a reranker."""
        options = options_for(self.name)
        setting = Setting(corpus=self.collection.corpus, bm25=options, folder=self.vectors)
        bm25 = Bm25Index(self.collection.corpus, options=options)
        dense = open_retriever(RetrieverSpec.of(f"dense:{MODEL}"), setting)
        model = Reranker(f"biencoder:{MODEL}")
        for system, retriever in {
            "bm25": bm25,
            "dense": dense,
            "hybrid, ranks": Hybrid([bm25, dense]),
            HYBRID: Hybrid([bm25, dense], (WEIGHT, 1.0)),
        }.items():
            self.run(system, partial(retriever.search, self.queries, TOP_K))
            parameters = None if retriever is bm25 else model.model.parameters
            self._timed(system, parameters, _search(retriever))
        firsts = {
            name: self.keep(
                f"{name} with bm25's scores",
                partial(self._with_bm25, bm25, self.measured.runs[run]),
            )
            for name, run in (("bm25", "bm25"), ("hybrid", "hybrid, ranks"))
        }
        both = _union(*firsts.values())
        # the same model's scores, of vectors that are there
        scored = self.keep("bi-encoder", partial(self._by_vectors, dense, both))
        for name, first in firsts.items():
            system = f"bi-encoder + {WEIGHT} bm25 over {name}"
            self.measured.runs[system] = fuse_runs(_within(scored, first), first, WEIGHT)
            self._timed(system, model.model.parameters, model.score)

    def _by_vectors(self, dense: Retriever, run: Run) -> dict[str, Ranking]:
        ids = {query_id: ranking.passage_ids for query_id, ranking in run.items()}
        found = dense.score_passages(self.queries, ids)
        return {q: Ranking.sorted(q, scores.keys(), scores.values()) for q, scores in found.items()}

    def _timed(self, system: str, parameters: int | None, score: Score) -> None:
        self.measured.parameters[system] = parameters
        self.measured.scores[system] = score

    def _with_bm25(self, bm25: Bm25Index, run: Run) -> dict[str, Ranking]:
        """The run's passages with BM25's scores; 0 where they share no word with the query."""
        found = {}
        for query_id, ranking in run.items():
            scored = bm25.search({query_id: self.queries[query_id]}, len(self.collection.corpus))
            known = _scores(scored[query_id]) if scored else {}
            scores = [known.get(p, 0.0) for p in ranking.passage_ids]
            found[query_id] = Ranking.sorted(query_id, ranking.passage_ids, scores)
        return found

    # -- what was distilled ------------------------------------------------------------------

    def trained(self) -> str | None:
        """The recommended system and the students; the name of the first, None where `distill`
        had no time to say."""
        if not (self.distilled / RESULTS).is_file():
            return None
        name, commands = recommended(self.distilled)
        self.run("recommended", partial(self._by_commands, commands))
        if (spec := model_of(commands)) is not None:
            model = Reranker(spec)
            self._timed("recommended", model.model.parameters, model.score)
        firsts = {"bm25": self.measured.runs["bm25"], "hybrid": self.measured.runs[HYBRID]}
        for path in sorted(self.distilled.glob(f"student*/{TRAINING_FILE}")):
            system, model = path.parent.name, Reranker(spec_of(path.parent))
            scored = self.keep(system, partial(self.reranked, model, _union(*firsts.values())))
            for first, run in firsts.items():
                within = _within(scored, run)
                self.measured.runs[f"{system} over {first}"] = within
                fused = fuse_runs(within, run, WEIGHT)
                self.measured.runs[f"{system} + {WEIGHT} {first}"] = fused
            self._timed(f"{system} over bm25", model.model.parameters, model.score)
        return name

    def _by_commands(self, commands: list[list[str]]) -> Run:
        """The run that the recommended commands write for the held questions."""
        place = self.kept / "recommended"
        place.mkdir(parents=True, exist_ok=True)
        for words in commands:
            line = [sys.executable, "-m", "dear", words[1], str(self.held.resolve()), *words[3:]]
            subprocess.run(line, cwd=place, check=True, stdout=subprocess.DEVNULL)
        return read_run(place / _option(commands[-1], "--output"), ties="written")

    # -- the table ---------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """A row for each system, compared with the best of those that needed no training."""
        runs, judged = self.measured.runs, self.judgements
        found = {name: evaluate(run, judged, MEASURES) for name, run in runs.items()}
        main = MEASURES[0]
        alone = [name for name in runs if not name.startswith(("recommended", "student"))]
        best = max(alone, key=lambda name: found[name].means[main])
        pairs = [(name, best) for name in runs if name != best]
        compared = {c.a: c for c in compare_pairs(found, pairs, main)}
        milliseconds = self._milliseconds()
        rows = []
        for name, evaluation in found.items():
            values = evaluation.per_query[main]
            untold = [value for q, value in values.items() if int(q) > TOLD_QUERIES]
            row: dict[str, Any] = {
                "system": name,
                **{measure: round(evaluation.means[measure], 4) for measure in MEASURES},
                "untold": round(float(np.mean(untold)), 4) if untold else None,
                "parameters": self.measured.parameters.get(name),
                "ms": milliseconds.get(name),
            }
            if name in compared:
                pair = compared[name]
                row["difference"] = round(pair.comparison.difference, 4)
                row["interval"] = [round(x, 4) for x in pair.comparison.interval]
                row["p_holm"] = pair.holm_randomisation
            rows.append(row)
        return rows

    def _milliseconds(self) -> dict[str, float]:
        """For one query: to find 100 passages, or to score 100; in turns, median of ROUNDS."""
        many = self.candidates(self.measured.runs["bm25"])
        by_length = sorted(many, key=lambda c: sum(len(p.full_text) for p in c.passages))
        pairs = pairs_of([by_length[len(by_length) // 2]])
        systems = [
            System(name=name, load=partial(_given, score))
            for name, score in self.measured.scores.items()
        ]
        timings, failed = in_turns(systems, pairs, rounds=ROUNDS)
        assert not failed, failed
        return {timing.name: round(timing.median_s * 1000, 1) for timing in timings}


def _given(score: Score) -> Score:
    return score


def _scores(ranking: Ranking) -> dict[str, float]:
    return dict(zip(ranking.passage_ids, ranking.scores, strict=True))


def _union(*runs: Run) -> dict[str, Ranking]:
    """Every query with all its passages of any run."""
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        for query_id, ranking in run.items():
            found.setdefault(query_id, {}).update(_scores(ranking))
    return {q: Ranking.sorted(q, scores.keys(), scores.values()) for q, scores in found.items()}


def _within(scored: Run, first: Run) -> dict[str, Ranking]:
    """The passages of `first` with the scores that they have in `scored`."""
    found = {}
    for query_id, ranking in first.items():
        known = _scores(scored[query_id])
        scores = [known[p] for p in ranking.passage_ids]
        found[query_id] = Ranking.sorted(query_id, ranking.passage_ids, scores)
    return found


def _search(retriever: Retriever) -> Score:
    """A search as something that is timed beside what scores pairs."""

    def score(pairs: Any) -> Any:
        retriever.search({"q": Query(id="q", text=pairs[0][0])}, TOP_K)
        return np.zeros(len(pairs), dtype=np.float32)

    return score


def recommended(folder: Path) -> tuple[str, list[list[str]]]:
    """What a distillation says is to be used, and the commands that rank a collection with it."""
    found = read_json(folder / RESULTS)["recommendation"]
    words = [shlex.split(command) for command in found["commands"]]
    return found["system"], [
        w for w in words if w[1] in ("retrieve", "rank") and "--query" not in w
    ]


def model_of(commands: list[list[str]]) -> str | None:
    """What the commands rerank with."""
    ranks = [words for words in commands if words[1] == "rank"]
    return _option(ranks[-1], "--model") if ranks else None


def spec_of(student: Path) -> str:
    """How a checkpoint is named: one without a contract is a bi-encoder."""
    one_logit = (student / CONTRACT_FILE).is_file()
    return str(student) if one_logit else f"biencoder:{student}"


def _option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def distil(
    folder: Folder, recipe: str | None, limit_s: float, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """`dear distill FOLDER` to its end or its limit: what it took. A finished one is not run again,
    one that was stopped goes on in the time that is left."""
    path = folder.kept / "took.json"
    if path.is_file():
        return dict(read_json(path))
    command = [sys.executable, "-m", "dear", "distill", str(folder.folder)]
    command += ["--output", str(folder.distilled), *(["--recipe", recipe] if recipe else [])]
    command += [word for change in changes for word in ("--set", change)]
    started = time.perf_counter()
    load = os.getloadavg()[1]
    child = subprocess.Popen(command)
    try:
        status, used = _waited(child.pid, started + limit_s)
    except BaseException:
        child.kill()
        raise
    if status is None:
        child.kill()
        _, _, used = os.wait4(child.pid, 0)
    child.returncode = status or 0  # it is gone
    took = {
        "finished": status == 0,
        "limit_s": limit_s,
        "wall_s": round(time.perf_counter() - started, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_gib": round(used.ru_maxrss / 2**20, 2),
        "load": [load, os.getloadavg()[1]],
    }
    if status:
        sys.exit(f"{shlex.join(command)} ended with {status}")
    write_json(path, took)
    return took


def _waited(pid: int, until: float) -> tuple[int | None, Any]:
    """(exit status, what it used); status None where it runs at `until` still."""
    while time.perf_counter() < until:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), used
        time.sleep(0.2)
    return None, None


def measure(
    work: Path,
    name: str,
    suffix: str,
    *,
    recipe: str | None,
    limit_s: float,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """The entry of one folder."""
    folder = Folder(work, name, suffix)
    took = distil(folder, recipe, limit_s, changes)
    folder.untrained()
    found = folder.trained()
    rows = folder.rows()
    return {
        "machine": describe(),
        "files": len(folder.collection.corpus),
        "queries": len(folder.queries),
        "top_k": TOP_K,
        "recipe": recipe,
        "changes": list(changes),
        "took": took,
        "recommended": found,
        "rows": rows,
    }


def show(name: str, entry: Mapping[str, Any]) -> None:
    print(f"\n{name}: {entry['files']:,} files, {entry['queries']} questions, {entry['took']}")
    print(f"recommended: {entry['recommended']}\n")
    rows = [[_shown(row.get(column)) for column in SHOWN] for row in entry["rows"]]
    table(list(SHOWN), rows, align=["left", *["right"] * (len(SHOWN) - 1)])


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:+.4f} to {value[1]:+.4f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
