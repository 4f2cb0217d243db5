"""Each dialect, exact to the field, from one real server and a real model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import Served, running

from dear.rank.reranker import Reranker
from dear.serve.dialects.table import DIALECTS, SHARED
from dear.serve.options import DIALECT_NAMES

QUERY = "What eats krill?"
DOCUMENTS = ["Grass is green.", "Whales eat krill.", "Krill are small.", "Whales eat krill."]
ORDER = [1, 3, 2, 0]
MODEL = "biencoder:minilm-l6"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(models=(MODEL,), dtype="float32") as found:
        yield found


@pytest.fixture(scope="module")
def expected() -> dict[int, float]:
    """Position → (1 + cosine) / 2."""
    ranking = Reranker(MODEL, dtype="float32").rank(QUERY, DOCUMENTS)
    assert ranking.positions == tuple(ORDER)
    return {
        at: (1 + score) / 2 for at, score in zip(ranking.positions, ranking.scores, strict=True)
    }


TEXT = {"text": "*"}
USAGE = {"prompt_tokens": 0, "total_tokens": 0}

# dialect, path, body beside query and documents → the answer, and a row of it; 0 and * stand for
# numbers and texts
SHAPES: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    (
        "/cohere/v2/rerank",
        {"model": "rerank-v3.5", "max_tokens_per_doc": 4096, "priority": 0},
        {
            "id": "*",
            "results": [],
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": 0, "output_tokens": 0},
            },
        },
        {"index": 0, "relevance_score": 0},
    ),
    (
        "/cohere/v1/rerank",
        {"return_documents": True},
        {
            "id": "*",
            "results": [],
            "meta": {
                "api_version": {"version": "1"},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": 0, "output_tokens": 0},
            },
        },
        {"index": 0, "relevance_score": 0, "document": TEXT},
    ),
    (
        "/jina/v1/rerank",
        {"model": "jina-reranker-v2-base-multilingual"},
        {"model": "*", "object": "list", "usage": {"total_tokens": 0}, "results": []},
        {"index": 0, "relevance_score": 0, "document": TEXT},
    ),
    (
        "/jina/v1/rerank",
        {"return_documents": False},
        {"model": "*", "object": "list", "usage": {"total_tokens": 0}, "results": []},
        {"index": 0, "relevance_score": 0},
    ),
    ("/tei/rerank", {}, [], {"index": 0, "score": 0}),
    (
        "/tei/rerank",
        {"return_text": True, "truncate": None, "truncation_direction": "Left"},
        [],
        {"index": 0, "score": 0, "text": "*"},
    ),
    *(
        (
            f"/vllm{path}",
            {"top_n": 0},
            {"id": "*", "model": "*", "usage": {**USAGE, "completion_tokens": 0}, "results": []},
            {"index": 0, "document": TEXT, "relevance_score": 0},
        )
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ),
    (
        "/voyage/v1/rerank",
        {"return_documents": True, "truncation": True},
        {"object": "list", "data": [], "model": "*", "usage": {"total_tokens": 0}},
        {"index": 0, "relevance_score": 0, "document": "*"},
    ),
    (
        "/infinity/rerank",
        {"return_documents": True},
        {
            "object": "rerank",
            "results": [],
            "model": "*",
            "usage": USAGE,
            "id": "*",
            "created": 0,
        },
        {"index": 0, "relevance_score": 0, "document": "*"},
    ),
    (
        "/dear/rerank",
        {"return_documents": True},
        {
            "model": "*",
            "scale": "cosine",
            "contract": "*",
            "complete": True,
            "scored": 4,
            "left_out": 0,
            "seconds": 0,
            "usage": {"tokens": 0},
            "results": [],
        },
        {"index": 0, "score": 0, "raw": 0, "text": "*", "tokens": 0, "cut": False},
    ),
]


def alike(found: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        return found.keys() == shape.keys() and all(alike(found[k], shape[k]) for k in shape)
    if shape == "*":
        return isinstance(found, str) and bool(found)
    if shape == 0 and not isinstance(shape, bool):
        return isinstance(found, int | float) and not isinstance(found, bool)
    return shape == [] or bool(found == shape)


def rows_of(body: Any) -> list[dict[str, Any]]:
    if isinstance(body, list):
        return body
    return next(body[key] for key in ("results", "data", "scores") if key in body)


@pytest.mark.parametrize(("path", "extra", "shape", "row"), SHAPES)
def test_a_dialect_to_the_field(
    path: str,
    extra: dict[str, Any],
    shape: Any,
    row: dict[str, Any],
    served: Served,
    expected: dict[int, float],
) -> None:
    texts = "texts" if path.startswith("/tei") else "documents"
    found = served.ask(path, {"query": QUERY, texts: DOCUMENTS, **extra})
    assert found.status == 200, found.body
    assert alike(found.json, shape), found.json
    rows = rows_of(found.json)
    assert all(alike(one, row) for one in rows), rows
    assert [one["index"] for one in rows] == ORDER
    for one in rows:
        score = one.get("relevance_score", one.get("score"))
        assert score == pytest.approx(expected[one["index"]], abs=1e-5)
        text = one.get("text") or one.get("document")
        if text is not None:
            assert text in (DOCUMENTS[one["index"]], {"text": DOCUMENTS[one["index"]]})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/cohere/v2/rerank", {"top_n": 2}),
        ("/jina/v1/rerank", {"top_n": 2}),
        ("/tei/rerank", {"top_n": 2}),
        ("/vllm/rerank", {"top_n": 2}),
        ("/voyage/v1/rerank", {"top_k": 2}),
        ("/infinity/rerank", {"top_n": 2}),
        ("/dear/rerank", {"top_n": 2}),
    ],
)
def test_the_best_so_many(path: str, body: dict[str, Any], served: Served) -> None:
    texts = "texts" if path.startswith("/tei") else "documents"
    found = served.ask(path, {"query": QUERY, texts: DOCUMENTS, **body})
    assert [one["index"] for one in rows_of(found.json)] == ORDER[:2]
    more = dict.fromkeys(body, 99)
    assert len(rows_of(served.ask(path, {"query": QUERY, texts: DOCUMENTS, **more}).json)) == 4


def test_weaviate_reads_scores_by_position(served: Served, expected: dict[int, float]) -> None:
    body = served.ask("/weaviate/rerank", {"query": QUERY, "documents": DOCUMENTS}).json
    assert body.keys() == {"query", "scores"}
    assert [one["document"] for one in body["scores"]] == DOCUMENTS
    for at, one in enumerate(body["scores"]):
        assert one["score"] == pytest.approx(expected[at], abs=1e-5)
    assert served.ask("/.well-known/ready").status == 204
    assert served.ask("/meta").json["model"]["id"] == MODEL


@pytest.mark.parametrize(
    "sides",
    [
        {"text_1": QUERY, "text_2": DOCUMENTS},
        {"data_1": QUERY, "data_2": DOCUMENTS},
        {"queries": [QUERY], "documents": DOCUMENTS},
        {"queries": QUERY, "items": DOCUMENTS},
        {"text_1": [QUERY] * 4, "text_2": [{"text": text} for text in DOCUMENTS]},
    ],
)
def test_scores_of_pairs(sides: Any, served: Served, expected: dict[int, float]) -> None:
    for path in ("/vllm/score", "/vllm/v1/score", "/score", "/v1/score"):
        body = served.ask(path, sides).json
        assert body.keys() == {"id", "object", "created", "model", "data", "usage"}
        assert [one["index"] for one in body["data"]] == [0, 1, 2, 3]
        for one in body["data"]:
            assert one.keys() == {"index", "object", "score"}
            assert one["score"] == pytest.approx(expected[one["index"]], abs=1e-5)


def test_raw_scores_are_the_models_own(served: Served, expected: dict[int, float]) -> None:
    for path, body in (
        ("/tei/rerank", {"texts": DOCUMENTS, "raw_scores": True}),
        ("/infinity/rerank", {"documents": DOCUMENTS, "raw_scores": True}),
        ("/vllm/rerank", {"documents": DOCUMENTS, "use_activation": False}),
        ("/dear/rerank", {"documents": DOCUMENTS, "raw_scores": True}),
    ):
        found = served.ask(path, {"query": QUERY, **body})
        for one in rows_of(found.json):
            score = one.get("relevance_score", one.get("score"))
            assert (1 + score) / 2 == pytest.approx(expected[one["index"]], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "row"),
    [
        ("/rerank", {"texts": DOCUMENTS}, {"index", "score"}),
        ("/rerank", {"documents": DOCUMENTS, "property": None}, {"document", "score"}),
        ("/rerank", {"documents": DOCUMENTS, "top_k": 3}, {"index", "relevance_score"}),
        ("/v1/rerank", {"documents": DOCUMENTS, "truncation": True}, {"index", "relevance_score"}),
        ("/v2/rerank", {"documents": DOCUMENTS}, {"index", "relevance_score"}),
        ("/rerank", {"documents": DOCUMENTS}, {"index", "relevance_score", "document"}),
        ("/v1/rerank", {"documents": DOCUMENTS}, {"index", "relevance_score", "document"}),
    ],
)
def test_a_shared_path_speaks_by_its_table(
    path: str, body: dict[str, Any], row: set[str], served: Served
) -> None:
    found = served.ask(path, {"query": QUERY, **body}).json
    assert rows_of(found)[0].keys() == row


def test_the_table_is_told(served: Served) -> None:
    info = served.ask("/info").json
    assert info["shared_paths"]["default"] == "jina"
    assert info["dialects"].keys() == DIALECTS.keys() == set(DIALECT_NAMES)
    assert info["models"][0]["scale"] == "cosine"
    assert info["max_client_batch_size"] == 1000
    assert [one["id"] for one in served.ask("/v1/models").json["data"]] == [MODEL]


def test_another_default(served: Served) -> None:
    with running(served.server_with(default="infinity")) as other:
        body = other.ask("/rerank", {"query": QUERY, "documents": DOCUMENTS}).json
        assert body["object"] == "rerank"


MESSAGES = {
    "cohere": lambda body: body["message"],
    "jina": lambda body: body["detail"],
    "tei": lambda body: body["error"],
    "vllm": lambda body: body["error"]["message"],
    "voyage": lambda body: body["detail"],
    "infinity": lambda body: body["error"]["message"],
    "weaviate": lambda body: body["error"],
    "dear": lambda body: body["error"]["message"],
}


@pytest.mark.parametrize("name", DIALECT_NAMES)
def test_errors_are_the_dialects_own(name: str, served: Served) -> None:
    dialect, message = DIALECTS[name], MESSAGES[name]
    path = f"/{name}{dialect.endpoints[0].path}"
    texts = "texts" if name == "tei" else "documents"
    cases: list[tuple[Any, Any, str]] = [
        (b"{", "malformed", "no JSON"),
        (b"\xff{}", "malformed", "no JSON"),
        ({"query": QUERY, texts: []}, "empty", texts),
        ({"query": QUERY}, "invalid", texts),
        ({"query": QUERY, texts: [1.5]}, "invalid", texts),
        ({"query": QUERY, texts: ["x"] * 1001}, "too many documents", "1001 documents"),
        ([], "invalid", "object"),
    ]
    for body, problem, text in cases:
        found = served.ask(path, body)
        assert found.status == dialect.status(problem), (body, found.body)
        assert text in message(found.json)
        assert found.headers["x-dear-problem"] == problem.replace(" ", "-")
    assert served.ask(path).status == 405


def test_errors_of_nobodys_dialect_are_what_any_client_reads(served: Served) -> None:
    for path, body in (("/rerank", b"{"), ("/nowhere", {"query": "x"})):
        found = served.ask(path, body)
        assert found.status in (400, 404)
        assert found.json["message"] == found.json["detail"] == found.json["error"]["message"]


def test_every_path_is_in_the_document_with_an_example(served: Served) -> None:
    document = served.ask("/openapi.json").json
    posted = {path for path, one in document["paths"].items() if "post" in one}
    assert posted == {
        *SHARED,
        *(f"/{d.name}{e.path}" for d in DIALECTS.values() for e in d.endpoints),
    }
    for path in posted:
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        found = served.ask(path, content["example"])
        assert found.status == 200, (path, found.body)


def test_the_example_of_the_documents_is_what_the_server_answers(served: Served) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    typed = re.search(r"curl localhost:8000(\S+) -d '(.*)'", page)
    shown = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert typed
    assert shown
    found = served.ask(typed[1], json.loads(typed[2])).json
    for row in found["results"]:
        row["relevance_score"] = round(row["relevance_score"], 2)
    assert found == json.loads(shown[1])
