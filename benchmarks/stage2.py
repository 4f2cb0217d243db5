"""Stage 2 on real collections: a listwise model distilled from stage 1's teacher.

    python benchmarks/stage2.py --data FOLDER --stage1 FOLDER --work FOLDER [--only lists,train,…]

--stage1 is the --work folder of benchmarks/stage1.py: its labels order the lists. Every step is
kept in --work and done once; kill it at any time and start it again.

The parts, in order: `lists` (of --size passages of a query, over the teacher's whole range, in an
order of chance, with a thought that quotes the best ones; in a share of them all passages but one
are other queries'; some queries are held out), `train` (one model for each of --variants), `heads`
(weights for the base's attention heads, for in-context reranking), `evaluate` (the held-out lists
in one pass, against the teacher's order), `test` (test collections, from a shuffled start and
behind a pointwise model; see stage2_test.py). The last two write to
benchmarks/results/stage2.json, under "held-out" and --table.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from stage1 import TRAIN, WEB, Bench, every, say, slug
from stage2_test import ListTest, add_options, heads_folder, print_table

from dear.artifacts import read_json, write_json
from dear.checkpoints.contract import ListwiseContract
from dear.checkpoints.files import TRAINING_FILE
from dear.data.formats import read_lists, write_lists
from dear.listwise.encoding import ListEncoder
from dear.listwise.loading import HEADS_FILE, fit_heads, load_list_model
from dear.listwise.reader import ListReader
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.reason.extractive import Evidence, extract
from dear.reason.generate import open_drafts
from dear.reason.sample import Question, SamplePlan, parse_sizes, sample
from dear.reason.select import select
from dear.recipes import parse_recipe
from dear.records import ListExample, Ranking
from dear.scoring.opening import PairModel, open_model
from dear.train.checkpoints import is_finished
from dear.train.lists import ListTokenizer, ListTokens, reordered, tokenise
from dear.train.listwise import list_quality, train_lists
from dear.train.start import start_list_model

PARTS = ("lists", "train", "heads", "evaluate", "test")
HELD_OUT = 15
"""Queries of each collection that no model trains on."""
WEB_LISTS = 4
"""Times --per-query lists of each web query: they are few, but of the kind that dl19 asks."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVIDENCE = {"passages": 2, "max_words": 12}
"""Of a thought: short, for a small model."""
STRANGER = 2.0
"""How far below the query's worst candidate other queries' passages are scored."""

FIRST = {"text": 0.0, "first": 1.0, "targets": "scores"}
VARIANTS: dict[str, dict[str, Any]] = {
    "first": {"loss": FIRST},
    "first, unshuffled": {"loss": FIRST, "shuffle": False},
    "text": {"loss": {"text": 1.0, "first": 0.0}},
    "thought": {"loss": {"text": 1.0, "first": 0.0}, "thought": True},
    "both": {"loss": FIRST | {"text": 1.0}},
}
"""Of the table `listwise`. Unshuffled lists stand in the first stage's order, as a retriever hands
them over; the others in an order of chance."""


class Stage2:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.stage1 = Bench(
            argparse.Namespace(
                data=options.data, work=options.stage1, train_queries=options.train_queries
            )
        )

    # -- lists -----------------------------------------------------------------------------

    def lists(self) -> None:
        found: dict[str, list[ListExample]] = {"train": [], "held-out": []}
        paths = {part: self.list_path(part) for part in found}
        if all(path.exists() for path in paths.values()):
            return
        teacher = open_model(f"biencoder:{self.stage1.teacher()}")
        for name in (*TRAIN, *WEB):
            run, labels = self.stage1.train_run(name), self.stage1.teacher_labels(name)
            held = set(sorted(run)[:: max(1, len(run) // HELD_OUT)][:HELD_OUT])
            collection = self.stage1.collection(name)
            repeats = self.options.per_query * (WEB_LISTS if name in WEB else 1)
            low, high = parse_sizes(self.options.size)
            plans = {
                "train": SamplePlan(sizes=(low, high), per_query=repeats, top_k=50, seed=1),
                "held-out": SamplePlan(sizes=(high, high), top_k=50, seed=1),
            }
            for part, plan in plans.items():
                some = {q: r for q, r in run.items() if (q in held) == (part == "held-out")}
                questions = sample(collection, some, plan, labels=labels).questions
                if part == "train":
                    questions = with_strangers(questions, self.options.strangers, seed=1)
                say(f"{name}, {part}: {len(questions):,} lists")
                found[part] += self.examples_of(name, questions, teacher)
        for part, examples in found.items():
            random.Random(1).shuffle(examples)
            write_lists(paths[part], examples)
            say(f"{part}: {len(examples):,} lists")

    def examples_of(
        self, name: str, questions: list[Question], teacher: PairModel
    ) -> list[ListExample]:
        """In the teacher's order, with its evidence."""
        path = self.work / "lists" / f"drafts-{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        evidence = Evidence(**EVIDENCE, passage_words=self.options.words)
        with open_drafts(path) as drafts:
            answers = extract(questions, teacher, drafts, evidence)
        chosen = (select(answer) for answer in answers)
        return [replace(e, source=name) for e in chosen if isinstance(e, ListExample)]

    def examples(self, part: str) -> list[ListExample]:
        return list(read_lists(self.list_path(part)))

    def list_path(self, part: str) -> Path:
        o = self.options
        return self.work / "lists" / f"{part}-{o.size}-{o.words}-{o.strangers:g}.jsonl"

    # -- training --------------------------------------------------------------------------

    def name(self, variant: str) -> str:
        o = self.options
        start = Path(o.base).name
        form = "full" if o.full else f"lora {o.rank} of {o.last_layers or 'all'}"
        return f"{variant}, {start}, {form}, {o.learning_rate:g}, {o.lists} x {o.size}, {o.words}"

    def folder(self, variant: str) -> Path:
        return self.work / "models" / slug(self.name(variant))

    def recipe(self, variant: str) -> dict[str, Any]:
        o = self.options
        model: dict[str, Any] = {"base": o.base}
        if not o.full:
            model["lora"] = {
                "rank": o.rank,
                "alpha": 2.0 * o.rank,
                "targets": ATTENTION,
                "last_layers": o.last_layers,
            }
        listwise = {"prompt": o.prompt, "max_words": o.words, "max_tokens": 1536}
        listwise["short_first"] = True
        listwise |= VARIANTS[variant]
        listwise["loss"] = listwise["loss"] | {"passages": o.passages}
        return {
            "name": self.name(variant),
            "kind": "listwise",
            "model": model,
            "data": [{"lists": ["stage2"]}],
            "listwise": listwise,
            "train": {
                "learning_rate": o.learning_rate,
                "scheduler": "cosine",
                "groups_per_step": o.per_step,
                "save_steps": o.save_steps,
                "log_steps": 5,
                "epochs": o.epochs,
                "seed": 7,
            },
        }

    def train(self) -> None:
        for variant in self.options.variants:
            folder = self.folder(variant)
            if is_finished(folder):
                continue
            examples = self.examples("train")[: self.options.lists]
            if not VARIANTS[variant].get("shuffle", True):
                runs = {name: self.stage1.train_run(name) for name in (*TRAIN, *WEB)}
                examples = [as_retrieved(e, runs[e.source][e.query.id]) for e in examples]
            say(f"training {self.name(variant)}")
            done = train_lists(
                parse_recipe(self.recipe(variant)), folder, examples=examples, progress=every(30)
            )
            say(
                f"trained {done.folder.name}: {done.lists / done.seconds:.2f} lists/s, "
                f"{done.tokens / done.seconds:.0f} tokens/s, {done.rejected} rejected"
            )

    def heads(self) -> None:
        """What each head of the base counts in in-context reranking, without touching a weight."""
        folder = heads_folder(self.options)
        if (folder / HEADS_FILE).exists():
            return
        contract = ListwiseContract(max_words=self.options.words, max_window=20)
        model = load_list_model(self.options.base, contract=contract)
        reading = ListReader(model, reading="attention").in_context
        assert reading is not None
        examples = self.examples("train")[: self.options.head_lists]
        template = LISTWISE_PROMPTS["list"]
        started = time.perf_counter()
        paid = []
        for example in examples:
            window = template.render(example.query, example.passages)
            paid.append(reading.paid(reading.encode(window)))
        fit_heads(paid, [e.scores or () for e in examples]).save(folder)
        seconds = time.perf_counter() - started
        say(f"heads fitted on {len(examples)} lists in {seconds:.0f} s")

    # -- testing ---------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Every finished model on the held-out lists."""
        from dear.train.list_reading import orders

        results = self.results()
        rows: dict[str, Any] = results.setdefault("held-out", {})
        examples = self.examples("held-out")[: self.options.test_lists]
        rows[f"order of chance, {self.options.size}"] = measured(
            [range(len(e.passages)) for e in examples], examples
        )
        for folder in sorted((self.work / "models").glob("*")):
            if not is_finished(folder) or folder.name in rows:
                continue
            contract = ListwiseContract.load(folder)
            model, tokenizer = open_list_model(folder)
            encode = ListTokenizer(ListEncoder(tokenizer), contract)
            tokens: list[ListTokens] = tokenise(examples, encode, epochs=1, seed=None)[0][0]
            training = read_json(folder / TRAINING_FILE)["metrics"]
            rows[folder.name] = measured(orders(model, tokens), examples) | {
                "training_loss": round(training["training_loss"], 4),
                "training_lists": training["lists"],
                "training_seconds": training["seconds"],
            }
            write_json(self.options.output, results)
        for name, row in sorted(rows.items(), key=lambda item: item[1]["ndcg"]):
            say(f"nDCG {row['ndcg']:.4f}  tau {row['tau']:+.4f}  ±{row['tau_error']:.3f}  {name}")

    def test(self) -> None:
        """Models on test collections; asked for once, the table is made anew each time."""
        results = self.results()
        for table in ListTest(self.options).run():
            results[self.options.table] = table
            write_json(self.options.output, results)
            print_table(table)

    def results(self) -> dict[str, Any]:
        path = self.options.output
        return read_json(path) if path.exists() else {}


def with_strangers(questions: list[Question], share: float, *, seed: int) -> list[Question]:
    """In every so many lists all passages but the best are taken from other queries' lists: what
    a list is about is learnt sooner where it is plain."""
    every_nth = round(1 / share) if share else 0
    rng = random.Random(seed)
    out = []
    for number, question in enumerate(questions):
        if not every_nth or number % every_nth or question.scores is None:
            out.append(question)
            continue
        best = int(np.argmax(question.scores))
        taken, passages = {question.passages[best].id}, list(question.passages)
        for i in range(len(passages)):
            while i != best and passages[i].id in taken | {p.id for p in question.passages}:
                passages[i] = rng.choice(rng.choice(questions).passages)
            taken.add(passages[i].id)
        low = min(question.scores) - STRANGER
        scores = tuple(s if i == best else low for i, s in enumerate(question.scores))
        out.append(replace(question, passages=tuple(passages), scores=scores))
    return out


def as_retrieved(example: ListExample, ranking: Ranking) -> ListExample:
    """In the first stage's order; passages that it does not hold, last."""
    rank = {passage: number for number, passage in enumerate(ranking.passage_ids)}
    ranks = [rank.get(p.id, len(rank)) for p in example.passages]
    order = sorted(range(len(ranks)), key=lambda i: (ranks[i], i))
    return reordered(example, [order.index(i) for i in range(len(order))])


def measured(found: Any, examples: list[ListExample]) -> dict[str, Any]:
    both = np.array([list_quality(f, e.order) for f, e in zip(found, examples, strict=True)])
    return {
        "lists": len(examples),
        "ndcg": round(float(both[:, 0].mean()), 4),
        "tau": round(float(both[:, 1].mean()), 4),
        "tau_error": round(float(both[:, 1].std() / len(both) ** 0.5), 4),
    }


def open_list_model(folder: Path) -> tuple[Any, Any]:
    """The finished model of a folder, adapter or full weights, in float32 on the CPU."""
    from dear.recipes import ModelRecipe

    adapter = (folder / "adapter_config.json").exists()
    base = read_json(folder / TRAINING_FILE)["recipe"]["model"]["base"] if adapter else str(folder)
    model, tokenizer = start_list_model(ModelRecipe(base=base))
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return model.to(torch.bfloat16).eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stage1", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stage2.json"))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--train-queries", type=int, help="of each collection, as in stage1.py")
    parser.add_argument("--variants", action="append", choices=list(VARIANTS))
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--full", action="store_true", help="full weights instead of an adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--last-layers", type=int, default=18, help="that are adapted; 0 for all")
    parser.add_argument("--prompt", default="pairs")
    parser.add_argument("--passages", type=float, default=1.0, help="weight of listwise.loss")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--lists", type=int, default=1000, help="to train on")
    parser.add_argument("--size", default="2-10", help="passages in a list, fewest and most")
    parser.add_argument("--per-query", type=int, default=2, help="lists")
    parser.add_argument(
        "--strangers", type=float, default=0.3, help="share of lists, rounded to one in N"
    )
    parser.add_argument("--words", type=int, default=40, help="of each passage")
    parser.add_argument("--per-step", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--save-steps", type=int, default=10)
    parser.add_argument("--head-lists", type=int, default=120, help="to fit heads on")
    parser.add_argument("--test-lists", type=int, default=80)
    parser.add_argument("--table", default="test", help="what the test's table is kept as")
    add_options(parser)
    options = parser.parse_args()
    options.variants = options.variants or ["both"]
    stage2 = Stage2(options)
    for part in options.only.split(","):
        if part not in PARTS:
            sys.exit(f"no part {part!r}: {', '.join(PARTS)}")
        getattr(stage2, part)()


if __name__ == "__main__":
    main()
