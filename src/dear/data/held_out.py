"""Queries that are kept for tests, and when two texts are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dear.characters import normal
from dear.data.collections import list_collections, open_collection
from dear.errors import ConfigError
from dear.notices import warn

if TYPE_CHECKING:
    from dear.data.collections import Collection

PRESENT = "present"
"""In a list of names: every registered collection with test queries that is on this machine."""

TEST = "test"
"""The split whose judged queries are kept for tests."""

_SIGNS = re.compile(r"[^a-z0-9]+")
_PREFIX = 32


def normalised(text: str) -> str:
    """NFKC, case folded, letters, digits and the marks on them only, words apart by one space."""
    if text.isascii():
        return _SIGNS.sub(" ", text.lower()).strip()
    # twice: folding can undo the normal form
    folded = normal("NFKC", normal("NFKC", text).casefold())
    signs = {c for c in set(folded) if not c.isalnum() and unicodedata.category(c)[0] != "M"}
    return " ".join(folded.translate(dict.fromkeys(map(ord, signs), " ")).split())


class SameText:
    """Whether a text is one of a few, by `normalised`; most others are told by their beginning."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = frozenset(filter(None, map(normalised, texts)))

    def __contains__(self, text: object) -> bool:
        if not isinstance(text, str) or not self._texts:
            return False
        start = text[:_PREFIX]
        if start.isascii():
            # without its last letter: a mark that follows may still change that one
            begins = normalised(start)[:-1]
            if not any(known.startswith(begins) for known in self._texts):
                return False
        return normalised(text) in self._texts


def held_out_queries(names: Sequence[str]) -> dict[str, str]:
    """Normalised text of every test query of these collections → the collection's name.

    names: as `open_collection` knows them, `NAME@SPLIT` for another split than test (dev where a
    collection has no test), or PRESENT. Errors are those of opening a collection: a name that is
    not here is one, because leaving it out in silence would let its queries in.
    """

    texts: dict[str, str] = {}
    for name in names:
        if name == PRESENT:
            # the one that is made on the spot is in no other, and takes longer than all of them
            here = [c.entry.name for c in list_collections() if c.folder is not None]
            opened = [(c, TEST) for c in map(open_collection, here) if TEST in c.splits]
        else:
            base, _, split = name.partition("@")
            collection = open_collection(base)
            opened = [(collection, split or _test_split(collection, name))]
        for collection, split in opened:
            for query in collection.queries(split).values():
                texts.setdefault(normalised(query.text), collection.name)
    texts.pop("", None)
    return texts


def tell_of_tests(collection: Collection, query_ids: Iterable[str], remedy: str) -> None:
    """A warning where queries that are learnt from are judged test queries of their collection.

    remedy: how they are left out.
    """
    if collection.pinned or not collection.has_judgements(TEST):  # pinned: may be a download
        return
    learnt, judged = set(query_ids), collection.judgements(TEST)
    both = [q for q in judged if q in learnt]
    if both:
        warn(
            f"{collection.name}: {len(both):,} of {len(learnt):,} queries to train on are judged "
            f"test queries, such as {both[0]}: what learns from them cannot be tested on them; "
            f"{remedy}"
        )


def _test_split(collection: Collection, name: str) -> str:
    for split in (TEST, "dev"):
        if split in collection.splits:
            return split
    there = ", ".join(collection.splits) or "none"
    raise ConfigError(
        f"exclude: {name} has no test and no dev split (splits: {there}); write NAME@SPLIT"
    )
