"""The reasoning set: lists with a thought and an order, drawn, answered and selected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from dear.artifacts import check_folder, versions
from dear.backends import Backend, Completion, Keepable, Price, open_backend
from dear.backends.ledger import Company, Ledger
from dear.bulk.crew import Crew
from dear.bulk.models import FarBackend, FarModel, about, open_answering
from dear.data.collections import Collection, list_collections, open_collection
from dear.data.formats import read_run
from dear.data.inputs import corpus_input, judgements_input, run_input, texts_input
from dear.data.label_texts import LabelCheck
from dear.data.labels import Labels, ensemble, labels_input, read_labels
from dear.data.shards import Shard, Share
from dear.digests import Input, Inputs, lines_digest
from dear.errors import ConfigError, DataError, nearest
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt
from dear.reason.extractive import (
    SCORES_ALONE,
    Evidence,
    Rows,
    Work,
    extract,
    score_questions,
    with_scores,
)
from dear.reason.files import read_answers, write_set
from dear.reason.generate import BATCH, Cut, Drafts, answer, ask, chunks, open_drafts
from dear.reason.joining import counts, join, require_own
from dear.reason.sample import (
    LEAKS,
    NO_LABELS,
    Drawn,
    Question,
    SamplePlan,
    asked,
    parse_sizes,
    sample,
)
from dear.reason.select import (
    LEAK_PASSAGES,
    NOTHING,
    Answer,
    HeldOut,
    Selected,
    Threshold,
    held_out,
    select_all,
)
from dear.scoring.opening import PairModel, open_model
from dear.scoring.revisions import scoring_inputs
from dear.steps.inputs import find_run
from dear.steps.options import ANSWERS, KEEP_NDCG, KEEP_TAU, ReasonOptions
from dear.steps.progress import Watch, unwatched

_DRAFTS = "drafts.jsonl"

LIST_PAIRS = 64
"""What a list counts in a leaf: about the pairs that its passages and sentences are."""

FAR_LEAVES = 256
"""Whose prompts are held at once while workers answer them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a language model answered.

    new, cached: answers of now, and those in the ledger.  cost: in dollars; None where unknown.
    """

    new: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasonResult:
    """drawn: None where others' lists were read.  asked: None without a language model.
    new: examples that were made now, in `seconds`."""

    selected: Selected
    drawn: Drawn | None
    asked: Asked | None
    new: int
    seconds: float


def reason(options: ReasonOptions, *, watch: Watch = unwatched) -> ReasonResult:
    """Write the reasoning set with its report; go on where the command was stopped.

    DataError where not one list could be drawn.
    """
    require_own(options.output, options.place.shard(options.shard))
    if options.join is not None:
        return _joined(options.join, options.output)
    template, plan, threshold = _template(options), _plan(options), _threshold(options)
    near = options.llm is not None and not options.place.far
    backend = open_backend(options.llm or "") if near else None
    check_folder(options.output)
    collection = None if options.collection is None else open_collection(options.collection)
    held = _held_out(options, collection)
    making = _Making(options, template, watch)
    drawn: Drawn | None = None
    if options.source is not None:
        answers = making.read(options.source)
    else:
        assert collection is not None  # ReasonOptions has checked it
        drawn = _draw(options, collection, making, plan, threshold, held)
        if options.llm is None:
            answers = making.extract(drawn.questions)
        else:
            answers = making.ask(drawn.questions, backend)
    selected = select_all(answers, threshold, held)
    report = {
        "collection": None if collection is None else collection.name,
        **_counts(selected, drawn),
        "settings": _settings(options, template, plan, threshold),
        **({} if making.share is None else {"share": making.share.to_dict()}),
        "generator": making.generator,
        "inputs": Inputs(making.inputs).to_dict(),
        "held_out": {
            "collections": held.collections,
            "queries": len(held.queries),
            "passages": len(held.passages),
        },
        "versions": versions(),
    }
    part = making.share is not None and making.share.of > 1
    write_set(options.output, selected.examples, template, report, part=part)
    return ReasonResult(
        selected=selected,
        drawn=drawn,
        asked=making.asked,
        new=making.new,
        seconds=making.seconds,
    )


def _joined(folder: Path, output: Path) -> ReasonResult:
    check_folder(output)
    selected, template, report = join(folder)
    write_set(output, selected.examples, template, report)
    return ReasonResult(selected=selected, drawn=None, asked=None, new=0, seconds=0.0)


def format_counts(reasons: Mapping[Any, int]) -> str:
    """`leaks 12, too few candidates 3`: the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{reason} {number:,}" for reason, number in ordered) or "no query"


def skipped_hint(drawn: Drawn) -> str:
    """What would give more lists, where one reason took more than a quarter of the queries."""
    queries = drawn.skipped.total() + len({q.query.id for q in drawn.questions})
    if drawn.skipped[LEAKS] * 4 > queries:
        return "; --leak-passages none looks for test queries alone"
    if drawn.skipped[NO_LABELS] * 4 > queries:
        return "; `dear label` makes labels for the run"
    return ""


def _template(options: ReasonOptions) -> ListwisePrompt:
    name = options.prompt
    if name not in LISTWISE_PROMPTS:
        raise ConfigError(f"--prompt {name!r}{nearest(name, LISTWISE_PROMPTS)}")
    template = LISTWISE_PROMPTS[name]
    if template.ends:
        raise ConfigError(
            f"--prompt {name!r} does not say what to answer: it is for models that are trained on "
            'it (listwise.prompt in a recipe); lists are written with "reasoning" or another'
        )
    return template if options.max_words is None else replace(template, max_words=options.max_words)


def _plan(options: ReasonOptions) -> SamplePlan:
    return SamplePlan(
        sizes=parse_sizes(options.size),
        per_query=options.examples,
        top_k=options.top_k,
        queries=options.queries,
        seed=options.seed,
    )


def _threshold(options: ReasonOptions) -> Threshold:
    judged = options.keep_ndcg is None and not (options.labels or options.teacher)
    return Threshold(
        keep_tau=KEEP_TAU if options.keep_tau is None else options.keep_tau,
        keep_ndcg=KEEP_NDCG if judged else options.keep_ndcg,
    )


def _held_out(options: ReasonOptions, collection: Collection | None) -> HeldOut:
    """The test data of this collection, of every known one that is here, and of `against`."""
    passages = options.leak_passages
    if passages not in LEAK_PASSAGES:
        raise ConfigError(f"--leak-passages {passages!r}{nearest(passages, LEAK_PASSAGES)}")
    if options.allow_leaks:
        if options.against:
            raise ConfigError("--allow-leaks looks for no test data: no --against beside it")
        return NOTHING
    # the one that is made on the spot takes longer than all the others, and is in none of them
    here = [c.entry.name for c in list_collections() if c.folder is not None]
    others = [open_collection(name) for name in dict.fromkeys([*here, *options.against])]
    if collection is not None and collection.name not in {c.name for c in others}:
        others.append(collection)
    return held_out(others, passages)


def _draw(
    options: ReasonOptions,
    collection: Collection,
    making: _Making,
    plan: SamplePlan,
    threshold: Threshold,
    held: HeldOut,
) -> Drawn:
    """Lists of the run. DataError: not one."""
    split = options.split
    judged = collection.has_judgements(split)
    if threshold.keep_ndcg is not None and not judged:
        raise ConfigError(
            f"nothing to check the order with: {collection.name} has no judgements for split "
            f"{split!r}; give --labels or a --teacher"
        )
    judgements = collection.judgements(split) if judged else None
    labels, check = making.labels(collection)
    path = find_run(collection, options.run or "", split)
    making.inputs |= {"texts": corpus_input(collection), "run": run_input(path)}
    if judgements is not None:
        described = f"{collection.name}, {split}"
        making.inputs["judgements"] = judgements_input(judgements, described)
    draws: dict[str, Any] = {"labels": labels, "judgements": judgements}
    draws["need_relevant"] = threshold.keep_ndcg is not None
    keep = None
    if (shard := options.place.shard(options.shard)) is not None:
        ids = asked(_query_ids(path), plan, **draws)
        inputs = Inputs({"run": run_input(path), "texts": texts_input(collection)})
        lists = len(ids) * plan.per_query
        making.share = Share.plan(Shard.parse(shard), lists * LIST_PAIRS, inputs)
        keep = set(filter(making.share.owner(), ids)).__contains__
        plan = replace(plan, queries=None)  # they are chosen
    drawn = sample(
        collection,
        read_run(path, ties="written", keep=keep),
        plan,
        **draws,
        check=check,
        leaking_queries=held.queries,
        leaking_passages=held.passages,
    )
    making.put_in_leaves(drawn)
    if not drawn.questions and (making.share is None or making.share.of == 1):
        why = f"{format_counts(drawn.skipped)}{skipped_hint(drawn)}"
        raise DataError(f"not one list could be drawn: {why}")
    return drawn


def _query_ids(run: Path) -> list[str]:
    """Of a run, in its order, without holding it."""
    found: dict[str, None] = {}

    def seen(query_id: str) -> bool:
        found[query_id] = None
        return False

    read_run(run, keep=seen)
    return list(found)


def _counts(selected: Selected, drawn: Drawn | None) -> dict[str, Any]:
    found = counts(selected)
    if drawn is not None:
        found["queries_without_list"] = dict(sorted(drawn.skipped.items()))
        found["candidates"] = drawn.candidates
        found["candidates_left_out"] = drawn.left_out
    return found


def _settings(
    options: ReasonOptions, template: ListwisePrompt, plan: SamplePlan, threshold: Threshold
) -> dict[str, Any]:
    return {
        "run": options.run,
        "split": options.split,
        "labels": options.labels,
        "weights": options.weights,
        "llm": options.llm,
        "from": options.source,
        **asdict(plan),
        "prompt": options.prompt,
        "max_words": template.max_words,
        "evidence": options.evidence,
        "quote_words": options.quote_words,
        **asdict(threshold),
        "leak_passages": "allowed" if options.allow_leaks else options.leak_passages,
    }


@dataclass
class _Making:
    """From questions to answers, and what it took.

    generator: for the report.  inputs: what the set is made from.  share: of a job that is cut.
    """

    options: ReasonOptions
    template: ListwisePrompt
    watch: Watch
    generator: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    share: Share | None = None
    asked: Asked | None = None
    new: int = 0
    seconds: float = 0.0

    def labels(self, collection: Collection) -> tuple[Labels | None, LabelCheck | None]:
        """The teacher's scores, several folders summed, and what compares them with texts."""
        folders = self.options.labels
        if not folders:
            return None, None
        members = [read_labels(folder) for folder in folders]
        found = members[0]
        if len(members) > 1:
            found = ensemble(members, self.options.weights or (1.0,) * len(members))
        self.inputs["labels"] = Input(
            lines_digest(labels_input(Path(folder)).digest for folder in folders),
            ", ".join(folders),
        )
        self.generator["labels"] = [
            {"teacher": s.teacher, "revision": s.revision, "fingerprint": s.fingerprint}
            for s in found.stamps
        ]
        return found, LabelCheck(found, folders, collection.name)

    def put_in_leaves(self, drawn: Drawn) -> None:
        """The questions of a share in the order of its leaves, and how much they are."""
        if self.share is not None:
            drawn.questions = list(chain.from_iterable(self._leaves(drawn.questions)))
            pairs = sum(len(question.passages) for question in drawn.questions)
            self.share = replace(self.share, pairs=pairs)

    def _leaves(self, questions: Sequence[Question]) -> list[list[Question]]:
        assert self.share is not None
        return list(self.share.by_leaf(questions, lambda one: one.query.id).values())

    def _batches(self, questions: Sequence[Question]) -> list[list[Question]]:
        """What a language model is asked at once. Answers of a local one depend, to rounding, on
        what is asked with them: a leaf is asked by itself."""
        if self._company is None:
            return chunks(questions, BATCH)
        leaves = self._leaves(questions)
        if not self.options.place.far:
            return leaves
        some = [leaves[i : i + FAR_LEAVES] for i in range(0, len(leaves), FAR_LEAVES)]
        return [list(chain.from_iterable(one)) for one in some]

    @property
    def _company(self) -> Company | None:
        share = self.share
        if share is None or not (self.options.llm or "").startswith("local:"):
            return None
        return lambda prompt: share.leaf_of(prompt.query.id)

    def extract(self, questions: Sequence[Question]) -> list[Answer]:
        """Order and evidence by the teacher."""
        evidence = Evidence(
            passages=self.options.evidence,
            max_words=self.options.quote_words,
            passage_words=self.template.max_words,
        )
        self.generator["kind"] = "extractive"
        with self._scoring("reasoning", evidence) as (teacher, drafts, work, report):
            return extract(questions, teacher, drafts, evidence, report, cut=self._cut, work=work)

    def ask(self, questions: Sequence[Question], near: Backend | None) -> list[Answer]:
        """Thought and order by a language model; the teacher, if any, scores its lists.

        near: it, where workers do not have it.
        """
        checked = questions if self.options.teacher is None else self._scored(questions)
        ledger = self.options.ledger or self.options.output / ANSWERS
        with ExitStack() as stack:
            backend = self._far_backend(stack) if near is None else near
            started = time.perf_counter()
            model = stack.enter_context(_cached(backend, ledger, self._company))
            report = stack.enter_context(self.watch("asking", "questions"))
            found = list(ask(checked, model, self.template, cut=self._batches, progress=report))
        self.generator |= {"kind": "llm", "model": backend.name}
        self.seconds = time.perf_counter() - started
        asked = _count([completion for _, completion in found], backend)
        self.asked, self.new = asked, asked.new
        price = _price(backend)
        self.generator |= {
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": asked.completion_tokens,
            "cost": asked.cost,
            "price": None if price is None else asdict(price),
        }
        return [answer(question, c, self.template, backend.name) for question, c in found]

    def read(self, source: str) -> list[Answer]:
        """What others wrote; the teacher, if any, scores their lists."""
        answers = list(read_answers(source))
        self.generator["kind"] = "read"
        if self.options.teacher is None:
            return answers
        scored = iter(self._scored([a.question for a in answers if a.question is not None]))
        return [a if a.question is None else replace(a, question=next(scored)) for a in answers]

    def _scored(self, questions: Sequence[Question]) -> list[Question]:
        with self._scoring("scoring", SCORES_ALONE) as (teacher, drafts, work, report):
            return with_scores(questions, teacher, drafts, report, cut=self._cut, work=work)

    @property
    def _cut(self) -> Cut | None:
        return None if self.share is None else self._leaves

    def _far_backend(self, stack: ExitStack) -> FarBackend:
        opener = partial(open_answering, self.options.llm or "")
        crew = stack.enter_context(Crew(opener, **self.options.place.to_dict()))
        assert self._company is not None  # ReasonOptions: it is a local one
        return FarBackend(crew, self._company)

    def _teacher(self, evidence: Evidence, stack: ExitStack) -> tuple[PairModel, Work | None]:
        """The model, and who scores in its place."""
        name, how = self.options.teacher or "", self.options.model_options.to_dict()
        if not self.options.place.far:
            return open_model(name, **how), None
        opener = partial(_open_scoring, name, how, evidence)
        crew = stack.enter_context(Crew(opener, **self.options.place.to_dict()))
        return FarModel(crew.about, crew), crew.answers

    @contextmanager
    def _scoring(
        self, what: str, evidence: Evidence
    ) -> Iterator[tuple[PairModel, Drafts, Work | None, Callable[[int, int, int], None]]]:
        path = self.options.output / _DRAFTS
        with ExitStack() as stack:
            drafts = stack.enter_context(open_drafts(path))
            report = stack.enter_context(self.watch(what, "examples"))
            model, work = self._teacher(evidence, stack)
            before = len(drafts)
            self.inputs |= scoring_inputs(model)
            self.generator["teacher"] = {
                "teacher": model.name,
                "revision": model.revision,
                "fingerprint": model.fingerprint,
            }
            started = time.perf_counter()
            yield model, drafts, work, lambda done, total, there: report(done, total, before=there)
            self.new, self.seconds = len(drafts) - before, time.perf_counter() - started


def _open_scoring(
    name: str, how: Mapping[str, Any], evidence: Evidence
) -> tuple[dict[str, Any], Callable[[Sequence[Question]], Rows]]:
    """An opener (dear.bulk.crew): a leaf's questions → their drafts."""
    model = open_model(name, **how)
    return about(model), lambda questions: score_questions(questions, model, evidence)


def _price(backend: Backend) -> Price | None:
    return backend.price if isinstance(backend, Keepable) else None


def _count(completions: Sequence[Completion], backend: Backend) -> Asked:
    """What the answers took, whenever they were asked for."""
    price = _price(backend)
    prompt = sum(c.prompt_tokens or 0 for c in completions)
    completion = sum(c.completion_tokens or 0 for c in completions)
    new = sum(not c.cached for c in completions)
    return Asked(
        new=new,
        cached=len(completions) - new,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=None if price is None else price.cost(prompt, completion),
    )


@contextmanager
def _cached(backend: Backend, path: Path, company: Company | None) -> Iterator[Backend]:
    """The backend with a ledger; as it is where its answers are not worth keeping."""
    if not isinstance(backend, Keepable):
        yield backend
        return
    with Ledger(backend, path, company=company) as ledger:
        yield ledger
