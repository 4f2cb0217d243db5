"""docs/measures.md: every measure that ir-measures knows, what DeAR does with it, and a value.

    python benchmarks/measure_table.py --data FOLDER > docs/measures.md

FOLDER holds nfcorpus (the BEIR test collection with a run called bm25).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ir_measures.measures import registry

from dear.data.collections import open_collection
from dear.evaluate.counting import FORMULAS
from dear.evaluate.metrics import BY_IR_MEASURES, REFUSED, evaluate, parse_measures

TREC_EVAL, GDEVAL = "pytrec_eval", "gdeval"
CHECKED = {
    **dict.fromkeys(("nDCG", "RR", "AP", "R", "P", "Success", "Rprec", "IPrec"), TREC_EVAL),
    **dict.fromkeys(("SetP", "SetR", "SetAP", "SetF", "Bpref", "Judged"), TREC_EVAL),
    "ERR": GDEVAL,
    "Accuracy": "ir-measures; 1 where all that was retrieved is relevant (it divides by zero)",
    "RBP": "its formula (Moffat and Zobel 2008)",
    "Compat": "its definition (Clarke et al. 2021)",
}
"""By ir-measures' name: what tests compare the values with."""
ASKED = {
    "nDCG": ("nDCG@10", "nDCG(dcg='exp-log2')@10"),
    "RBP": ("RBP(rel=1)",),
    "IPrec": ("IPrec@0.2",),
    "SetP": ("SetP", "SetP(relative=True)"),
}
HEAD = "\n\n".join(
    (
        "# Measures",
        "Every measure that [ir-measures](https://ir-measur.es) knows is either computed, for any "
        "query ids, or refused by name before anything is read. Made by "
        "`benchmarks/measure_table.py`; values are means over the 323 judged queries of nfcorpus "
        "for its BM25 run, queries that it lacks counted as zero. Names are read in any case, "
        "parameters included: `P(rel=2)@5`. Binary measures take `rel` from `--min-grade` or the "
        "collection where the name sets none. `judged_only=True` leaves out passages that nobody "
        "judged, where a measure has it.",
        "Not as in ir-measures: `Accuracy` counts a query that retrieves nothing relevant as zero "
        "(ir-measures leaves it out); `ERR` and `nDCG(dcg='exp-log2')` take any query id (gdeval "
        "reads numbers alone); grades below zero are judged and not relevant.",
        "| measure | parameters | as | nfcorpus, BM25 | checked against |\n|---|---|---|---|---|",
    )
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    collection = open_collection(str(parser.parse_args().data / "nfcorpus"))
    run, judgements = collection.run("bm25", "test"), collection.judgements("test")
    print(HEAD)
    for name, definition in sorted({m.NAME: m for m in registry.values()}.items()):
        if name in REFUSED:
            print(f"| {name} | {parameters(definition)} | refused | – | {REFUSED[name]} |")
            continue
        assert name in FORMULAS or name in BY_IR_MEASURES
        cutoff = "cutoff" in definition.SUPPORTED_PARAMS
        for asked in ASKED.get(name, (f"{name}@10" if cutoff else name,)):
            (measure,) = parse_measures([asked])
            value = evaluate(run, judgements, [measure.name]).means[measure.name]
            cells = (name, parameters(definition), f"`{measure.name}`", f"{value:.4f}")
            print(f"| {' | '.join(cells)} | {CHECKED[name]} |")


def parameters(definition: Any) -> str:
    return ", ".join(definition.SUPPORTED_PARAMS) or "none"


if __name__ == "__main__":
    main()
