"""`dear reason` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import contents, dear, good, read, refused

from dear.cli.main import main
from dear.data.formats import read_chat, read_cot, read_lists
from dear.reason import extractive
from kills import dies_at, in_a_process

WRITTEN = {"drafts.jsonl", "examples.jsonl", "dear-cot.jsonl", "messages.jsonl", "report.json"}
HIDDEN = ".drafts.jsonl.lock"


def command(animals: Path, reranker: Path, folder: Path, *more: object) -> list[object]:
    return [
        *("reason", animals, "--run", "bm25", "--teacher", reranker, "--dtype", "float32"),
        *("-o", folder, "--size", "4-6", "--examples", 5, *more),
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name != HIDDEN}


@pytest.fixture(scope="module")
def made(animals: Path, reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reason") / "set"
    out = good(*command(animals, reranker, folder))
    assert f"{folder}: 40 examples of" in out
    assert "candidates left out, because a test split holds them" in out
    return folder


def test_the_set_and_its_report(made: Path, animals: Path) -> None:
    assert set(files(made)) == WRITTEN
    examples = list(read_lists(made / "examples.jsonl"))
    rows = list(read_cot(made / "dear-cot.jsonl"))
    chats = list(read_chat(made / "messages.jsonl"))
    assert len(examples) == len(rows) == len(chats) == 40
    for example, row, chat in zip(examples, rows, chats, strict=True):
        assert 4 <= len(example.passages) <= 6
        assert not any(p.id.endswith("-sleep") for p in example.passages)  # relevant in test
        assert row.output == chat[-1].content
        assert row.instruction == chat[0].content
        assert row.output.startswith(f"{example.thought}\n\n### Final Reranking:\n[")
    report = read(made / "report.json")
    assert (report["kept"], report["dropped"]) == (40, {})
    assert report["candidates_left_out"] == 64
    assert report["generator"]["kind"] == "extractive"
    assert report["held_out"]["collections"] == ["animals"]
    assert report["settings"]["sizes"] == [4, 6]


def killed(words: list[object], call: int, after: bool) -> None:
    extractive.score_questions = dies_at(call, extractive.score_questions, after=after)
    main([str(word) for word in words])


def test_a_killed_run_ends_as_an_undisturbed_one(
    made: Path, animals: Path, reranker: Path, tmp_path: Path
) -> None:
    words = command(animals, reranker, tmp_path / "set")
    assert in_a_process(killed, words, 3, False) == -9
    assert set(files(tmp_path / "set")) == {"drafts.jsonl"}
    with (tmp_path / "set" / "drafts.jsonl").open("a") as file:
        file.write('{"key": "torn')
    assert "32 were there" in good(*words)
    assert files(tmp_path / "set") == files(made)


def test_another_selection_costs_nothing(
    made: Path, animals: Path, reranker: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "set"))
    out = good(*command(animals, reranker, folder, "--max-words", 300, "--keep-tau", 0.9))
    assert "40 were there" in out
    assert files(folder)["dear-cot.jsonl"] == files(made)["dear-cot.jsonl"]
    out = good(*command(animals, reranker, folder, "--max-words", 300, "--prompt", "list"))
    assert "40 were there" in out
    (first, *_) = read_cot(folder / "dear-cot.jsonl")
    assert first.output.startswith("<think>\nNeeds: ")
    assert files(folder)["examples.jsonl"] == files(made)["examples.jsonl"]


def test_labels_are_the_order(animals: Path, reranker: Path, tmp_path: Path, made: Path) -> None:
    good("label", animals, "--run", "bm25", "--model", "first-stage", "-o", tmp_path / "labels")
    good(*command(animals, reranker, tmp_path / "set", "--labels", tmp_path / "labels"))
    for example in read_lists(tmp_path / "set" / "examples.jsonl"):
        assert example.scores is not None
        ranked = [example.scores[i] for i in example.order]
        assert ranked == sorted(ranked, reverse=True)
    (stamp,) = read(tmp_path / "set" / "report.json")["generator"]["labels"]
    assert stamp["teacher"] == "first-stage"


@pytest.mark.parametrize("name", ["examples.jsonl", "dear-cot.jsonl", "messages.jsonl"])
def test_what_was_written_goes_through_the_same_selection(
    made: Path, animals: Path, tmp_path: Path, name: str
) -> None:
    out = good("reason", "--from", made / name, "-o", tmp_path / "set")
    assert "40 examples of" in out
    again, first = (list(read_lists(f / "examples.jsonl")) for f in (tmp_path / "set", made))
    for one, other in zip(again, first, strict=True):
        assert (one.order, one.thought) == (other.order, other.thought)
        assert [p.full_text for p in one.passages] == [p.full_text for p in other.passages]
    out = good("reason", animals, "--from", made / name, "-o", tmp_path / "set")
    assert "40 examples of" in out  # its own train queries are no leak


def test_a_teacher_judges_what_was_read(made: Path, reranker: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (made / "dear-cot.jsonl").read_text().splitlines()]
    for row in rows[:10]:
        head, chain = row["output"].rsplit("\n", 1)
        row["output"] = "\n".join([head, " > ".join(chain.split(" > ")[::-1])])
    rows[20]["output"] = "I can not say."
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ("reason", "--from", tmp_path / "x.jsonl", "-o", tmp_path / "set")
    out = good(*words, "--teacher", reranker, "--dtype", "float32", "--keep-tau", 0.9)
    assert "11 examples dropped (disagrees 10, no ranking 1)" in out
    assert "29 examples of" in out
    assert read(tmp_path / "set" / "report.json")["dropped"] == {"disagrees": 10, "no ranking": 1}


def test_test_data_is_refused(made: Path, animals: Path, reranker: Path, tmp_path: Path) -> None:
    words = command(animals, reranker, tmp_path / "set", "--split", "test")
    line = refused(*words)
    assert line.startswith("not one list could be drawn: leaks 8; --leak-passages none")
    assert "8 examples" in good(*words, "--examples", 1, "--allow-leaks")
    # what is in another collection's test split is no training data either
    shutil.copytree(animals, tmp_path / "other")
    (tmp_path / "other" / "qrels" / "test.tsv").write_bytes(
        (animals / "qrels" / "train.tsv").read_bytes()
    )
    words = ("reason", "--from", made / "dear-cot.jsonl", "-o", tmp_path / "none")
    line = refused(*words, "--against", tmp_path / "other")
    assert line.endswith("no example was kept; report.json says why")
    assert read(tmp_path / "none" / "report.json")["dropped"] == {"leaks": 40}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("C", "--run", "bm25"), "no --teacher for the order and the evidence: give one"),
        (("C", "--run", "bm25", "--labels", "x"), "no --teacher to choose the evidence"),
        (("C",), "give a --run, or --from FILE"),
        ((), "give a COLLECTION, or --from FILE"),
        (("--from", "x", "--run", "y"), "no --run beside it"),
        (("--from", "x", "--llm", "y"), "no --llm beside it"),
        (("C", "--run", "bm25", "--teacher", "M", "--prompt", "lst"), "did you mean 'list'"),
        (
            ("C", "--run", "bm25", "--teacher", "M", "--prompt", "pairs"),
            "does not say what to answer",
        ),
        (("C", "--run", "bm25", "--teacher", "M", "--size", "x"), "--size 'x'"),
        (("C", "--run", "bm25", "--teacher", "M", "--size", "9-3"), "2 <= low <= high"),
        (("C", "--run", "bm25", "--teacher", "M", "--leak-passages", "x"), "known: judged"),
        (("C", "--run", "bm25", "--teacher", "M", "--keep-tau", "3"), "lies in -1 … 1"),
        (("C", "--run", "bm25", "--teacher", "M", "--weight", "3"), "0 --labels, 1 --weight"),
        (("C", "--run", "bm25", "--teacher", "M", "--ledger", "x"), "answers of an --llm"),
        (("C", "--run", "bm26", "--teacher", "M"), "no run 'bm26'"),
        (("C", "--run", "bm25", "--llm", "replya:x"), "unknown backend 'replya'"),
        (("C", "--run", "bm25", "--split", "dev2", "--llm", "replay:F"), "no judgements for split"),
        (("--from", "F"), "no reasoning data"),
    ],
)
def test_refusals_are_one_line(
    animals: Path, reranker: Path, tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    row = {"query": "x", "prompt": "1 passages\n[1] x\nSearch Query:", "response": ""}
    file = tmp_path / "f.jsonl"
    file.write_text(json.dumps(row) + "\n")
    places = {"C": animals, "M": reranker, "F": file, "replay:F": f"replay:{file}"}
    given = [places.get(word, word) for word in words]
    assert line in refused("reason", *given, "-o", tmp_path / "set")
    assert not (tmp_path / "set" / "report.json").exists()


def test_it_goes_on_after_an_interrupt(animals: Path, reranker: Path, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = extractive.score_questions
    extractive.score_questions = interrupted  # type: ignore[assignment]
    try:
        done = dear(*command(animals, reranker, tmp_path / "set"))
    finally:
        extractive.score_questions = before
    assert done.status == 130
    assert "the same command goes on from here" in done.err
