"""`dear train` with a listwise recipe: lists in, a checkpoint and one line out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import good, read, refused
from tiny_lists import lists, save_language_model

from dear.data.formats import write_lists

RECIPE = """
name = "tiny"
kind = "listwise"
model = {{ base = "{base}" }}
data = [{{ lists = ["{lists}"] }}]
listwise = {{ max_tokens = 512, max_window = 4, loss = {{ text = 0.0 }} }}
train = {{ max_steps = 3, groups_per_step = 4, autocast = false }}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    base = save_language_model(tmp_path / "base")
    write_lists(tmp_path / "lists" / "examples.jsonl", [*lists(6), *lists(1, 5, seed=3)])
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(base=base, lists=tmp_path / "lists"), encoding="utf-8")
    return path


def test_lists_become_a_checkpoint_once(recipe: Path, tmp_path: Path) -> None:
    words = ("train", recipe, "--output", tmp_path / "out")
    said = good(*words)
    assert len(said.splitlines()) == 1
    assert "12 lists in" in said
    assert "1 of 7 rejected (1 too many passages)" in said
    assert read(tmp_path / "out" / "dear_listwise.json")["learnt"] == "first"
    assert "nothing was done" in good(*words)


def test_a_listwise_recipe_without_lists_is_refused(recipe: Path, tmp_path: Path) -> None:
    line = refused("train", recipe, "-o", tmp_path / "out", "--set", "data.0.lists=[]")
    assert "data.0.lists: name at least one file" in line
