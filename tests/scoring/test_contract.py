"""The contract: what makes it another one, what it refuses, and that it survives the disk."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.checkpoints.contract import CARD, CONTRACT_FILE, CONTRACTS, DEAR, ScoringContract
from dear.errors import ConfigError, ContractMismatch, DataError

OTHER: dict[str, Any] = {
    "prompt": "plain",
    "max_query_tokens": 33,
    "max_passage_tokens": 197,
    "add_special_tokens": False,
    "append_eos": True,
    "pooling": "model",
    "padding_side": "left",
    "dtype": "bfloat16",
    "query_prefix": "query: ",
}


@st.composite
def contracts(draw: st.DrawFn) -> ScoringContract:
    limits = st.integers(1, 9999)
    if draw(st.booleans()):
        cut: dict[str, Any] = {"truncation": "pair", "max_tokens": draw(limits)}
    else:
        cut = {
            "truncation": "separate",
            "max_query_tokens": draw(limits),
            "max_passage_tokens": draw(limits),
        }
    return ScoringContract(
        name=draw(st.text(max_size=5)),
        prompt=draw(st.sampled_from(["dear", "plain"])),
        add_special_tokens=draw(st.booleans()),
        append_eos=draw(st.booleans()),
        pooling=draw(st.sampled_from(["mask", "model"])),
        padding_side=draw(st.sampled_from(["left", "right"])),
        dtype=draw(st.sampled_from(["auto", "float32", "bfloat16", "float16"])),
        **cut,
    )


@given(contract=contracts())
def test_a_dict_and_back_is_the_same(contract: ScoringContract) -> None:
    assert ScoringContract.from_dict(contract.to_dict()) == contract


@given(a=contracts(), b=contracts())
def test_fingerprint_differences_and_require_agree(a: ScoringContract, b: ScoringContract) -> None:
    same = replace(a, name="") == replace(b, name="")
    assert (a.fingerprint == b.fingerprint) == same
    assert (a.differences(b) == []) == same
    if same:
        a.require(b, what="here")
    else:
        with pytest.raises(ContractMismatch, match=r"^here") as caught:
            a.require(b, what="here")
        assert all(difference in str(caught.value) for difference in a.differences(b))


@pytest.mark.parametrize("field", sorted(OTHER))
def test_every_field_changes_the_fingerprint(field: str) -> None:
    changed = replace(DEAR, **{field: OTHER[field]})
    assert changed.fingerprint != DEAR.fingerprint
    with pytest.raises(ContractMismatch, match=f"^where: .* {field}: ") as caught:
        DEAR.require(changed, what="where")
    assert caught.value.args[0].count(" not ") == 1
    DEAR.require(changed, what="where", ignore=(field,))


def test_no_field_is_forgotten() -> None:
    limits = {"truncation", "max_tokens"}  # they change together, in the test below
    # of a language model's template, which changes as a whole
    whole = {"template", "instruction", "instruction_format", "yes", "no"}
    names = {f.name for f in fields(ScoringContract)}
    assert names == {*OTHER, *limits, *whole, "name", "activation"}


@pytest.mark.parametrize("field", ["template", "instruction", "instruction_format", "yes", "no"])
def test_every_part_of_a_template_changes_the_fingerprint(field: str) -> None:
    asked = CONTRACTS["qwen3-reranker"]
    value = ("{instruction}{passage}{query}",) if field == "template" else "{instruction} other"
    changed = replace(asked, **{field: value})
    assert changed.fingerprint != asked.fingerprint
    with pytest.raises(ContractMismatch, match=f"^where: .* {field}: "):
        asked.require(changed, what="where")


def test_truncation_and_max_tokens_change_the_fingerprint() -> None:
    found = {CARD.fingerprint, DEAR.fingerprint, replace(CARD, max_tokens=511).fingerprint}
    assert len(found) == 3


def test_a_name_is_no_difference() -> None:
    assert replace(CARD, name="mine").fingerprint == CARD.fingerprint
    CARD.require(replace(CARD, name="mine"), what="here")


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_written_and_read_is_the_same(contract: ScoringContract, tmp_path: Path) -> None:
    assert ScoringContract.load(tmp_path) is None
    contract.save(tmp_path)
    assert ScoringContract.load(tmp_path) == contract


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_token": 512}, "unknown key 'max_token'; did you mean 'max_tokens'"),
        ({"prompt": "daer"}, "no prompt 'daer'; did you mean 'dear'"),
        ({"prompt": 3}, "no prompt 3"),
        ({"truncation": "right"}, "truncation must be one of pair, separate, not 'right'"),
        ({"pooling": "cls"}, "pooling must be one of mask, model"),
        ({"padding_side": "both"}, "padding_side must be one of right, left"),
        ({"dtype": "int2"}, "dtype must be one of auto, float32"),
        ({"append_eos": "yes"}, "append_eos must be true or false"),
        ({"add_special_tokens": 1}, "add_special_tokens must be true or false"),
        ({"max_tokens": "512"}, "needs max_tokens >= 1, not '512'"),
        ({"max_tokens": True}, "needs max_tokens >= 1, not True"),
        ({"max_tokens": 0}, "needs max_tokens >= 1, not 0"),
        ({"max_tokens": None}, "needs max_tokens >= 1, not None"),
        ({"max_query_tokens": 32}, "max_query_tokens means nothing under 'pair'"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    import json

    with pytest.raises(ConfigError, match=says.replace("?", ".")):
        ScoringContract.from_dict(CARD.to_dict() | change)
    # and the file that says so, too
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(CARD.to_dict() | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{CONTRACT_FILE}: contract: "):
        ScoringContract.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '"card"', "\xff"])
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=CONTRACT_FILE):
        ScoringContract.load(tmp_path)
