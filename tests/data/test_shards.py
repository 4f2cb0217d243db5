"""Work is cut by query ids: every query in one leaf, every leaf in one shard."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.data.shards import LEAF_PAIRS, LEAST_LEAVES, Shard, Share
from dear.digests import Input, Inputs
from dear.errors import ConfigError

INPUTS = Inputs({"run": Input("a")})


def share(index: int, of: int, pairs: int = 0) -> Share:
    return Share.plan(Shard(index, of), pairs, INPUTS)


@settings(max_examples=25)
@given(of=st.integers(1, LEAST_LEAVES), ids=st.lists(st.text(), max_size=30))
def test_every_query_is_of_one_shard_and_leaves_are_those_of_the_whole(
    of: int, ids: list[str]
) -> None:
    whole = share(0, 1).by_leaf(ids, str)
    assert sorted(i for leaf in whole.values() for i in leaf) == sorted(ids)
    parts = [share(index, of) for index in range(of)]
    joined = {leaf: items for part in parts for leaf, items in part.by_leaf(ids, str).items()}
    assert list(joined.items()) == list(whole.items())
    assert sum(len(part.by_leaf(ids, str)) for part in parts) == len(whole)
    for part in parts:
        mine = {i for leaf in part.by_leaf(ids, str).values() for i in leaf}
        assert {i for i in ids if part.owner()(i)} == mine
    # in whatever order they come
    assert [set(v) for v in share(0, 1).by_leaf(ids[::-1], str).values()] == [
        set(v) for v in whole.values()
    ]


def test_shards_are_about_equal() -> None:
    ids = [str(i) for i in range(30_000)]
    sizes = [sum(map(len, share(i, 3).by_leaf(ids, str).values())) for i in range(3)]
    assert max(sizes) < 1.1 * min(sizes)


def test_a_large_job_has_leaves_of_a_few_thousand_pairs() -> None:
    assert share(0, 1, 100).leaves == LEAST_LEAVES
    for pairs in (10**6, 10**8, 3 * 10**8):
        leaves = share(0, 4, pairs).leaves
        assert LEAF_PAIRS / 2 < pairs / leaves <= LEAF_PAIRS
        assert leaves & (leaves - 1) == 0


@pytest.mark.parametrize("text", ["", "3", "1/0", "3/3", "-1/2", "1/2/3", "a/b", "0x1/2", "1 /2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected I/N"):
        Shard.parse(text)


def test_more_shards_than_leaves_are_refused() -> None:
    with pytest.raises(ConfigError, match="100 pairs are cut into 64 shards at most"):
        share(0, 65, 100)


def test_what_is_joined_says_what_it_has() -> None:
    parts = [replace(share(i, 3), pairs=i + 1) for i in range(3)]
    some = parts[2].joined([parts[0]])
    assert (str(some), some.pairs, some.missing) == ("shards 0, 2 of 3", 4, [1])
    assert Share.of_dict(some.to_dict()) == some
    assert some.joined([parts[1]]) == replace(share(0, 1), pairs=6)


@pytest.mark.parametrize(
    "change",
    [{"shards": []}, {"shards": [1, 0]}, {"shards": [3]}, {"leaves": 2}, {"leaves": 96},
     {"of": "x"}],
)  # fmt: skip
def test_a_note_that_can_not_be_true_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Share.of_dict(share(0, 3).to_dict() | change)
