"""What people pass in Python works, or is refused in one clear error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import checkpoint

from dear import Candidates, Passage, Query, Reranker
from dear.errors import DataError, DearError
from dear.rank.arguments import UnknownArgument

QUERY = "what does the panda eat"
TEXTS = ["the panda eats bamboo", "the otter eats fish", "the cow eats grass and sleeps"]


@dataclass
class LangChainDocument:
    page_content: str
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    return Reranker(checkpoint(tmp_path_factory.mktemp("model") / "bert", "bert"), dtype="float32")


def column(texts: list[str]) -> Any:
    return pytest.importorskip("pandas").Series(texts, index=["a", "b", "c"])


SHAPES: dict[str, Callable[[list[str]], Iterable[Any]]] = {
    "tuple": tuple,
    "generator": lambda texts: (t for t in texts),
    "map": lambda texts: map(str, texts),
    "keys": dict.fromkeys,
    "NumPy": np.array,
    "NumPy objects": lambda texts: np.array(texts, dtype=object),
    "pandas": column,
    "pandas values": lambda texts: column(texts).values,
    "dicts": lambda texts: [{"text": t} for t in texts],
    "LangChain": lambda texts: [LangChainDocument(t) for t in texts],
    "LlamaIndex": lambda texts: [SimpleNamespace(text=t, score=None) for t in texts],
    "Haystack": lambda texts: [SimpleNamespace(content=t, meta={}) for t in texts],
    "mixed": lambda texts: [texts[0], {"text": texts[1]}, LangChainDocument(texts[2])],
}


@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"keys"}))
def test_every_shape_of_a_list_ranks_as_a_list_does(reranker: Reranker, shape: str) -> None:
    expected = reranker.rank(QUERY, TEXTS)
    assert len(expected) == 3
    assert reranker.rank(QUERY, SHAPES[shape](TEXTS)) == expected
    pairs = reranker.score([(QUERY, t) for t in TEXTS])
    given = SHAPES[shape](TEXTS)
    assert (reranker.score((QUERY, t) for t in given) == pairs).all()
    assert (reranker.score(np.array([[QUERY, t] for t in TEXTS])) == pairs).all()  # type: ignore[arg-type]


def test_ids_are_those_that_passages_bring(reranker: Reranker) -> None:
    given = [
        {"_id": "d1", "title": "Panda", "text": TEXTS[0]},
        {"docid": 7, "content": TEXTS[1]},
        LangChainDocument(TEXTS[2], id="doc"),
        LangChainDocument(TEXTS[2]),
        TEXTS[0],
    ]
    ranking = reranker.rank(QUERY, given)
    assert sorted(ranking.passage_ids) == ["3", "4", "7", "d1", "doc"]
    score = dict(zip(ranking.passage_ids, ranking.scores, strict=True))
    titled = Passage(id="d1", title="Panda", text=TEXTS[0])
    assert score["d1"] == pytest.approx(float(reranker.score([(QUERY, titled)])[0]), abs=1e-5)
    assert abs(score["d1"] - score["4"]) > 1e-3
    assert score["doc"] == pytest.approx(score["3"], abs=1e-5)


@pytest.mark.parametrize("bad", [None, float("nan"), np.nan, 3, b"panda", ["panda"], object()])
def test_what_is_no_text_is_named_with_its_position(reranker: Reranker, bad: object) -> None:
    with pytest.raises(DataError, match=r"^passage 1 is ") as caught:
        reranker.rank(QUERY, [TEXTS[0], bad])  # type: ignore[list-item]
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"^the passage of pair 1 is "):
        reranker.score([(QUERY, TEXTS[0]), (QUERY, bad)])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"^the query of pair 0 is "):
        reranker.score([(bad, TEXTS[0])])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"^the query is "):
        reranker.rank(bad, TEXTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ("panda", "passages is one str; give a list"),
        (b"panda", "passages is one bytes; give a list"),
        ({"text": "panda"}, "passages is a dict; give a list"),
        (None, "passages is None; give a list"),
        (3, "passages is of type int; give a list"),
        ([{"body": "panda"}], "passage 0 has none of the keys text, .*; its keys: body"),
        ([{"text": None}], "passage 0 has none of the keys text"),
        ([{"text": 3}], "text of passage 0 is of type int"),
        (["a", "b\ud800c"], r"passage 1 holds half a character \(lone surrogate\) at position 1"),
        ([{"text": "\udfff"}], "text of passage 0 holds half a character"),
    ],
)
def test_what_cannot_be_passages_is_refused_in_one_line(
    reranker: Reranker, passages: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        reranker.rank(QUERY, passages)


def test_a_table_is_no_column(reranker: Reranker) -> None:
    table = pytest.importorskip("pandas").DataFrame({"text": TEXTS, "id": ["a", "b", "c"]})
    with pytest.raises(DataError, match="passages is a table; give a column"):
        reranker.rank(QUERY, table)
    assert len(reranker.rank(QUERY, table["text"])) == 3
    table.loc[1, "text"] = None
    with pytest.raises(DataError, match="passage 1 is "):
        reranker.rank(QUERY, table["text"])
    rows = table.dropna().to_dict("records")
    assert sorted(reranker.rank(QUERY, rows).passage_ids) == ["a", "c"]


@pytest.mark.parametrize(
    "pairs", [["query passage"], [("query",)], [("q", "p", "3")], [3], [{"q": "p"}]]
)
def test_what_is_no_pair_is_refused(reranker: Reranker, pairs: Any) -> None:
    with pytest.raises(DataError, match=r"pair 0: expected \(query, passage\), got "):
        reranker.score(pairs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.rank(QUERY, documents=TEXTS), "Reranker.rank: .* here it is passages"),
        (lambda r: r.rank(QUERY, TEXTS, top_n=1), "here it is top_k"),
        (lambda r: r.rank(QUERY, TEXTS, topk=1), "did you mean 'top_k'"),
        (lambda r: r.score([], batch_size=8), "here it is batch_tokens of Reranker"),
        (lambda r: r.score([], activation_fn=None), r"here it is predict\(...\)"),
        (lambda r: Reranker("x", max_length=512), "Reranker: .* here it is contract"),
        (lambda r: Reranker("x", trust_remote_code=True), "is never run"),
        (lambda r: Reranker(model_name="x"), "here it is model"),
    ],
)
def test_an_argument_of_another_library_names_ours(
    reranker: Reranker, call: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(UnknownArgument, match=message) as caught:
        call(reranker)
    # what a wrong argument raises everywhere else, and what `except DearError` catches
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, DearError)


def test_candidates_may_come_from_a_generator(reranker: Reranker) -> None:

    found = [
        Candidates(
            query=Query(id=f"q{i}", text=QUERY),
            passages=tuple(Passage(id=str(n), text=t) for n, t in enumerate(TEXTS)),
            scores=(3.0, 2.0, 1.0),
        )
        for i in range(2)
    ]
    assert list(reranker.rank_candidates(c for c in found)) == list(reranker.rank_candidates(found))


def test_the_wrapped_signatures_are_kept() -> None:

    assert list(inspect.signature(Reranker.rank).parameters) == [
        "self",
        "query",
        "passages",
        "top_k",
        "deadline",
        "cancel",
    ]
