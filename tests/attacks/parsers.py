"""Every parser of outside text, with what it is fed: for tests/attacks and benchmarks/fuzz.py.

A parser may refuse with a DearError, or read; it may do nothing else, and takes no longer than its
linear bound.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import strategies as st

from dear.artifacts import read_json, read_toml
from dear.data import formats as f
from dear.data import held_out
from dear.data.formats import lines as headers
from dear.data.formats.beir import read_answers as read_strings
from dear.data.labels import read_labels
from dear.data.origins import first_stage_of, note_path, read_origin
from dear.data.training_rows import file_rows
from dear.digests import Inputs, file_digest
from dear.errors import DearError
from dear.evaluate import answers
from dear.evaluate.calibration import Calibration
from dear.evaluate.robustness import texts
from dear.prompts import listwise, permutations, reasoning
from dear.prompts import listwise as guarding
from dear.reason import extractive
from dear.reason import extractive as sentences
from dear.reason.files import read_answers
from dear.reason.generate import open_drafts
from dear.recipes import load_distill_recipe, load_recipe
from dear.report.gather import read_plan
from dear.report.parts import Cost, Curve
from dear.retrieve import bm25

Given: TypeAlias = str | bytes
Parser: TypeAlias = Callable[[Any], object]

SECONDS, SECONDS_PER_CHARACTER = 1.0, 50e-6
"""The linear bound of a parser's processor time: far above what it takes, far below a square."""


def withstands(parser: Parser, given: Given) -> None:
    """AssertionError, or what the parser raised, where it neither reads nor refuses in time."""
    started = time.process_time()
    try:
        parser(given)
    except DearError as error:
        if "\n" in str(error):
            raise AssertionError(f"an error of more than one line: {error}") from error
    taken = time.process_time() - started
    assert taken < SECONDS + SECONDS_PER_CHARACTER * len(given), f"{taken:.1f} s"


def _in_file(read: Callable[[Path], object], name: str = "file") -> Parser:
    """`read` of a file that holds what is given."""

    def parse(given: Given) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            data = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
            path.write_bytes(data)
            found = read(path)
            if isinstance(found, Iterable) and not isinstance(found, str | dict):
                for _ in found:
                    pass

    return parse


def _recipe_of(path: Path) -> None:
    try:
        load_recipe(path)
    finally:
        load_distill_recipe(path)


def _labels_of(path: Path) -> None:
    read_labels(path.parent)


def _note_of(path: Path) -> None:
    run = path.with_name("run.trec")
    run.write_text("q Q0 d 1 1.0 t\n")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict):  # of this run
        path = note_path(run)
        path.write_text(json.dumps({**values, "format": "dear-run/1", "sha256": file_digest(run)}))
    else:
        path.replace(note_path(run))
    first_stage_of(run, read_origin(run), {})


def _drafts_of(path: Path) -> None:
    with open_drafts(path) as drafts:
        drafts.append({"new": {"a": 1}})


def _digests_of(path: Path) -> None:
    Inputs.from_dict(read_json(path)).changes(Inputs.from_dict(read_json(path)))


FILES: dict[str, Parser] = {
    "corpus": _in_file(f.read_corpus),
    "queries": _in_file(f.read_queries),
    "run": _in_file(f.read_run),
    "qrels": _in_file(f.read_qrels),
    "tevatron result": _in_file(f.read_tevatron_result),
    "passages": _in_file(f.read_passages),
    "passages in lines": _in_file(f.read_passages, "file.jsonl"),
    "corpus table": _in_file(f.read_corpus_tsv),
    "queries table": _in_file(f.read_queries_tsv),
    "document": _in_file(lambda path: f.read_document_folder(path.parent), "file.md"),
    "lists": _in_file(f.read_lists),
    "chains of thought": _in_file(f.read_cot),
    "chats": _in_file(f.read_chat),
    "reasoning data": _in_file(read_answers),
    "answers of questions": _in_file(read_strings),
    "rankgpt": _in_file(f.read_rankgpt),
    "rank_llm": _in_file(f.read_rank_llm),
    "tevatron": _in_file(f.read_tevatron),
    "tevatron ids": _in_file(f.read_tevatron_ids),
    "tevatron rerank": _in_file(f.read_tevatron_rerank),
    "flag": _in_file(f.read_flag),
    "training rows": _in_file(file_rows, "file.jsonl"),
    "parquet rows": _in_file(file_rows, "file.parquet"),
    "json": _in_file(read_json),
    "inputs": _in_file(_digests_of),
    "note of a run": _in_file(_note_of),
    "manifest of labels": _in_file(_labels_of, "manifest.json"),
    "ensemble of labels": _in_file(_labels_of, "ensemble.json"),
    "calibration": _in_file(Calibration.load),
    "cost of a run": _in_file(lambda path: Cost.of(read_json(path)).pairs_per_second),
    "curve of a training": _in_file(lambda path: Curve.of("name", read_json(path))),
    "drafts": _in_file(_drafts_of),
    "toml": _in_file(read_toml),
    "recipe": _in_file(_recipe_of),
    "plan of a report": _in_file(read_plan),
}

_words = bm25.words_of()

TEXTS: dict[str, Parser] = {
    "permutation": lambda t: [permutations.parse_permutation(t, n) for n in (1, 3, 20)],
    "permutation of letters": lambda t: permutations.parse_permutation(t, 20, "letters"),
    "renumbered": lambda t: permutations.renumber(t, (2, 0, 1)),
    "answer": lambda t: (reasoning.split_answer(t), reasoning.split_answer(t, "letters")),
    "citations": lambda t: (reasoning.numbered(t), reasoning.cited(t)),
    "window": lambda t: reasoning.read_window(f"[1] a\n[2] b\n{t}"),
    "whole window": reasoning.read_window,
    "quotable": lambda t: (sentences.quotable(t), sentences.quotable(t, max_words=3)),
    "needs": extractive.needs,
    "held out": lambda t: (held_out.normalised(t), t in held_out.SameText(["a b", t[:9]])),
    "words": lambda t: (_words(t), bm25.split_identifiers(t)),
    "guarded": lambda t: (guarding.guarded(t, 30), listwise.clean(t, 9, "letters")),
    "answer strings": lambda t: answers.holds_answer(t, [t[3:9], t]),
    "header": lambda t: headers.is_header(t.split("\t")),
    "changes": lambda t: (
        texts.without_question_mark(t),
        texts.typos(t, 0.5, random.Random(0)),
        texts.question_word_last(t),
        texts.without_stop_words(t),
        texts.cut(t, 0.5),
    ),
}


_KEYS = [
    *("_id", "id", "docid", "qid", "query_id", "title", "text", "query", "contents", "answers"),
    *("hits", "content", "score", "rank", "candidates", "doc", "passages", "order", "thought"),
    *("scores", "source", "messages", "role", "instruction", "input", "output", "history", "think"),
    *("positive_passages", "negative_passages", "positive_document_ids", "pos", "neg", "prompt"),
    *("pos_scores", "first_stage", "model", "top_k", "inputs", "digest", "format", "members"),
    *("collection", "teacher", "revision", "fingerprint", "contract", "next_shard", "former"),
    *("jobs", "key", "values", "name", "kind", "map", "slope", "bias", "before", "after", "cost"),
    *("fitted_on", "probabilities", "seconds", "pairs", "metrics", "loss_curve", "step", "loss"),
    *("energy", "lists", "prompt_tokens"),
]
_STRINGS = st.one_of(
    st.sampled_from(
        ["", " ", "q", "p", "user", "assistant", "dear-labels/2", "\0", "\x1b[2J", ".."]
    ),
    st.text(max_size=12),
)
_ODD = st.sampled_from([None, True, -1, 0, 1e308, 10**30, -(10**400), 1.5, [], {}, [[]], [None]])
_VALUES = st.recursive(
    st.one_of(_STRINGS, _ODD, st.floats(), st.integers(-3, 9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)
_OBJECTS = st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=9)

_GOOD = [
    {"_id": "p", "title": "t", "text": "x", "query": "q", "answers": ["a"]},
    {"query": "q", "qid": "1",
     "hits": [{"content": "Title: a Content: b", "docid": "d", "score": 1}]},
    {"query": {"text": "q", "qid": "1"}, "candidates": [{"docid": "d", "doc": {"text": "x"}}]},
    {"query_id": "q", "query": "q",
     "passages": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}],
     "order": ["b", "a"], "thought": "[1]", "scores": [1, 2]},
    {"instruction": "[1] a\n[2] b\n\nQuery: c", "output": "[2] > [1]", "history": [["a", "b"]]},
    {"messages": [{"role": "user", "content": "[1] a\n[2] b\nQuery: c"},
                  {"role": "assistant", "content": "[2] > [1]"}]},
    {"query_id": "q", "query": "q", "positive_passages": [{"docid": "a", "text": "x", "score": 1}],
     "negative_passages": [{"text": "y", "score": 2}]},
    {"query_id": "q", "query": "q", "positive_document_ids": ["a"], "negative_document_ids": []},
    {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1.0], "neg_scores": [2]},
    {"query_id": "q", "query": "x", "docid": "d", "title": "t", "text": "y", "score": 2},
    {"format": "dear-labels/2", "collection": "c", "teacher": "t", "revision": "r",
     "fingerprint": "f", "contract": {}, "next_shard": 0},
    {"members": {"a": 1.0}, "format": "dear-labels/2"},
    {"model": "m", "first_stage": "../a.trec", "top_k": 3, "inputs": {"run": {"digest": "x"}}},
    {"key": "k", "a": 1},
    {"format": "dear-calibration/1", "kind": "platt", "map": {"slope": 1, "bias": 0},
     "revision": "r", "contract": {}, "before": {}, "after": {}, "fitted_on": {}},
    {"metrics": {"loss_curve": [{"step": 1, "loss": 2}], "dev_curve": [{"step": 1}]}},
    {"cost": {"seconds": 1, "lists": {"calls": 2, "prompt_tokens": 3}}, "pairs": 7},
]  # fmt: skip


@st.composite
def _spoilt(draw: st.DrawFn) -> object:
    """One of _GOOD with some of its values replaced."""
    row: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(_GOOD))))
    for _ in range(draw(st.integers(0, 2))):
        at: Any = row
        while isinstance(at, dict | list) and at:
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            at[key] = draw(_VALUES)
            break
    return row


def _line(value: object) -> str:
    return json.dumps(value)


_ROWS = st.one_of(_spoilt(), _OBJECTS).map(_line)
_CELLS = st.one_of(
    st.sampled_from(["q", "d", "Q0", "0", "1", "1.0", "nan", "1e999", "9" * 5000, "t", '"',
                     "query-id", "score", "-", "\0", "\ufeff", "²", "1_0", "\x1b", '"a ""b"""']),
    st.text(max_size=6),
)  # fmt: skip
_TABLES = st.lists(
    st.lists(_CELLS, min_size=1, max_size=7).flatmap(
        lambda cells: st.sampled_from([" ", "\t", "  "]).map(lambda gap: gap.join(cells))
    ),
    max_size=5,
)
_TOML_LINES = st.one_of(
    st.tuples(
        st.sampled_from(["name", "model.base", "train.epochs", "data", "extends", "collection",
                         "runs", "[model]", "[[data]]", "[[collection]]", "[sources]", "[[rows]]",
                         "x", "kind", "teacher.model", "student.model", "split", "depth"]),
        st.sampled_from(["", '"a"', "1", "[1]", '["a"]', "{ a = 1 }", "[{}]", "inf", "nan", "true",
                         "2020-01-01", '"file"', "9" * 5000, "[" * 60 + "]" * 60, "'''", "-1",
                         "1e400", "{ collection = 'c' }", "[{ collection = 'c' }]", "{ a = 'b' }"]),
    ).map(lambda pair: f"{pair[0]} = {pair[1]}" if pair[1] and pair[0][0] != "[" else pair[0]),
    st.text(max_size=20),
)  # fmt: skip
_PIECES = [
    *(" ", "  ", "\t", "\n", "\n\n", ". ", "...", "e.g. ", "!", "? ", '"', "'", "[", "]", "[1]"),
    *("[2] > [1]", " > ", "[3], ", "1. ", "1) ", "(2)", "passage 3", "Passages 1 and 2", "[doc 1]"),
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "### Final Reranking:",
        "final",
        "\n[1] ",
        "，",
    ),
    *(
        "\n[2] ",
        "Query: ",
        "Search Query: ",
        "relevance to the query: ",
        "3 passages",
        "[A]",
        "[B] > ",
    ),
    *(
        '{"id": 2}',
        "[1, 2, 3]",
        "漢字",
        "。",
        "\u0300",
        "\u0316",
        "İ",
        "\x1b",
        "\0",
        "#",
        "# ",
        "- ",
    ),
    *(
        "words and more words ",
        "camelCase",
        "snake_case",
        "9" * 50,
        "\ud800",
        "\u202e",
        "what ",
        "the ",
    ),
]
_PIECED = st.lists(st.sampled_from(_PIECES), max_size=60).map("".join)
_REPEATED = st.builds(
    lambda start, piece, times, end: start + piece * times + end,
    *(_PIECED, st.lists(st.sampled_from(_PIECES), min_size=1, max_size=3).map("".join)),
    *(st.integers(0, 3000), _PIECED),
)
_TEXTS = st.one_of(_PIECED, _REPEATED, st.text(max_size=60))


@st.composite
def _bytes(draw: st.DrawFn, lines: st.SearchStrategy[list[str]]) -> bytes:
    """Lines as a file, or what is left of one."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    data = end.join(draw(lines)).encode("utf-8", "surrogatepass")
    change = draw(st.sampled_from(["none"] * 6 + ["gzip", "cut", "flip", "mark", "array"]))
    if change == "gzip":
        data = gzip.compress(data, mtime=0)[: draw(st.integers(5, 400))]
    elif change == "cut":
        data = data[: draw(st.integers(0, max(0, len(data))))]
    elif change == "flip" and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    elif change == "mark":
        data = b"\xef\xbb\xbf" + data
    elif change == "array":
        data = b"[" + data.replace(end.encode(), b",") + b"]"
    return data


def strategy_of(name: str) -> st.SearchStrategy[Any]:
    """What the parser of this name is fed."""
    if name in TEXTS:
        return _TEXTS
    if name in ("toml", "recipe", "plan of a report"):
        return st.one_of(_bytes(st.lists(_TOML_LINES, max_size=8)), st.binary(max_size=40))
    if name == "document":
        return _bytes(st.lists(_TEXTS, max_size=4))
    if name in ("run", "qrels", "tevatron result", "corpus table", "queries table"):
        return st.one_of(_bytes(_TABLES), st.binary(max_size=40))
    rows = st.lists(st.one_of(_ROWS, _ROWS, _PIECED), max_size=4)
    return st.one_of(_bytes(rows), _bytes(rows), _bytes(_TABLES), st.binary(max_size=40))


PARSERS: dict[str, Parser] = FILES | TEXTS
