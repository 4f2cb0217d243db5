"""The `test` part of benchmarks/stage2.py: listwise models on test collections.

Every model is asked about BM25's best candidates in an order of chance, in one window; with a
pointwise model also about that model's best (the cascade's second stage, over kept scores). One
run is kept for each (model, reading, collection, start) and asked for once.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau
from stage1 import Bench, Sample, say, slug
from stage2_blend import blended, dev_weight

from dear.artifacts import read_json, write_json
from dear.backends import Completion, OnAnswer
from dear.backends.local import Local, split_reading
from dear.bench.machine import describe
from dear.data.formats import read_run, write_run
from dear.errors import ParseError
from dear.evaluate.compare import compare, pool
from dear.evaluate.metrics import Evaluation, evaluate
from dear.evaluate.paired import holm
from dear.listwise.loading import HeadWeights, ListModel, load_list_model
from dear.listwise.reader import READINGS, ListReader
from dear.listwise.strategies import Full
from dear.prompts.listwise import WindowPrompt
from dear.prompts.permutations import parse_permutation
from dear.rank.listwise import ListwiseRanker
from dear.rank.ranker import Totals
from dear.records import Ranking, Run, gather
from dear.train.checkpoints import is_finished

LIST_TEST = ("dl19", "noveleval", "scifact")
MEASURE = "nDCG@10"
THOUGHT = "thought"
"""Beside READINGS: a thought of --thought-tokens at most, then `constrained`."""
HEADS = "attention-heads"
"""Beside READINGS: `attention`, each head weighted as the part `heads` of stage2.py fitted it."""
SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums over `queries` rankings. valid: windows whose answer was a whole permutation."""

    queries: int
    windows: int = 0
    valid: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def per_query(self) -> dict[str, float]:
        if not self.seconds:
            return {}
        out = {"seconds": round(self.seconds / self.queries, 3)}
        if self.windows:
            out |= {
                "valid": round(self.valid / self.windows, 4),
                "calls": round(self.windows / self.queries, 2),
                "prompt_tokens": round(self.prompt_tokens / self.queries, 1),
                "completion_tokens": round(self.completion_tokens / self.queries, 1),
            }
        return out


@dataclass(slots=True)
class Row:
    """A system: by collection, its run from each start."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    cost: Cost = field(default_factory=lambda: Cost(0))

    def add(self, name: str, run: Run, cost: Cost | None = None) -> None:
        self.runs.setdefault(name, []).append(run)
        self.cost += cost or Cost(len(run))


class Counted(Local):
    """Counts the answers that are a whole permutation, a thought before it left aside.

    A cut thought is no fault of the permutation behind it; `ListwiseReport.mended` holds it.
    """

    valid = 0

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        found = super().generate(prompts, on_answer)
        kind = self.template.identifiers
        for prompt, completion in zip(prompts, found, strict=True):
            with suppress(ParseError):
                parsed = parse_permutation(completion.text, len(prompt.passages), kind)
                self.valid += parsed.complete and not set(parsed.mends) - {"thought stripped"}
        return found


class ListTest:
    """options: those of benchmarks/stage2.py."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.bench = Bench(
            argparse.Namespace(data=options.data, work=options.work, train_queries=None)
        )
        self.sample = Sample(options.test_queries, options.test_depth)
        self.deep = Sample(options.test_queries, options.depth)
        self.opened: tuple[str, ListModel] | None = None
        self.heads = heads_folder(options)
        self.blends: dict[str, Any] = {}

    def run(self) -> Iterator[dict[str, Any]]:
        """The table so far, after each model."""
        options = self.options
        rows = {"BM25": Row(), SHUFFLED: Row()}
        for name in LIST_TEST:
            rows["BM25"].add(name, self.bench.test_run(name, self.sample))
            for shuffle in range(options.shuffles):
                rows[SHUFFLED].add(name, self.shuffled(name, shuffle))
        if options.pointwise:
            for sample in (self.sample, self.deep):
                rows[self.pointwise_row(sample)] = self.pointwise(sample)
        cascades: dict[str, Row] = {}
        for model, readings in self.models():
            for reading in readings:
                system = f"{Path(model).name}#{reading}"
                say(f"testing {system}")
                rows[system] = self.one_window(model, reading)
                if options.pointwise:
                    cascades |= self.cascades(model, reading, system)
            yield self.table(rows | cascades)

    def models(self) -> list[tuple[str, list[str]]]:
        """(folder or name, how it is read), of --models or of all that are finished."""
        asked = self.options.models or [
            str(f) for f in sorted((self.work / "models").glob("*")) if is_finished(f)
        ]
        readings = self.options.readings.split(",")
        if odd := set(readings) - {*READINGS, THOUGHT, HEADS}:
            sys.exit(f"no reading {min(odd)!r}: {', '.join((*READINGS, THOUGHT, HEADS))}")
        found = []
        for model in asked:
            name, reading = split_reading(model)
            found.append((name, readings if reading is None else [reading]))
        return found

    # -- starts ----------------------------------------------------------------------------

    def shuffled(self, name: str, shuffle: int) -> dict[str, Ranking]:
        """The candidates of each query in an order of chance, the same for every model."""
        out = {}
        for query, ranking in self.bench.test_run(name, self.sample).items():
            ids = sorted(ranking.passage_ids)
            random.Random(f"{shuffle} {name} {query}").shuffle(ids)
            out[query] = in_order(query, ids)
        return out

    def pointwise_row(self, sample: Sample) -> str:
        return f"pointwise, {sample.depth}"

    def pointwise(self, sample: Sample) -> Row:
        row = Row()
        for name in LIST_TEST:
            run, seconds = self.pointwise_run(name, sample)
            row.add(name, run, Cost(len(run), seconds=seconds))
        return row

    def pointwise_run(self, name: str, sample: Sample) -> tuple[Run, float]:
        """(rankings of the pointwise model, its seconds)."""
        model = self.options.pointwise
        run = self.bench.ranked("pointwise", model, name, sample)
        kept = self.work / "runs" / f"{self.bench.kept_as(model)}.{name}.{sample}.json"
        return run, read_json(kept)["seconds"]

    # -- listwise --------------------------------------------------------------------------

    def one_window(self, model: str, reading: str) -> Row:
        row = Row()
        for name in LIST_TEST:
            for shuffle in range(self.options.shuffles):
                start = self.shuffled(name, shuffle)
                row.add(name, *self.asked(model, reading, name, f"shuffle-{shuffle}", start))
        return row

    def cascade(self, model: str, reading: str) -> Row:
        """The listwise model over the pointwise model's best of --depth candidates."""
        row = Row()
        for name in LIST_TEST:
            run, seconds = self.pointwise_run(name, self.deep)
            start = {q: ranking.top(self.sample.depth) for q, ranking in run.items()}
            label = f"{slug(self.bench.kept_as(self.options.pointwise))}-{self.deep.depth}"
            found, cost = self.asked(model, reading, name, label, start)
            row.add(name, found, cost + Cost(0, seconds=seconds))
        return row

    def cascades(self, model: str, reading: str, system: str) -> dict[str, Row]:
        """The lists' word alone, and blended with the pointwise score as chosen on dev."""
        alone, row = self.cascade(model, reading), Row()
        weight, curve = dev_weight(self, model, reading)
        self.blends[system] = {"weight": weight, "dev": curve}
        for name in LIST_TEST:
            points, _ = self.pointwise_run(name, self.deep)
            row.add(name, blended(alone.runs[name][0], points, weight), Cost(0))
        row.cost = alone.cost
        return {f"cascade, {system}": alone, f"cascade, {system}, blend {weight:g}": row}

    def asked(
        self, model: str, reading: str, name: str, label: str, start: Mapping[str, Ranking]
    ) -> tuple[Run, Cost]:
        """One window for each query of `start`, from the kept run where there is one."""
        options = self.options
        how = f"{reading}-{options.thought_tokens}" if reading == THOUGHT else reading
        words = f"{options.test_words or 'own'}-words"
        stem = f"{how}.{name}.{self.sample}.{words}.{label}"
        path = self.work / "tests" / self.bench.kept_as(model) / f"{stem}.trec"
        note = path.with_suffix(".json")
        if not note.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            collection = self.bench.collection(name)
            texts = [gather(r, collection.queries(), collection.corpus) for r in start.values()]
            backend = self.backend(model, reading)
            prompt = backend.template
            if options.test_words:
                prompt = replace(prompt, max_words=options.test_words)
            ranker = ListwiseRanker(backend, strategy=Full(), prompt=prompt)
            rankings = list(ranker.rank_candidates(texts, progress=counted(30)))
            write_run(path, {r.query_id: r for r in rankings}, slug(how))
            # the note says that the run is whole: it comes last
            write_json(note, Totals.of(rankings).to_dict() | {"valid": backend.valid})
        kept = read_json(note)
        cost = Cost(**{each.name: kept[each.name] for each in fields(Cost)})
        return read_run(path), cost

    def backend(self, model: str, reading: str) -> Counted:
        """The model is held until another is asked for."""
        if self.opened is None or self.opened[0] != model:
            self.opened = None
            self.opened = model, load_list_model(model)
        found = self.opened[1]
        if reading == THOUGHT:
            tokens = self.options.thought_tokens
            thinks: dict[str, Any] = {"thought": True, "thought_tokens": tokens}
            return Counted(ListReader(found, reading="constrained", **thinks))
        if reading in ("attention", HEADS) and self.options.test_words:
            # its prompt is its own, its words are the contract's
            contract = replace(found.contract, max_words=self.options.test_words)
            found = replace(found, contract=contract)
        if reading == HEADS:
            heads = HeadWeights.load(self.heads)
            return Counted(ListReader(found, reading="attention", heads=heads))
        # free text as it was taught; others would cut a thought that nobody asked for
        thought = None if reading == "text" else False
        return Counted(ListReader(found, reading=reading, thought=thought))  # type: ignore[arg-type]

    # -- results ---------------------------------------------------------------------------

    def table(self, rows: Mapping[str, Row]) -> dict[str, Any]:
        options = self.options
        found = {system: self.evaluations(row) for system, row in rows.items()}
        pooled = {
            system: pool({name: averaged(each) for name, each in by_name.items()})
            for system, by_name in found.items()
        }
        tests = tested(pooled, SHUFFLED, [s for s in rows if s != SHUFFLED])
        if options.pointwise:
            cascades = [system for system in rows if system.startswith("cascade, ")]
            tests += tested(pooled, self.pointwise_row(self.deep), cascades)
        measured = {
            system: {
                **{name: round(averaged(each).means[MEASURE], 4) for name, each in by_name.items()},
                "pooled": round(pooled[system].means[MEASURE], 4),
                **rows[system].cost.per_query(),
                **sensitivity(rows[system], by_name),
            }
            for system, by_name in found.items()
        }
        budget = {
            "measure": MEASURE,
            "queries": {n: len(self.bench.test_queries(n, self.sample)) for n in LIST_TEST},
            "candidates": options.test_depth,
            "words": options.test_words,
            "shuffles": options.shuffles,
            "pointwise": options.pointwise and Path(options.pointwise).name,
            "pointwise_candidates": options.depth,
            "thought_tokens": options.thought_tokens,
        }
        found_out = {"rows": measured, "tests": tests, "blends": self.blends}
        return found_out | {"budget": budget, "machine": describe()}

    def evaluations(self, row: Row) -> dict[str, list[Evaluation]]:
        out = {}
        for name, runs in row.runs.items():
            judged = self.bench.collection(name).judgements("test")
            wanted = {q: judged[q] for q in self.bench.test_queries(name, self.sample)}
            out[name] = [evaluate(run, wanted, [MEASURE]) for run in runs]
        return out


def heads_folder(options: argparse.Namespace) -> Path:
    name = f"{Path(options.base).name}-{options.head_lists}x{options.size}-{options.words}"
    return Path(options.work) / "heads" / name


def averaged(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Query by query, the mean over the starts."""
    values = [e.per_query[MEASURE] for e in evaluations]
    return Evaluation.of({MEASURE: {q: statistics.fmean(v[q] for v in values) for q in values[0]}})


def tested(
    pooled: Mapping[str, Evaluation], baseline: str, systems: Sequence[str]
) -> list[dict[str, Any]]:
    """Each system against the baseline, p values corrected over the systems."""
    found = [compare(pooled[s], pooled[baseline], MEASURE) for s in systems]
    corrected = holm([c.p_randomisation for c in found])
    return [
        {
            "a": system,
            "b": baseline,
            "difference": round(c.difference, 4),
            "interval": [round(x, 4) for x in c.interval],
            "p_randomisation": c.p_randomisation,
            "p_randomisation_holm": p,
            "n": c.n,
        }
        for system, c, p in zip(systems, found, corrected, strict=True)
    ]


def sensitivity(row: Row, evaluations: Mapping[str, Sequence[Evaluation]]) -> dict[str, float]:
    """How much the start decides, where there are several.

    tau: Kendall's, between the orders that two starts of one query lead to, mean over all pairs.
    query_sd: of one query's nDCG over the starts, mean over queries.  mean_sd: of the mean's.
    """
    taus, deviations = [], []
    starts = min(map(len, row.runs.values()))
    if starts < 2:
        return {}
    for name, runs in row.runs.items():
        for query in runs[0]:
            orders = [run[query].passage_ids for run in runs]
            taus += [agreement(*pair) for pair in itertools.combinations(orders, 2)]
        values = [e.per_query[MEASURE] for e in evaluations[name]]
        deviations += [statistics.stdev(v[q] for v in values) for q in values[0]]
    means = [
        pool({name: each[i] for name, each in evaluations.items()}).means[MEASURE]
        for i in range(starts)
    ]
    return {
        "tau": round(statistics.fmean(taus), 4),
        "query_sd": round(statistics.fmean(deviations), 4),
        "mean_sd": round(statistics.stdev(means), 4),
    }


def agreement(one: Sequence[str], other: Sequence[str]) -> float:
    """Kendall's tau of two orders of the same passages; 1 for a single one."""
    if len(one) < 2:
        return 1.0
    place = {passage: rank for rank, passage in enumerate(other)}
    return float(kendalltau(range(len(one)), [place[p] for p in one]).statistic)


def in_order(query: str, ids: Sequence[str]) -> Ranking:
    count = len(ids)
    scores = tuple(float(count - i) for i in range(count))
    return Ranking(query_id=query, passage_ids=tuple(ids), scores=scores)


def counted(seconds: float) -> Callable[[int, int], None]:
    """A progress callback that says a line now and then."""
    last = [time.monotonic()]

    def report(done: int, most: int) -> None:
        if time.monotonic() - last[0] > seconds:
            last[0] = time.monotonic()
            say(f"  window {done}/{most}")

    return report


COLUMNS = {
    **dict.fromkeys(LIST_TEST, ".4f"),
    "pooled": ".4f",
    "valid": ".1%",
    "calls": ".1f",
    "prompt_tokens": ".0f",
    "completion_tokens": ".1f",
    "seconds": ".2f",
    "tau": "+.3f",
    "query_sd": ".4f",
}
"""What is printed of a row; costs are those of one query."""


def print_table(results: Mapping[str, Any]) -> None:
    """Rows, and each test behind them, to standard error."""
    widths = {name: max(len(name), 7) for name in COLUMNS}
    say("  ".join(name.rjust(width) for name, width in widths.items()))
    for system, row in results["rows"].items():
        cells = [
            (format(row[name], form) if name in row else "").rjust(widths[name])
            for name, form in COLUMNS.items()
        ]
        say("  ".join([*cells, system]))
    for test in results["tests"]:
        say(
            f"{test['difference']:+.4f} ({test['interval'][0]:+.4f} … {test['interval'][1]:+.4f}), "
            f"p {test['p_randomisation_holm']:.4f}: {test['a']} against {test['b']}"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("test")
    group.add_argument("--test-queries", type=int, default=43, help="of each collection, at most")
    group.add_argument("--test-depth", type=int, default=10, help="passages in the window")
    group.add_argument("--test-words", type=int, help="of each passage; as taught where left out")
    group.add_argument("--shuffles", type=int, default=1, help="starts, for order sensitivity")
    group.add_argument(
        "--readings",
        default=",".join(READINGS),
        help=f"with commas: {', '.join(READINGS)}, {THOUGHT} (a thought, then constrained)",
    )
    group.add_argument("--thought-tokens", type=int, default=128, help=f"of the reading {THOUGHT}")
    group.add_argument(
        "--models",
        nargs="+",
        action="extend",
        help="folders, names or MODEL#READING; the finished ones of --work where left out",
    )
    group.add_argument("--pointwise", help="a pointwise model: its order, and cascades behind it")
    group.add_argument("--depth", type=int, default=100, help="the pointwise model's candidates")
