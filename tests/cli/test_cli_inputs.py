"""Each input changed in turn before a command runs a second time: never an old result without a
word, and nothing thrown away that is still good (docs/provenance.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import (
    CORPUS,
    JUDGEMENTS,
    contents,
    dear,
    good,
    read,
    refused,
    write_animals,
    write_recipe,
    write_reranker,
)
from safetensors.torch import load_file, save_file

from dear.data.formats import read_run, write_qrels, write_run
from dear.data.labels import read_labels
from dear.records import Ranking

LABEL = ("label", "animals", "--run", "bm25", "--model", "teacher", "--judged", "train")
LABEL_ALL = (*LABEL, "--dtype", "float32", "--output", "labels")
TRAIN = ("train", "r.toml", "--output", "student")
RANK = ("rank", "animals", "--run", "bm25", "--model", "student", "--output", "student.trec")
CALIBRATE = ("calibrate", "student", "--collection", "animals", "--probability", "isotonic")
CALIBRATE_ALL = (*CALIBRATE, "--unjudged", "irrelevant")
REPORT = ("report", "report.md", "animals", "--run", "student.trec")

PAIRS = len(JUDGEMENTS["train"]) * len(CORPUS)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything once; read, never changed."""
    folder = tmp_path_factory.mktemp("inputs") / "world"
    with pytest.MonkeyPatch.context() as patch:
        write_animals(folder / "animals")
        patch.chdir(folder)
        write_reranker(Path("teacher"), seed=3)
        write_reranker(Path("base"))
        places = {name: Path(name) for name in ("base", "labels")}
        write_recipe(Path("r.toml"), collection=Path("animals").absolute(), **places)
        # relative, so that the whole folder may be copied
        text = Path("r.toml").read_text().replace(str(Path("animals").absolute()), "animals")
        Path("r.toml").write_text(text)
        for words in (LABEL_ALL, TRAIN, RANK, CALIBRATE_ALL, REPORT):
            good(*words)
    return folder


@pytest.fixture
def world(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(done, tmp_path / "world"))
    monkeypatch.chdir(folder)
    torch.set_num_threads(1)
    return folder


def edit_texts(_world: Path) -> None:
    path = Path("animals/corpus.jsonl")
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    lines[0] = json.dumps(row | {"text": "A lion is a cow that eats mice."})
    path.write_text("\n".join(lines) + "\n")


def edit_judgements(_world: Path) -> None:
    for split, judged in JUDGEMENTS.items():
        first, *others = judged
        moved = {first: judged[others[0]]} | {q: judged[q] for q in others}
        shutil.rmtree(f"animals/qrels/{split}.tsv", ignore_errors=True)
        write_qrels(Path(f"animals/qrels/{split}.tsv"), moved)


def edit_run(_world: Path) -> None:
    for split in JUDGEMENTS:
        path = Path(f"animals/runs/bm25.{split}.trec")
        run = read_run(path)
        name, ranking = next(iter(run.items()))
        scores = tuple(score * 2 for score in ranking.scores[:12])
        changed = Ranking(query_id=name, passage_ids=ranking.passage_ids[12:], scores=scores)
        write_run(path, run | {name: changed}, "bm25")


def edit_labels(_world: Path) -> None:
    shutil.rmtree("labels")
    write_reranker(Path("other"), seed=9)
    good(*(word if word != "teacher" else "other" for word in LABEL_ALL))


def edit_weights(folder: str) -> Callable[[Path], None]:
    """The last of its tensors, which no sample of its bytes may meet."""

    def edit(_world: Path) -> None:
        path = Path(folder, "model.safetensors")
        weights = load_file(path)
        name = next(n for n in weights if n.startswith("bert.pooler"))
        save_file(weights | {name: weights[name] + 0.5}, path, metadata={"format": "pt"})

    return edit


def edit_tokenizer(folder: str) -> Callable[[Path], None]:
    def edit(_world: Path) -> None:
        path = Path(folder, "tokenizer.json")
        values = read(path)
        vocabulary = values["model"]["vocab"]
        vocabulary["otter"], vocabulary["panda"] = vocabulary["panda"], vocabulary["otter"]
        path.write_text(json.dumps(values))

    return edit


def edit_recipe(_world: Path) -> None:
    path = Path("r.toml")
    path.write_text(path.read_text().replace("groups_per_step = 4", "groups_per_step = 2"))


def nothing(_world: Path) -> None:
    return None


# -- label -----------------------------------------------------------------------------------


def test_label_keeps_what_is_of_the_same_inputs(world: Path) -> None:
    before = contents(world / "labels")
    said = good(*LABEL_ALL)
    assert said.startswith("labels: 0 pairs in")
    assert said.endswith(f", {PAIRS} kept\n")
    assert contents(world / "labels") == before


def test_label_scores_the_pairs_of_a_changed_text_again(world: Path) -> None:
    edit_texts(world)
    queries = len(JUDGEMENTS["train"])
    said = good(*LABEL_ALL)
    assert f"{queries} of them scored again because their texts changed" in said
    assert f"{PAIRS - queries} kept" in said
    assert_fresh()


def test_label_scores_what_another_run_or_judgement_adds(world: Path) -> None:
    shutil.rmtree("labels")
    edit_run(world)
    good(*(word for word in LABEL_ALL if word not in ("--judged", "train")))
    kept = len(read_labels("labels"))
    assert kept == PAIRS - 12
    said = good(*LABEL_ALL)
    assert f"{kept} kept" in said
    assert said.split(": ")[1].startswith("1 pair in"), "the relevant one, which the run lacks"
    assert_fresh()


@pytest.mark.parametrize(
    "edit", [edit_weights("teacher"), edit_tokenizer("teacher")], ids=["weights", "tokenizer"]
)
def test_label_refuses_another_teacher(world: Path, edit: Callable[[Path], None]) -> None:
    edit(world)
    before = contents(world / "labels")
    line = refused(*LABEL_ALL)
    assert "labels holds other labels (revision: 'local-" in line
    assert "choose another folder, or remove it" in line
    assert contents(world / "labels") == before


def test_first_stage_labels_are_of_one_run(world: Path) -> None:
    words = ("label", "animals", "--run", "bm25", "--model", "first-stage", "-o", "first")
    good(*words)
    assert "0 pairs" in good(*words)
    edit_run(world)
    assert "revision: 'run-" in refused(*words)


def assert_fresh() -> None:
    """The labels are those that a new store would hold, but for other company in a batch."""
    good(*LABEL_ALL[:-1], "fresh")
    here, fresh = read_labels("labels").scores, read_labels("fresh").scores
    assert here.keys() == fresh.keys()
    for query_id, row in fresh.items():
        assert here[query_id] == pytest.approx(row, abs=1e-5)


# -- train -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (edit_texts, "texts (animals) changed"),
        (edit_judgements, "judgements (animals, train) changed"),
        (edit_run, "run (bm25) changed"),
        (edit_labels, "labels (labels) changed"),
        (edit_weights("base"), "base (base) changed"),
        (edit_tokenizer("base"), "tokenizer (base) changed"),
        (edit_recipe, "recipe.train.groups_per_step: 4 there, 2 now"),
    ],
    ids=["texts", "judgements", "run", "labels", "base", "tokenizer", "recipe"],
)
def test_train_names_what_its_finished_training_was_not_made_from(
    world: Path, edit: Callable[[Path], None], kind: str
) -> None:
    edit(world)
    before = contents(world / "student")
    done = dear(*TRAIN)
    assert done.status == 2
    line = done.err.splitlines()[-1]
    assert "student holds a finished training from other inputs" in line
    assert kind in line
    assert "choose another folder, or remove it to train again" in line
    assert contents(world / "student") == before


def test_train_does_nothing_where_what_it_has_learnt_is_the_same(world: Path) -> None:
    assert "finished already; nothing was done" in good(*TRAIN)
    # a passage that nothing names, packed files, new times: other files, and the same training
    corpus = Path("animals/corpus.jsonl")
    row = json.dumps({"_id": "new", "title": "", "text": "nobody asks for it"})
    corpus.write_text(corpus.read_text() + row + "\n")
    Path("base/config.json").touch()
    assert "finished already; nothing was done" in good(*TRAIN)


def test_train_does_not_learn_from_labels_of_other_texts(world: Path) -> None:
    shutil.rmtree("student")
    edit_texts(world)
    line = refused(*TRAIN)
    assert "the labels of" in line
    assert "are of other texts than animals has now" in line
    assert "`dear label animals -o labels`" in line
    good(*LABEL_ALL)
    good(*TRAIN)


def test_train_does_not_learn_from_labels_of_another_collection_with_the_same_ids(
    world: Path,
) -> None:
    shutil.rmtree("student")
    for part in ("corpus", "queries"):
        path = Path(f"animals/{part}.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(r | {"text": r["text"][::-1]}) + "\n" for r in rows))
    assert "are of other texts than animals has now" in refused(*TRAIN)


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (edit_labels, "labels (labels) changed"),
        (edit_weights("base"), "base (base) changed"),
        (edit_tokenizer("base"), "tokenizer (base) changed"),
    ],
    ids=["labels", "base", "tokenizer"],
)
def test_an_unfinished_training_does_not_go_on_over_other_inputs(
    world: Path, edit: Callable[[Path], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dear.train import pointwise

    shutil.rmtree("student")

    def stop(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pointwise, "_finish", stop)
    words = (*TRAIN, "--set", "train.save_steps=1")
    assert dear(*words).status == 130
    monkeypatch.undo()
    monkeypatch.chdir(world)
    edit(world)
    before = contents(world / "student")
    line = refused(*words)
    assert "student holds another training" in line
    assert kind in line
    assert contents(world / "student") == before


# -- rank, calibrate, report -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (edit_texts, {"texts"}),
        (edit_run, {"run", "texts"}),
        (edit_weights("student"), {"model"}),
        (edit_tokenizer("student"), {"model"}),
        (edit_judgements, set()),
        (nothing, set()),
    ],
    ids=["texts", "run", "weights", "tokenizer", "judgements", "nothing"],
)
def test_rank_writes_down_what_it_ranked(
    world: Path, edit: Callable[[Path], None], kind: set[str]
) -> None:
    before, ranked = read(Path("student.trec.json"))["inputs"], read_run(Path("student.trec"))
    edit(world)
    good(*RANK)
    now = read(Path("student.trec.json"))["inputs"]
    assert {k for k in before if before[k]["digest"] != now[k]["digest"]} == kind
    assert set(before) == {"texts", "run", "model", "contract"}
    assert (read_run(Path("student.trec")) == ranked) == (not kind)


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (edit_texts, "texts (animals) changed"),
        (edit_judgements, "judgements (animals, dev) changed"),
        (edit_run, "run (animals/runs/bm25.dev.trec) changed"),
        (edit_weights("student"), "model (student) changed"),
        (edit_tokenizer("student"), "model (student) changed"),
    ],
    ids=["texts", "judgements", "run", "weights", "tokenizer"],
)
def test_calibrate_names_what_its_map_was_not_fitted_on(
    world: Path, edit: Callable[[Path], None], kind: str
) -> None:
    edit(world)
    before = contents(world / "student")
    line = refused(*CALIBRATE_ALL)
    assert "student/calibration.json was made from other inputs" in line
    assert kind in line
    assert contents(world / "student") == before
    Path("student/calibration.json").unlink()
    good(*CALIBRATE_ALL)
    assert "nothing was done" in good(*CALIBRATE_ALL)


def test_calibrate_does_nothing_where_its_map_is_of_the_same_inputs(world: Path) -> None:
    before = contents(world / "student")
    assert "made from the same inputs; nothing was done" in good(*CALIBRATE_ALL)
    assert contents(world / "student") == before
    assert "settings.kind: 'isotonic' there, 'platt' now" in refused(
        *(word if word != "isotonic" else "platt" for word in CALIBRATE_ALL)
    )


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (nothing, "its scores are taken from there"),
        (edit_texts, "but scored again: texts (animals) changed"),
        (edit_weights("student"), "but scored again: model (student) changed"),
    ],
    ids=["nothing", "texts", "weights"],
)
def test_calibrate_takes_scores_only_from_a_run_of_the_same_inputs(
    world: Path, edit: Callable[[Path], None], words: str
) -> None:
    good(*RANK, "--split", "dev")
    edit(world)
    done = dear(*CALIBRATE_ALL, "--run", "student.trec", "--output", "maps")
    assert done.status == 0
    assert words in done.err


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edit_texts, "student was ranked from other inputs (texts (animals) changed)"),
        (edit_weights("student"), "student was ranked from other inputs (model (student) changed"),
        (edit_run, "bm25.test.trec has changed since student.trec was made from it"),
    ],
    ids=["texts", "weights", "run"],
)
def test_report_says_which_runs_are_of_other_inputs(
    world: Path, edit: Callable[[Path], None], words: str
) -> None:
    assert "inputs" not in dear(*REPORT).err
    edit(world)
    done = dear(*REPORT)
    assert done.status == 0
    assert words in done.err
    assert words.replace("_", "\\_") in Path("report.md").read_text()


def test_report_says_which_judgements_and_texts_it_was_made_with(world: Path) -> None:
    before = Path("report.md").read_text()
    good(*REPORT)
    assert Path("report.md").read_text() == before
    edit_judgements(world)
    good(*REPORT)
    now = Path("report.md").read_text()
    lines = [next(x for x in text.splitlines() if "judgements " in x) for text in (before, now)]
    assert lines[0] != lines[1]


def test_report_leaves_out_a_map_of_other_weights(world: Path) -> None:
    edit_weights("student")(world)
    good(*RANK)
    assert (
        "calibration.json was fitted on other weights than those that ranked" in dear(*REPORT).err
    )


def test_evaluate_says_that_the_first_stage_is_another(world: Path) -> None:
    edit_run(world)
    err = dear("evaluate", "animals", "--run", "student.trec").err
    assert "bm25.test.trec has changed since student.trec was made from it" in err


# -- what earlier versions left --------------------------------------------------------------


def test_what_does_not_say_what_it_was_made_from_is_said_to_be_unverified(world: Path) -> None:
    for path in (Path("student/dear_training.json"), Path("student.trec.json")):
        values = read(path)
        del values["inputs"]
        path.write_text(json.dumps(values))
    done = dear(*TRAIN)
    assert (done.status, "nothing was done" in done.out) == (0, True)
    assert "student: unverified: it does not say of which" in done.err
    assert "base" in done.err
    assert "student is unverified: its note does not say of which" in dear(*REPORT).err
    edit_recipe(world)
    assert "recipe.train.groups_per_step" in dear(*TRAIN).err


# -- another Python's pydocs -----------------------------------------------------------------

MODULE = '''
def open_{name}(path):
    """Open the {name} and return what is in it."""
    return read(path, "{name}")


def close_{name}(path):
    """Close the {name} again after it was read."""
    drop(path, "{name}")
'''


def test_another_pythons_pydocs_are_other_texts(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sysconfig

    stdlib = world / "stdlib"
    stdlib.mkdir()
    for i in range(30):
        (stdlib / f"m{i}.py").write_text(MODULE.format(name=f"file{i}"))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(stdlib)})
    retrieve = ("retrieve", "pydocs", "--split", "train", "--top-k", 5, "-o", "pydocs.trec")
    label = ("label", "pydocs", "--run", "pydocs.trec", "--model", "teacher", "-o", "py")
    good(*retrieve)
    good(*label)
    made_from = read(Path("pydocs.trec.json"))["inputs"]
    pairs = len(read_labels("py"))
    # the next Python: a function of a module that stands in many rankings does something else
    (stdlib / "m1.py").write_text(MODULE.format(name="file1").replace("drop(", "forget("))
    said = good(*label)
    again = sum("m1:close_file1" in row for row in read_labels("py").scores.values())
    assert again > 0
    assert f"{again} of them scored again because their texts changed" in said
    assert f"{pairs - again} kept" in said
    good(*retrieve)
    now = read(Path("pydocs.trec.json"))["inputs"]
    assert made_from["corpus"]["digest"] != now["corpus"]["digest"]
    assert made_from["queries"]["digest"] == now["queries"]["digest"]
