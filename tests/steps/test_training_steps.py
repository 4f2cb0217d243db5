"""Labels, a training and a reasoning set, made from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import write_recipe
from tiny_lists import lists, save_language_model

from dear import steps
from dear.artifacts import read_json
from dear.data.formats import read_lists, write_lists
from dear.data.labels import read_labels
from dear.errors import ConfigError
from dear.steps.options import (
    LabelOptions,
    LaunchOptions,
    ModelOptions,
    ReasonOptions,
    TrainOptions,
)

FLOAT32 = ModelOptions(dtype="float32", device="cpu")


def labelled(animals: str, folder: Path, *models: str) -> LabelOptions:
    return LabelOptions(
        collection=animals, runs=("bm25",), models=models, output=folder, model_options=FLOAT32
    )


@pytest.mark.usefixtures("silent")
def test_label_writes_what_is_not_there_yet(animals: str, reranker: str, tmp_path: Path) -> None:
    options = labelled(animals, tmp_path / "labels", reranker)
    (done,) = steps.label.label(options)
    assert (done.folder, done.scored, done.kept) == (tmp_path / "labels", 192, 0)
    assert len(read_labels(options.output)) == 192
    (again,) = steps.label.label(options)
    assert (again.scored, again.kept) == (0, 192)
    with pytest.raises(ConfigError, match="holds one teacher's labels"):
        steps.label.label(labelled(animals, options.output, reranker, "first-stage"))


@pytest.mark.usefixtures("silent")
def test_label_with_several_teachers_gives_a_result_for_each(
    animals: str, reranker: str, tmp_path: Path
) -> None:
    done = steps.label.label(labelled(animals, tmp_path / "both", reranker, "first-stage"))
    assert [one.folder.name for one in done] == ["tiny", "first-stage"]


def test_label_options_check_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 teacher, 2 weights"):
        LabelOptions(
            collection="c", runs=("r",), models=("minilm-l6",), output=tmp_path, weights=(1.0, 2.0)
        )


@pytest.mark.usefixtures("silent")
def test_train_trains_once(animals: str, reranker: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    steps.label.label(labelled(animals, labels, "first-stage"))
    recipe = write_recipe(
        tmp_path / "tiny.toml", base=Path(reranker), collection=Path(animals), labels=labels
    )
    options = TrainOptions(recipe=str(recipe), output=tmp_path / "student")
    trained = steps.train.train(options).trained
    assert isinstance(trained, steps.train.Trained)
    assert read_json(options.output / "dear_training.json")["metrics"]["steps"] == 2
    assert trained.folder == options.output
    assert steps.train.train(options) == steps.train.TrainResult(trained=None)
    other = TrainOptions(recipe=str(recipe), output=options.output, changes=("train.max_steps=3",))
    with pytest.raises(ConfigError, match="a finished training from other inputs"):
        steps.train.train(other)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_language_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.mark.usefixtures("silent")
def test_train_trains_what_the_recipe_says(base: str, tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl", lists(4))
    recipe = tmp_path / "lists.toml"
    recipe.write_text(
        f'name = "lists"\nkind = "listwise"\nmodel = {{ base = "{base}" }}\n'
        f'data = [{{ lists = ["{tmp_path / "lists.jsonl"}"] }}]\n'
        "listwise = { max_tokens = 256 }\n"
        "train = { max_steps = 1, groups_per_step = 2, autocast = false }\n"
    )
    options = TrainOptions(recipe=str(recipe), output=tmp_path / "out")
    trained = steps.train.train(options).trained
    assert isinstance(trained, steps.train.TrainedLists)
    assert trained.lists == 2


def test_launch_options_check_themselves() -> None:
    with pytest.raises(ConfigError, match="either --gpus or --processes"):
        LaunchOptions(gpus=1, processes=1)
    with pytest.raises(ConfigError, match="go with --gpus"):
        LaunchOptions(nodes=2)


@pytest.mark.usefixtures("silent")
def test_reason_writes_a_set(animals: str, reranker: str, tmp_path: Path) -> None:
    options = ReasonOptions(
        output=tmp_path / "set",
        collection=animals,
        run="bm25",
        teacher=reranker,
        size="4-6",
        model_options=FLOAT32,
    )
    result = steps.reason.reason(options)
    examples = list(read_lists(options.output / "examples.jsonl"))
    assert len(examples) == len(result.selected.examples) == result.new == 8
    assert result.asked is None
    assert steps.reason.reason(options).new == 0


def test_reason_options_check_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to draw lists from: give a COLLECTION"):
        ReasonOptions(output=tmp_path)
