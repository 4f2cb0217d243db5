"""Recipes: strict at every depth, typed overrides, and the ones that ship."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.digests import Input
from dear.errors import ConfigError, DataError
from dear.recipes import (
    DISTILL,
    LONG,
    SHORT,
    DistillRecipe,
    Recipe,
    fitting_recipe,
    load_distill_recipe,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)

PLAIN: dict[str, Any] = {"name": "x", "model": {"base": "b"}, "data": [{"collection": "c"}]}

FULL = """
name = "full"
description = "every table"

[model]
base = "b"
layers = [0, 2]

[model.lora]
rank = 8
targets = ["query"]

[[data]]
collection = "one"

[[data]]
collection = "two"
labels = ["a", "b"]
label_weights = [1, 0.5]

[[loss.terms]]
name = "lambda"
options = { k = 3, mu = 2.5, weighting = "ndcg2++" }

[dev]
collection = "one"

[train]
epochs = 2
"""


def with_value(path: str, value: Any) -> dict[str, Any]:
    """PLAIN with one more value; numbers in the path are places in lists."""
    values = json.loads(json.dumps(PLAIN))
    *parents, last = path.split(".")
    place = values
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return values  # type: ignore[no-any-return]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "full.toml"
    path.write_text(FULL, encoding="utf-8")
    return path


def test_a_file_becomes_a_recipe(full: Path) -> None:
    recipe = load_recipe(full)
    assert recipe.model.layers == (0, 2)
    assert recipe.model.lora is not None
    assert recipe.model.lora.targets == ("query",)
    assert [d.collection for d in recipe.data] == ["one", "two"]
    assert recipe.data[1].label_weights == (1.0, 0.5)
    assert recipe.dev is not None
    assert recipe.train.epochs == 2.0


def test_a_whole_number_among_the_options_of_a_loss_stays_whole(full: Path) -> None:
    options = load_recipe(full).loss.terms[0].options
    assert options == {"k": 3, "mu": 2.5, "weighting": "ndcg2++"}
    assert isinstance(options["k"], int)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("modle", "model"),
        ("train.lerning_rate", "learning_rate"),
        ("model.lora.rnk", "rank"),
        ("data.0.splitt", "split"),
        ("contract.promt", "prompt"),
        ("groups.negative", "negatives"),
        ("dev.top", "top_k"),
    ],
)
def test_an_unknown_key_names_the_nearest_at_any_depth(path: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe: unknown key '{path}'.*{nearest}"):
        parse_recipe(with_value(path, 1))


def test_an_unknown_key_of_a_loss_term_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'loss.terms.1.wieght'.*'weight'"):
        parse_recipe(with_value("loss", {"terms": [{"name": "ce"}, {"name": "kl", "wieght": 2}]}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", 3),
        ("model", "minilm-l6"),
        ("model.base", 1),
        ("model.layers", ["0"]),
        ("model.dropout", 1.5),
        ("model.dtype", "float8"),
        ("model.lora.rank", 0),
        ("model.lora.targets", "query"),
        ("data", {"collection": "c"}),
        ("data", []),
        ("data.0.labels", "labels"),
        ("data.0.judged", "yes"),
        ("data.0.label_scale", 0),
        ("data.0.queries", 0),
        ("groups.size", 8.5),
        ("loss.alpha", 1.1),
        ("loss.temperature", 0),
        ("kind", "setwise"),
        ("train.epochs", "2"),
        ("train.epochs", -1),
        ("train.epochs", float("inf")),
        ("train.learning_rate", float("nan")),
        ("train.warmup", float("inf")),
        ("loss.temperature", float("inf")),
        ("data.0.label_scale", float("inf")),
        ("data.0.label_weights", [float("nan")]),
        ("groups.min_margin", float("nan")),
        ("groups.min_margin", float("-inf")),
        ("train.learning_rate", True),
        ("train.groups_per_step", 0),
        ("train.seed", True),
        ("train.patience", -1),
        ("train.autocast", 1),
    ],
)
def test_a_wrong_type_or_value_is_named(path: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"recipe: {path}"):
        parse_recipe(with_value(path, value))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"recipe: model\.base: Field required"):
        parse_recipe({**PLAIN, "model": {}})


def test_a_date_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = 2020-01-01\nmodel.base = "b"\ndata = [{ collection = "c" }]\n')
    with pytest.raises(ConfigError, match="dates"):
        load_recipe(path)


def test_a_file_that_is_no_toml_is_named_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("name = \n")
    with pytest.raises(DataError, match=r"r\.toml: not TOML"):
        load_recipe(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(DataError, match=r"r\.toml:1: not UTF-8"):
        load_recipe(path)


def test_a_name_that_is_no_recipe_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dear.recipes.reading.shipped_recipes", lambda: {"pydocs/student": Path("x")}
    )
    with pytest.raises(ConfigError, match=r"no recipe 'pydocs/studnt'.*'pydocs/student'"):
        load_recipe("pydocs/studnt")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=3", "train.epochs", 3.0),
        ("train.epochs = 3 ", "train.epochs", 3.0),
        ("train.learning_rate=2e-5", "train.learning_rate", 2e-5),
        ("train.autocast=false", "train.autocast", False),
        ("train.report_to=tensorboard", "train.report_to", "tensorboard"),
        ('name="2024"', "name", "2024"),
        ("description=two = words", "description", "two = words"),
        ("model.layers=[1, 3]", "model.layers", (1, 3)),
        ('data.1.labels=["l/a"]', "data.1.labels", ("l/a",)),
        ("data.0.run=bm25.trec", "data.0.run", "bm25.trec"),
        ("loss.terms.0.options.k=7", "loss.terms.0.options", {"k": 7, "mu": 2.5}),
        ("groups.size=4", "groups.size", 4),
        ("model.lora.merge=true", "model.lora.merge", True),
        ("dev.collection=two", "dev.collection", "two"),
    ],
)
def test_an_override_has_the_type_that_it_has_in_toml(
    full: Path, override: str, path: str, value: Any
) -> None:
    found: Any = load_recipe(full, [override])
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    if isinstance(value, dict):
        assert found.items() >= value.items()
    else:
        assert found == value
        assert type(found) is type(value)


def test_overrides_apply_in_order(full: Path) -> None:
    assert load_recipe(full, ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("train.epochs=two", "valid number"),
        ("train.epoch=2", "unknown key 'train.epoch'"),
        ("name.first=x", "name is a plain value"),
        ("train.epochs.first.second=x", "train.epochs is a plain value"),
        ("data.2.run=x", "'2' is no position in a list of 2"),
        ("data.-1.run=x", "'-1' is no position"),
        ("data.one.run=x", "'one' is no position"),
        ("data.7=x", "'7' is no position"),
        ("data.0=x", "data.0: Input should be an object"),
    ],
)
def test_a_bad_override_is_named(full: Path, override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(full, [override])
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    epochs=st.floats(0.01, 100),
    seed=st.integers(0, 2**32),
    layers=st.lists(st.integers(0, 30), max_size=4),
    lora=st.booleans(),
    text=st.text(max_size=8),
)
def test_to_dict_and_back_is_the_same(
    epochs: float, seed: int, layers: list[int], lora: bool, text: str
) -> None:
    recipe = parse_recipe(
        {
            **PLAIN,
            "description": text,
            "model": {"base": "b", "layers": layers, **({"lora": {"rank": 3}} if lora else {})},
            "train": {"epochs": epochs, "seed": seed},
            "loss": {"terms": [{"name": "kl", "weight": 0.5, "options": {"temperature": 2}}]},
        }
    )
    assert parse_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert parse_recipe(recipe.to_dict()) == recipe


LISTS: dict[str, Any] = {
    "name": "x",
    "kind": "listwise",
    "model": {"base": "b"},
    "data": [{"lists": ["a.jsonl"]}],
}


def test_a_listwise_recipe_is_read_and_written_without_what_it_has_not() -> None:
    recipe = parse_recipe({**LISTS, "listwise": {"loss": {"text": 0, "targets": "scores"}}})
    assert (recipe.listwise.loss.text, recipe.listwise.loss.targets) == (0.0, "scores")
    values = recipe.to_dict()
    assert parse_recipe(values) == recipe
    assert not {"contract", "groups", "loss", "dev"} & set(values)


def test_recipes_that_ship_have_the_values_of_trained_checkpoints() -> None:
    """A checkpoint's folder is of the same training where the digest of its recipe is the same."""
    expected = json.loads((Path(__file__).parent / "recipe_digests.json").read_text())
    found = {
        name: Input.of_values(load_recipe(name).to_dict()).digest
        for name in shipped_recipes()
        if not name.startswith(DISTILL)
    }
    assert found == expected


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({**LISTS, "groups": {}}, r"\[groups\] does not apply to listwise models; remove it"),
        ({**LISTS, "dev": {"collection": "c"}}, r"\[dev\] does not apply"),
        (
            {**LISTS, "data": [{"collection": "c"}]},
            r"data\.0\.collection does not apply to listwise",
        ),
        (
            {**LISTS, "data": [{"lists": ["a"], "run": "r"}]},
            r"data\.0\.run does not apply to listwise",
        ),
        ({**LISTS, "data": [{}]}, r"data\.0\.lists: Field required"),
        ({**PLAIN, "listwise": {}}, r"\[listwise\] does not apply to pointwise models"),
        ({**PLAIN, "kind": "biencoder", "dev": {}}, r"\[dev\] does not apply to biencoder"),
        ({**PLAIN, "kind": "biencoder", "parallel": {}}, r"\[parallel\] does not apply to bi"),
        ({**PLAIN, "data": [{"lists": ["a"]}]}, r"data\.0\.lists does not apply to pointwise"),
        ({**PLAIN, "data": [{}]}, r"data\.0\.collection: Field required"),
        (
            {**LISTS, "listwise": {"max_window": 1}},
            r"listwise\.max_window: Input should be greater",
        ),
        ({**LISTS, "listwise": {"loss": {"txt": 1}}}, r"unknown key 'listwise\.loss\.txt'.*text"),
    ],
)
def test_keys_of_another_kind_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_recipe(values)


def written(folder: Path, **files: str) -> Path:
    """The first of these recipes, with all of them in one folder."""
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.toml"


def test_a_recipe_extends_another_table_by_table(full: Path) -> None:
    text = (
        'extends = "full.toml"\nname = "half"\n[model.lora]\nrank = 4\n[[data]]\ncollection = "x"'
    )
    half, whole = load_recipe(written(full.parent, half=text)), load_recipe(full)
    assert half.name == "half"
    assert half.model.lora == dataclasses.replace(whole.model.lora, rank=4)  # type: ignore[type-var]
    assert [d.collection for d in half.data] == ["x"]  # a list is replaced
    changed = ("name", "model", "data")
    assert dataclasses.replace(half, **{key: getattr(whole, key) for key in changed}) == whole


def test_of_several_recipes_the_later_one_counts_and_the_file_itself_most(full: Path) -> None:
    one = written(
        full.parent,
        top='extends = ["full.toml", "a.toml", "b.toml"]\n[train]\nseed = 3',
        a="[train]\nseed = 1\nepochs = 5\nlog_steps = 1",
        b="[train]\nseed = 2\nepochs = 6",
    )
    train = load_recipe(one, ["train.log_steps=9"]).train
    assert (train.seed, train.epochs, train.log_steps) == (3, 6.0, 9)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a": 'extends = "b.toml"', "b": 'extends = "a.toml"'}, r"a\.toml: extends itself"),
        ({"a": 'extends = "a.toml"'}, "extends itself"),
        ({"a": 'extends = "nano/teachr"'}, r"a\.toml: extends: no recipe.*nano/teacher"),
        ({"a": "extends = 3"}, r"a\.toml: extends must be"),
        ({"a": 'extends = ["b.toml", 3]'}, "extends must be"),
        ({"a": 'extends = "b.toml"\nnam = "x"', "b": 'name = "y"'}, "unknown key 'nam'"),
    ],
)
def test_what_cannot_be_extended_is_one_error(
    files: dict[str, str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_recipe(written(tmp_path, **files))


def test_a_recipe_is_frozen() -> None:
    recipe = parse_recipe(PLAIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.name = "y"  # type: ignore[misc]


def test_recipes_ship() -> None:
    assert shipped_recipes()


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_that_ships_loads_and_says_what_it_is(name: str) -> None:
    load = load_distill_recipe if name.startswith(DISTILL) else load_recipe
    recipe: Recipe | DistillRecipe = load(name)
    assert recipe.name
    assert recipe.description


@pytest.mark.parametrize(
    ("cores", "bfloat16", "gpu", "name"),
    [
        (2, False, False, SHORT),
        (2, True, False, SHORT),
        (3, True, False, SHORT),
        (4, True, False, LONG),
        (4, False, False, SHORT),
        (7, False, False, SHORT),
        (8, False, False, LONG),
        (1, False, True, LONG),
    ],
)
def test_the_recipe_that_fits_follows_from_the_hardware(
    cores: int, bfloat16: bool, gpu: bool, name: str
) -> None:
    assert fitting_recipe(cores, bfloat16=bfloat16, gpu=gpu) == name


def test_the_recipes_of_the_demo_differ_in_size_alone() -> None:
    short, long = load_distill_recipe(SHORT), load_distill_recipe(LONG)
    assert short.student.train.learning_rate == long.student.train.learning_rate
    assert long.control
    assert not short.control  # the long one says what the labels are worth
    assert short.student.from_teacher == long.student.from_teacher
    assert short.teacher.zero_shot == long.teacher.zero_shot


def test_a_distill_recipe_is_strict_and_goes_without_its_folders_name() -> None:
    name = next(n for n in shipped_recipes() if n.startswith(DISTILL))
    assert load_distill_recipe(name.removeprefix(DISTILL)) == load_distill_recipe(name)
    changed = load_distill_recipe(name, ["student.train.epochs=7", "teacher.first_stage=0"])
    assert changed.student.train.epochs == 7.0
    assert changed.teacher.first_stage == 0.0
    for override, problem in (
        ("student.train.epoch=7", "unknown key 'student.train.epoch'.*'epochs'"),
        ("teacher.scale=0", "teacher.scale: Input should be greater than 0"),
        ("student.model=x", "student.model: Input should be an object"),
    ):
        with pytest.raises(ConfigError, match=problem):
            load_distill_recipe(name, [override])
