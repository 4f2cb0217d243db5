"""What clients sent when `benchmarks/clients.py` ran them, sent again over real HTTP: each answer
has exactly the fields that its client reads, on the scale of our own dialect's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import Served, running

from dear.serve.keys import Keys

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "clients.json"
KEY = "a-key-of-the-test"

TEXT = {"text": "str"}
RANKED = {"index": "int", "relevance_score": "float"}
META = {
    "api_version": {"version": "str"},
    "billed_units": {"search_units": "int"},
    "tokens": {"input_tokens": "int", "output_tokens": "int"},
}
TOKENS = {"total_tokens": "int"}
OF_PROMPTS = {"prompt_tokens": "int", **TOKENS}
OF_VLLM = {**OF_PROMPTS, "completion_tokens": "int"}
COHERE = {"message": "str", "id": "str"}
DETAIL = {"detail": "str"}
CODED = {"message": "str", "type": "str", "param": "NoneType", "code": "int"}
VLLM = {"error": CODED}
ANY = {"message": "str", "detail": "str", "error": CODED}

SHAPES: dict[str, tuple[Any, Any]] = {
    "/cohere/v1/rerank": (
        {"id": "str", "results": [{**RANKED, "document": TEXT}], "meta": META},
        COHERE,
    ),
    "/cohere/v2/rerank": ({"id": "str", "results": [RANKED], "meta": META}, COHERE),
    "/v2/rerank": ({"id": "str", "results": [RANKED], "meta": META}, ANY),
    "/jina/v1/rerank": (
        {
            "model": "str",
            "object": "str",
            "usage": TOKENS,
            "results": [{**RANKED, "document": TEXT}],
        },
        DETAIL,
    ),
    "/v1/rerank": (
        {
            "model": "str",
            "object": "str",
            "usage": TOKENS,
            "results": [{**RANKED, "document": TEXT}],
        },
        ANY,
    ),
    "/v1/rerank with top_k": (
        {"object": "str", "data": [RANKED], "model": "str", "usage": TOKENS},
        ANY,
    ),
    "/voyage/v1/rerank": (
        {"object": "str", "data": [RANKED], "model": "str", "usage": TOKENS},
        DETAIL,
    ),
    "/voyage/v1/rerank with documents": (
        {
            "object": "str",
            "data": [{**RANKED, "document": "str"}],
            "model": "str",
            "usage": TOKENS,
        },
        DETAIL,
    ),
    "/tei/rerank": ([{"index": "int", "score": "float"}], None),
    "/tei/rerank with documents": ([{"index": "int", "score": "float", "text": "str"}], None),
    "/rerank": ([{"index": "int", "score": "float"}], ANY),
    "/vllm/rerank": (
        {
            "id": "str",
            "model": "str",
            "usage": OF_VLLM,
            "results": [{**RANKED, "document": TEXT}],
        },
        VLLM,
    ),
    "/score": (
        {
            "id": "str",
            "object": "str",
            "created": "int",
            "model": "str",
            "data": [{"index": "int", "object": "str", "score": "float"}],
            "usage": OF_VLLM,
        },
        ANY,
    ),
}
"""By path, and by what is asked for there: an answer, and what a wrong key is answered."""
INFINITY = {
    "object": "str",
    "model": "str",
    "usage": OF_PROMPTS,
    "id": "str",
    "created": "int",
}
OF_INFINITY = {"error": {**CODED, "type": "NoneType"}}
SHAPES["/infinity/rerank"] = ({**INFINITY, "results": [RANKED]}, OF_INFINITY)
SHAPES["/infinity/rerank with documents"] = (
    {**INFINITY, "results": [{**RANKED, "document": "str"}]},
    OF_INFINITY,
)


def recorded() -> list[Any]:
    """Each different request once, named by the client that sent it."""
    found = {}
    for row in json.loads(RECORDED.read_text("utf-8"))["calls"]:
        name = f"{row['client']}: {row['call']}"
        found[json.dumps(row["request"], sort_keys=True)] = pytest.param(row["request"], id=name)
    return list(found.values())


def kind(request: Any) -> str:
    body, path = request["body"], request["path"]
    if body.get("top_k") and path == "/v1/rerank":
        return "/v1/rerank with top_k"
    asked = body.get("return_documents") or body.get("return_text")
    return f"{path} with documents" if asked and f"{path} with documents" in SHAPES else path


def shape(value: Any) -> Any:
    """Types by field; rows of a list are all alike."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        shapes = [shape(one) for one in value]
        assert all(one == shapes[0] for one in shapes)
        return shapes[:1]
    return type(value).__name__


def sent(served: Served, request: Any, key: str = "none") -> tuple[int, Any]:
    """Status and decoded body; None for an empty one."""
    headers = dict(request["headers"])
    if "authorization" in headers:
        headers["authorization"] = f"Bearer {key}"
    found = served.ask(request["path"], request["body"], headers)
    return found.status, json.loads(found.body or b"null")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Served, Served]]:
    """Without keys, and with one."""
    with (
        running(models=("biencoder:minilm-l6",), device="cpu") as free,
        running(free.server_with(keys=Keys([KEY]))) as keyed,
    ):
        yield free, keyed


@pytest.mark.parametrize("request_", recorded())
def test_a_client_is_answered_what_it_reads(servers: tuple[Served, Served], request_: Any) -> None:
    free, keyed = servers
    status, found = sent(free, request_)
    assert status == 200, found
    answered, refused = SHAPES[kind(request_)]
    assert shape(found) == shape_of(answered)
    documents, query, most = asked_for(request_["body"])
    ours = {"query": query, "documents": documents}
    _, true = sent(free, {"method": "POST", "path": "/dear/rerank", "headers": {}, "body": ours})
    expected = [(one["index"], one["score"]) for one in true["results"]][:most]
    rows = found if isinstance(found, list) else found.get("results") or found.get("data")
    scores = [(one["index"], one.get("relevance_score", one.get("score"))) for one in rows]
    if "text_1" in request_["body"]:  # in pairs: the order of documents stays
        scores.sort(key=lambda one: -one[1])
    assert [at for at, _ in scores] == [at for at, _ in expected]
    assert [one for _, one in scores] == pytest.approx([one for _, one in expected], abs=1e-6)

    assert sent(keyed, request_, key=KEY)[0] == 200
    status, found = sent(keyed, request_, key="wrong")
    assert (status, shape(found)) == (401, shape_of(refused))


def shape_of(written: Any) -> Any:
    return "NoneType" if written is None else written


def asked_for(body: Any) -> tuple[list[str], str, int | None]:
    """(texts, query, top n) of any dialect."""
    documents = next(body[name] for name in ("documents", "texts", "text_2") if name in body)
    texts = [one if isinstance(one, str) else one["text"] for one in documents]
    return texts, body.get("query") or body["text_1"], body.get("top_n") or body.get("top_k")


def test_every_kind_of_request_was_sent_by_a_client() -> None:
    assert {kind(one.values[0]) for one in recorded()} == set(SHAPES)
