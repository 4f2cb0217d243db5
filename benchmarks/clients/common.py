"""What the clients' scripts share; standard library only, as it runs in their environments.

A script makes a table of calls and gives it to `run`, which makes each of them four times: without
a key, with the right one, with a wrong one, and without documents.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

QUERY = "What do whales eat?"
DOCUMENTS = [
    "Grass is green because of chlorophyll.",
    "Baleen whales filter krill and small fish out of the water.",
    "The capital of France is Paris.",
    "Krill are small crustaceans; whales and penguins feed on them.",
    "Seit 1990 ist Berlin wieder Hauptstadt – ein Text mit Umlauten: äöü.",
]
MODEL = "any-name"
TOP = 4
"""Fewer than there are documents: that it is obeyed is seen."""
TOLERANCE = 1e-6

Ranked = list[tuple[int, float]]


@dataclass(frozen=True)
class Call:
    """ranks: (address, key, documents) to [(position, score)], best first.

    refused: names of what the client may raise for a wrong key.  empty: the same where there is no
    document; none where it returns nothing.
    """

    name: str
    ranks: Callable[[str, str, Sequence[str]], Ranked]
    refused: Sequence[str]
    empty: Sequence[str]


def run(calls: Sequence[Call], versions: Mapping[str, str]) -> None:
    """versions: of the packages that are tested."""
    free, keyed, key = (os.environ[f"DEAR_{name}"] for name in ("FREE", "KEYED", "KEY"))
    for call in calls:
        rows = {
            "call": call.name,
            "versions": dict(versions),
            "ranks": _ranks(call, free, "none"),
            "with key": _ranks(call, keyed, key),
            "wrong key": _raises(call, keyed, DOCUMENTS, call.refused),
            "no documents": _raises(call, free, [], call.empty),
        }
        _tell({"row": rows})


def installed(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


def _tell(what: Any) -> None:
    """To the process that started this one, which answers when it is ready."""
    sys.stdout.write(f"\ndear {json.dumps(what)}\n")
    sys.stdout.flush()
    sys.stdin.readline()


def _ranks(call: Call, address: str, key: str) -> dict[str, Any]:
    expected = json.loads(os.environ["DEAR_EXPECTED"])[:TOP]
    _tell({"begin": call.name})
    try:
        found = call.ranks(address, key, DOCUMENTS)
    except Exception as error:
        return {"ok": False, "error": _said(error), "trace": traceback.format_exc()[-2000:]}
    if [at for at, _ in found] != [at for at, _ in expected]:
        return {"ok": False, "error": f"another order: {found}"}
    worst = max(abs(one[1] - other[1]) for one, other in zip(found, expected, strict=True))
    return {"ok": worst <= TOLERANCE, "worst_difference": worst}


def _raises(call: Call, address: str, documents: Sequence[str], wanted: Any) -> dict[str, Any]:
    _tell({"begin": None})
    try:
        found = call.ranks(address, "wrong", documents)
    except Exception as error:
        names = {one.__name__ for one in type(error).__mro__[:-3]}
        return {"ok": bool(names & set(wanted)), "error": _said(error)}
    return {"ok": not wanted and not found, "returned": repr(found)[:200]}


def _said(error: Exception) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}: {str(error)[:300]}"
