"""The ranker that comes with the package: two small exported models, mixed, on any processor.

A SPLADE model of 4.4 million parameters and all-MiniLM-L6-v2, both under the Apache licence
(dear/box/NOTICE.md), z-normalised within the candidates and added with the first stage's score, or
BM25's over the candidates where there is none. docs/models.md has what it is worth.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from dear.artifacts import read_json
from dear.checkpoints.registry import BUILT_IN
from dear.errors import ConfigError

BOX_FILE = "box.json"


def box_folder() -> Path:
    return Path(str(files("dear") / "box"))


def built_in() -> dict[str, Any]:
    """What a RankerSpec says of it. ConfigError for an installation that lacks it."""
    folder = box_folder()
    if not (folder / BOX_FILE).is_file():
        raise ConfigError(
            f"{BUILT_IN}: this installation has no model of its own; name one, or make it with "
            "`make box`"
        )
    box = read_json(folder / BOX_FILE)
    return {
        "name": BUILT_IN,
        "mixture": {str(folder / name): weight for name, weight in box["mixture"].items()},
        "fuse": box["first_stage"],
    }
