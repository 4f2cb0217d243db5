"""Whether the passages that are judged relevant are those of the corpus."""

from __future__ import annotations

import difflib
from collections.abc import Collection as Ids
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from dear.errors import DataError
from dear.notices import say, warn
from dear.records import Judgements, Run

if TYPE_CHECKING:
    from dear.data.collection import Collection

SMALL, LARGE = 2**22, 2**28
"""Bytes of a corpus that is read for this check alone: in every evaluation, and in one where
nothing that is relevant was found. 2**22 take 0.3 s."""

_COMPARED = 20_000
"""Ids of a corpus that are looked through for the nearest."""


class OtherCorpus(DataError):
    """Judgements are of another corpus than the one at hand."""


def check_judged(where: str, judgements: Judgements, ids: Ids[str], *, whole: bool = True) -> None:
    """OtherCorpus where not one relevant passage has an id of the corpus; a notice with the count
    where some have none.

    where: the collection and the split.  whole: False where the corpus is known to hold only a
    part of the collection's passages, as pools of candidates do.
    """
    relevant = _relevant(judgements)
    missing = [p for p in relevant if p not in ids]
    if not missing:
        return
    if len(missing) == len(relevant):
        raise OtherCorpus(
            f"{where}: no passage that is judged relevant ({len(missing):,}) is in the corpus: "
            f"{missing[0]!r} is not; {_nearest(missing[0], ids)}; judgements name passages by "
            "their ids in the corpus"
        )
    tell = warn if whole else say
    tell(
        f"{where}: {len(missing):,} of {len(relevant):,} passages that are judged relevant are "
        f"not in the corpus, such as {missing[0]!r}: no ranking of it finds them"
    )


def check_before_measuring(collection: Collection, split: str, runs: Iterable[Run]) -> None:
    """`check_judged` by a corpus that measuring does not need: where it is small, or where no run
    holds a relevant passage. A warning in place of that where it is too large to be read."""
    relevant = _relevant(collection.judgements(split))
    ranked = {p for run in runs for ranking in run.values() for p in ranking.passage_ids}
    nothing_found = relevant.keys().isdisjoint(ranked)
    files = collection.corpus_files
    if files and sum(f.stat().st_size for f in files) <= (LARGE if nothing_found else SMALL):
        try:
            assert collection.corpus is not None  # checks the judgements that were read
        except OtherCorpus:
            raise
        except DataError:
            return  # it cannot be read, and measuring needs no texts
    elif nothing_found and relevant and ranked:
        warn(
            f"{collection.name}, {split}: no run holds a passage that is judged relevant: judged "
            f"are such as {next(iter(relevant))!r}, ranked such as {min(ranked)!r}"
        )


def _relevant(judgements: Judgements) -> dict[str, None]:
    return {p: None for grades in judgements.values() for p, grade in grades.items() if grade > 0}


def _nearest(passage_id: str, ids: Ids[str]) -> str:
    some = list(islice(ids, _COMPARED))
    near = difflib.get_close_matches(passage_id, some, n=1) or some[:1]
    return f"the nearest id is {near[0]!r}" if near else "the corpus is empty"
