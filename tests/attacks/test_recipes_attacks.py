"""Recipes, plans and options that extend each other without end, or that nothing should parse."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.attacks.ceilings import attack_dear, attack_python

from dear.errors import DearError
from dear.recipes import load_recipe
from dear.report.gather import read_plan

LOAD = """
import sys
from dear.errors import DearError
from dear.recipes import load_recipe
try:
    load_recipe(sys.argv[1], sys.argv[2:])
    print("read")
except DearError as error:
    print("refused", error)
"""
WHOLE = 'name = "x"\nmodel.base = "b"\ndata = [{ collection = "c" }]\n'


def test_three_times_each_fifteen_deep(tmp_path: Path) -> None:
    (tmp_path / "0.toml").write_text(WHOLE)
    for i in range(1, 16):
        (tmp_path / f"{i}.toml").write_text(
            f'extends = ["{i - 1}.toml", "{i - 1}.toml", "{i - 1}.toml"]'
        )
    said = attack_python(LOAD, tmp_path / "15.toml", seconds=5, mebibytes=400).out
    assert said == "read\n"


@pytest.mark.parametrize("deep", [21, 3000])
def test_a_chain_without_an_end(tmp_path: Path, deep: int) -> None:
    (tmp_path / "0.toml").write_text(WHOLE)
    for i in range(1, deep + 1):
        (tmp_path / f"{i}.toml").write_text(f'extends = "{i - 1}.toml"')
    ended = attack_dear(
        "train", tmp_path / f"{deep}.toml", "--output", tmp_path / "out", seconds=15, mebibytes=500
    )
    ended.line("extends", "20 recipes deep")


def test_very_many(tmp_path: Path) -> None:
    names = [f"{i}.toml" for i in range(200)]
    for name in names:
        (tmp_path / name).write_text(WHOLE)
    (tmp_path / "all.toml").write_text(f"extends = {names}")
    assert "100 in all" in attack_python(LOAD, tmp_path / "all.toml", seconds=5, mebibytes=400).out


@pytest.mark.parametrize(
    "files", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}]
)
def test_circles(tmp_path: Path, files: dict[str, str]) -> None:
    for name, other in files.items():
        (tmp_path / f"{name}.toml").write_text(f'extends = "./{other}.toml"')
    (tmp_path / "link.toml").symlink_to(tmp_path / "a.toml")
    for name in ("a.toml", "link.toml"):
        said = attack_python(LOAD, tmp_path / name, seconds=5, mebibytes=400).out
        assert "extends itself" in said


BROKEN = {
    "deep list": "a = " + "[" * 100_000,
    "closed deep list": "a = " + "[" * 900 + "]" * 900,
    "deep table": "a = " + "{a = " * 100_000,
    "deep keys": ".".join("a" * 5000) + " = 1",
    "deep header": f"[{'.'.join('a' * 5000)}]",
    "digits": f"a = {'9' * 5000}",
    "digits of a float": f"train.epochs = {'9' * 5000}.0",
    "infinite": f"{WHOLE}train.epochs = inf",
    "a date": "name = 2020-01-01",
    "no UTF-8": b"a = '\xff'",
    "NUL": b"\0" * 100,
    "extends a number": "extends = 7",
    "extends NUL": 'extends = "\\u0000"',
    "extends a long name": f'extends = "{"x" * 5000}"',
    "extends a folder": 'extends = "."',
    "extends a device": 'extends = "/dev/null"',
    "many keys": "\n".join(f"a{i} = 1" for i in range(50_000)),
    "an escape": 'name = "\\u001b[2J"',
    "a table that is a list": "model = []",
    "a list that is a table": "[data]\na = 1",
    "data is text": 'data = "x"',
    "data of numbers": "data = [1, 2]",
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_no_recipes(tmp_path: Path, name: str) -> None:
    text = BROKEN[name]
    path = tmp_path / "r.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (load_recipe, read_plan):
        with pytest.raises(DearError) as found:
            read(path)  # type: ignore[operator]
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "override",
    [
        f"train.epochs={'9' * 5000}",
        f"train.epochs={'[' * 100_000}",
        f"{'.'.join('a' * 5000)}=1",
        f"data.{'9' * 5000}.collection=x",
        "data.²=1",
        "data.-1=1",
        "=1",
        "a",
        "model=1",
        "name.x=1",
        "data=\0",
    ],
)
def test_overrides(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(WHOLE)
    with pytest.raises(DearError) as found:
        load_recipe(path, [override])
    assert "\n" not in str(found.value)
