"""Bad input: one clear line, exit status 2, and whatever was there before is still there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import (
    CORPUS,
    contents,
    dear,
    good,
    minds_interrupts,
    read,
    refused,
    start,
    write_recipe,
    write_reranker,
)

from dear.data.formats import read_run
from dear.data.labels import read_labels

FULL = Path("/dev/full")


def spoil(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))


CORPUS_FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty", lambda file: file.write_bytes(b""), r"corpus\.jsonl: is empty"),
    ("broken JSON", lambda file: spoil(file, '"}\n', '"\n'), r"corpus\.jsonl:1: .*JSON"),
    ("not UTF-8", lambda file: spoil(file, "bamboo", "\udcff"), r"corpus\.jsonl:4: not UTF-8"),
    (
        "the same id twice",
        lambda file: spoil(file, '"otter-live"', '"otter-eat"'),
        r"corpus\.jsonl:2: passage id 'otter-eat' appears twice",
    ),
]


def test_documents_in_an_unknown_encoding_are_left_out_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # set first: what is not there is not put back, and the command sets it for this process
    monkeypatch.setenv("DEAR_SKIP_UNDECODABLE", "")
    monkeypatch.delenv("DEAR_SKIP_UNDECODABLE")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "good.txt").write_text("Otters eat fish.")
    for name in ("a.txt", "b.txt"):
        (tmp_path / "corpus" / name).write_bytes(b"Otters\xff")
    asked = ("retrieve", tmp_path, "--query", "what do otters eat")
    said = refused(*asked)
    assert re.search(r"2 files are not UTF-8.*--skip-undecodable.*a\.txt:1, .*b\.txt:1", said)
    done = dear("--skip-undecodable", *asked)
    assert done.status == 0
    assert "fish" in done.out
    assert "2 files are left out" in done.err


def test_a_collection_that_is_none_is_refused_before_torch_is_loaded() -> None:
    program = (
        "import sys; from dear.cli.main import main; "
        "sys.exit(main(['distill', 'pydoc']) + 100 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no collection and no folder 'pydoc'; did you mean 'pydocs'?" in done.stderr


@pytest.mark.parametrize(
    ("damage", "message"), [f[1:] for f in CORPUS_FAULTS], ids=[f[0] for f in CORPUS_FAULTS]
)
def test_a_broken_corpus(
    damage: Callable[[Path], object], message: str, mine: Path, reranker: Path, tmp_path: Path
) -> None:
    damage(mine / "corpus.jsonl")
    output = tmp_path / "out.trec"
    output.write_text("earlier")
    ranking = ("--run", "bm25", "--model", reranker, "--output", output)
    assert re.search(message, refused("retrieve", mine, "--output", output))
    assert re.search(message, refused("rank", mine, *ranking))
    labels = ("--run", "bm25", "--model", "first-stage", "-o", tmp_path / "labels")
    assert re.search(message, refused("label", mine, *labels))
    assert output.read_text() == "earlier"
    assert list(tmp_path.glob("out.trec*")) == [output]


RUN_FAULTS = [
    ("another passage", "otter-eat", "otter-flies", r"passage 'otter-flies' is not in the corpus"),
    ("another query", "sleep-otter", "sleep-unicorn", r"query 'sleep-unicorn', which has no text"),
    ("a column short", " Q0 ", " ", r"bm25\.test\.trec:1: expected 6 fields, got 5"),
    ("a score that is none", " 24.0 ", " nan ", r"bm25\.test\.trec:1: the score must be a finite"),
    ("not UTF-8", "otter-eat", "otter-\udcff", r"bm25\.test\.trec:\d+: not UTF-8"),
    ("a passage twice", "otter-live", "otter-eat", r"bm25\.test\.trec:\d+: .*twice"),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), [f[1:] for f in RUN_FAULTS], ids=[f[0] for f in RUN_FAULTS]
)
def test_a_broken_run(
    old: str, new: str, message: str, mine: Path, reranker: Path, tmp_path: Path
) -> None:
    run = mine / "runs" / "bm25.test.trec"
    if old.strip() not in run.read_text(encoding="utf-8"):
        old = old.replace(".0", "")  # scores are written as they are
        new = new.replace(".0", "")
    spoil(run, old, new)
    output = tmp_path / "out.trec"
    output.write_text("earlier")
    assert re.search(
        message, refused("rank", mine, "--run", run, "--model", reranker, "--output", output)
    )
    labels = ("--run", run, "--model", reranker, "-o", tmp_path / "labels")
    assert re.search(message, refused("label", mine, *labels))
    assert output.read_text() == "earlier"


def test_broken_judgements_and_queries(mine: Path, tmp_path: Path) -> None:
    spoil(mine / "qrels" / "test.tsv", "\t1\n", "\n")
    assert re.search(r"test\.tsv:2: expected 3 fields", refused("evaluate", mine, "--run", "bm25"))
    spoil(mine / "qrels" / "dev.tsv", "\t1\n", "\thigh\n")
    line = refused("evaluate", mine, "--run", "bm25", "--split", "dev")
    assert re.search(r"dev\.tsv:2: the grade must be a whole number", line)
    spoil(mine / "queries.jsonl", "how does the otter eat", " ")
    line = refused("retrieve", mine, "--split", "train", "--output", tmp_path / "r.trec")
    assert re.search(r"queries\.jsonl:1: ", line)


def test_empty_and_endless_passages_are_ranked(mine: Path, tmp_path: Path) -> None:
    spoil(mine / "corpus.jsonl", CORPUS["otter-eat"].text, "")
    spoil(mine / "corpus.jsonl", CORPUS["panda-eat"].text, "bamboo panda " * 50_000)
    output = tmp_path / "out.trec"
    good("rank", mine, "--run", "bm25", "--model", "biencoder:minilm-l6", "--output", output)
    ranking = read_run(output)["sleep-otter"]
    assert set(ranking.passage_ids) == set(CORPUS)
    assert good("retrieve", mine, "--output", tmp_path / "bm25.trec")


def test_rerank_takes_no_empty_query_and_no_empty_file(tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("one\n")
    assert refused("rerank", " ", file) == "the query is empty"
    assert refused("rerank", "caf\udce9", file) == "the query is not UTF-8"
    file.write_text("\n\n")
    assert refused("rerank", "x", file) == f"{file}: is empty"
    assert refused("rerank", "x", "-", stdin="") == "<stdin>: is empty"
    file.write_bytes(b"one\ntw\xff\n")
    assert refused("rerank", "x", file).startswith(f"{file}:2: not UTF-8")
    file.write_text('{"text": "one"}\n{"txt": "two"}\n')
    assert refused("rerank", "x", file).startswith(f"{file}:2: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run", "bm26"), r"no run 'bm26': .*its runs of split 'test': bm25"),
        (("--run", "bm25", "--split", "tets"), r"no run 'bm25': .*has none \('tets'\)"),
        (("--run", "bm25", "--model", "minlm"), r"did you mean 'minilm-l6'"),
        (("--run", "bm25", "--model", "biencoder:minlm"), r"did you mean 'minilm-l6'"),
        (("--run", "bm25", "--fuse", "much"), r"--fuse 'much': expected auto, or a number"),
        (("--run", "bm25", "--fuse", "-1"), r"--fuse '-1'"),
        (("--run", "bm25", "--fuse", "auto", "--fuse-split", "test"), r"query 'sleep-otter' is"),
        (("--run", "bm25", "--fuse", "auto", "--fuse-split", "no"), r"no judgements .* 'no'"),
        (("--run", "bm25", "--top-k", "0"), r"--top-k"),
        (("--run", "bm25", "--dtype", "float8"), r"no dtype 'float8'"),
        (("--run", "bm25", "--device", "abacus"), r"no device 'abacus'"),
        (("--model", "x"), r"missing option '--run'.*; see: dear rank --help"),
        (("--runs", "bm25"), r"no such option: --runs"),
    ],
)
def test_wrong_options_of_rank(
    words: tuple[str, ...], message: str, animals: Path, reranker: Path, tmp_path: Path
) -> None:
    given = words if "--model" in words else (*words, "--model", reranker)
    assert re.search(message, refused("rank", animals, *given, "-o", tmp_path / "out.trec"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "--output", "x"), r"no collection and no folder 'nothing'"),
        (("scifct", "--output", "x"), r"did you mean 'scifact'"),
        (("--split", "tets"), r"no split 'tets'; there are: train, dev, test"),
        (("--top-k", "0"), r"top_k = 0"),
        (("--b", "2"), r"bm25 b = 2"),
        (("--stemmer", "englsh"), r"did you mean 'english'"),
        (("--stopwords", "klingon"), r"stopwords"),
        (("--k1", "fast"), r"--k1"),
    ],
)
def test_wrong_options_of_retrieve(
    words: tuple[str, ...], message: str, animals: Path, tmp_path: Path
) -> None:
    given = words if "--output" in words else (animals, *words, "--output", tmp_path / "x")
    assert re.search(message, refused("retrieve", *given))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--measure", "nDGC@10"), r"did you mean 'nDCG'"),
        (("--split", "nope"), r"no judgements for split 'nope'"),
        (("--min-grade", "0"), r"--min-grade"),
        (("--first-stage", "gone.trec"), r"no run 'gone.trec'"),
    ],
)
def test_wrong_options_of_evaluate(words: tuple[str, ...], message: str, animals: Path) -> None:
    assert re.search(message, refused("evaluate", animals, "--run", "bm25", *words))


def test_recipes_that_are_wrong(animals: Path, reranker: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "r.toml", base=reranker, collection=animals, labels=tmp_path / "labels"
    )
    words = ("train", recipe, "--output", tmp_path / "out")
    assert "did you mean 'epochs'" in refused(*words, "--set", "train.epoch=1")
    assert "expected key=value" in refused(*words, "--set", "train.epochs")
    assert "no recipe 'nowhere.toml'" in refused("train", "nowhere.toml", "-o", tmp_path / "out")
    assert "holds no labels" in refused(*words)  # nobody labelled
    recipe.write_text("name = [", encoding="utf-8")
    assert re.search(r"r\.toml: not TOML", refused(*words))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_pairs_without_a_label_stop_training(animals: Path, reranker: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    good(
        "label", animals, "--run", "bm25", "--split", "dev", "--model", "first-stage", "-o", labels
    )
    recipe = write_recipe(tmp_path / "r.toml", base=reranker, collection=animals, labels=labels)
    line = refused("train", recipe, "-o", tmp_path / "out")
    assert re.search(r"\d+ of \d+ pairs to sample from have no label", line)


def test_labels_of_another_teacher_are_kept_apart(
    animals: Path, reranker: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    words = ("label", animals, "--run", "bm25", "-o", labels)
    good(*words, "--model", "first-stage")
    before = contents(labels)
    line = refused(*words, "--model", reranker)
    assert "holds other labels (teacher: 'first-stage' there" in line
    assert "one teacher's labels" in refused(*words, "--model", reranker, "--model", "first-stage")
    assert contents(labels) == before
    # the same teacher with other weights is another one
    other = write_reranker(tmp_path / "model")
    good("label", animals, "--run", "bm25", "--model", other, "-o", tmp_path / "mine")
    write_reranker(other, seed=1)
    line = refused("label", animals, "--run", "bm25", "--model", other, "-o", tmp_path / "mine")
    assert "revision: " in line


def test_weights_and_teachers_must_match(animals: Path, tmp_path: Path) -> None:
    words = ("label", animals, "--run", "bm25", "-o", tmp_path / "labels", "--model", "first-stage")
    assert refused(*words, "--weight", 1, "--weight", 2) == "1 teacher, 2 weights"
    assert "no known name" in refused(*words, "--model", "upr:nobody")
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("keep", [0, 7, 2_000, -1])
def test_a_truncated_checkpoint(keep: int, animals: Path, reranker: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(reranker, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    output = tmp_path / "out.trec"
    line = refused("rank", animals, "--run", "bm25", "--model", model, "--output", output)
    assert str(model) in line
    assert "damaged" in line
    assert not output.exists()


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
def test_a_full_device_behind_a_link(animals: Path, tmp_path: Path) -> None:
    link = tmp_path / "full.trec"
    link.symlink_to(FULL)
    line = refused("retrieve", animals, "--output", link)
    assert line == f"{link}: cannot be written: No space left on device"
    line = refused("evaluate", animals, "--run", "bm25", "--json", link)
    assert line.endswith("No space left on device")


def test_a_disk_that_fills_up_keeps_the_earlier_run(animals: Path, tmp_path: Path) -> None:
    output = tmp_path / "bm25.trec"
    good("retrieve", animals, "--output", output)
    before = contents(tmp_path)
    # no file of this process may grow: what a full disk does, for any user
    limit = {"preexec_fn": lambda: __import__("resource").setrlimit(1, (0, 0))}
    process = start("retrieve", animals, "--output", output, "--top-k", 3, **limit)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2, err
    assert out == ""
    assert err.splitlines() == [
        f"dear: error: {output}: cannot be written: File too large; the earlier file is kept"
    ]
    assert contents(tmp_path) == before


def test_places_that_cannot_be_written(animals: Path, reranker: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    recipe = write_recipe(
        tmp_path / "r.toml", base=reranker, collection=animals, labels=tmp_path / "labels"
    )
    for command in (
        ("retrieve", animals, "--output"),
        ("rank", animals, "--run", "bm25", "--model", reranker, "--output"),
        ("label", animals, "--run", "bm25", "--model", "first-stage", "--output"),
        ("train", recipe, "--output"),
        ("evaluate", animals, "--run", "bm25", "--json"),
    ):
        assert "cannot be written" in refused(*command, file / "below")
        if Path("/proc/self").exists():
            assert "cannot be written" in refused(*command, "/proc/nowhere/out")
    assert file.read_text() == "kept"
    assert refused("retrieve", animals, "--output", tmp_path).startswith(f"{tmp_path}: is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(animals: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    line = refused("retrieve", animals, "--output", tmp_path / "out.trec")
    assert line == f"{tmp_path / 'out.trec'}: cannot be written: Permission denied"


def _interrupted(process: subprocess.Popen[str], errors: Path) -> None:
    """Send SIGINT and wait for the end. Python drops an interrupt that arrives while a module's
    lock is freed, and says so; then, as a person would, once more."""
    sent = 0
    deadline = time.monotonic() + 300
    while process.poll() is None:
        if errors.read_text().count("Exception ignored") >= sent:
            process.send_signal(signal.SIGINT)
            sent += 1
        assert time.monotonic() < deadline, "it does not stop"
        time.sleep(0.05)


def test_an_interrupt_stops_labelling_which_goes_on(mine: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    words = ("--model", "biencoder:minilm-l6", "-o", labels)
    good("label", mine, "--run", "bm25", "--split", "dev", *words)
    before = contents(labels)
    # a text a pair: enough to be at it for a while
    rows = [
        {"_id": f"long-{i}", "title": "", "text": f"{i} whales and krill " * 60} for i in range(600)
    ]
    with (mine / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    run = tmp_path / "long.trec"
    run.write_text(
        "".join(f"eat-owl Q0 long-{i} {i + 1} {600 - i} long\n" for i in range(len(rows)))
    )
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        process = start(
            "label", mine, "--run", run, *words, stderr=stderr, preexec_fn=minds_interrupts
        )
    _wait_until_it_holds_the_lock(labels, process)
    _interrupted(process, errors)
    err = errors.read_text()
    assert process.returncode == 130, err
    assert process.communicate()[0] == ""
    assert err.splitlines()[-1:] == ["dear: interrupted; the same command goes on from here"]
    assert contents(labels) == before
    run.write_text("".join(run.read_text().splitlines(keepends=True)[-4:]))
    assert "4 pairs" in good("label", mine, "--run", run, *words)
    assert len(read_labels(labels)) == 8 * len(CORPUS) + 4


def _wait_until_it_holds_the_lock(labels: Path, process: subprocess.Popen[str]) -> None:
    import fcntl

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None
        with (labels / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
        time.sleep(0.05)
    raise AssertionError("labelling never began")


def test_an_unfinished_note_is_one_line(animals: Path, tmp_path: Path) -> None:
    output = tmp_path / "bm25.trec"
    good("retrieve", animals, "--output", output)
    note = output.with_name("bm25.trec.json")
    assert read(note)["model"] is None
    note.write_text('{"format": ')
    assert re.search(
        r"bm25\.trec\.json:1: broken JSON", refused("evaluate", animals, "--run", output)
    )


def test_debug_shows_the_traceback(animals: Path) -> None:
    done = dear("retrieve", animals, "--split", "tets", "--output", "x", "--debug")
    assert done.status == 2
    assert done.err.startswith("Traceback")
    assert done.err.splitlines()[-1].startswith("dear: error: ")
