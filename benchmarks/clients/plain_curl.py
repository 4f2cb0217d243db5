"""curl, with what the README of each service shows."""

import json
import subprocess

from common import MODEL, QUERY, TOP, Call, run


def asking(path, body, read):
    def ranks(address, key, documents):
        words = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60"]
        words += ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
        words += ["-d", json.dumps(body(documents)), address + path]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return read(json.loads(done.stdout))

    return ranks


def usual(documents):
    return {"model": MODEL, "query": QUERY, "documents": documents, "top_n": TOP}


def results(found):
    return [(one["index"], one["relevance_score"]) for one in found["results"]]


def in_pairs(found):
    """The order of documents stays."""
    rows = sorted(found["data"], key=lambda one: -one["score"])
    return [(one["index"], one["score"]) for one in rows[:TOP]]


def by_document(documents):
    return {"text_1": QUERY, "text_2": documents}


def in_texts(documents):
    return {"query": QUERY, "texts": documents}


def scores(found):
    return [(one["index"], one["score"]) for one in found[:TOP]]


ERRORS = {"refused": ["CalledProcessError"], "empty": ["CalledProcessError"]}
run(
    [
        *(
            Call(path, asking(path, usual, results), **ERRORS)
            for path in ("/v1/rerank", "/v2/rerank", "/jina/v1/rerank", "/infinity/rerank")
        ),
        Call("/rerank with texts", asking("/rerank", in_texts, scores), **ERRORS),
        Call("/score", asking("/score", by_document, in_pairs), **ERRORS),
    ],
    {
        "curl": subprocess.run(
            ["curl", "--version"], capture_output=True, text=True
        ).stdout.split()[1]
    },
)
