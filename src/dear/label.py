"""Candidates to soft labels: stream in, append out, restartable."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dear.artifacts import slug
from dear.checkpoints.registry import FIRST_STAGE
from dear.data.inputs import UNKNOWN, Keys, pair_digests, run_input, text_keys
from dear.data.label_failures import FAILED, Failure, failures_error
from dear.data.labels import ENSEMBLE, LabelStore, PairId, Stamp, open_store, write_ensemble
from dear.data.shards import Share
from dear.digests import lines_digest
from dear.errors import BackendError, ConfigError, ContractMismatch, DataError, DearError, excerpt
from dear.evaluate.cost import Meter, stage
from dear.records import Judgements, Run
from dear.scoring.failing import MOST_FAILING, ScoredPairs, score_each
from dear.scoring.revisions import former

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.data.label_mirror import LabelMirror
    from dear.scoring.encoding import Pair
    from dear.scoring.opening import PairModel

logger = logging.getLogger(__name__)

SHARD_PAIRS = 4096
"""Pairs in one shard: what a killed job may have to score again."""

REMEMBERED = 1 << 16
"""Texts whose digests are kept: what many queries have in common is read once."""

Progress = Callable[[int, int], None]
"""Called with (pairs that have a label, pairs in all)."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What one labelling job did.

    scored: pairs now; changed: how many of them had a label of other texts.
    kept: pairs that were there already; unverified: how many of them do not say of which texts.
    """

    folder: Path
    scored: int
    kept: int
    seconds: float
    changed: int = 0
    unverified: int = 0


class FirstStage:
    """The first stage's own score as a teacher: labels of these runs, and of no others.

    A relevant passage that the run lacks gets the run's lowest score for that query.
    """

    def __init__(
        self, runs: Sequence[Run], name: str = FIRST_STAGE, *, digest: str | None = None
    ) -> None:
        """digest: of the whole runs, where these are parts of them."""
        self.name = name
        digest = digest or lines_digest(run_input(run).digest for run in runs)
        self.revision = f"run-{digest}"
        self.contract: dict[str, Any] = {"kind": "first-stage"}
        self.fingerprint = "first-stage"
        self._scores: dict[str, dict[str, float]] = {}
        for run in runs:
            for query_id, ranking in run.items():
                row = self._scores.setdefault(query_id, {})
                for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True):
                    row.setdefault(passage_id, score)

    def former(self, revision: str) -> bool | None:
        """Earlier versions called every run "run"."""
        return True if revision == "run" else None

    def of(self, pairs: Sequence[PairId]) -> NDArray[np.float32]:
        """float32 (n,) scores by id."""
        rows = self._scores
        return np.array([rows[q].get(p, min(rows[q].values())) for q, p in pairs], dtype=np.float32)


def label_with(
    collection: Collection,
    runs: Sequence[Run],
    teacher: PairModel | FirstStage,
    folder: Path,
    *,
    judged: Judgements | None = None,
    shard_pairs: int = SHARD_PAIRS,
    share: Share | None = None,
    mirror: LabelMirror | None = None,
    progress: Progress | None = None,
) -> Labelled:
    """Score every different pair of `runs` that has no label in `folder`, or one of other texts.

    judged: also label the relevant passages (grade > 0) of these judgements, whether or not a
        run found them: training needs their labels too.
    shard_pairs: pairs that are written at once, and that a killed job loses at most. It goes on
        when it is run again, and with the same `shard_pairs` the labels are those of an
        undisturbed run, bit for bit, on the same machine.
    share: label this part of the job alone, leaf by leaf, in place of `shard_pairs`; `runs` may
        lack the other queries.
    mirror: gets each file of the store, and gives those that `folder` lacks.
    Raises ContractMismatch if the folder holds other labels, DataError for ids without text; and in
    the end for pairs that could not be scored (dear.data.label_failures), at once where they are
    more than MOST_FAILING.

    What it took is noted in the folder's manifest, once the job has come to its end.
    """
    if shard_pairs < 1:
        raise ConfigError(f"shard_pairs is {shard_pairs}; a shard holds 1 pair or more")
    wanted = Wanted(runs, judged, share, shard_pairs)
    require_texts(collection, wanted)
    stamp, total = stamp_of(collection.name, teacher), len(wanted)
    share = None if share is None else replace(share, pairs=total)
    digests = _Digests(collection)
    with open_store(folder, stamp, share, again=True, mirror=mirror) as store:
        there = _there(store, wanted, digests, teacher)
        if progress is not None:
            progress(there.kept, total)
        todo = total - there.kept
        tokens = getattr(teacher, "tokens_scored", None)
        with Meter() as meter:
            if todo and share is None:
                _prepare(collection, teacher, wanted)
            parts = _todo(store, wanted, digests) if todo else iter(())
            report = _Report(progress, there.kept, total)
            for part, found in _scored(collection, teacher, parts, report):
                _write(store, part, found)
        if share is not None and not store.failures:
            store.finish()
        if todo:
            new = None if tokens is None else getattr(teacher, "tokens_scored", tokens) - tokens
            scored_now = todo - len(store.failures)
            pointwise = stage("pairs", scored_now, meter.spent.seconds, tokens=new)
            store.record({"cost": meter.spent.to_dict() | {"pointwise": pointwise}})
    if store.failures:
        raise failures_error(folder, store.failures)
    if there.unverified:
        logger.warning(
            "%s: %s labels are unverified: an earlier version wrote them without digests of their "
            "texts; label into another folder to be sure of them",
            *(folder, f"{there.unverified:,}"),
        )
    seconds = meter.spent.seconds
    return Labelled(folder, todo, there.kept, seconds, there.changed, there.unverified)


def label_with_all(
    collection: Collection,
    runs: Sequence[Run],
    teachers: Mapping[str, PairModel | FirstStage],
    folder: Path,
    *,
    weights: Sequence[float] = (),
    judged: Judgements | None = None,
    mirror: LabelMirror | None = None,
    progress: Progress | None = None,
) -> list[Labelled]:
    """Several teachers side by side, one store each below `folder`, which reads as their ensemble.

    weights: one for each teacher; 1 for all where empty.
    """
    weights = tuple(weights) or (1.0,) * len(teachers)
    if len(weights) != len(teachers):
        raise ConfigError(f"{len(teachers)} teachers, {len(weights)} weights")
    names = [slug(name) for name in teachers]
    if len(set(names)) != len(names):
        raise ConfigError(f"two teachers share a folder's name: {', '.join(names)}")
    done: dict[str, Labelled] = {}
    # the first stage first: that it is another run is found out before hours of other work
    for name, teacher in sorted(
        zip(names, teachers, strict=True), key=lambda n: n[1] != FIRST_STAGE
    ):
        done[name] = label_with(
            collection,
            runs,
            teachers[teacher],
            folder / name,
            judged=judged,
            mirror=None if mirror is None else mirror.below(name),
            progress=progress,
        )
    write_ensemble(folder, dict(zip(names, weights, strict=True)))
    if mirror is not None:
        mirror.push(folder, ENSEMBLE)
    return [done[name] for name in names]


class Wanted:
    """Every different pair of runs, a part at a time: no more than a part is ever in memory.

    In the order of the runs' queries, relevant passages before candidates, `shard_pairs` in a part.
    judged: whose relevant passages (grade > 0) are pairs, too.
    share: its leaves alone, each a part, in the order of query keys and passage ids.
    DataError where there is none, unless it is a share, which may be an empty one.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        judged: Judgements | None = None,
        share: Share | None = None,
        shard_pairs: int = SHARD_PAIRS,
    ) -> None:
        self._runs, self._judged, self._shard_pairs = runs, judged, shard_pairs
        self._ids = list(dict.fromkeys(q for run in runs for q in run))
        self._leaves = None if share is None else share.by_leaf(self._ids, str)
        if share is None and not len(self):
            raise DataError("the run ranks nothing")

    def __len__(self) -> int:
        ids = self._ids if self._leaves is None else itertools.chain(*self._leaves.values())
        return sum(len(self._passages(query_id)) for query_id in ids)

    def __iter__(self) -> Iterator[PairId]:
        for _, pairs in self.parts():
            yield from pairs

    def parts(self) -> Iterator[tuple[int | None, list[PairId]]]:
        """(leaf of the share, its pairs)"""
        if self._leaves is not None:
            for leaf, ids in self._leaves.items():
                yield leaf, [(q, p) for q in ids for p in sorted(self._passages(q))]
            return
        pairs = ((q, p) for q in self._ids for p in self._passages(q))
        while part := list(itertools.islice(pairs, self._shard_pairs)):
            yield None, part

    def _passages(self, query_id: str) -> Sequence[str]:
        """Each once."""
        rankings = [run[query_id] for run in self._runs if query_id in run]
        relevant = list(_relevant(self._judged, query_id))
        if len(rankings) == 1 and not relevant:
            return rankings[0].passage_ids
        lists = (relevant, *(ranking.passage_ids for ranking in rankings))
        return list(dict.fromkeys(itertools.chain(*lists)))


@dataclass(frozen=True, slots=True)
class _Part:
    """Pairs that are scored and written at once, with the digests of their texts, uint64 (n,).

    leaf: of the share; None where there is none.
    """

    leaf: int | None
    pairs: list[PairId]
    texts: Keys


@dataclass(slots=True)
class _There:
    """Of the wanted pairs: `kept` need no label, of which `unverified` do not say of which texts;
    `changed` have one of other texts."""

    kept: int = 0
    changed: int = 0
    unverified: int = 0


def _there(
    store: LabelStore, wanted: Wanted, digests: _Digests, teacher: PairModel | FirstStage
) -> _There:
    found = _There()
    for _, pairs in wanted.parts() if len(store) else ():
        there, before, known = store.find(pairs)
        if isinstance(teacher, FirstStage):
            labelled = [pairs[i] for i in np.flatnonzero(there)]
            _require_same_run(teacher, labelled, before, store.folder)
        changed = there & (known != UNKNOWN) & (known != digests(pairs))
        found.kept += int((there & ~changed).sum())
        found.changed += int(changed.sum())
        found.unverified += int((there & (known == UNKNOWN)).sum())
    return found


def _todo(store: LabelStore, wanted: Wanted, digests: _Digests) -> Iterator[_Part]:
    """What has no label, or one of other texts."""
    for leaf, pairs in wanted.parts():
        texts = digests(pairs)
        there, _, known = store.find(pairs)
        places = np.flatnonzero(~there | (known != UNKNOWN) & (known != texts))
        if len(places):
            yield _Part(leaf, [pairs[i] for i in places], texts[places])


def _relevant(judged: Judgements | None, query_id: str) -> Iterator[str]:
    for passage_id, grade in (judged or {}).get(query_id, {}).items():
        if grade > 0:
            yield passage_id


def require_texts(collection: Collection, pairs: Iterable[PairId]) -> None:
    """DataError for the first id that the collection has no text of."""
    queries, corpus = collection.queries(), collection.corpus
    for query_id, passage_id in pairs:
        if query_id not in queries:
            raise DataError(f"the run ranks for query {query_id!r}, which has no text")
        if passage_id not in corpus:
            raise DataError(
                f"query {query_id!r}: passage {passage_id!r} is not in the corpus of "
                f"{collection.name}"
            )


class _Digests:
    """Pairs → uint64 (n,): a digest of each pair's texts."""

    def __init__(self, collection: Collection) -> None:
        queries, corpus = collection.queries(), collection.corpus

        @lru_cache(maxsize=REMEMBERED)
        def of_query(query_id: str) -> np.uint64:
            return np.uint64(text_keys([queries[query_id].text])[0])

        @lru_cache(maxsize=REMEMBERED)
        def of_passage(passage_id: str) -> np.uint64:
            return np.uint64(text_keys([corpus[passage_id].full_text])[0])

        self._of_query, self._of_passage = of_query, of_passage

    def __call__(self, pairs: Sequence[PairId]) -> Keys:
        return pair_digests(
            np.array([self._of_query(q) for q, _ in pairs], dtype=np.uint64),
            np.array([self._of_passage(p) for _, p in pairs], dtype=np.uint64),
        )


def texts_of(collection: Collection, pairs: Iterable[PairId]) -> list[tuple[str, str]]:
    """(query, passage) of each."""
    queries, corpus = collection.queries(), collection.corpus
    return [(queries[q].text, corpus[p].full_text) for q, p in pairs]


def _require_same_run(
    teacher: FirstStage, pairs: Sequence[PairId], before: NDArray[np.float32], folder: Path
) -> None:
    """ContractMismatch where these pairs have another run's scores: what an earlier version wrote
    does not say of which run it is."""
    if not np.array_equal(teacher.of(pairs), before[np.isfinite(before)]):
        raise ContractMismatch(f"{folder} holds the scores of another run; choose another folder")


class _Report:
    """Progress of parts as that of the whole job."""

    def __init__(self, progress: Progress | None, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total

    def within(self, done: int, _all: int) -> None:
        """Of the part at work."""
        if self._progress is not None:
            self._progress(self._done + done, self._total)

    def after(self, pairs: int) -> None:
        self._done += pairs
        self.within(0, 0)


def _prepare(collection: Collection, teacher: PairModel | FirstStage, wanted: Wanted) -> None:
    """Bi-encoders embed every text once, in an order that does not depend on what is done."""
    prepare = getattr(teacher, "prepare", None)
    if prepare is not None:
        prepare(texts_of(collection, wanted))


def _scored(
    collection: Collection,
    teacher: PairModel | FirstStage,
    parts: Iterable[_Part],
    report: _Report,
) -> Iterator[tuple[_Part, ScoredPairs]]:
    """Each part with its scores; those of a teacher that is far in the order in which they come."""
    score_leaves = getattr(teacher, "score_leaves", None)
    if score_leaves is None:
        for part in parts:
            yield part, _score(collection, teacher, part.pairs, report.within)
            report.after(len(part.pairs))
        return
    at_work: dict[int | None, _Part] = {}

    def leaves() -> Iterator[tuple[int | None, list[Pair]]]:
        for part in parts:
            at_work[part.leaf] = part
            yield part.leaf, texts_of(collection, part.pairs)

    failed = list[tuple[_Part, DearError]]()
    for leaf, found in score_leaves(leaves()):
        part = at_work.pop(leaf)
        if isinstance(found, DearError):
            failed.append((part, found))
            continue
        yield part, found
        report.after(len(part.pairs))
    if failed:
        raise _given_up(failed)


def _given_up(failed: Sequence[tuple[_Part, DearError]]) -> BackendError:
    part, why = failed[0]
    queries = list(dict.fromkeys(query_id for query_id, _ in part.pairs))
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return BackendError(
        f"no labels for the {len(part.pairs):,} pairs of queries "
        f"{excerpt(', '.join(queries))}{more}: {why}; all others are written, and the same command "
        "goes on"
    )


def _score(
    collection: Collection,
    teacher: PairModel | FirstStage,
    shard: Sequence[PairId],
    report: Progress,
) -> ScoredPairs:
    if isinstance(teacher, FirstStage):
        scores = teacher.of(shard)
        report(len(shard), len(shard))
        return ScoredPairs(scores)
    return score_each(lambda pairs: teacher.score(pairs, report), texts_of(collection, shard))


def _write(store: LabelStore, part: _Part, found: ScoredPairs) -> None:
    """The labels of a part, and which of its pairs have none."""
    pairs = part.pairs
    failures = [Failure(*pairs[i], why, part.leaf) for i, why in found.reasons.items()]
    if failures:
        store.fail(failures)
        if len(store.failures) > MOST_FAILING:
            raise DataError.at(
                store.folder / FAILED,
                None,
                f"more than {MOST_FAILING} pairs could not be scored ({store.failures[0]}); what "
                "has its label is kept, and the same command goes on",
            )
    good = np.flatnonzero(np.isfinite(found.scores)).tolist()
    store.append([pairs[i] for i in good], found.scores[good], part.texts[good], leaf=part.leaf)


def stamp_of(collection: str, teacher: PairModel | FirstStage) -> Stamp:
    """Of the labels that this teacher gives the pairs of a collection."""
    contract = teacher.contract
    plain = contract if isinstance(contract, dict) else contract.to_dict()
    return Stamp(
        collection=collection,
        teacher=teacher.name,
        revision=teacher.revision,
        fingerprint=teacher.fingerprint,
        contract={**plain, **getattr(teacher, "computing", {})},
        former=teacher.former if isinstance(teacher, FirstStage) else partial(former, teacher.name),
    )
