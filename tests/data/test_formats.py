"""Write then read gives the same; every fault is named with its file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.characters import harmful_in_id
from dear.data import formats as f
from dear.data.formats.lines import numbered_lines
from dear.data.formats.rows import json_rows
from dear.errors import DataError
from dear.records import Candidates, Passage, Query, Ranking

finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.text(min_size=1, max_size=8).filter(lambda t: bool(t.strip()) and harmful_in_id(t) is None)
tokens = ids.filter(lambda t: t.split() == [t] and t[0] != "\ufeff")
cells = ids
texts = st.text(max_size=30)
filled = texts.filter(str.strip)
endings = st.sampled_from(["", ".gz"])


def by_id(items: Iterable[Any]) -> dict[str, Any]:
    return {item.id: item for item in items}


def passages_of(id_strategy: st.SearchStrategy[str], least: int = 1) -> Any:
    passage = st.builds(Passage, id=id_strategy, text=texts, title=texts)
    return st.lists(passage, min_size=least, max_size=5, unique_by=lambda p: p.id)


queries = st.builds(Query, id=ids, text=filled)
query_lists = st.lists(queries, min_size=1, max_size=4, unique_by=lambda q: q.id)


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[Candidates]:
    found = []
    for query in draw(query_lists):
        passages = draw(passages_of(ids))
        scores = draw(st.lists(finite, min_size=len(passages), max_size=len(passages)))
        found.append(Candidates(query=query, passages=tuple(passages), scores=tuple(scores)))
    return found


@st.composite
def training_rows(draw: st.DrawFn, *, one_positive: bool = False) -> list[f.TrainingRow]:
    rows = []
    for query in draw(query_lists):
        passages = draw(passages_of(ids))
        cut = 1 if one_positive else draw(st.integers(1, len(passages)))
        scores: Any = [None, None]
        if draw(st.booleans()):
            numbers = draw(st.lists(finite, min_size=len(passages), max_size=len(passages)))
            # a side without passages has no scores to tell from none
            scores = [tuple(numbers[:cut]), tuple(numbers[cut:]) or None]
            if one_positive:
                scores[1] = tuple(numbers[cut:])
        rows.append(
            f.TrainingRow(
                query=query,
                positives=tuple(passages[:cut]),
                negatives=tuple(passages[cut:]),
                positive_scores=scores[0],
                negative_scores=scores[1],
            )
        )
    return rows


@st.composite
def runs(
    draw: st.DrawFn, scores: st.SearchStrategy[float] = finite, *, unique: bool = False
) -> dict[str, Ranking]:
    found = {}
    for query in draw(st.lists(tokens, min_size=1, max_size=4, unique=True)):
        docs = draw(st.lists(tokens, min_size=1, max_size=6, unique=True))
        size = {"min_size": len(docs), "max_size": len(docs)}
        numbers = draw(st.lists(scores, unique=unique, **size))
        found[query] = Ranking.sorted(query, docs, numbers)
    return found


def judgements_of(id_strategy: st.SearchStrategy[str]) -> Any:
    grades = st.dictionaries(id_strategy, st.integers(-3, 10**6), min_size=1, max_size=4)
    return st.dictionaries(id_strategy, grades, min_size=1, max_size=4)


def there_and_back(
    write: Callable[[Path], None], read: Callable[[Path], Any], name: str = "file"
) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made" / name
        write(path)
        assert os.listdir(path.parent) == [name]  # nothing else stays behind
        found = read(path)
        return found if isinstance(found, dict) else list(found)


# ---- write then read gives the same ----


@given(passages_of(ids), endings)
def test_corpus_identity(passages: list[Passage], gz: str) -> None:
    read = there_and_back(lambda p: f.write_corpus(p, passages), f.read_corpus, f"c.jsonl{gz}")
    assert read == by_id(passages)
    assert list(read) == [passage.id for passage in passages]


@given(query_lists, endings)
def test_queries_identity(some: list[Query], gz: str) -> None:
    read = there_and_back(lambda p: f.write_queries(p, some), f.read_queries, f"q.jsonl{gz}")
    assert read == by_id(some)


@given(judgements_of(tokens), endings)
def test_qrels_identity(judgements: dict[str, dict[str, int]], gz: str) -> None:
    assert judgements == there_and_back(
        lambda p: f.write_qrels(p, judgements), f.read_qrels, f"qrels.txt{gz}"
    )


@given(judgements_of(cells), endings)
def test_beir_qrels_identity(judgements: dict[str, dict[str, int]], gz: str) -> None:
    assert judgements == there_and_back(
        lambda p: f.write_beir_qrels(p, judgements), f.read_qrels, f"test.tsv{gz}"
    )


@given(runs(st.floats(width=32, allow_nan=False, allow_infinity=False), unique=True), endings)
def test_run_identity(run: dict[str, Ranking], gz: str) -> None:
    """Where no two scores of a query tie, every one of them is read as it was."""
    read = there_and_back(lambda p: f.write_run(p, run, "t"), f.read_run, f"r.trec{gz}")
    assert read == run
    assert list(read) == list(run)


@given(runs(st.floats(-1e30, 1e30) | st.sampled_from([0.0, -0.0, 1.0, 1 + 1e-12, 1e-45])))
def test_written_scores_fall_strictly_and_keep_the_order(run: dict[str, Ranking]) -> None:
    read = there_and_back(lambda p: f.write_run(p, run, "t"), f.read_run)
    for query, ranking in run.items():
        assert read[query].passage_ids == ranking.passage_ids
        as_float32 = np.asarray(read[query].scores, dtype=np.float32)
        assert (np.diff(as_float32.astype(np.float64)) < 0).all()
        assert (np.diff(np.asarray(read[query].scores)) < 0).all()
    # what fell strictly already is left alone
    assert there_and_back(lambda p: f.write_run(p, read, "t"), f.read_run) == read


@given(st.lists(finite.filter(lambda x: abs(x) < 1e38), min_size=1))
def test_scores_are_lowered_no_further_than_needed(scores: list[float]) -> None:
    scores = sorted(scores, reverse=True)
    falling = f.strictly_falling(scores)
    for before, old, new in zip(falling, scores[1:], falling[1:], strict=False):
        lowest_step = np.nextafter(np.float32(before), np.float32(-np.inf))
        assert new == (old if np.float32(old) < np.float32(before) else float(lowest_step))


def test_scores_beyond_float32_are_refused(tmp_path: Path) -> None:
    run = {"q": Ranking(query_id="q", passage_ids=("a", "b"), scores=(1e39, 1.0))}
    with pytest.raises(DataError, match="query 'q': score 1e\\+39 does not fit a float32"):
        f.write_run(tmp_path / "r.trec", run, "t")
    lowest = -float(np.finfo(np.float32).max)
    with pytest.raises(DataError, match="does not fit"):
        f.strictly_falling([lowest, lowest])


@given(runs())
def test_tevatron_result_identity(run: dict[str, Ranking]) -> None:
    try:
        for ranking in run.values():
            f.strictly_falling(ranking.scores)
    except DataError:
        return
    read = there_and_back(lambda p: f.write_tevatron_result(p, run), f.read_tevatron_result)
    assert {q: r.passage_ids for q, r in read.items()} == {q: r.passage_ids for q, r in run.items()}


@given(training_rows(), endings)
def test_tevatron_identity(rows: list[f.TrainingRow], gz: str) -> None:
    assert rows == there_and_back(
        lambda p: f.write_tevatron(p, rows), f.read_tevatron, f"train.jsonl{gz}"
    )


@given(training_rows(one_positive=True))
def test_tevatron_scored_identity(rows: list[f.TrainingRow]) -> None:
    assert rows == there_and_back(lambda p: f.write_tevatron_scored(p, rows), f.read_tevatron)


@given(query_lists, st.lists(ids, min_size=1, max_size=6, unique=True), st.integers(1, 6))
def test_tevatron_ids_identity_and_resolve(some: list[Query], names: list[str], cut: int) -> None:
    rows = [
        f.TrainingIds(query=q, positive_ids=tuple(names[:cut]), negative_ids=tuple(names[cut:]))
        for q in some
    ]
    read = there_and_back(lambda p: f.write_tevatron_ids(p, rows), f.read_tevatron_ids)
    assert read == rows
    corpus = {name: Passage(id=name, text=name) for name in names}
    for row, found in zip(rows, f.resolve(read, corpus), strict=True):
        assert found.query == row.query
        assert tuple(p.id for p in found.positives) == row.positive_ids
        assert tuple(p.id for p in found.negatives) == row.negative_ids
    with pytest.raises(DataError, match="is not in the corpus"):
        list(f.resolve(read, {}))


@given(passages_of(ids))
def test_tevatron_corpus_identity(passages: list[Passage]) -> None:
    read = there_and_back(lambda p: f.write_tevatron_corpus(p, passages), f.read_tevatron_corpus)
    assert read == by_id(passages)


@given(candidate_lists(), endings)
def test_reranking_identity(candidates: list[Candidates], gz: str) -> None:
    for write, read in (
        (f.write_tevatron_rerank, f.read_tevatron_rerank),
        (f.write_rankgpt, f.read_rankgpt),
        (f.write_rank_llm, f.read_rank_llm),
    ):
        assert candidates == there_and_back(lambda p, w=write: w(p, candidates), read, f"x{gz}")


titles = st.sampled_from(["", " ", "T", "Content: ", " Content: ", "Title: a Content: b", "x\ny"])


@given(titles, titles, titles)
def test_rankgpt_takes_every_title_apart(title: str, text: str, more: str) -> None:
    passage = Passage(id="d", title=title, text=text + more)
    one = Candidates(query=Query(id="q", text="?"), passages=(passage,), scores=(1.0,))
    assert there_and_back(lambda p: f.write_rankgpt(p, [one]), f.read_rankgpt) == [one]


@given(
    st.lists(filled, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=5, unique=True)
)
def test_flag_identity(asked: list[str], found: list[str]) -> None:
    passages = tuple(Passage(id=f.text_id(t), text=t) for t in found)
    rows = [
        f.TrainingRow(
            query=Query(id=str(i), text=text),
            positives=passages[:1],
            negatives=passages[1:],
            positive_scores=(0.5,),
            negative_scores=tuple(map(float, range(len(passages) - 1))) or None,
        )
        for i, text in enumerate(asked, 1)
    ]
    assert there_and_back(lambda p: f.write_flag(p, rows), f.read_flag) == rows


@given(
    st.lists(
        st.builds(
            f.CotExample,
            system=texts,
            instruction=filled,
            input=texts,
            output=filled,
            history=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
            think=texts,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_cot_identity(examples: list[f.CotExample]) -> None:
    assert there_and_back(lambda p: f.write_cot(p, examples), f.read_cot) == examples


roles = st.sampled_from(["system", "user", "assistant", "tool"])
messages = st.lists(st.builds(f.Message, role=roles, content=texts), min_size=1, max_size=3)


@given(st.lists(messages.map(tuple), min_size=1, max_size=3))
def test_chat_identity(chats: list[tuple[f.Message, ...]]) -> None:
    assert there_and_back(lambda p: f.write_chat(p, chats), f.read_chat) == chats


def test_gz_is_the_same_bytes_every_time_and_really_packed(tmp_path: Path) -> None:
    queries = [Query(id=str(i), text="the same words") for i in range(50)]
    f.write_queries(tmp_path / "a.jsonl.gz", queries)
    f.write_queries(tmp_path / "b.jsonl.gz", queries)
    f.write_queries(tmp_path / "c.jsonl", queries)
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "c.jsonl").read_bytes()


# ---- what other tools write ----


def written(tmp_path: Path, content: str | bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_crlf_mark_and_blank_lines(tmp_path: Path) -> None:
    run = written(tmp_path, "\ufeffq Q0 a 1 2.5 t\r\nq Q0 b 2 1 t\r\n\r\n  \r\n", "r")
    assert f.read_run(run)["q"] == Ranking(query_id="q", passage_ids=("a", "b"), scores=(2.5, 1.0))
    qrels = written(tmp_path, "\ufeffquery-id\tcorpus-id\tscore\r\nq\ta\t1\r\n\r\n", "j")
    assert f.read_qrels(qrels) == {"q": {"a": 1}}
    corpus = written(tmp_path, '\ufeff{"_id": 7, "text": "x\u2028y"}\r\n\r\n', "c")
    assert f.read_corpus(corpus) == {"7": Passage(id="7", text="x\u2028y")}


def test_gzip_is_known_by_its_bytes_too(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b"q Q0 a 1 1.0 t\n"), "run.trec")
    assert f.read_run(path)["q"].passage_ids == ("a",)


@pytest.mark.parametrize(
    "header", ["qid Q0 docid rank score tag", "query_id\tQ0\tdoc_id\tr\ts\trun"]
)
def test_a_run_may_begin_with_names_of_columns(header: str) -> None:
    assert f.read_run(io.StringIO(f"{header}\nq Q0 a 1 1.0 t\n"))["q"].passage_ids == ("a",)


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2003"])
def test_white_space_beyond_ascii_parts_no_ids(tmp_path: Path, space: str) -> None:
    identifier = f"doc{space}1"
    path = tmp_path / "run.trec"
    f.write_run(path, {"q": Ranking(query_id="q", passage_ids=(identifier,), scores=(1.0,))}, "t")
    assert f.read_run(path)["q"].passage_ids == (identifier,)
    assert f.read_qrels(io.StringIO(f"q 0 {identifier} 1\n")) == {"q": {identifier: 1}}


@pytest.mark.parametrize(
    "header",
    [
        "query-id\tcorpus-id\tscore",
        "qid\tpid\trelevance",
        "topic\tdocno\tlabel",
        "QueryID\tDID\tGrade",
    ],
)
def test_qrels_may_begin_with_any_usual_names(header: str) -> None:
    assert f.read_qrels(io.StringIO(f"{header}\nq\ta\t2\n")) == {"q": {"a": 2}}
    assert f.read_qrels(io.StringIO("qid iter docno rel\nq 0 a 2\n")) == {"q": {"a": 2}}


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
def test_tables_of_csv_writers_are_read(quoting: Any) -> None:
    texts = ['paris is the "capital" of france', "plain", 'the end "']
    if quoting != csv.QUOTE_MINIMAL:
        texts += ["a\ttab", "two\nlines"]
    out = io.StringIO()
    csv.writer(out, delimiter="\t", quoting=quoting).writerows(
        [("docid", "text"), *((f"d{i}", text) for i, text in enumerate(texts))]
    )
    corpus = f.read_corpus_tsv(io.StringIO(out.getvalue()))
    assert {p.id: p.text for p in corpus.values()} == {f"d{i}": t for i, t in enumerate(texts)}


def test_quotes_that_belong_to_the_text_stay() -> None:
    text = 'd1\t"To be or not to be"\nd2\t"A" and "B"\nd3\t"\n'
    corpus = f.read_corpus_tsv(io.StringIO(text))
    assert [p.text for p in corpus.values()] == ['"To be or not to be"', '"A" and "B"', '"']


def test_broken_quotes_name_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, '"d1"\t"one"\n"d2"\t"two" words\n')
    with pytest.raises(DataError, match=r":2: broken quotes: "):
        f.read_corpus_tsv(path)


def test_lines_may_end_with_carriage_returns(tmp_path: Path) -> None:
    path = written(tmp_path, "q1\tone\rq2\ttwo\r")
    assert {q.id: q.text for q in f.read_queries_tsv(path).values()} == {"q1": "one", "q2": "two"}
    path = written(tmp_path, "one\rstill one\nthree\n")
    assert [number for number, _ in numbered_lines(path)] == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        '["paris", "berlin"]',
        '[{"text": "paris"}, {"text": "berlin"}]',
        '[\n "paris",\n "berlin"\n]\n',
    ],
)
def test_an_array_is_many_passages(content: str) -> None:
    found = f.read_passages(io.StringIO(content))
    assert [(p.id, p.text) for p in found] == [("1", "paris"), ("2", "berlin")]


def test_a_text_may_begin_with_a_bracket(tmp_path: Path) -> None:
    found = f.read_passages(io.StringIO("[1] paris is the capital\n[2] berlin\n"))
    assert [p.text for p in found] == ["[1] paris is the capital", "[2] berlin"]
    with pytest.raises(DataError, match=r"a\.json: broken JSON"):
        f.read_passages(written(tmp_path, '["paris", ', "a.json"))
    with pytest.raises(DataError, match="item 2 of the array is neither a text nor an object"):
        f.read_passages(io.StringIO('["paris", 3]'))


def test_run_is_read_by_score_not_by_rank(tmp_path: Path) -> None:
    path = written(tmp_path, "q Q0 a 1 0.1 t\np Q0 c 9 3 t\nq Q0 b 2 0.2 t\n")
    run = f.read_run(path)
    assert run["q"].passage_ids == ("b", "a")
    assert list(run) == ["q", "p"]


@given(
    st.dictionaries(
        st.text("abcxyzABC019é", min_size=1, max_size=3),
        # the last three are one number as float32, which trec_eval reads scores as
        st.sampled_from([0.0, 0.25, -3.0, 1.0, 1.0 + 1e-9, 1.0 - 1e-9]),
        min_size=2,
        max_size=8,
    ),
    st.data(),
)
def test_ties_stand_as_trec_eval_puts_them(scores: dict[str, float], data: st.DataObject) -> None:
    relevant = data.draw(st.sampled_from(sorted(scores)))
    lines = "".join(f"q Q0 {d} 1 {s} t\n" for d, s in scores.items())
    ours = f.read_run(io.StringIO(lines))["q"].passage_ids.index(relevant) + 1
    qrels = [ir_measures.Qrel("q", relevant, 1)]
    run = [ir_measures.ScoredDoc("q", d, s) for d, s in scores.items()]
    oracle = ir_measures.pytrec_eval.calc_aggregate([ir_measures.RR], qrels, run)[ir_measures.RR]
    assert 1 / ours == pytest.approx(oracle)


@given(st.permutations("abcdefgh"), st.lists(st.sampled_from([1.0, 1.0 + 1e-9, 3.0]), min_size=8))
def test_ties_may_stand_as_they_are_written(ids: list[str], scores: list[float]) -> None:
    lines = "".join(f"q Q0 {d} 1 {s!r} t\n" for d, s in zip(ids, scores, strict=False))
    read = f.read_run(io.StringIO(lines), ties="written")["q"]
    expected = sorted(zip(ids, scores, strict=False), key=lambda pair: -pair[1])  # stable
    assert list(zip(read.passage_ids, read.scores, strict=True)) == expected


def test_scores_beyond_float32_are_told_apart() -> None:
    lines = "q Q0 a 1 1e300 t\nq Q0 b 2 2e300 t\nq Q0 c 3 1e300 t\n"
    assert f.read_run(io.StringIO(lines))["q"].passage_ids == ("b", "c", "a")


def test_qrels_layouts(tmp_path: Path) -> None:
    expected = {"q": {"a": 2, "b": -1}}
    for content in (
        "q 0 a 2\nq 0 b -1\n",
        "q\t0\ta\t2\nq\tQ0\tb\t-1\n",
        "query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t-1\n",
        "q\ta\t2\nq\tb\t-1\n",
    ):
        assert f.read_qrels(written(tmp_path, content)) == expected


def test_tevatron_layouts(tmp_path: Path) -> None:
    old = {
        "query_id": 1,
        "query": "?",
        "positive_passages": [{"docid": "a", "title": "T", "text": "x", "score": 3}],
        "negative_passages": [],
    }
    newer = {
        "query_id": "2",
        "query": "?",
        "passages": [{"title": "T", "text": "x"}, {"text": "y"}],
    }
    lines = [old, newer, newer | {"query_id": "3", "scores": [1.5, -2]}]
    path = written(tmp_path, "\n".join(map(json.dumps, lines)))
    first, second, third = f.read_tevatron(path)
    assert first.positives == (Passage(id="a", title="T", text="x"),)
    assert (first.positive_scores, first.negative_scores) == ((3.0,), None)
    assert second.positives == (Passage(id=f.text_id("x", "T"), title="T", text="x"),)
    assert second.negative_scores is None
    assert (third.positive_scores, third.negative_scores) == ((1.5,), (-2.0,))


def test_tevatron_rerank_groups_rows(tmp_path: Path) -> None:
    rows = [
        {"query_id": q, "query": f"{q}?", "docid": d, "title": "", "text": d}
        for q, d in (("1", "a"), ("1", "b"), ("2", "a"))
    ]
    first, second = f.read_tevatron_rerank(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert [p.id for p in first.passages] == ["a", "b"]
    assert first.scores == (1.0, 0.5)
    assert second.query == Query(id="2", text="2?")


def test_rankgpt_as_released(tmp_path: Path) -> None:
    hits = [
        {"content": "Title: T Content: x", "qid": 5, "docid": 11, "rank": 1, "score": 2.5},
        {"content": "no title", "qid": 5, "docid": 12, "rank": 2, "score": 1},
    ]
    bare = {"query": "b?", "hits": [{"content": "x"}, {"content": "y"}]}
    path = written(tmp_path, json.dumps([{"query": "a?", "hits": hits}, bare], indent=1))
    first, second = f.read_rankgpt(path)
    assert first == Candidates(
        query=Query(id="5", text="a?"),
        passages=(Passage(id="11", title="T", text="x"), Passage(id="12", text="no title")),
        scores=(2.5, 1.0),
    )
    assert (second.query.id, second.scores) == ("1", (1.0, 0.5))
    assert [p.id for p in second.passages] == ["1-0", "1-1"]


@pytest.mark.parametrize("layout", ["array", "lines", "pretty"])
@pytest.mark.parametrize("key", ["text", "contents", "content", "segment", "passage", "body"])
def test_rank_llm_as_people_write_it(tmp_path: Path, layout: str, key: str) -> None:
    request = {
        "query": {"text": "a?", "qid": 3},
        "candidates": [
            {"docid": 1, "score": 2, "doc": {key: "x", "title": "T", "url": "u"}},
            {"docid": "b", "score": 1, "doc": "plain"},
        ],
    }
    content = {
        "array": json.dumps([request]),
        "lines": json.dumps(request) + "\n",
        "pretty": json.dumps(request, indent=2),
    }[layout]
    (one,) = f.read_rank_llm(written(tmp_path, content, "requests.json"))
    assert one.query == Query(id="3", text="a?")
    assert one.passages == (Passage(id="1", title="T", text="x"), Passage(id="b", text="plain"))


def test_cot_optional_keys(tmp_path: Path) -> None:
    lines = [
        {"instruction": "i", "output": "o"},
        {"instruction": "i", "output": "o", "input": None, "history": "", "think": None},
        {"instruction": "i", "output": "o", "history": [], "system": ""},
    ]
    read = list(f.read_cot(written(tmp_path, "\n".join(map(json.dumps, lines)))))
    assert read == [f.CotExample(instruction="i", output="o")] * 3


def test_flag_without_scores(tmp_path: Path) -> None:
    line = json.dumps({"query": "?", "pos": ["a"], "neg": ["b"], "pos_scores": [], "prompt": "p"})
    (row,) = f.read_flag(written(tmp_path, line))
    assert (row.query.id, row.positive_scores, row.negative_scores) == ("1", None, None)


def test_read_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [Passage(id="1", text="one"), Passage(id="3", text="{ three }")]
    content = "\ufeffone\r\n\r\n{ three }\r\n"
    assert f.read_passages(written(tmp_path, content)) == plain
    assert f.read_passages(io.StringIO(content)) == plain
    assert f.read_passages(io.BytesIO(content.encode())) == plain
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode()), "latin-1"))
    assert f.read_passages("-") == plain
    as_json = '{"contents": "x", "title": "T", "docid": 9}\n\n{"text": "y"}\n'
    expected = [Passage(id="9", title="T", text="x"), Passage(id="3", text="y")]
    assert f.read_passages(written(tmp_path, as_json)) == expected
    with pytest.raises(DataError, match="<stdin>: is empty"):
        f.read_passages("-")


def test_document_folder(tmp_path: Path) -> None:
    (tmp_path / "deep er").mkdir()
    written(tmp_path, "# A heading #\r\n\r\nbody\r\nmore\r\n", "a.md")
    written(tmp_path, "Short title\n\nbody\n", "deep er/b.txt")
    written(tmp_path, "a line\nanother\n", "c.txt")
    written(tmp_path, "", "empty.txt")
    written(tmp_path, "hidden", ".hidden.txt")
    written(tmp_path, b"\xff", "image.png")
    assert f.read_document_folder(tmp_path) == by_id(
        [
            Passage(id="a.md", title="A heading", text="body\nmore"),
            Passage(id="c.txt", title="c", text="a line\nanother"),
            Passage(id="deep%20er/b.txt", title="Short title", text="body"),
            Passage(id="empty.txt", title="empty", text=""),
        ]
    )
    written(tmp_path, b"fine\n\xff", "bad.txt")
    with pytest.raises(DataError, match=r"bad\.txt:2: not UTF-8.*--skip-undecodable"):
        f.read_document_folder(tmp_path)


def test_documents_in_an_encoding_that_they_name(tmp_path: Path) -> None:
    text = "Crème brûlée"
    for name, encoding in (("16.txt", "utf-16"), ("32.md", "utf-32"), ("sig.txt", "utf-8-sig")):
        written(tmp_path, text.encode(encoding), name)
    written(tmp_path, f"Menu\n.. -*- coding: latin-1 -*-\n{text}".encode("latin-1"), "named.txt")
    page = f'<?xml version="1.0" encoding="iso-8859-1"?>\n<p>{text}'
    written(tmp_path, page.encode("latin-1"), "xml.html")
    written(tmp_path, page.encode("utf-16"), "16.html")
    written(tmp_path, f"# coding: latin-1\n{text}".encode(), "utf8.txt")
    found = f.read_document_folder(tmp_path)
    assert len(found) == 7
    assert all(text in passage.text for passage in found.values())
    assert found["16.txt"].text == found["32.md"].text == found["sig.txt"].text == text


def test_documents_in_no_encoding_are_named_at_once_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, b"a\n\xff", "a.txt")
    written(tmp_path, b"# coding: no-such-thing\nb\xff", "b.md")
    with pytest.raises(DataError) as none:
        f.read_document_folder(tmp_path)
    assert "2 files are not UTF-8" in str(none.value)
    assert "skip" not in str(none.value)  # nothing would be left
    written(tmp_path, "fine", "c.txt")
    with pytest.raises(DataError, match=r"--skip-undecodable .*a\.txt:2, .*b\.md:2$"):
        f.read_document_folder(tmp_path)
    monkeypatch.setenv("DEAR_SKIP_UNDECODABLE", "1")
    with caplog.at_level("WARNING", logger="dear.notices"):
        assert list(f.read_document_folder(tmp_path)) == ["c.txt"]
    (said,) = caplog.messages
    assert "2 files are left out" in said
    for n in range(30):
        written(tmp_path, b"\xff", f"d{n}.txt")
    with caplog.at_level("WARNING", logger="dear.notices"):
        f.read_document_folder(tmp_path)
    assert "32 files are left out" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(" and 12 more")


def test_tables(tmp_path: Path) -> None:
    corpus = written(tmp_path, "id\ttitle\ttext\na\tT\tx y\nb\tz\n")
    assert f.read_corpus_tsv(corpus) == by_id(
        [Passage(id="a", title="T", text="x y"), Passage(id="b", text="z")]
    )
    queries = written(tmp_path, "1\twhat?\r\n2\twho?\r\n")
    assert f.read_queries_tsv(queries) == by_id(
        [Query(id="1", text="what?"), Query(id="2", text="who?")]
    )


# ---- every fault has its place ----

GOOD_RUN = "q Q0 a 1 2.0 t\n"
GOOD_JSON = '{"_id": "1", "text": "x"}\n'
OLD = {"query_id": "1", "query": "?", "positive_passages": [{"docid": "a", "text": "x"}]}


def train(**changes: Any) -> str:
    return json.dumps(OLD | changes)


def hits(*found: dict[str, Any], **changes: Any) -> str:
    return json.dumps({"query": "?", "qid": "1", "hits": list(found)} | changes)


FAULTS: list[tuple[Callable[[Path], Any], str | bytes, int | None, str]] = [
    # runs
    (f.read_run, "", None, "is empty"),
    (f.read_run, "\n \r\n", None, "is empty"),
    (f.read_run, GOOD_RUN + "q Q0 b 2 1.0\n", 2, "expected 6 fields, got 5: 'q Q0 b 2 1.0'"),
    (f.read_run, "\n" + GOOD_RUN + "q Q0 b 2 1.0 t t\n", 3, "expected 6 fields, got 7"),
    (f.read_run, GOOD_RUN + "q Q0 a 2 1.0 t\n", 2, "passage 'a' appears twice for query 'q'"),
    *(
        (f.read_run, f"q Q0 a 1 {score} t\n", 1, f"finite number, got '{score}'")
        for score in ("nan", "inf", "-Infinity", "x", "1_0", "1e999", "١")
    ),
    (f.read_run, GOOD_RUN.encode() + b"q Q0 \xe9 2 1.0 t\n", 2, "not UTF-8 (byte 6 of the line)"),
    (f.read_tevatron_result, "q\ta\t1.0\nq\ta\n", 2, "expected 3 fields, got 2"),
    # qrels
    (f.read_qrels, "q 0 a 1\nq 0 b 1.0\n", 2, "whole number, got '1.0'"),
    (f.read_qrels, "q 0 a 1\nq 0 b 1_0\n", 2, "whole number"),
    (f.read_qrels, "q 0 a 1\nq 0 b\n", 2, "expected 4 fields, or 3 between tabs, got 3"),
    (f.read_qrels, "q\ta\t1\nq\tb\n", 2, "expected 3 fields between tabs, got 2"),
    (f.read_qrels, "q\ta\t1\nq\t \t1\n", 2, "an empty id"),
    (f.read_qrels, "question\tanswer\tgrade\nq\ta\t1\n", 1, "whole number, got 'grade'"),
    (f.read_qrels, "q 0 a 1\nq 0 a 1\n", 2, "judged twice"),
    (f.read_qrels, "query-id\tcorpus-id\tscore\n", None, "holds a header and no judgement"),
    (f.read_qrels, "", None, "is empty"),
    # JSON lines, in whatever format
    (f.read_corpus, GOOD_JSON + '{"_id": "2", "text": \n', 2, "broken JSON"),
    (f.read_corpus, GOOD_JSON + "[1]\n", 2, "expected a JSON object, got a list"),
    (f.read_corpus, GOOD_JSON + "7\n", 2, "expected a JSON object, got the number 7"),
    (f.read_corpus, GOOD_JSON + GOOD_JSON, 2, "passage id '1' appears twice"),
    (f.read_corpus, '{"_id": "1", "txet": "x"}', 1, "no 'text'; is 'txet' meant to be it?"),
    (f.read_corpus, '{"_id": "1", "zzz": "x"}', 1, "no 'text'; the row has: _id, zzz"),
    (f.read_corpus, '{"_id": "1", "text": null}', 1, "no 'text' (it is null)"),
    (f.read_corpus, '{"_id": " ", "text": "x"}', 1, "'_id' is empty"),
    (f.read_corpus, '{"_id": 1.5, "text": "x"}', 1, "'_id' must be text or a whole number"),
    (f.read_corpus, '{"_id": true, "text": "x"}', 1, "got true or false"),
    (f.read_corpus, '{"_id": "1", "text": ["x"]}', 1, "'text' must be text, got a list"),
    (f.read_corpus, '{"_id": "1", "text": "x\\ud800"}', 1, "lone surrogate"),
    (f.read_corpus, "[" * 100_000, 1, "broken JSON"),
    (f.read_corpus, GOOD_JSON + "[" * 100_000, 2, "broken JSON"),
    (f.read_corpus, GOOD_JSON + '{"_id": ' + "9" * 5000 + "}", 2, "broken JSON"),
    (f.read_corpus, GOOD_JSON.encode() + b'{"_id": "\xff"}', 2, "not UTF-8"),
    (f.read_corpus, "", None, "is empty"),
    (f.read_queries, GOOD_JSON + '{"_id": "2", "text": " "}', 2, "'text' is empty"),
    (f.read_queries, GOOD_JSON + GOOD_JSON, 2, "query id '1' appears twice"),
    # training rows
    (f.read_tevatron, train(query=""), 1, "'query' is empty"),
    (f.read_tevatron, train(query_id=None), 1, "no 'query_id' (it is null)"),
    (f.read_tevatron, train(positive_passages=[]), 1, "'positive_passages' is empty"),
    (f.read_tevatron, train(positive_passages={}), 1, "must be a list, got an object"),
    (f.read_tevatron, train(positive_passages=["x"]), 1, "positive_passages[0] must be an object"),
    (f.read_tevatron, train(positive_passages=[{}]), 1, "positive_passages[0]: no 'text'"),
    (f.read_tevatron, train() + "\n" + train(query="other"), 2, "before with another text"),
    (
        f.read_tevatron,
        train() + "\n" + train(negative_passages=[{"docid": "a", "text": "y"}]),
        2,
        "passage 'a' appears twice among positives and negatives",
    ),
    (
        f.read_tevatron,
        train(negative_passages=[{"text": "y", "score": 1}, {"text": "z"}]),
        1,
        "negative_passages[1]: no 'score'",
    ),
    (f.read_tevatron, '{"query_id": "1", "query": "?", "passages": []}', 1, "'passages' is empty"),
    (
        f.read_tevatron,
        '{"query_id": "1", "query": "?", "passages": [{"text": "x"}], "scores": [1, 2]}',
        1,
        "'scores' has 2 numbers for 1 passages",
    ),
    (
        f.read_tevatron,
        '{"query_id": "1", "query": "?", "passages": [{"text": "x"}], "scores": [NaN]}',
        1,
        "'scores[0]' is nan, a finite number is needed",
    ),
    (
        f.read_tevatron,
        '{"query_id": "1", "query": "?", "passages": [{"text": "x"}], "scores": [1e999]}',
        1,
        "'scores[0]' is inf",
    ),
    (
        f.read_tevatron,
        '{"query_id": "1", "query": "?", "positive_document_ids": ["a"]}',
        1,
        "read them with read_tevatron_ids",
    ),
    (
        f.read_tevatron_ids,
        '{"query_id": "1", "query": "?", "positive_document_ids": [null]}',
        1,
        "positive_document_ids[0]: no",
    ),
    (
        f.read_tevatron_ids,
        '{"query_id": "1", "query": "?", "positive_document_ids": [1, "1"]}',
        1,
        "passage '1' appears twice",
    ),
    (f.read_flag, '{"query": "?", "pos": []}', 1, "'pos' is empty"),
    (f.read_flag, '{"query": "?", "pos": ["a"], "pos_scores": [1, 2]}', 1, "2 numbers for 1"),
    (f.read_flag, '{"query": "?", "pos": ["a"], "neg": [1]}', 1, "neg[0]: 'neg' must be text"),
    (f.read_flag, '{"query": "?", "pos": ["a"], "neg": ["a"]}', 1, "appears twice"),
    # reranking
    (f.read_rankgpt, f"[\n{hits({'content': 'x'})},\n{hits()}\n]", 3, "'1' appears twice"),
    (f.read_rankgpt, hits(), 1, "query '1' has no candidates"),
    (f.read_rankgpt, hits({"content": "x"}, {}), 1, "hits[1]: no 'content'"),
    (f.read_rankgpt, hits({"content": "x", "qid": "2"}), 1, "hits[0]: 'qid' is not the query's"),
    (
        f.read_rankgpt,
        hits({"content": "x", "docid": 1}, {"content": "y", "docid": "1"}),
        1,
        "passage '1' appears twice",
    ),
    (
        f.read_rankgpt,
        hits({"content": "x", "score": 1}, {"content": "y"}),
        1,
        "hits[1]: no 'score'",
    ),
    (f.read_rankgpt, hits({"content": "x"}, query=""), 1, "'query' is empty"),
    (f.read_rankgpt, "[\n{},\n]\n", 2, "no 'hits'"),
    (f.read_rankgpt, f"[\n{hits({'content': 'x'})}\n{{}}]", 3, "expected ',' or ']'"),
    (f.read_rankgpt, f"[\n{hits({'content': 'x'})}\n", 2, "expected ',' or ']'"),
    (f.read_rankgpt, f"[\n{hits({'content': 'x'})}\n]\n]", 4, "more text after the end: ']'"),
    (f.read_rankgpt, "[]", None, "is an empty list"),
    (f.read_rank_llm, '{"query": {"text": "?"}, "candidates": [{}]}', 1, "candidates[0]: no 'doc'"),
    (
        f.read_rank_llm,
        '{"query": {"text": "?"}, "candidates": [{"doc": {"txt": "x"}}]}',
        1,
        "candidates[0]: doc: no 'text'; is 'txt' meant to be it?",
    ),
    (f.read_rank_llm, '{"query": 7, "candidates": []}', 1, "query must be an object"),
    (
        f.read_tevatron_rerank,
        "\n".join(
            json.dumps({"query_id": q, "query": "?", "docid": d, "text": "x"})
            for q, d in (("1", "a"), ("2", "a"), ("1", "b"))
        ),
        3,
        "query id '1' appears twice",
    ),
    # reasoning
    (f.read_cot, '{"instruction": "i", "outptu": "o"}', 1, "no 'output'; is 'outptu' meant"),
    (f.read_cot, '{"instruction": "i", "output": " "}', 1, "'output' is empty"),
    (f.read_cot, '{"instruction": "i", "output": "o", "history": [["a"]]}', 1, "history[0] must"),
    (f.read_chat, '{"messages": []}', 1, "'messages' is empty"),
    (
        f.read_chat,
        '{"messages": [{"role": "asistant", "content": "x"}]}',
        1,
        "messages[0]: unknown role 'asistant'; did you mean 'assistant'?",
    ),
    # plain
    (f.read_passages, '{"text": "x"}\n{"text": \n', 2, "broken JSON"),
    (f.read_passages, '{"text": "x", "id": "2"}\n{"text": "y"}', 2, "id '2' appears twice"),
    (f.read_corpus_tsv, "a\tx\nb\n", 2, "expected 2 or 3 fields between tabs, got 1"),
    (f.read_corpus_tsv, "a\tx\na\ty\n", 2, "passage id 'a' appears twice"),
    (f.read_queries_tsv, "a\tx\nb\ty\tz\n", 2, "expected 2 fields between tabs, got 3"),
    (f.read_queries_tsv, "a\t \n", 1, "query 'a' has no text"),
    (f.read_queries_tsv, " \tx\n", 1, "an empty id"),
    (f.read_queries_tsv, "id\ttext\n", None, "holds a header and nothing else"),
    (f.read_queries_txt, "\n\n", None, "is empty"),
]


@pytest.mark.parametrize(("read", "content", "line", "problem"), FAULTS)
def test_faults_name_file_and_line(
    tmp_path: Path,
    read: Callable[[Path], Any],
    content: str | bytes,
    line: int | None,
    problem: str,
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        list(read(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: " if line is None else f"{path}:{line}: ")
    assert problem in message
    assert "\n" not in message


READERS = [
    *(f.read_corpus, f.read_queries, f.read_run, f.read_qrels, f.read_tevatron_result),
    *(f.read_tevatron, f.read_tevatron_ids, f.read_tevatron_corpus, f.read_tevatron_rerank),
    *(f.read_flag, f.read_rankgpt, f.read_rank_llm, f.read_cot, f.read_chat, f.read_passages),
    *(f.read_corpus_tsv, f.read_corpus_txt, f.read_queries_tsv, f.read_queries_txt),
]


@pytest.mark.parametrize("read", READERS)
def test_every_reader_names_what_cannot_be_opened(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match=r"absent: cannot be read: No such file"):
        list(read(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        list(read(tmp_path))
    with pytest.raises(DataError, match=r"bin:1: not UTF-8"):
        list(read(written(tmp_path, b"\xff\xfe\n", "bin")))


def complaint(read: Any, path: Path) -> str | None:
    try:
        list(read(path))
    except DataError as error:
        return str(error)
    return None


@given(st.sampled_from(READERS), st.binary(max_size=60) | texts.map(str.encode))
def test_no_reader_raises_anything_else(read: Any, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), content)
        said = complaint(read, path)
        assert said is None or str(path) in said


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | finite | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "query",
                        "qid",
                        "hits",
                        "candidates",
                        "doc",
                        "text",
                        "content",
                        "_id",
                        "passages",
                        "scores",
                        "query_id",
                        "positive_passages",
                        "messages",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_no_reader_trips_over_any_json(value: Any) -> None:
    content = json.dumps(value).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), content)
        for read in READERS:
            said = complaint(read, path)
            assert said is None or str(path) in said


def test_gz_cut_short_names_the_line(tmp_path: Path) -> None:
    lines = b"".join(b"q Q0 %d 1 %d t\n" % (i, hash((i, 7))) for i in range(5000))
    packed = gzip.compress(lines)
    path = written(tmp_path, packed[: len(packed) // 2], "run.trec.gz")
    with pytest.raises(DataError, match=r"run\.trec\.gz:\d{3,}: the gzip stream is damaged or cut"):
        f.read_run(path)
    broken = bytearray(packed)
    struct.pack_into("<I", broken, len(broken) - 8, 0)  # the check sum
    with pytest.raises(DataError, match=r"gzip stream is damaged"):
        f.read_run(written(tmp_path, bytes(broken), "sum.gz"))
    with pytest.raises(DataError, match=r"no\.gz:1: the gzip stream is damaged"):
        f.read_run(written(tmp_path, GOOD_RUN, "no.gz"))


def test_a_jsonl_is_read_line_by_line(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD_JSON + "{broken\n", "x.jsonl")
    rows = json_rows(path)
    assert next(rows).line == 1  # the broken second line has not been looked at
    with pytest.raises(DataError, match=r"x\.jsonl:2: broken JSON"):
        next(rows)
    # and a first line that is broken is not taken for a document over many lines
    with pytest.raises(DataError, match=r"y\.jsonl:1: broken JSON"):
        list(json_rows(written(tmp_path, '{"a":\n1}\n', "y.jsonl")))


# ---- writers refuse what no reader takes back, and keep the earlier file ----

P, Q = Passage(id="p", text="x"), Query(id="q", text="?")
ONE = Candidates(query=Q, passages=(P,), scores=(1.0,))
ROW = f.TrainingRow(query=Q, positives=(P,), negatives=())


def ranking(query: str, passage: str) -> dict[str, Ranking]:
    return {query: Ranking(query_id=query, passage_ids=(passage,), scores=(1.0,))}


def candidates(query: Query = Q, passage: Passage = P, score: float = 1.0) -> list[Candidates]:
    return [Candidates(query=query, passages=(passage,), scores=(score,))]


NAMELESS, SILENT = Passage(id=" ", text="x"), Query(id="q", text=" ")
REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (lambda p: f.write_run(p, {}, "t"), "nothing to write"),
    (
        lambda p: f.write_run(p, ranking("q", "a b"), "t"),
        "passage id 'a b' is empty or holds white",
    ),
    (lambda p: f.write_run(p, ranking("q\x0b", "a"), "t"), "query id"),
    (lambda p: f.write_run(p, ranking("q", ""), "t"), "passage id '' is empty"),
    (lambda p: f.write_run(p, ranking("q", "a"), "my tag"), "tag 'my tag'"),
    (lambda p: f.write_run(p, ranking("\ufeffq", "a"), "t"), "query id"),
    (lambda p: f.write_run(p, ranking("q", "\ud800"), "t"), "cannot be UTF-8"),
    (lambda p: f.write_qrels(p, {"q": {}}), "nothing to write"),
    (lambda p: f.write_qrels(p, {"q": {"a\tb": 1}}), "holds white space"),
    (lambda p: f.write_beir_qrels(p, {"q": {}}), "nothing to write"),
    (lambda p: f.write_beir_qrels(p, {"q": {"a\tb": 1}}), "the control character"),
    (lambda p: f.write_corpus(p, []), "nothing to write"),
    (lambda p: f.write_corpus(p, [P, P]), "passage id 'p' appears twice"),
    (lambda p: f.write_corpus(p, [NAMELESS]), "passage id ' ' is empty"),
    (lambda p: f.write_queries(p, [SILENT]), "query 'q' has no text"),
    (lambda p: f.write_queries(p, [Q, Q]), "query id 'q' appears twice"),
    (lambda p: f.write_queries(p, [Query(id=" ", text="?")]), "query id ' ' is empty"),
    (lambda p: f.write_tevatron_corpus(p, [P, P]), "appears twice"),
    (lambda p: f.write_tevatron_corpus(p, [NAMELESS]), "passage id ' ' is empty"),
    (lambda p: f.write_rankgpt(p, []), "nothing to write"),
    (lambda p: f.write_rankgpt(p, candidates(query=SILENT)), "has no text"),
    (lambda p: f.write_rank_llm(p, candidates(passage=NAMELESS)), "is empty"),
    (lambda p: f.write_rank_llm(p, candidates(score=float("nan"))), "not finite"),
    (lambda p: f.write_tevatron_rerank(p, candidates(passage=NAMELESS)), "is empty"),
    (
        lambda p: f.write_tevatron(p, [f.TrainingRow(query=Q, positives=(), negatives=(P,))]),
        "query 'q' has no positive passage",
    ),
    (
        lambda p: f.write_tevatron_scored(
            p, [f.TrainingRow(query=Q, positives=(P, Passage(id="o", text="")), negatives=())]
        ),
        "holds one positive, not 2",
    ),
    (
        lambda p: f.write_tevatron_scored(
            p,
            [
                f.TrainingRow(
                    query=Q,
                    positives=(Passage(id="o", text=""),),
                    negatives=(P,),
                    positive_scores=(1.0,),
                )
            ],
        ),
        "scores on one side only",
    ),
    (lambda p: f.write_cot(p, [f.CotExample(instruction="", output="o")]), "without instruction"),
    (lambda p: f.write_chat(p, [[]]), "without messages"),
]


@pytest.mark.parametrize(("write", "problem"), REFUSED)
def test_refusals_keep_the_earlier_file(
    tmp_path: Path, write: Callable[[Path], None], problem: str
) -> None:
    path = written(tmp_path, "earlier")
    with pytest.raises(DataError, match=re.escape(problem)):
        write(path)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["file"]


UNNAMED = Query(id=" ", text="?")


def row(query: Query = Q, positive: Passage = P, negative: Passage = NAMELESS) -> f.TrainingRow:
    return f.TrainingRow(query=query, positives=(positive,), negatives=(negative,))


def by_ids(path: Path, rows: list[f.TrainingRow]) -> None:
    f.write_tevatron_ids(
        path,
        [
            f.TrainingIds(
                query=r.query,
                positive_ids=tuple(p.id for p in r.positives),
                negative_ids=tuple(p.id for p in r.negatives),
            )
            for r in rows
        ],
    )


OTHER = Passage(id="o", text="y")


@pytest.mark.parametrize("write", [f.write_tevatron, f.write_tevatron_scored, by_ids])
@pytest.mark.parametrize(
    ("faulty", "problem"),
    [
        (row(UNNAMED, negative=OTHER), "id ' ' is empty"),
        (row(SILENT, negative=OTHER), "query 'q' has no text"),
        (row(positive=NAMELESS, negative=OTHER), "id ' ' is empty"),
        (row(), "id ' ' is empty"),
    ],
    ids=["query id", "query", "positive", "negative"],
)
def test_no_row_is_written_that_no_reader_takes(
    tmp_path: Path, write: Callable[..., None], faulty: f.TrainingRow, problem: str
) -> None:
    path = written(tmp_path, "earlier")
    with pytest.raises(DataError, match=problem):
        write(path, [row(negative=OTHER), faulty])
    assert path.read_text() == "earlier"


@pytest.mark.parametrize("write", [f.write_rankgpt, f.write_rank_llm, f.write_tevatron_rerank])
@pytest.mark.parametrize(
    ("faulty", "problem"),
    [
        (candidates(query=UNNAMED), "query id ' ' is empty"),
        (candidates(query=SILENT), "query 'q' has no text"),
        (candidates(passage=NAMELESS), "passage id ' ' is empty"),
    ],
    ids=["query id", "query", "passage"],
)
def test_no_candidates_are_written_that_no_reader_takes(
    tmp_path: Path, write: Callable[..., None], faulty: list[Candidates], problem: str
) -> None:
    path = written(tmp_path, "earlier")
    with pytest.raises(DataError, match=problem):
        write(path, faulty)
    assert path.read_text() == "earlier"


def test_training_row_checks_itself() -> None:
    with pytest.raises(DataError, match="1 passages, 2 scores"):
        f.TrainingRow(query=Q, positives=(P,), negatives=(), positive_scores=(1.0, 2.0))
    with pytest.raises(DataError, match="appears twice"):
        f.TrainingRow(query=Q, positives=(P,), negatives=(P,))
