"""Candidates to soft labels: stream in, append out, restartable."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
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
    wanted = wanted_pairs(runs, judged, share)
    require_texts(collection, wanted)
    texts = _text_digests(collection, wanted)
    stamp = stamp_of(collection.name, teacher)
    share = None if share is None else replace(share, pairs=len(wanted))
    with open_store(folder, stamp, share, again=True, mirror=mirror) as store:
        there, before, known = store.find(wanted)
        if isinstance(teacher, FirstStage):
            _require_same_run(teacher, [wanted[i] for i in np.flatnonzero(there)], before, folder)
        changed = there & (known != UNKNOWN) & (known != texts)
        unverified = int((there & (known == UNKNOWN)).sum())
        places = np.flatnonzero(~there | changed)
        todo = [wanted[i] for i in places]
        kept = len(wanted) - len(todo)
        if progress is not None:
            progress(kept, len(wanted))
        tokens = getattr(teacher, "tokens_scored", None)
        with Meter() as meter:
            if todo and share is None:
                _prepare(collection, teacher, wanted, todo)
            parts = _parts(todo, shard_pairs, share)
            scored = _scored(collection, teacher, todo, parts, progress, kept)
            for leaf, part, found in scored:
                _write(store, todo[part], found, texts[places[part]], leaf)
        if share is not None and not store.failures:
            store.finish()
        if todo:
            new = None if tokens is None else getattr(teacher, "tokens_scored", tokens) - tokens
            scored_now = len(todo) - len(store.failures)
            pointwise = stage("pairs", scored_now, meter.spent.seconds, tokens=new)
            store.record({"cost": meter.spent.to_dict() | {"pointwise": pointwise}})
    if store.failures:
        raise failures_error(folder, store.failures)
    if unverified:
        logger.warning(
            "%s: %s labels are unverified: an earlier version wrote them without digests of their "
            "texts; label into another folder to be sure of them",
            *(folder, f"{unverified:,}"),
        )
    return Labelled(folder, len(todo), kept, meter.spent.seconds, int(changed.sum()), unverified)


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


def wanted_pairs(
    runs: Sequence[Run], judged: Judgements | None, share: Share | None = None
) -> list[PairId]:
    """Every different pair, in the order of the runs; relevant passages before candidates.

    share: those of its leaves, leaf by leaf, in the order of query keys and passage ids.
    """
    wanted: dict[PairId, None] = {}
    for run in runs:
        for query_id, ranking in run.items():
            for passage_id in _relevant(judged, query_id):
                wanted[query_id, passage_id] = None
            for passage_id in ranking.passage_ids:
                wanted[query_id, passage_id] = None
    if share is not None:  # which may be an empty one
        leaves = share.by_leaf(sorted(wanted, key=itemgetter(1)), itemgetter(0))
        return [pair for pairs in leaves.values() for pair in pairs]
    if not wanted:
        raise DataError("the run ranks nothing")
    return list(wanted)


def _parts(
    todo: Sequence[PairId], shard_pairs: int, share: Share | None
) -> Iterator[tuple[int | None, slice]]:
    """What is scored and written at once, and the leaf that it is."""
    if share is None:
        for first in range(0, len(todo), shard_pairs):
            yield None, slice(first, min(first + shard_pairs, len(todo)))
        return
    first = 0
    for leaf, pairs in itertools.groupby(share.leaves_of([q for q, _ in todo]).tolist()):
        behind = first + len(list(pairs))
        yield leaf, slice(first, behind)
        first = behind


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


def _text_digests(collection: Collection, pairs: Sequence[PairId]) -> Keys:
    """uint64 (n,): a digest of each pair's texts."""
    queries, corpus = collection.queries(), collection.corpus
    query_ids = list(dict.fromkeys(q for q, _ in pairs))
    passage_ids = list(dict.fromkeys(p for _, p in pairs))
    of_query = dict(zip(query_ids, text_keys(queries[q].text for q in query_ids), strict=True))
    passages = text_keys(corpus[p].full_text for p in passage_ids)
    of_passage = dict(zip(passage_ids, passages, strict=True))
    return pair_digests(
        np.array([of_query[q] for q, _ in pairs], dtype=np.uint64),
        np.array([of_passage[p] for _, p in pairs], dtype=np.uint64),
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


def _counted(progress: Progress | None, before: int, total: int) -> Progress:
    """A shard's progress as that of the whole job."""

    def report(done: int, _all: int) -> None:
        if progress is not None:
            progress(before + done, total)

    return report


def _prepare(
    collection: Collection,
    teacher: PairModel | FirstStage,
    wanted: Sequence[PairId],
    todo: Sequence[PairId],
) -> None:
    """Bi-encoders embed every text once, in an order that does not depend on what is done."""
    prepare = getattr(teacher, "prepare", None)
    if prepare is not None:
        prepare(texts_of(collection, wanted))


def _scored(
    collection: Collection,
    teacher: PairModel | FirstStage,
    todo: Sequence[PairId],
    parts: Iterable[tuple[int | None, slice]],
    progress: Progress | None,
    kept: int,
) -> Iterator[tuple[int | None, slice, ScoredPairs]]:
    """Each part with its scores; those of a teacher that is far in the order in which they come."""
    total = kept + len(todo)
    score_leaves = getattr(teacher, "score_leaves", None)
    if score_leaves is None:
        for leaf, part in parts:
            report = _counted(progress, kept + part.start, total)
            yield leaf, part, _score(collection, teacher, todo[part], report)
        return
    at_work: dict[int | None, slice] = {}

    def leaves() -> Iterator[tuple[int | None, list[Pair]]]:
        for leaf, part in parts:
            at_work[leaf] = part
            yield leaf, texts_of(collection, todo[part])

    done, failed = kept, list[tuple[slice, DearError]]()
    for leaf, found in score_leaves(leaves()):
        part = at_work.pop(leaf)
        if isinstance(found, DearError):
            failed.append((part, found))
            continue
        yield leaf, part, found
        done += len(found.scores)
        if progress is not None:
            progress(done, total)
    if failed:
        raise _given_up(todo, failed)


def _given_up(todo: Sequence[PairId], failed: Sequence[tuple[slice, DearError]]) -> BackendError:
    part, why = failed[0]
    queries = list(dict.fromkeys(query_id for query_id, _ in todo[part]))
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return BackendError(
        f"no labels for the {part.stop - part.start:,} pairs of queries "
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


def _write(
    store: LabelStore, pairs: Sequence[PairId], found: ScoredPairs, texts: Keys, leaf: int | None
) -> None:
    """The labels of a part, and which of its pairs have none."""
    failures = [Failure(*pairs[i], why, leaf) for i, why in found.reasons.items()]
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
    store.append([pairs[i] for i in good], found.scores[good], texts[good], leaf=leaf)


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
