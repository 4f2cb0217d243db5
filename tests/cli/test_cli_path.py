"""The whole way: every file that one command writes, the next one reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import (
    CORPUS,
    JUDGEMENTS,
    QUERIES,
    contents,
    dear,
    good,
    read,
    refused,
    write_recipe,
)

from dear import Reranker
from dear.data.formats import read_run, write_run
from dear.data.labels import read_labels
from dear.evaluate.metrics import MEASURES, evaluate
from dear.records import count_pairs

MINILM = "biencoder:minilm-l6"


@dataclass(frozen=True)
class Walk:
    """The folder of a walk, and what its commands printed."""

    folder: Path
    printed: dict[str, str]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def walk(animals: Path, reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """retrieve, label with two teachers, train, rank with the student."""
    folder = tmp_path_factory.mktemp("walk")
    recipe = write_recipe(
        folder / "r.toml", base=reranker, collection=animals, labels=folder / "labels"
    )
    teachers = ("--model", MINILM, "--model", "first-stage", "--weight", 2, "--weight", 1)
    commands = {
        "retrieve": (animals, "--output", folder / "bm25.trec.gz", "--top-k", 20),
        "label": (animals, "--run", "bm25", *teachers, "-o", folder / "labels"),
        "train": (recipe, "--output", folder / "student", "--set", "train.max_steps=3"),
        "rank": (
            *(animals, "--run", folder / "bm25.trec.gz", "--model", folder / "student"),
            *("--output", folder / "student.trec", "--top-k", 10),
        ),
    }
    return Walk(folder, {name: good(name, *words) for name, words in commands.items()})


def test_retrieve_writes_a_run_of_the_split(walk: Walk) -> None:
    run = read_run(walk / "bm25.trec.gz")
    assert set(run) == set(JUDGEMENTS["test"])
    assert max(map(len, run.values())) <= 20
    assert walk.printed["retrieve"].startswith(f"{walk / 'bm25.trec.gz'}: 8 queries, ")
    assert read(walk / "bm25.trec.gz.json")["bm25"]["k1"] == 0.9


def test_several_teachers_stand_side_by_side_and_read_as_one(walk: Walk) -> None:
    labels = read_labels(walk / "labels")
    assert {stamp.teacher for stamp in labels.stamps} == {MINILM, "first-stage"}
    assert len(labels) == len(JUDGEMENTS["train"]) * len(CORPUS)
    members = read(walk / "labels" / "ensemble.json")["members"]
    assert members == {"biencoder-minilm-l6": 2.0, "first-stage": 1.0}


def test_training_leaves_a_checkpoint_of_the_changed_recipe(walk: Walk) -> None:
    training = read(walk / "student" / "dear_training.json")
    assert training["recipe"]["train"]["max_steps"] == 3
    assert training["metrics"]["steps"] == 3
    assert "dev nDCG@10" in walk.printed["train"]
    # the Trainer's own prints would stand between
    assert len(walk.printed["train"].splitlines()) == 1


def test_a_finished_training_is_not_repeated(walk: Walk) -> None:
    before = contents(walk / "student")
    words = ("train", walk / "r.toml", "--output", walk / "student")
    again = good(*words, "--set", "train.max_steps=3")
    assert "finished already" in again
    other = dear(*words)
    assert other.status == 2
    assert "recipe.train.max_steps: 3 there, 2 now" in other.line
    assert contents(walk / "student") == before


def test_rank_keeps_the_best_candidates_and_scores_as_the_library_does(walk: Walk) -> None:
    first, ranked = read_run(walk / "bm25.trec.gz"), read_run(walk / "student.trec")
    assert set(ranked) == set(first)
    reranker = Reranker(walk / "student")
    for query_id, ranking in ranked.items():
        kept = first[query_id].passage_ids[:10]
        assert set(ranking.passage_ids) == set(kept)
        mine = reranker.rank(QUERIES[query_id].text, [CORPUS[p] for p in kept])
        assert mine.passage_ids == ranking.passage_ids
        assert mine.scores == pytest.approx(ranking.scores, abs=1e-5)


def test_the_note_beside_a_run_says_what_made_it(walk: Walk) -> None:
    note = read(walk / "student.trec.json")
    model = Reranker(walk / "student").model
    assert note["model"] == str(walk / "student")
    assert note["revision"] == model.revision
    assert note["fingerprint"] == model.fingerprint
    assert note["contract"]["max_query_tokens"] == 12
    assert note["first_stage"] == "bm25.trec.gz"
    assert note["pairs"] == count_pairs(read_run(walk / "student.trec"))
    assert note["pairs_per_second"] > 0
    assert {"python", "torch", "transformers"} <= set(note["versions"])


def test_evaluate_puts_the_first_stage_first(animals: Path, walk: Walk, tmp_path: Path) -> None:
    out = good("evaluate", animals, "--run", walk / "student.trec", "--json", tmp_path / "e.json")
    lines = out.splitlines()
    assert lines[0].split()[:8] == ["run", *MEASURES]
    assert lines[1].startswith("bm25 (first stage)  ")
    assert lines[2].startswith("student  ")
    found = read(tmp_path / "e.json")
    for row, file in zip(found["runs"], ("bm25.trec.gz", "student.trec"), strict=True):
        expected = evaluate(read_run(walk / file), JUDGEMENTS["test"])
        assert row["means"] == expected.means
    assert [row["first_stage"] for row in found["runs"]] == [True, False]
    (pair,) = found["comparisons"]
    a, b = (found["runs"][i]["means"]["nDCG@10"] for i in (1, 0))
    assert pair["difference"] == pytest.approx(a - b)
    assert (pair["a"], pair["b"]) == ("student", "bm25")


def test_a_moved_folder_of_runs_still_knows_its_first_stage(
    animals: Path, walk: Walk, tmp_path: Path
) -> None:
    for name in ("bm25.trec.gz", "bm25.trec.gz.json", "student.trec", "student.trec.json"):
        shutil.copy(walk / name, tmp_path)
    out = good("evaluate", animals, "--run", tmp_path / "student.trec", "--json", "-")
    assert json.loads(out)["runs"][0]["path"] == str((tmp_path / "bm25.trec.gz").resolve())


def test_a_run_that_was_changed_has_no_note(animals: Path, walk: Walk, tmp_path: Path) -> None:
    for name in ("student.trec", "student.trec.json"):
        shutil.copy(walk / name, tmp_path)
    run = read_run(tmp_path / "student.trec")
    write_run(tmp_path / "student.trec", {q: r.top(3) for q, r in run.items()}, "changed")
    found = json.loads(good("evaluate", animals, "--run", tmp_path / "student.trec", "--json", "-"))
    # the collection's own run stands in
    assert found["runs"][0]["path"] == str(animals / "runs" / "bm25.test.trec")
    assert found["runs"][1]["made_by"] is None


def test_rerank_agrees_with_the_library(walk: Walk, tmp_path: Path) -> None:
    passages = tmp_path / "passages.txt"
    texts = [p.text for p in CORPUS.values()]
    passages.write_text("\n".join(texts), encoding="utf-8")
    words = ("rerank", "how does the owl sleep", "--model", walk / "student", "--top-k", 3)
    answer = json.loads(good(*words, "--json", passages))
    expected = Reranker(walk / "student").rank("how does the owl sleep", texts, top_k=3)
    assert answer["query"] == "how does the owl sleep"
    assert [int(r["id"]) - 1 for r in answer["results"]] == list(map(int, expected.passage_ids))
    assert [r["score"] for r in answer["results"]] == list(expected.scores)
    assert [r["rank"] for r in answer["results"]] == [1, 2, 3]
    assert [r["text"] for r in answer["results"]] == [texts[int(i)] for i in expected.passage_ids]
    table = good(*words, "-", stdin="\n".join(texts)).splitlines()
    assert [row.split()[2] for row in table[1:]] == [r["id"] for r in answer["results"]]


def test_rerank_works_with_no_model_named(tmp_path: Path) -> None:
    passages = tmp_path / "p.jsonl"
    rows = [
        {"_id": "egg", "title": "Kitchen", "text": "How to boil an egg."},
        {"_id": "file", "title": "", "text": "Open a file and read its lines."},
    ]
    passages.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answer = json.loads(good("rerank", "cooking", passages, "--json"))
    assert answer["model"] == "built-in"
    assert [r["id"] for r in answer["results"]] == ["egg", "file"]
    assert answer["results"][0]["text"] == "Kitchen How to boil an egg."


def test_labelling_again_scores_nothing_anew(animals: Path, tmp_path: Path) -> None:
    words = ("label", animals, "--run", "bm25", "--model", "first-stage", "-o", tmp_path / "l")
    assert "192 pairs" in good(*words)
    before = contents(tmp_path / "l")
    assert "0 pairs" in good(*words, "--quiet", "--debug") + good(*words)
    assert contents(tmp_path / "l") == before


def test_judged_passages_that_no_run_found_get_labels(animals: Path, tmp_path: Path) -> None:
    run = read_run(animals / "runs" / "bm25.train.trec")
    write_run(tmp_path / "two.trec", {q: r.top(2) for q, r in run.items()}, "two")
    words = ("label", animals, "--run", tmp_path / "two.trec", "--model", "first-stage")
    good(*words, "-o", tmp_path / "plain")
    good(*words, "-o", tmp_path / "judged", "--judged", "train")
    assert len(read_labels(tmp_path / "plain")) == 2 * 8
    assert len(read_labels(tmp_path / "judged")) == 3 * 8


def test_a_fixed_weight_fuses_and_is_noted(animals: Path, reranker: Path, tmp_path: Path) -> None:
    words = ("rank", animals, "--run", "bm25", "--model", reranker)
    good(*words, "--output", tmp_path / "plain.trec")
    good(*words, "--output", tmp_path / "none.trec", "--fuse", 0)
    good(*words, "--output", tmp_path / "all.trec", "--fuse", 1e6)
    plain, none, everything = (
        read_run(tmp_path / f"{name}.trec") for name in ("plain", "none", "all")
    )
    first = read_run(animals / "runs" / "bm25.test.trec")
    for query_id, ranking in first.items():
        assert none[query_id].passage_ids == plain[query_id].passage_ids
        assert everything[query_id].passage_ids == ranking.passage_ids
        assert plain[query_id].passage_ids != ranking.passage_ids
    assert read(tmp_path / "all.trec.json")["fuse"] == {"weight": 1e6, "chosen_on": None}


def test_auto_chooses_the_weight_on_dev(animals: Path, reranker: Path, tmp_path: Path) -> None:
    out = good(
        *("rank", animals, "--run", "bm25", "--model", reranker),
        *("--output", tmp_path / "auto.trec", "--fuse", "auto"),
    )
    fuse = read(tmp_path / "auto.trec.json")["fuse"]
    curve = {float(w): mean for w, mean in fuse["chosen_on"]["ndcg@10"].items()}
    # a random model: the more of the first stage, the better
    assert fuse["weight"] == max(curve, key=lambda w: (curve[w], -w)) > 0
    assert f"fuse weight {fuse['weight']:g}, by nDCG@10 of 8 queries of dev" in out
    assert all(f"{w:g}: {mean:.4f}" in out for w, mean in curve.items())


def test_auto_searches_dev_itself_where_there_is_no_run(
    mine: Path, reranker: Path, tmp_path: Path
) -> None:
    (mine / "runs" / "bm25.dev.trec").unlink()
    done = dear(
        *("rank", mine, "--run", "bm25", "--model", reranker, "--fuse", "auto", "--top-k", 5),
        *("--output", tmp_path / "auto.trec"),
    )
    assert done.status == 0, done.err
    assert "no run for split 'dev'; searching it with BM25" in done.err
    assert read(tmp_path / "auto.trec.json")["fuse"]["chosen_on"]["split"] == "dev"


def test_a_score_is_explained(reranker: Path, tmp_path: Path) -> None:
    passages = tmp_path / "passages.txt"
    passages.write_text("The otter eats fish and little else.\n" + "fish " * 600 + "\n")
    words = ("rerank", "how does the otter eat", passages, "--model", reranker, "--explain")
    shown = good(*words)
    assert "plain forward pass" in shown
    assert "»[CLS]«" in shown
    assert "⟦fish⟧" in shown
    found = json.loads(good(*words, "--json"))["results"]
    for row in found:
        explained = row["explanation"]
        assert explained["logit"] == pytest.approx(row["score"], abs=1e-6)
        assert explained["plain"] == pytest.approx(explained["logit"], abs=1e-2)
    cut = {row["id"]: sum(not t["read"] for t in row["explanation"]["tokens"]) for row in found}
    assert cut["1"] == 0 < cut["2"]
    refused_words = ("rerank", "q", passages, "--model", "biencoder:minilm-l6", "--explain")
    assert "no one-logit model" in refused(*refused_words)
