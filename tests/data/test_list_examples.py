"""Rows of listwise examples: write then read gives the same; what is wrong is named."""

from __future__ import annotations

import json

import pytest

from dear.checkpoints.contract import LISTWISE_FILE, ListwiseContract
from dear.data.formats import read_lists, write_lists
from dear.errors import DataError
from dear.records import ListExample, Passage, Query

PASSAGES = tuple(Passage(id=i, text=f"text {i}", title="T" * (i == "b")) for i in "abc")
EXAMPLE = ListExample(
    query=Query(id="q1", text="what?"),
    passages=PASSAGES,
    order=(2, 0, 1),
    thought="[3] says it.",
    scores=(0.5, -1.25, 2.0),
    source="extractive:teacher",
)


def test_write_then_read(tmp_path):
    plain = ListExample(query=EXAMPLE.query, passages=PASSAGES, order=(0, 1, 2))
    write_lists(tmp_path / "x.jsonl.gz", [EXAMPLE, plain])
    assert list(read_lists(tmp_path / "x.jsonl.gz")) == [EXAMPLE, plain]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"order": ["c", "a"]}, "no permutation of 3"),
        ({"order": ["c", "a", "a"]}, "no permutation of 3"),
        ({"order": ["c", "a", "x"]}, "no permutation of 3"),
        ({"scores": [1.0]}, "1 numbers for 3 passages"),
        ({"passages": [{"id": "a", "text": "x"}], "order": ["a"]}, "two passages or more"),
        ({"query": " "}, "'query' is empty"),
        ({"passages": [{"id": "a", "text": "x"}] * 2, "order": ["a", "a"]}, "in the list twice"),
    ],
)
def test_broken_rows_name_their_place(tmp_path, change, problem):
    path = tmp_path / "x.jsonl"
    write_lists(path, [EXAMPLE])
    row = json.loads(path.read_text()) | change
    if "passages" in change:
        row.pop("scores")
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=problem) as caught:
        list(read_lists(path))
    assert str(caught.value).startswith(f"{path}:1: ")


def test_the_contract_is_kept_beside_the_adapter(tmp_path):
    contract = ListwiseContract(max_words=60, max_window=10, learnt="first")
    contract.save(tmp_path)
    assert ListwiseContract.load(tmp_path) == contract
    assert contract.template.max_words == 60
    assert contract.template.identifiers == "letters"
    (tmp_path / LISTWISE_FILE).write_text('{"prompt": "lisst"}')
    with pytest.raises(DataError, match="lisst"):
        ListwiseContract.load(tmp_path)
    (tmp_path / LISTWISE_FILE).write_text('{"promt": "list"}')
    with pytest.raises(DataError, match="promt"):
        ListwiseContract.load(tmp_path)
