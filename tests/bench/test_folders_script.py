"""benchmarks/folders.py: folders that give no judgement away, and what is measured on them."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import folders
import folders_measure

from dear.data.collections import Collection, open_collection
from dear.evaluate.metrics import evaluate
from dear.retrieve.bm25 import retrieve

pytestmark = pytest.mark.ci

TEXTS = 24

RECIPE = """
extends = "distill/quick"
name = "tiny"
[student]
queries = 4
[student.train]
max_steps = 1
"""

PAGE = """.TH FROB 1 2020-01-01
.SH NAME
frob, unfrob \\- turn widgets inside out
.SH SYNOPSIS
.B frob
.RI [ file ]
.SH DESCRIPTION
Every widget has an inside.
"""


def script(*words: object) -> None:
    """benchmarks/folders.py in this process: a start of its own takes longer than its work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["folders.py", *map(str, words)])
        patch.setattr(folders_measure, "ROUNDS", 1)
        # with other threads it would begin anew
        patch.setenv("OMP_NUM_THREADS", "1")
        folders.main()


def write_packages(path: Path) -> dict[str, str]:
    """A file of Debian's descriptions; name → synopsis."""
    dice = random.Random(0)
    words = ["".join(dice.choices("abdefgilmnorstu", k=6)) for _ in range(200)]
    synopses, stanzas = {}, []
    for i in range(TEXTS):
        synopses[f"pack{i}"] = synopsis = " ".join(dice.sample(words, 5))
        long = [" ".join([*dice.sample(words, 20), synopsis.split()[0]]), ".", "Second part."]
        text = "\n ".join((synopsis, *long))
        stanzas.append(f"Package: pack{i}\nDescription-md5: {i}\nDescription-en: {text}\n")
    told = "Package: teller\nDescription-en: says all\n It is " + synopses["pack0"] + ".\n"
    path.write_text("\n".join([*stanzas, told]))
    return synopses


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("folders")
    write_packages(work / "Translation-en")
    words = ("--packages", work / "Translation-en", "--only", "debian")
    script("make", "--work", work, *words)
    return work


def test_no_file_says_what_is_asked(made: Path, tmp_path: Path) -> None:
    synopses = write_packages(tmp_path / "again")
    held = open_collection(made / "held" / "debian")
    folder = Collection.from_folder(made / "debian")
    assert dict(held.corpus) == dict(folder.corpus)
    assert len(held.corpus) == TEXTS + 1
    asked, judged = held.queries("test"), held.judgements("test")
    assert TEXTS // 2 < len(asked) < TEXTS
    for query_id, query in asked.items():
        (passage_id,) = judged[query_id]
        assert query.text == synopses[Path(passage_id).stem]
        assert not any(query.text in p.text for p in held.corpus.values())
    # another file holds this one
    assert synopses["pack0"] not in {q.text for q in asked.values()}
    # the folder has their texts, being fewer than 50, and no judgements
    assert folder.queries() == asked
    assert {p.name for p in (made / "debian").iterdir()} == {"corpus", "queries.txt"}


def test_a_passage_does_not_begin_with_its_question(tmp_path: Path) -> None:
    data = tmp_path / "data" / "medquad"
    (data / "qrels").mkdir(parents=True)
    passages = [("A_1", "Flu", "What is flu? A fever."), ("B_2", "Flu", "Rest and drink.")]
    lines = [json.dumps({"_id": i, "title": t, "text": text}) for i, t, text in passages]
    (data / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    asked = {"q1": "What is flu?", "q2": "How is flu treated?"}
    lines = [json.dumps({"_id": q, "text": text}) for q, text in asked.items()]
    (data / "queries.jsonl").write_text("\n".join(lines) + "\n")
    (data / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\tA_1\t1\nq2\tB_2\t1\nq2\tA_1\t0\n"
    )
    script("make", "--data", data.parent, "--work", tmp_path, "--only", "medquad")
    assert (tmp_path / "medquad/corpus/A/A_1.txt").read_text() == "Flu\n\nA fever.\n"
    held = open_collection(tmp_path / "held" / "medquad")
    found = {q.text: dict(held.judgements("test")[i]) for i, q in held.queries("test").items()}
    assert found == {asked["q1"]: {"A/A_1.txt": 1}, asked["q2"]: {"B/B_2.txt": 1}}
    assert held.corpus["A/A_1.txt"].title == "Flu"


def test_a_man_page_is_plain_text_without_its_description(tmp_path: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff, which is no Python package")
    (tmp_path / "man" / "man1").mkdir(parents=True)
    (tmp_path / "man" / "man1" / "frob.1").write_text(PAGE)
    (tmp_path / "man" / "man1" / "unfrob.1").write_text(".so man1/frob.1\n")
    script("make", "--man", tmp_path / "man", "--work", tmp_path, "--only", "man")
    (file,) = (tmp_path / "man" / "corpus").rglob("*.txt")
    text = file.read_text()
    assert text.startswith("NAME\n       frob, unfrob\n\nSYNOPSIS\n")
    assert "Every widget has an inside." in text
    assert "turn widgets" not in text
    assert (tmp_path / "man" / "queries.txt").read_text() == "turn widgets inside out\n"


def test_what_was_distilled_stands_beside_what_needs_no_training(made: Path) -> None:
    (made / "tiny.toml").write_text(RECIPE)
    words = ("--work", made, "--only", "debian", "--recipe", made / "tiny.toml", "--threads", 1)
    script("measure", *words, "--output", made / "folders.json")
    found = json.loads((made / "folders.json").read_text())["debian"]
    rows = {row["system"]: row for row in found["rows"]}
    held = open_collection(made / "held" / "debian")
    run = retrieve(held.corpus, held.queries("test"))
    bm25 = evaluate(run, held.judgements("test"), ["nDCG@10"]).means["nDCG@10"]
    assert rows["bm25"]["nDCG@10"] == pytest.approx(bm25, abs=1e-4)
    assert {
        "dense",
        "hybrid, ranks",
        "recommended",
        "student over bm25",
        "student + 0.3 hybrid",
    } <= set(rows)
    assert found["took"]["finished"]
    assert rows["student over bm25"]["parameters"] > 19e6
    assert all(rows[name]["ms"] > 0 for name in ("bm25", "dense", "student over bm25"))
    # all but the best of the untrained are compared with it
    (best,) = (row for row in found["rows"] if "p_holm" not in row)
    assert not best["system"].startswith(("student", "recommended"))
    student = rows["student over bm25"]
    difference = student["nDCG@10"] - best["nDCG@10"]
    assert student["difference"] == pytest.approx(difference, abs=2e-4)
    assert student["interval"][0] <= student["difference"] <= student["interval"][1]
    # what is there is not made again
    folder = folders_measure.Folder(made, "debian", "")
    assert folders_measure.distil(folder, None, 0) == found["took"]
    assert folder.run("bm25", pytest.fail).keys() == run.keys()


def test_what_takes_too_long_is_ended(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "debian", tmp_path / "debian")
    shutil.copytree(made / "held", tmp_path / "held")
    folder = folders_measure.Folder(tmp_path, "debian", "")
    assert not folders_measure.distil(folder, None, 0.5)["finished"]
    assert folder.trained() is None
