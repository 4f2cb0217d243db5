"""The house keeps its shape: who imports whom, what an import costs, what the wheel holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "scipy", "pyarrow", "ir_measures", "bm25s", "datasets")

CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
from importlinter.cli import lint_imports
sys.exit(lint_imports(no_cache=True))
"""


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter: this one has everything loaded already."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def loaded_by(code: str) -> set[str]:
    """The heavy packages that `code` loads."""
    done = python("-c", f"{code}\nimport sys\nprint('loaded', *sorted(sys.modules))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("loaded", 1)[1].split()) & set(HEAVY)


def contracts() -> list[dict[str, Any]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return config["tool"]["importlinter"]["contracts"]  # type: ignore[no-any-return]


def test_the_import_contracts_hold() -> None:
    done = python("-c", CHECK, str(ROOT / "src"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/groups.py", "import torch"),
        ("losses/pointwise.py", "import dear.records"),
        ("scoring/scorer.py", "import dear.rank.reranker"),
        ("label.py", "import dear.train.pointwise"),
    ],
)
def test_a_lazy_import_against_the_layers_is_found(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "src" / "dear", tmp_path / "dear")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "dear" / file).open("a", encoding="utf-8") as module:
        module.write(f"\n\ndef hidden() -> None:\n    {line}\n")
    done = python("-c", CHECK, str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_every_room_stands_in_the_layers() -> None:
    """A room that no contract names could import anything."""
    layers = next(c for c in contracts() if c["type"] == "layers")["layers"]
    named = {
        module.strip(" ()").split(".")[1]
        for layer in layers
        for module in layer.replace(":", "|").split("|")
    }
    rooms = {
        path.stem
        for path in (ROOT / "src" / "dear").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__")
        or (path.is_dir() and any(path.glob("*.py")))
    }
    assert rooms <= named


def test_importing_dear_loads_nothing_heavy() -> None:
    assert loaded_by("import dear; dear.Query(id='1', text='a'); dear.__version__") == set()


def test_data_prompts_and_numbers_load_no_torch() -> None:
    code = """
import importlib, pkgutil
for name in ("dear.data", "dear.prompts", "dear.evaluate"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
import dear.recipes, dear.artifacts
"""
    assert loaded_by(code) & {"torch", "transformers"} == set()


def test_the_public_names_are_there() -> None:
    code = "import dear\nfor name in dear.__all__: getattr(dear, name)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_command_line_shows_its_help_without_torch() -> None:
    code = """
from dear.cli.main import main
import sys
sys.argv = ["dear", "--help"]
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
"""
    assert loaded_by(code) == set()


def test_the_wheel_holds_the_recipes_and_the_typed_mark(tmp_path: Path) -> None:
    done = python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {
        f"dear/recipes_data/{path.relative_to(ROOT / 'recipes').as_posix()}"
        for path in (ROOT / "recipes").rglob("*.toml")
    }
    assert recipes
    assert recipes | {"dear/py.typed", "dear/__init__.py"} <= names
    assert not any(name.startswith("tests/") for name in names)
