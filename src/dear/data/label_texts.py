"""Whether labels are of the texts at hand: compared wherever a label is looked up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dear.data.inputs import UNKNOWN, Keys, pair_digests, text_keys
from dear.data.labels import PairId, Stamp
from dear.errors import DataError
from dear.records import Passage, Query

logger = logging.getLogger(__name__)

_KEPT_KEYS = 1 << 16


class TextedLabels(Protocol):
    """Labels that know what they are of: `Labels`, `LabelsOnDisk`."""

    @property
    def stamps(self) -> tuple[Stamp, ...]: ...
    def of(self, query_id: str, passage_ids: Sequence[str]) -> NDArray[np.float32]: ...
    def texts_of(self, query_id: str, passage_ids: Sequence[str]) -> Keys: ...


class LabelCheck:
    """Compares the texts of all labels that are looked up, and counts.

    folders: of the labels.  collection: the name of the one at hand.
    known: False where that name says nothing, as for rows by id.
    """

    def __init__(
        self,
        labels: TextedLabels,
        folders: Sequence[str],
        collection: str,
        *,
        known: bool = True,
    ) -> None:
        self.labels, self.folders = labels, folders
        self.collection, self.known = collection, known
        # of a text; kept for those that come again, as passages do
        self.key: Callable[[str], np.uint64] = lru_cache(_KEPT_KEYS)(lambda t: text_keys([t])[0])
        self._others: dict[PairId, None] = {}
        self._unverified = False

    def over(self, query_text: Callable[[str], str], passage_text: Callable[[str], str]) -> Checked:
        """The labels, compared with these texts by id. A KeyError of theirs is no text, which is
        others' error to raise."""
        return Checked(self, query_text, passage_text)

    def over_collection(
        self, queries: Mapping[str, Query], corpus: Mapping[str, Passage]
    ) -> Checked:
        """The same for the texts of a collection."""
        return self.over(lambda q: queries[q].text, lambda p: corpus[p].full_text)

    def compare(self, query_id: str, passage_ids: Sequence[str], now: Keys) -> NDArray[np.float32]:
        """The labels. now: digests of the pairs' texts at hand, UNKNOWN where there are none."""
        scores = self.labels.of(query_id, passage_ids)
        then = self.labels.texts_of(query_id, passage_ids)
        other = ((then != UNKNOWN) & (now != UNKNOWN) & (then != now)).any(0)
        self._others.update(
            {(query_id, passage_ids[i]): None for i in np.flatnonzero(other).tolist()}
        )
        unknown = np.isfinite(scores) & (then == UNKNOWN).any(0)
        self._unverified = self._unverified or bool(unknown.any())
        return scores

    def require(self) -> None:
        """DataError where a label is of other texts, or where it cannot be known and the labels
        are of another collection; a warning where it cannot be known."""
        where = ", ".join(self.folders)
        again = f"`dear label {self.collection} -o {self.folders[0]}` with the same run and models"
        if self._others:
            query_id, passage_id = next(iter(self._others))
            pairs = f"{len(self._others):,} pairs" if len(self._others) > 1 else "1 pair"
            raise DataError(
                f"{where}: the labels of {pairs} are of other texts than {self.collection} has "
                f"now, query {query_id!r} with passage {passage_id!r} first; {again} scores them "
                "again"
            )
        if not self._unverified:
            return
        other = [s.collection for s in self.labels.stamps if s.collection != self.collection]
        if other and self.known:
            raise DataError(
                f"{where}: labels of collection {other[0]!r}, not of {self.collection!r}, and "
                f"they do not say of which texts; {again}, but another folder, makes some that do"
            )
        logger.warning(
            "%s: unverified: an earlier version wrote these labels without digests of their texts",
            where,
        )


class Checked:
    """Labels by id, as `dear.data.groups.TeacherScores`, each compared when it is looked up."""

    def __init__(
        self,
        check: LabelCheck,
        query_text: Callable[[str], str],
        passage_text: Callable[[str], str],
    ) -> None:
        self._check, self._query_text, self._passage_text = check, query_text, passage_text

    def of(self, query_id: str, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n,); NaN where there is no label."""
        passages = [self._key_of(self._passage_text, p) for p in passage_ids]
        query = self._key_of(self._query_text, query_id)
        known = np.array([p is not None and query is not None for p in passages], dtype=np.bool_)
        keys = np.array([p or 0 for p in passages], dtype=np.uint64)
        digests = pair_digests(np.array([query or 0], dtype=np.uint64), keys)
        now = np.where(known, digests, UNKNOWN)
        return self._check.compare(query_id, passage_ids, now)

    def _key_of(self, text: Callable[[str], str], name: str) -> np.uint64 | None:
        try:
            return self._check.key(text(name))
        except KeyError:
            return None
