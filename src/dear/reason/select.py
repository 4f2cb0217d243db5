"""Which generated lists are kept, or why not; test data stays out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from dear.data.collections import Collection
from dear.data.held_out import normalised
from dear.errors import ConfigError, DataError, ParseError
from dear.prompts.permutations import Identifiers, parse_permutation
from dear.prompts.reasoning import cited
from dear.reason.sample import Question
from dear.records import ListExample

LeakPassages: TypeAlias = Literal["relevant", "judged", "none"]
"""Which passages of a test collection leak. All of a corpus would be too many: most collections
search one corpus with their train and their test queries."""

LEAK_PASSAGES: tuple[LeakPassages, ...] = get_args(LeakPassages)
TEST = "test"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Normalised texts of test collections, each with the collection that holds it."""

    queries: Mapping[str, str]
    passages: Mapping[str, str]
    collections: tuple[str, ...] = ()

    def leak(self, example: ListExample) -> str | None:
        """The collection that the example's query, or one of its passages, occurs in."""
        found = self.queries.get(normalised(example.query.text))
        if found is not None or not self.passages:
            return found
        texts = (normalised(p.full_text) for p in example.passages)
        return next((self.passages[t] for t in texts if t in self.passages), None)


NOTHING = HeldOut({}, {})


def held_out(collections: Iterable[Collection], passages: LeakPassages = "relevant") -> HeldOut:
    """The test queries of these collections, and the passages that are relevant to one (`judged`:
    judged for one, relevant or not). Collections without a test split add nothing.

    Every grade above 0 is relevant here, whatever a collection counts in binary measures: to leave
    out a passage too many costs little.
    """
    queries: dict[str, str] = {}
    texts: dict[str, str] = {}
    names = []
    for collection in collections:
        if TEST not in collection.splits:
            continue
        names.append(collection.name)
        for query in collection.queries(TEST).values():
            queries.setdefault(normalised(query.text), collection.name)
        if passages == "none" or not collection.has_judgements(TEST):
            continue
        for grades in collection.judgements(TEST).values():
            for passage_id, grade in grades.items():
                if grade <= 0 and passages == "relevant":
                    continue
                if (passage := collection.corpus.get(passage_id)) is not None:
                    texts.setdefault(normalised(passage.full_text), collection.name)
    queries.pop("", None)
    texts.pop("", None)
    return HeldOut(queries, texts, tuple(names))


Reason: TypeAlias = Literal[
    "no passages",
    "no ranking",
    "cut off",
    "incomplete",
    "unknown identifier",
    "disagrees",
    "leaks",
    "duplicate",
]
"""Why an answer is dropped; the first that holds, in the order of REASONS."""

REASONS: tuple[Reason, ...] = get_args(Reason)
CUTOFF = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """What agrees. keep_tau: Kendall's tau with the teacher's scores; keep_ndcg: nDCG@10 by the
    judgements, over the list. Each is checked where it is given and the question can say."""

    keep_tau: float | None = None
    keep_ndcg: float | None = None

    def __post_init__(self) -> None:
        if self.keep_tau is not None and not -1 <= self.keep_tau <= 1:
            raise ConfigError(f"keep_tau is {self.keep_tau}: Kendall's tau lies in -1 … 1")
        if self.keep_ndcg is not None and not 0 <= self.keep_ndcg <= 1:
            raise ConfigError(f"keep_ndcg is {self.keep_ndcg}: nDCG lies in 0 … 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a generator said to a question.

    question: None where the prompt held none that can be read.
    text:     what holds the ranking; nothing but that is read of it.
    thought:  names passages by numbers.
    cut:      the generator ran out of room.
    """

    question: Question | None
    text: str
    thought: str = ""
    identifiers: Identifiers = "numbers"
    cut: bool = False
    source: str = ""


def select(answer: Answer, threshold: Threshold = Threshold()) -> ListExample | Reason:
    """The example, if the ranking parses and is complete, the answer is not cut off, ranking and
    thought name only passages that exist, and the order agrees as `threshold` says."""
    question, kind = answer.question, answer.identifiers
    if question is None:
        return "no passages"
    count = len(question.passages)
    try:
        parsed = parse_permutation(answer.text, count, kind)
    except ParseError:
        return "cut off" if answer.cut else "no ranking"
    if answer.cut or "cut off" in parsed.mends:
        return "cut off"
    if not parsed.complete or "duplicate" in parsed.mends:
        return "incomplete"
    if "out of range" in parsed.mends or any(not 1 <= i <= count for i in cited(answer.thought)):
        return "unknown identifier"
    if not agrees(question, parsed.order, threshold):
        return "disagrees"
    try:
        return ListExample(
            query=question.query,
            passages=question.passages,
            order=parsed.order,
            thought=answer.thought,
            scores=question.scores,
            source=answer.source,
        )
    except DataError:  # a passage twice
        return "no passages"


def agrees(question: Question, order: Sequence[int], threshold: Threshold) -> bool:
    """Whether the order agrees with the teacher and the judgements, as far as they say anything."""
    if threshold.keep_tau is not None and question.scores is not None:
        tau = kendall_tau(order, question.scores)
        if tau < threshold.keep_tau:  # False for NaN
            return False
    if threshold.keep_ndcg is not None and question.grades is not None:
        return not ndcg(order, question.grades) < threshold.keep_ndcg
    return True


def kendall_tau(order: Sequence[int], scores: Sequence[float]) -> float:
    """Kendall's tau of an order, best first, with scores by position, over the pairs whose scores
    differ: 1 for every order that the scores allow. NaN where all scores are equal.

    It is tau-b over the best tau-b that an order without ties can have.
    """
    from scipy.stats import kendalltau

    if len(set(scores)) < 2:
        return math.nan
    best = sorted(range(len(scores)), key=lambda i: -scores[i])
    ours, most = (
        float(kendalltau(range(len(scores)), [-scores[i] for i in ranked]).statistic)
        for ranked in (order, best)
    )
    return ours / most


def ndcg(order: Sequence[int], grades: Sequence[int], cutoff: int = CUTOFF) -> float:
    """nDCG of an order, best first, grades as gains, within the list; NaN where all are 0."""

    def gain(ranked: Iterable[int]) -> float:
        return sum(g / math.log2(rank + 2) for rank, g in enumerate(list(ranked)[:cutoff]))

    best = gain(sorted(grades, reverse=True))
    return gain(grades[i] for i in order) / best if best else math.nan


@dataclass(frozen=True, slots=True)
class Selected:
    """What was kept, and how many were dropped for what."""

    examples: list[ListExample]
    dropped: Counter[Reason]

    @property
    def answers(self) -> int:
        return len(self.examples) + self.dropped.total()


AskedAbout: TypeAlias = tuple[str, frozenset[str]]


def asked_about(example: ListExample) -> AskedAbout:
    """Equal for the same query about the same passages."""
    texts = frozenset(normalised(p.full_text) for p in example.passages)
    return normalised(example.query.text), texts


def select_all(
    answers: Iterable[Answer], threshold: Threshold = Threshold(), held_out: HeldOut = NOTHING
) -> Selected:
    """Every answer through `select`, then without what leaks and without all but the first of
    those that ask the same query about the same passages."""
    examples: list[ListExample] = []
    dropped: Counter[Reason] = Counter()
    seen: set[AskedAbout] = set()
    for answer in answers:
        found = select(answer, threshold)
        if isinstance(found, str):
            dropped[found] += 1
            continue
        key = asked_about(found)
        if held_out.leak(found) is not None:
            dropped["leaks"] += 1
        elif key in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(key)
            examples.append(found)
    return Selected(examples, dropped)
