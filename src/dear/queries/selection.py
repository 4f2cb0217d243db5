"""Which made queries are kept: those that lead back to their passage and repeat no other query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from dear.data.documents import Documents, document_of
from dear.data.held_out import normalised
from dear.records import Passage, Query, Ranking, Run
from dear.scoring.encoding import Pair

NEAR = 0.8
"""Share of common words (Jaccard) from which two queries are one."""

DropReason: TypeAlias = Literal["like a test query", "duplicate", "not found back", "not first"]
"""Why a made query is dropped; the first that holds, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeQuery:
    """made: "rule", or "llm".  kind: what it was made from, or the backend that wrote it."""

    query: Query
    passage_id: str
    made: Literal["rule", "llm"]
    kind: str


class _Scores(Protocol):
    """What of a PairModel is needed."""

    def score(
        self, pairs: Sequence[Pair], progress: Callable[[int, int], None] | None = None
    ) -> Iterable[float]: ...


def without_repeats(
    made: Sequence[MadeQuery], held_out: Iterable[str], dropped: Counter[DropReason]
) -> list[MadeQuery]:
    """Those that are near none of the texts in `held_out`, nor of an earlier one."""
    texts = [normalised(one.query.text) for one in made]
    others = [normalised(text) for text in held_out]
    near = _NearTexts([*others, *texts])
    for text in others:
        near.add(text)
    kept_out = len(near)
    kept = []
    for one, text in zip(made, texts, strict=True):
        place = near.find(text)
        if place is None:
            near.add(text)
            kept.append(one)
        else:
            dropped["like a test query" if place < kept_out else "duplicate"] += 1
    return kept


class _NearTexts:
    """Texts by their words; two are near from a Jaccard of NEAR on.

    Sets that near share one of their rarest words, so that only those are looked up (prefix
    filtering, Bayardo et al. 2007).
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """texts: all that will be asked about, for how rare words are."""
        self._counts = Counter(word for text in texts for word in set(text.split()))
        self._sets: list[frozenset[str]] = []
        self._by_word: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def add(self, text: str) -> None:
        words = frozenset(text.split())
        for word in self._rarest(words):
            self._by_word.setdefault(word, []).append(len(self._sets))
        self._sets.append(words)

    def find(self, text: str) -> int | None:
        """The first that is near."""
        words = frozenset(text.split())
        places = sorted({i for word in self._rarest(words) for i in self._by_word.get(word, ())})
        for place in places:
            other = self._sets[place]
            if len(words & other) >= NEAR * len(words | other):
                return place
        return None

    def _rarest(self, words: frozenset[str]) -> list[str]:
        ordered = sorted(words, key=lambda word: (self._counts[word], word))
        return ordered[: int((1 - NEAR) * len(words) + 1e-9) + 1]


def found_back(
    made: Sequence[MadeQuery], run: Run, documents: Documents | None, dropped: Counter[DropReason]
) -> list[MadeQuery]:
    """Those whose run holds their own passage, or one of the same document (round-trip
    consistency, Alberti et al. 2019).

    run: the best few passages of each query, by its id.
    """
    kept = []
    for one in made:
        ranking = run.get(one.query.id)
        own = _whole(one.passage_id, documents)
        if ranking is not None and any(_whole(p, documents) == own for p in ranking.passage_ids):
            kept.append(one)
        else:
            dropped["not found back"] += 1
    return kept


def put_first(
    made: Sequence[MadeQuery],
    run: Run,
    corpus: Mapping[str, Passage],
    teacher: _Scores,
    margin: float,
    documents: Documents | None,
    dropped: Counter[DropReason],
    progress: Callable[[int, int], None] | None = None,
) -> list[MadeQuery]:
    """Those whose own passage, or document, the teacher scores at least `margin` above every other
    one in the run."""
    pairs: list[Pair] = []
    owners: list[tuple[int, bool]] = []
    for place, one in enumerate(made):
        own = _whole(one.passage_id, documents)
        for passage_id in dict.fromkeys((one.passage_id, *_ids(run.get(one.query.id)))):
            pairs.append((one.query.text, corpus[passage_id].full_text))
            owners.append((place, _whole(passage_id, documents) == own))
    best = [{True: float("-inf"), False: float("-inf")} for _ in made]
    scores = teacher.score(pairs, progress) if pairs else ()
    for (place, is_own), score in zip(owners, scores, strict=True):
        best[place][is_own] = max(best[place][is_own], float(score))
    kept = []
    for one, found in zip(made, best, strict=True):
        if found[True] - found[False] >= margin and found[True] > found[False]:
            kept.append(one)
        else:
            dropped["not first"] += 1
    return kept


def _ids(ranking: Ranking | None) -> tuple[str, ...]:
    return () if ranking is None else ranking.passage_ids


def _whole(passage_id: str, documents: Documents | None) -> str:
    """What a passage is judged as: its document, where the collection is of passages."""
    return passage_id if documents is None else document_of(passage_id, documents)
