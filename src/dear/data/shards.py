"""Work cut by content: which queries are whose, whatever the order of files.

The 64-bit keys of query ids are cut into equal ranges, the leaves, so many that one has LEAF_PAIRS
at most in the mean. A shard of N is a run of leaves. A leaf is worked on alone, and its pairs stand
in an order of their own: what it comes to does not depend on how many shards there are, nor on
what was done before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dear.data.id_keys import id_keys
from dear.digests import Inputs
from dear.errors import ConfigError

LEAF_PAIRS = 4096
"""Pairs of a leaf at most, in the mean: one file of a label store, and what a killed job may have
to do again."""

LEAST_LEAVES = 64
"""Of a small job, so that it can be cut, too: at most so many shards."""

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` (from 0) of `of`."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of `I/N`. ConfigError: something else, or I is not below N."""
        found = _SHARD.fullmatch(text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if shard.index >= shard.of:
            raise ConfigError(f"--shard {text}: expected I/N, shard I of N, such as 0/4 to 3/4")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one process, or several after a merge, have of a job.

    shards: which of `of`, rising.  leaves: of the whole job, a power of two.  pairs: of the shards.
    inputs: what the job is made from; equal for all of its shards.
    """

    shards: tuple[int, ...]
    of: int
    leaves: int
    pairs: int
    inputs: Inputs

    @classmethod
    def plan(cls, shard: Shard, pairs: int, inputs: Inputs) -> Share:
        """pairs: about so many in the whole job, the same number for all shards; how many the share
        has is not known yet.  ConfigError: more shards than leaves."""
        leaves = LEAST_LEAVES
        while leaves * LEAF_PAIRS < pairs:
            leaves *= 2
        if shard.of > leaves:
            raise ConfigError(
                f"--shard {shard}: {pairs:,} pairs are cut into {leaves} shards at most"
            )
        return cls(shards=(shard.index,), of=shard.of, leaves=leaves, pairs=0, inputs=inputs)

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Share:
        """What `to_dict` gave. TypeError, ValueError, KeyError: something else."""
        shards = tuple(map(int, values["shards"]))
        of, leaves, pairs = (int(values[key]) for key in ("of", "leaves", "pairs"))
        rising = shards and shards == tuple(sorted(set(shards)))
        if not rising or not 0 <= shards[0] <= shards[-1] < of <= leaves or leaves & (leaves - 1):
            raise ValueError(f"shards {list(shards)[:9]} of {of}, {leaves} leaves")
        inputs = Inputs.from_dict(values["inputs"])
        return cls(shards=shards, of=of, leaves=leaves, pairs=pairs, inputs=inputs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "shards": list(self.shards),
            "of": self.of,
            "leaves": self.leaves,
            "pairs": self.pairs,
            "inputs": self.inputs.to_dict(),
        }

    @property
    def numbers(self) -> tuple[Any, ...]:
        """All but the inputs."""
        return self.shards, self.of, self.leaves, self.pairs

    @property
    def missing(self) -> list[int]:
        return sorted(set(range(self.of)) - set(self.shards))

    def __str__(self) -> str:
        """`shard 1 of 3`, `shards 0, 2 of 3`."""
        numbers = ", ".join(map(str, self.shards))
        return f"shard{'s' if len(self.shards) > 1 else ''} {numbers} of {self.of}"

    def joined(self, others: Sequence[Share]) -> Share:
        """With the shards of others of this job; whole ones are shard 0 of 1, as if they had never
        been cut."""
        shards = sorted(s for one in (self, *others) for s in one.shards)
        joined = replace(self, pairs=sum(one.pairs for one in (self, *others)))
        if shards == list(range(self.of)):
            return replace(joined, shards=(0,), of=1)
        return replace(joined, shards=tuple(shards))

    def has_leaf(self, leaf: int) -> bool:
        # the shard whose range leaf is in: the last one that begins at or before it
        return ((leaf + 1) * self.of - 1) // self.leaves in self.shards

    def leaf_of(self, query_id: str) -> int:
        return int(self.leaves_of([query_id])[0])

    def leaves_of(self, query_ids: Iterable[str]) -> NDArray[np.int64]:
        """int64 (n,): the leaf of each query."""
        ids = list(query_ids)
        keys = id_keys(ids) if ids else np.empty(0, dtype=np.uint64)
        # a shift by 64 bits is undefined, and there are 64 leaves or more
        return (keys >> np.uint64(65 - self.leaves.bit_length())).astype(np.int64)

    def owner(self) -> Callable[[str], bool]:
        """Whether a query is in the share; quick for lines that are sorted by query."""

        @lru_cache(maxsize=4096)
        def owns(query_id: str) -> bool:
            return self.has_leaf(self.leaf_of(query_id))

        return owns

    def by_leaf(self, items: Iterable[T], query_id: Callable[[T], str]) -> dict[int, list[T]]:
        """Leaf → its items, in the order of their queries' keys and then as they came; those of
        other shards are left out."""
        held = list(items)
        ids = [query_id(item) for item in held]
        different = list(dict.fromkeys(ids))
        if not different:
            return {}
        keys = dict(zip(different, id_keys(different).tolist(), strict=True))
        leaves = dict(zip(different, self.leaves_of(different).tolist(), strict=True))
        found: dict[int, list[T]] = {}
        for i in sorted(range(len(held)), key=lambda i: (keys[ids[i]], ids[i])):
            if self.has_leaf(leaf := leaves[ids[i]]):
                found.setdefault(leaf, []).append(held[i])
        return found
