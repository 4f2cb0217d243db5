"""What must not be learnt: queries and passages that a test collection asks about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from dear.data.collections import Collection
from dear.data.held_out import normalised
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
