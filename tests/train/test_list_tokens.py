"""Lists to tokens: shuffles that keep the meaning, nothing cut, every rejection counted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lists import lists
from tiny_models import llama_tokenizer

from dear.checkpoints.contract import ListwiseContract
from dear.data.formats import write_cot, write_lists
from dear.data.formats.reasoning import CotExample
from dear.errors import ConfigError, DataError
from dear.listwise.encoding import ListEncoder
from dear.records import ListExample
from dear.train.lists import (
    ListTokenizer,
    ListTokens,
    lists_fingerprint,
    load_lists,
    plan,
    reordered,
    row_of,
    shuffled,
    tokenise,
)


def tokenizer(reads: Any = "order", **contract: Any) -> ListTokenizer:
    encoder = ListEncoder(llama_tokenizer(pad_token="<unk>"))
    return ListTokenizer(encoder, ListwiseContract(**contract), reads)


def told_best_first(example: ListExample) -> list[str]:
    return [example.passages[i].id for i in example.order]


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(2, 9))
def test_a_shuffle_moves_passages_and_nothing_else(seed: int, size: int) -> None:
    (example,) = lists(1, size, seed=seed, thought=True)
    mixed = shuffled(example, seed=seed, epoch=1, number=3)
    assert told_best_first(mixed) == told_best_first(example)
    assert sorted(p.id for p in mixed.passages) == sorted(p.id for p in example.passages)
    by_id = dict(zip((p.id for p in example.passages), example.scores or (), strict=True))
    assert mixed.scores == tuple(by_id[p.id] for p in mixed.passages)
    best, worst = mixed.order[0] + 1, mixed.order[-1] + 1
    assert mixed.thought == f"[{best}] names it most, [{worst}] does not."


@given(st.permutations(range(5)))
def test_reordering_back_gives_the_example_back(places: list[int]) -> None:
    (example,) = lists(1, 5, thought=True)
    back = [0] * 5
    for i, place in enumerate(places):
        back[place] = i
    assert reordered(reordered(example, places), back) == example


def test_shuffles_follow_from_seed_epoch_and_number_and_cover_every_order() -> None:
    (example,) = lists(1, 3)
    assert shuffled(example, seed=1, epoch=2, number=3) == shuffled(
        example, seed=1, epoch=2, number=3
    )
    seen = Counter(
        tuple(p.id for p in shuffled(example, seed=1, epoch=e, number=n).passages)
        for e in range(20)
        for n in range(30)
    )
    assert len(seen) == 6
    assert min(seen.values()) > 60  # 100 each, by chance
    for changed in ({"seed": 2}, {"epoch": 5}, {"number": 7}):
        other = [
            shuffled(example, **{"seed": 1, "epoch": e, "number": 0} | changed)  # type: ignore[arg-type]
            for e in range(9)
        ]
        assert other != [shuffled(example, seed=1, epoch=e, number=0) for e in range(9)]


@pytest.mark.parametrize("thought", [False, True])
def test_the_first_identifier_stands_where_it_is_said_to(thought: bool) -> None:
    encode = tokenizer(thought=thought)
    for example in lists(5, 6, thought=True):
        tokens = encode(example)
        assert isinstance(tokens, ListTokens)
        assert tokens.answer[tokens.first] == tokens.named[example.order[0]]
        text = encode.encoder.tokenizer.decode(tokens.answer)
        assert ("<think>" in text) == thought
        assert tokens.answer[-1] == encode.encoder.tokenizer.eos_token_id
        row = row_of(tokens)
        assert row["input_ids"][len(row["input_ids"]) - row["answer"] :] == list(tokens.answer)


def test_without_a_text_loss_nothing_behind_the_first_identifier_is_read() -> None:
    tokens = tokenizer(learnt="first")(lists(1)[0])
    assert isinstance(tokens, ListTokens)
    assert len(tokens.answer) == tokens.first + 1


def test_targets_say_the_order_the_scores_or_the_best() -> None:
    example = dataclasses.replace(lists(1, 3)[0], order=(2, 0, 1), scores=(0.5, -1.0, 9.0))
    found = {reads: tokenizer(reads)(example) for reads in ("order", "scores", "judgements")}
    assert {k: v.targets for k, v in found.items() if isinstance(v, ListTokens)} == {
        "order": (1.0, 0.0, 2.0),
        "scores": (0.5, -1.0, 9.0),
        "judgements": (0.0, 0.0, 1.0),
    }


def test_what_is_rejected_is_counted_and_nothing_is_cut() -> None:
    fine = lists(6, 4)
    long = lists(1, 4, seed=9)[0]
    long = dataclasses.replace(
        long,
        passages=tuple(dataclasses.replace(p, text=p.text + " river" * 60) for p in long.passages),
    )
    wide = lists(1, 7, seed=3)[0]
    encode = tokenizer(max_window=5, max_tokens=300)
    kept, rejected = tokenise([*fine, long, wide], encode, epochs=2, seed=1)
    assert dict(rejected) == {"too long": 1, "too many passages": 1}
    assert [len(epoch) for epoch in kept] == [6, 6]
    assert tokenizer(max_window=5)(long).__class__ is ListTokens  # it was the length
    assert tokenizer(thought=True)(fine[0]) == "no thought"


def test_an_example_that_is_too_long_in_one_order_is_out_of_all_epochs() -> None:
    examples = lists(40, 6)
    encode = tokenizer()
    lengths = [len(t) for e in tokenise(examples, encode, epochs=4, seed=1)[0] for t in e]
    limit = sorted(lengths)[len(lengths) * 3 // 4]
    kept, rejected = tokenise(examples, tokenizer(max_tokens=limit), epochs=4, seed=1)
    assert {len(epoch) for epoch in kept} == {40 - rejected.total()}
    assert all(len(t) <= limit for epoch in kept for t in epoch)


def test_more_than_half_rejected_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"4 of 4 examples are rejected \(4 too long\); raise"):
        tokenise(lists(4), tokenizer(max_tokens=20), epochs=1, seed=None)


def test_identifiers_that_begin_alike_cannot_be_told_apart_at_one_position() -> None:
    encode = tokenizer(prompt="rankvicuna")
    (example,) = lists(1, 12)
    with pytest.raises(ConfigError, match=r"begin with the same token; choose a prompt with let"):
        encode(example)
    assert isinstance(tokenizer(prompt="rankvicuna", learnt="text")(example), ListTokens)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_plan_reads_every_example_once_an_epoch(shuffle: bool) -> None:
    """In another order each time, whether or not the candidates are shuffled."""
    examples = [*lists(6, 5), *lists(6, 3, seed=1)]
    epochs, _ = tokenise(examples, tokenizer(), epochs=3, seed=1 if shuffle else None)
    read = list(plan(epochs, per_step=4, passes=1, seed=1, steps=9))
    parts = [read[start : start + 12] for start in (0, 12, 24)]
    places = []
    for part, epoch in zip(parts, epochs, strict=True):
        assert Counter(part) == Counter(epoch)
        places.append(tuple(epoch.index(tokens) for tokens in part))
    assert len({*places, tuple(range(12))}) == 4
    assert read == list(plan(epochs, per_step=4, passes=1, seed=1, steps=9))
    other = list(plan(epochs, per_step=4, passes=1, seed=2, steps=9))
    assert other[:12] != read[:12]
    assert Counter(other[:12]) == Counter(read[:12])
    # steps end it, in the middle of an epoch too
    assert list(plan(epochs, per_step=4, passes=1, seed=1, steps=4)) == read[:16]


def test_lists_of_like_length_go_through_together() -> None:
    """Sorted within a step that is read in several passes; what a step reads stays the same."""
    epochs, _ = tokenise([*lists(6, 5), *lists(5, 3, seed=1)], tokenizer(), epochs=2, seed=1)
    plain = list(plan(epochs, per_step=4, passes=1, seed=1, steps=6))
    sorted_ = list(plan(epochs, per_step=4, passes=2, seed=1, steps=6))
    assert len(plain) == 22  # the last step is short
    for start in range(0, 22, 4):
        step = sorted_[start : start + 4]
        assert step == sorted(plain[start : start + 4], key=len)
    assert plain != sorted_


def test_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    write_lists(tmp_path / "a.jsonl", lists(2))
    write_lists(tmp_path / "reason" / "examples.jsonl", lists(3, seed=1))
    found = load_lists([str(tmp_path / "a.jsonl"), str(tmp_path / "reason")])
    assert found == [*lists(2), *lists(3, seed=1)]
    assert lists_fingerprint(found) != lists_fingerprint(found[::-1])


def test_rows_of_another_kind_are_named(tmp_path: Path) -> None:
    write_cot(tmp_path / "cot.jsonl", [CotExample(instruction="rank", output="[1] > [2]")])
    with pytest.raises(DataError, match=r"cot.jsonl:1: DeAR-COT rows; make them lists with `dear"):
        load_lists([str(tmp_path / "cot.jsonl")])
    with pytest.raises(DataError, match="no such file"):
        load_lists([str(tmp_path / "none.jsonl")])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        load_lists([str(tmp_path / "empty.jsonl")])
    with pytest.raises(DataError, match="nothing to train on"):
        load_lists([])


def test_short_lists_come_first_in_each_epoch_and_nothing_is_lost() -> None:
    examples = [*lists(6, 5), *lists(6, 2, seed=1), *lists(6, 3, seed=2)]
    epochs, _ = tokenise(examples, tokenizer(), epochs=2, seed=1)
    made = {
        short: list(plan(epochs, per_step=6, passes=1, seed=1, steps=6, short_first=short))
        for short in (False, True)
    }
    sizes = [len(t.named) for t in made[True]]
    assert sizes == [2] * 6 + [3] * 6 + [5] * 6 + [2] * 6 + [3] * 6 + [5] * 6
    assert [len(t.named) for t in made[False]] != sizes
    for epoch in (slice(0, 18), slice(18, 36)):
        assert set(made[True][epoch]) == set(made[False][epoch])
