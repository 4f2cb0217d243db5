"""Training rows → examples, one row at a time: what a query's groups are drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dear.data.example_table import Example
from dear.data.formats.rows import Row
from dear.data.formats.tevatron import training_record
from dear.data.formats.training import TrainingIds, TrainingRow, in_place, resolve
from dear.data.groups import GroupPlan, Tally, TeacherScores, groups_of
from dear.data.held_out import SameText, normalised
from dear.data.label_texts import LabelCheck
from dear.errors import ConfigError, DataError
from dear.records import Passage, Run

Negatives: TypeAlias = Literal["rows", "run", "both"]
"""The row's own; those of a run in their place; the row's, then those of the run."""


@dataclass(slots=True)
class RowCounts:
    """What became of the rows.

    held_out: rows left out for each test collection that asks their query.
    same_text: negatives left out because a positive has the same text.
    too_close: left out by the margin, counted once a group.
    """

    rows: int = 0
    groups: int = 0
    without_negatives: int = 0
    held_out: dict[str, int] = field(default_factory=dict)
    same_text: int = 0
    too_close: int = 0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSampling:
    """How rows become examples.

    name: stands before each query id, for ids of different sources may be the same.
    corpus: for rows by id, and for a run's passages.
    labels: a teacher's scores, compared with the rows' texts; with `needs_teacher` and without
        labels the rows' own are taken.
    scale: factor on the rows' own scores.
    run: hard negatives, used as `negatives` says.
    held_out: normalised queries that may not be learnt → who asks them.
    limit: rows that are used at most, of those that give a group.
    """

    name: str
    plan: GroupPlan
    corpus: Mapping[str, Passage] | None = None
    labels: LabelCheck | None = None
    needs_teacher: bool = False
    scale: float = 1.0
    run: Run | None = None
    negatives: Negatives = "rows"
    held_out: Mapping[str, str] = field(default_factory=dict)
    drop_same_text: bool = True
    limit: int | None = None

    def __call__(self, rows: Iterator[Row], counts: dict[str, Any]) -> Iterator[Example]:
        """Examples in the order of their rows; `counts` is filled when the last one has come.

        DataError names the place of a broken row, and counts missing labels, and labels of other
        texts, at the end.
        """
        tally, met, used = Tally(), RowCounts(), 0
        for row in rows:
            met.rows += 1
            examples = self._of_row(row, met, tally)
            met.groups += len(examples)
            yield from examples
            used += bool(examples)
            if self.limit is not None and used >= self.limit:
                break
        tally.require_labels()
        if self.labels is not None:
            self.labels.require()
        met.too_close = tally.too_close
        counts.update(met.to_dict())

    def _of_row(self, row: Row, met: RowCounts, tally: Tally) -> list[Example]:
        record = training_record(row)
        if self.held_out:
            by = self.held_out.get(normalised(record.query.text))
            if by is not None:
                met.held_out[by] = met.held_out.get(by, 0) + 1
                return []
        try:
            found = self._with_texts(record)
            negatives = self._negatives(found)
        except DataError as problem:
            raise in_place(row, problem) from problem
        if not negatives:
            met.without_negatives += 1
            return []
        known = {p.id: p for p in (*negatives, *found.positives)}
        grades = {p.id: 1 for p in found.positives}
        repeated = self._repeated(found, negatives)
        met.same_text += len(repeated)
        groups = groups_of(
            found.query.id,
            [p.id for p in negatives],
            grades,
            self._teacher(row, found, known),
            self.plan,
            repeated,
            tally,
        )
        if not groups:
            met.without_negatives += 1
        return [
            Example(
                dataclasses.replace(group, query_id=f"{self.name}/{group.query_id}"),
                found.query.text,
                tuple(known[p].full_text for p in group.passage_ids),
            )
            for group in groups
        ]

    def _with_texts(self, record: TrainingRow | TrainingIds) -> TrainingRow:
        if isinstance(record, TrainingRow):
            return record
        if self.corpus is None:
            raise ConfigError(f"{self.name}: rows by id: name their texts with `corpus`")
        if self.negatives == "run":  # their texts are not needed, and may not be there
            record = dataclasses.replace(record, negative_ids=())
        return next(resolve([record], self.corpus))

    def _negatives(self, row: TrainingRow) -> list[Passage]:
        own = () if self.negatives == "run" else row.negatives
        if self.run is None or row.query.id not in self.run:
            return list(own)
        found = {p.id: p for p in own}
        positives = {p.id: p for p in row.positives}
        for passage_id in self.run[row.query.id].passage_ids[: self.plan.rank_to]:
            # a positive among them is no negative, but keeps its rank as it does in a run alone
            passage = found.get(passage_id) or positives.get(passage_id)
            if passage is None and self.corpus is not None:
                passage = self.corpus.get(passage_id)
            if passage is None:
                raise DataError(f"the run's passage {passage_id!r} is not in `corpus`")
            found[passage_id] = passage
        return list(found.values())

    def _repeated(self, row: TrainingRow, negatives: Sequence[Passage]) -> frozenset[str]:
        """Ids of negatives that are a positive under another id."""
        if not self.drop_same_text:
            return frozenset()
        same = SameText([p.full_text for p in row.positives])
        positives = {p.id for p in row.positives}
        return frozenset(p.id for p in negatives if p.id not in positives and p.full_text in same)

    def _teacher(
        self, row: Row, found: TrainingRow, known: Mapping[str, Passage]
    ) -> TeacherScores | None:
        if self.labels is not None:
            return self.labels.over(lambda _: found.query.text, lambda p: known[p].full_text)
        if not self.needs_teacher:
            return None
        if found.positive_scores is None or (found.negatives and found.negative_scores is None):
            raise row.error(
                "the loss reads a teacher's scores: the row has none, and `labels` names no folder"
            )
        ids = (p.id for p in (*found.positives, *found.negatives))
        scores = (*found.positive_scores, *(found.negative_scores or ()))
        return OwnScores({p: s * self.scale for p, s in zip(ids, scores, strict=True)})


@dataclass(frozen=True, slots=True)
class OwnScores:
    """The teacher's scores that a row brings, by passage id."""

    scores: Mapping[str, float]

    def of(self, _query_id: str, passage_ids: Sequence[str]) -> NDArray[np.float32]:
        """float32 (n,); NaN where there is none."""
        return np.array([self.scores.get(p, np.nan) for p in passage_ids], dtype=np.float32)
