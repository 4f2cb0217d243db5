"""What a server does with time, load, faults and strangers; every one with a real model."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from command_line import CORPUS, QUERIES, write_reranker
from running_server import Served, running, until

from dear.errors import ConfigError, DataError
from dear.evaluate.calibration import calibrate
from dear.evaluate.reliability import JudgedScores
from dear.rank.reranker import Reranker
from dear.serve.asking import Refused
from dear.serve.keys import Keys
from dear.serve.load import Load
from dear.serve.options import ServeOptions
from dear.serve.server import RequestLimits

QUERY = next(iter(QUERIES.values())).text
TEXTS = [passage.text for passage in CORPUS.values()]
BODY = {"query": QUERY, "documents": TEXTS}
LARGE = {"query": QUERY, "documents": [f"{text} {n}" for n in range(8) for text in TEXTS]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with running(models=(f"tiny={model}",), dtype="float32", max_batch_tokens=64) as found:
        yield found


class Slow:
    """The model's batches, each of which takes a while; `wait` may be changed meanwhile."""

    def __init__(self, scorer: Any, monkeypatch: pytest.MonkeyPatch, wait: float = 0.05) -> None:
        self.wait, self.turns, self.inner = wait, 0, scorer.score_pieces
        monkeypatch.setattr(scorer, "score_pieces", self)

    def __call__(self, pieces: Any) -> Any:
        self.turns += 1
        time.sleep(self.wait)
        return self.inner(pieces)


@pytest.fixture
def slow(served: Served, monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(served.server.models["tiny"].model, monkeypatch)


def in_threads(served: Served, bodies: Sequence[Any], path: str = "/dear/rerank") -> list[Any]:
    with ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(lambda body: served.ask(path, body), bodies))


# -- scores ----------------------------------------------------------------------------------------


def test_scores_are_the_rerankers_alone_and_in_company(served: Served, model: Path) -> None:
    reranker = Reranker(model, dtype="float32", batch_tokens=64)
    expected = dict(
        zip(range(len(TEXTS)), reranker.score([(QUERY, t) for t in TEXTS]), strict=True)
    )

    def differences(found: Any) -> float:
        return max(abs(one["raw"] - expected[one["index"]]) for one in found.json["results"])

    assert differences(served.ask("/dear/rerank", BODY)) == 0.0  # the same bits
    assert served.ask("/dear/rerank", BODY).json["scale"] == "sigmoid"
    others = [{"query": f"{QUERY} {n}", "documents": TEXTS[: 1 + n % 9]} for n in range(24)]
    for found in in_threads(served, [BODY if n % 3 == 0 else others[n] for n in range(24)])[::3]:
        assert differences(found) <= 1e-5
    for path, texts in (("/tei/rerank", "texts"), ("/infinity/rerank", "documents")):
        rows = served.ask(path, {"query": QUERY, texts: TEXTS, "raw_scores": True}).json
        for one in rows if path == "/tei/rerank" else rows["results"]:
            score = one.get("score", one.get("relevance_score"))
            assert score == expected[one["index"]]


def test_every_answer_says_its_scale_contract_and_cuts(served: Served) -> None:
    long = {"query": QUERY, "documents": [TEXTS[0], "word " * 1000]}
    found = served.ask("/dear/rerank", long)
    rows = {one["index"]: one for one in found.json["results"]}
    assert (rows[0]["cut"], rows[1]["cut"]) == (False, True)
    assert rows[1]["tokens"] > rows[0]["tokens"] > 3
    assert found.headers["x-dear-cut"] == "1"
    assert found.headers["x-dear-contract"] == served.ask("/info").json["models"][0]["fingerprint"]
    warned = served.ask("/cohere/v2/rerank", long).json["meta"]["warnings"]
    assert warned == ["1 of 2 documents are longer than the model reads"]
    for path in ("/tei/rerank", "/vllm/rerank", "/jina/v1/rerank"):
        texts = "texts" if path.startswith("/tei") else "documents"
        body = {"query": QUERY, texts: long["documents"]}
        assert served.ask(path, body).headers["x-dear-scale"] == "sigmoid"
        detailed = served.ask(path, body, {"X-Dear-Details": "1"}).json
        row = (detailed if isinstance(detailed, list) else detailed["results"])[0]
        assert row["dear"].keys() == {"raw", "tokens", "cut"}


def test_a_client_may_forbid_or_bound_cuts(served: Served) -> None:
    long = ["word " * 1000, TEXTS[0]]
    found = served.ask("/tei/rerank", {"query": QUERY, "texts": long, "truncate": False})
    assert (found.status, found.json["error_type"]) == (413, "validation")
    found = served.ask(
        "/voyage/v1/rerank", {"query": QUERY, "documents": long, "truncation": False}
    )
    assert found.status == 400
    text = " ".join(word for text in TEXTS for word in text.split())
    for path, body in (
        ("/cohere/v2/rerank", {"max_tokens_per_doc": 3}),
        ("/jina/v1/rerank", {"max_doc_length": 3}),
        ("/vllm/rerank", {"max_tokens_per_doc": 3}),
        ("/vllm/rerank", {"truncate_prompt_tokens": 3}),
    ):
        ours = {"query": QUERY, "documents": [text, TEXTS[1]]}
        bounded = served.ask(path, {**ours, **body}, {"X-Dear-Details": "1"}).json["results"]
        tokens = {one["index"]: one["dear"]["tokens"] for one in bounded}
        short = served.ask("/dear/rerank", {"query": QUERY, "documents": ["a b c"]}).json
        assert tokens[0] == short["results"][0]["tokens"], path
    left = served.ask(
        "/vllm/rerank",
        {"query": QUERY, "documents": ["a b " + TEXTS[1]], "max_tokens_per_doc": 2,
         "truncation_side": "left", "use_activation": False},
    ).json["results"][0]  # fmt: skip
    end = served.ask(
        "/dear/rerank",
        {"query": QUERY, "documents": [" ".join(TEXTS[1].replace(".", " .").split()[-2:])]},
    ).json["results"][0]
    assert left["relevance_score"] == end["raw"]


# -- time ------------------------------------------------------------------------------------------


def test_a_deadline_gives_the_order_of_what_was_scored(served: Served, slow: Slow) -> None:
    whole = {one["index"]: one["raw"] for one in served.ask("/dear/rerank", LARGE).json["results"]}
    slow.wait = 0.1  # seconds in all, and tokenising takes none of the one that there is
    found = served.ask("/dear/rerank", {**LARGE, "deadline": 1.0})
    body = found.json
    assert body["complete"] is False
    assert 0 < body["scored"] < len(LARGE["documents"])
    scored = body["results"][: body["scored"]]
    assert sorted(one["index"] for one in scored) == list(range(body["scored"]))
    assert [one["raw"] for one in scored] == sorted((one["raw"] for one in scored), reverse=True)
    for one in scored:
        assert one["raw"] == pytest.approx(whole[one["index"]], abs=1e-5)
    unscored = body["results"][body["scored"] :]
    assert all(one["score"] == 0 and "raw" not in one for one in unscored)
    rest = [one["index"] for one in unscored]
    assert rest == list(range(body["scored"], len(LARGE["documents"])))
    assert found.headers["x-dear-complete"] == "false"
    assert "deadline" in body["warnings"][0]
    for path in ("/cohere/v2/rerank", "/jina/v1/rerank", "/infinity/rerank"):
        other = served.ask(path, LARGE, {"X-Dear-Deadline": "0.2"})
        assert other.headers["x-dear-complete"] == "false"
        assert len(other.json["results"]) == len(LARGE["documents"])
        assert ("warnings" in other.json.get("meta", {})) == path.startswith("/cohere")
    assert served.metric("dear_partial_answers_total") >= 4


def test_a_document_is_scored_when_one_of_its_passages_is(model: Path, monkeypatch: Any) -> None:
    with running(models=(str(model),), chunk_words=8, dtype="float32", max_batch_tokens=64) as one:
        Slow(next(iter(one.server.models.values())).model, monkeypatch, wait=0.1)
        documents = [" ".join(TEXTS[at:] + TEXTS[:at]) for at in range(12)]
        found = one.ask("/dear/rerank", {"query": QUERY, "documents": documents, "deadline": 1.0})
        assert found.status == 200, found.body
        body = found.json
        assert len(body["results"]) == 12
        assert 0 < body["scored"] == sum("raw" in row for row in body["results"]) < 12


def test_a_deadline_that_is_over_keeps_the_order_given(served: Served) -> None:
    found = served.ask("/dear/rerank", BODY, {"X-Dear-Deadline": "0"}).json
    assert [one["index"] for one in found["results"]] == list(range(len(TEXTS)))
    assert found["scored"] == 0
    for value in ("-1", "soon", "nan", "inf"):
        assert served.ask("/dear/rerank", BODY, {"X-Dear-Deadline": value}).status == 422


def test_work_is_dropped_where_the_client_goes_away(served: Served, slow: Slow) -> None:
    before, gone = slow.turns, served.metric("dear_gone_clients_total")
    with raw(served) as connection:
        connection.sendall(posted("/dear/rerank", json.dumps(LARGE).encode()))
        until(lambda: slow.turns >= before + 2)
    until(lambda: served.metric("dear_gone_clients_total") == gone + 1)
    ended = slow.turns
    assert ended < before + 12  # all of it would be ninety
    assert served.ask("/dear/rerank", {**BODY, "documents": TEXTS[:2]}).status == 200
    assert slow.turns <= ended + 2


def test_a_small_request_does_not_wait_for_a_large_one(served: Served, slow: Slow) -> None:
    small = {"query": QUERY, "documents": TEXTS[:2]}
    with ThreadPoolExecutor(1) as threads:
        large = threads.submit(served.ask, "/dear/rerank", LARGE)
        until(lambda: slow.turns > 1)
        for _ in range(3):
            before = slow.turns
            assert served.ask("/dear/rerank", small).status == 200
            assert slow.turns <= before + 4
        assert not large.done()
        assert large.result(60).json["complete"]


# -- load ------------------------------------------------------------------------------------------


def test_too_many_requests_are_refused_at_once(model: Path, monkeypatch: Any) -> None:
    options = {"models": (str(model),), "dtype": "float32", "max_concurrent_requests": 2}
    with running(**options) as served:
        slow = Slow(next(iter(served.server.models.values())).model, monkeypatch, wait=0.5)
        found = in_threads(served, [BODY] * 8, "/cohere/v2/rerank")
        statuses = [one.status for one in found]
        assert statuses.count(200) >= 2
        assert statuses.count(429) >= 1
        assert statuses.count(200) + statuses.count(429) == 8
        refused = next(one for one in found if one.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert "overloaded" in refused.json["message"]
        slow.wait = 0
        assert served.ask("/v1/rerank", BODY).status == 200


def test_who_would_wait_too_long_is_refused() -> None:
    load = Load(most=100, max_wait_s=0.5)
    with load.admitted(1000):
        time.sleep(0.05)
    assert 50 < load.rate < 25_000
    with load.admitted(100_000), pytest.raises(Refused) as refused, load.admitted(10):
        pass
    assert refused.value.problem == "overloaded"
    assert refused.value.retry_after > 0.5
    with load.admitted(100_000):  # who is alone is never refused
        pass
    assert (load.requests, load.characters) == (0, 0)


# -- faults ----------------------------------------------------------------------------------------


def raw(served: Served) -> socket.socket:
    place = urlsplit(served.url)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=30)


def posted(path: str, body: bytes, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body


def test_strange_bodies_have_the_right_answer_and_the_next_request_works(served: Served) -> None:
    nested = b'{"query": "x", "documents": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    cases: list[tuple[Any, int]] = [
        (b"", 400),
        (b"null", 422),
        (b'{"query": "\xff", "documents": ["x"]}', 400),
        (rb'{"query": "\ud800", "documents": ["x"]}', 400),
        (rb'{"query": "x", "documents": ["\udc00"]}', 400),
        (nested, 400),
        (b'{"query": 1e999, "documents": ["x"]}', 422),
        ({"query": "", "documents": ["x"]}, 400),
        ({"query": "x", "documents": [""]}, 200),
        ({"query": "x", "documents": [None]}, 422),
        ({"query": "x", "documents": [{"title": "no text"}]}, 422),
        ({"query": "x", "documents": ["a"] * 1000}, 200),
        ({"query": "x", "documents": ["a " * 500_000]}, 200),
        ({"query": "x " * 5000, "documents": ["a"]}, 200),
        ({"query": "x", "documents": ["\x00\x1b[2J\u202e"]}, 200),
        ({"query": "x", "documents": ["a"], "top_n": 0}, 422),
        ({"query": "x", "documents": ["a"], "top_n": 10**30}, 200),
        ({"query": "x", "documents": ["a"], "model": "\u0000" * 9000}, 200),
    ]
    for body, status in cases:
        found = served.ask("/dear/rerank", body)
        assert found.status == status, (str(body)[:80], found.body[:300])
        assert served.ask("/dear/rerank", BODY).status == 200


def test_a_body_has_limits(served: Served) -> None:
    limited = served.server_with(limits=RequestLimits(documents=3, payload=2000, body_s=2))
    with running(limited) as other:
        assert other.ask("/jina/v1/rerank", {**BODY, "documents": TEXTS[:4]}).status == 413
        large = other.ask("/jina/v1/rerank", {"query": QUERY, "documents": ["x" * 3000]})
        assert (large.status, large.json["detail"]) == (413, "the body is larger than 2,000 bytes")
        with raw(other) as connection:  # announced, and never sent
            connection.sendall(posted("/jina/v1/rerank", b"", 100_000_000))
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        with raw(other) as connection:  # half of it, and then nothing
            connection.sendall(posted("/jina/v1/rerank", b'{"query"', 100))
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        with raw(other) as connection:  # chunks without an end
            connection.sendall(
                b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            connection.sendall(b"3E8\r\n" + b"x" * 1000 + b"\r\n")
            connection.sendall(b"FFF\r\n" + b"x" * 4095 + b"\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        with raw(other) as connection:
            connection.sendall(b"no HTTP at all\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
        for _ in range(20):
            with raw(other) as connection:
                connection.sendall(b"POST /v1/re")
        assert other.ask("/v1/rerank", {**BODY, "documents": TEXTS[:3]}).status == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="dear.serve"):
        with raw(served) as connection:
            connection.sendall(posted("/dear/rerank", b'{"query"', 5000))
            until(lambda: served.server.held > 0)
        until(lambda: served.server.held == 0)
        until(lambda: bool(caplog.records))
    (line,) = [json.loads(record.message) for record in caplog.records]
    assert (line["status"], line["problem"]) == (408, "timeout")


def test_bodies_of_all_requests_are_bounded_together(served: Served) -> None:
    limited = served.server_with(limits=RequestLimits(held=3000, body_s=60))
    with running(limited) as other:
        with raw(other) as one, raw(other) as two:
            for connection in (one, two):
                connection.sendall(posted("/cohere/v2/rerank", b"x" * 1400, 5000))
            until(lambda: limited.held == 2800)
            refused = other.ask("/cohere/v2/rerank", {**BODY, "model": "x" * 500})
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) == 1
            assert "overloaded" in refused.json["message"]
        until(lambda: limited.held == 0)
        assert other.ask("/cohere/v2/rerank", BODY).status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 503),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 503),
        (RuntimeError("something else"), 500),
    ],
)
def test_a_model_that_fails_fails_one_request(
    error: Exception, status: int, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_pieces: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(served.server.models["tiny"].model, "score_pieces", fails)
        found = served.ask("/dear/rerank", BODY)
        assert found.status == status
        assert "Traceback" not in found.body.decode()
    assert served.ask("/dear/rerank", BODY).status == 200


# -- several models, passages, probabilities -----------------------------------------------------


def test_models_by_name(model: Path, tmp_path: Path) -> None:
    other = write_reranker(tmp_path / "other", seed=3)
    specs = (f"one={model}", f"two={other}")
    with running(models=specs, dtype="float32") as served:
        scores = [
            served.ask("/v1/rerank", {**BODY, **named}).json["results"][0]["relevance_score"]
            for named in ({}, {"model": "one"}, {"model": "two"})
        ]
        assert scores[0] == scores[1] != scores[2]
        unknown = served.ask("/v1/rerank", {**BODY, "model": "three"})
        assert unknown.status == 404
        assert unknown.json["detail"] == "no model 'three'; there are: one, two"


def test_long_documents_by_their_best_passage(model: Path) -> None:
    with running(models=(str(model),), dtype="float32", chunk_words=8) as served:
        documents = [" ".join(TEXTS), TEXTS[0]]
        found = served.ask("/dear/rerank", {"query": QUERY, "documents": documents}).json
        assert len(found["results"]) == found["scored"] == 2
        for one in found["results"]:
            assert one["chunk"] in documents[one["index"]]
            alone = served.ask("/dear/rerank", {"query": QUERY, "documents": [one["chunk"]]}).json
            assert alone["results"][0]["raw"] == pytest.approx(one["raw"], abs=1e-5)
        many = next(one for one in found["results"] if one["index"] == 0)
        assert many["chunk_number"] >= 1
        jina = served.ask("/v1/rerank", {"query": QUERY, "documents": documents}).json["results"]
        assert {one["document"]["text"] for one in jina} == set(documents)


def with_map(model: Path, folder: Path) -> Path:
    """A copy of the model that brings a map from its scores to probabilities."""
    shutil.copytree(model, folder)
    opened = Reranker(folder, dtype="float32")
    judged = [(q.text, p.text, i) for i, q in enumerate(QUERIES.values()) for p in CORPUS.values()]
    scores = opened.score([(query, text) for query, text, _ in judged]).astype(np.float64)
    calibrate(
        JudgedScores(
            scores=scores,
            relevant=np.random.default_rng(0).random(len(scores)) < 1 / (1 + np.exp(-scores)),
            query=np.array([i for _, _, i in judged]),
        ),
        "temperature",
        revision=opened.model.revision,
        contract=opened.model.contract.to_dict(),
    ).save(folder)
    return folder


def test_calibrated_scores_and_a_least_probability(model: Path, tmp_path: Path) -> None:
    calibrated = with_map(model, tmp_path / "calibrated")
    reranker = Reranker(calibrated, dtype="float32")
    expected = reranker.probability([(QUERY, text) for text in TEXTS])
    least = float(np.median(expected))
    with running(models=(str(calibrated),), dtype="float32", min_probability=least) as served:
        found = served.ask("/v1/rerank", BODY)
        assert found.headers["x-dear-scale"] == "calibrated"
        assert found.headers["x-dear-map"] == served.ask("/info").json["models"][0]["map"]
        rows = {one["index"]: one["relevance_score"] for one in found.json["results"]}
        assert rows.keys() == {i for i, p in enumerate(expected) if p >= least}
        for at, score in rows.items():
            assert score == pytest.approx(expected[at], abs=1e-6)
        whole = served.ask("/v1/rerank", BODY, {"X-Dear-Min-Probability": "0"}).json["results"]
        assert len(whole) == len(TEXTS)
        none = served.ask("/dear/rerank", {**BODY, "min_probability": 1}).json
        assert (none["results"], none["left_out"]) == ([], len(TEXTS))


# -- who may ask ---------------------------------------------------------------------------------


def test_keys(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    digest = hashlib.sha256(b"from the file").hexdigest()
    file.write_text(f"# who: hash\n{digest}  the search team\n\n")
    with running(served.server_with(keys=Keys(["typed"], file))) as locked:
        for path in ("/v1/rerank", "/v2/rerank", "/tei/rerank", "/vllm/rerank"):
            texts = "texts" if path.startswith("/tei") else "documents"
            body = {"query": QUERY, texts: TEXTS}
            for headers in (
                {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "},
                {"X-Api-Key": digest}, {"Authorization": "Basic typed"},
            ):  # fmt: skip
                refused = locked.ask(path, body, headers)
                assert refused.status == 401
                if path == "/v2/rerank":
                    asked = "X-Api-Key" in headers or headers.get("Authorization", "") == (
                        "Bearer wrong"
                    )
                    assert ("no such API key" in refused.json["message"]) == asked
                assert refused.headers["www-authenticate"] == "Bearer"
                assert (refused.body == b"") == path.startswith("/tei")
            for headers in (
                {"Authorization": "Bearer typed"}, {"Authorization": "bearer from the file"},
                {"X-API-Key": "typed"}, {"api-key": "from the file"},
            ):  # fmt: skip
                assert locked.ask(path, body, headers).status == 200
        for path in ("/info", "/metrics", "/v1/models", "/openapi.json"):
            assert locked.ask(path).status == 401
        for path in ("/health", "/ready", "/"):
            assert locked.ask(path).status == 200


def test_key_files_that_lock_everybody_out(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for text, message in (("", "holds no key"), ("secret\n", "1: is no SHA-256 hash")):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            Keys(file=file)
    with pytest.raises(DataError, match="No such file"):
        Keys(file=tmp_path / "none")
    with pytest.raises(ConfigError, match="empty"):
        Keys([" "])


def test_other_pages_may_not_ask_unless_told(served: Served) -> None:
    asked = {"Origin": "https://a.example"}
    found = served.ask("/v1/rerank", BODY, asked)
    assert "access-control-allow-origin" not in found.headers
    with running(served.server_with(cors=("https://a.example",))) as open_to_it:
        found = open_to_it.ask("/v1/rerank", BODY, asked)
        assert found.headers["access-control-allow-origin"] == "https://a.example"
        other = open_to_it.ask("/v1/rerank", BODY, {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_logs_and_metrics_hold_no_texts(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="dear.serve"):
        served.ask("/v1/rerank", {"query": "sesame secret", "documents": ["hidden words"]})
        served.ask("/v1/rerank", {"query": "sesame secret", "documents": [7]})
    lines = [json.loads(record.message) for record in caplog.records]
    assert [(one["status"], one.get("documents")) for one in lines] == [(200, 1), (422, None)]
    assert lines[0].keys() >= {"time", "path", "dialect", "model", "tokens", "cut", "ms"}
    text = caplog.text + served.ask("/metrics").body.decode()
    assert not any(word in text for word in ("sesame", "secret", "hidden"))


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"default_dialect": "cohre"}, "did you mean 'cohere'"),
        ({"models": ("a", "a")}, "two models have one name"),
        ({"chunk_overlap": 3}, "for --chunk-words"),
        ({"chunk_words": 20, "chunk_overlap": 11}, "at most half of the 20 words"),
    ],
)
def test_options_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeOptions(**values)


def test_a_least_probability_needs_a_map(model: Path, served: Served) -> None:
    with (
        pytest.raises(ConfigError, match="no map"),
        running(models=(str(model),), min_probability=0.5),
    ):
        pass
    found = served.ask("/dear/rerank", {**BODY, "min_probability": 0.5})
    assert found.status == 422
    assert "dear calibrate" in found.json["error"]["message"]


def test_threads_end_with_their_requests(served: Served) -> None:
    before = threading.active_count()
    in_threads(served, [BODY] * 16)
    until(lambda: served.metric("dear_in_flight") == 0)
    assert threading.active_count() <= before + 40
