"""`make proof`: what it runs is there, and it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proof", BENCHMARKS / "proof.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["proof"] = module  # a dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_every_result_that_is_committed_has_a_part(proof: ModuleType) -> None:
    made = {part.result.name for part in proof.PARTS.values()}
    # the same script, on a processor with AMX
    kept = {path.name for path in (BENCHMARKS / "results").glob("*.json")}
    assert {name.replace("_amx.json", ".json") for name in kept} <= made
    assert made <= kept | {"example"}


def test_the_scripts_know_the_options(proof: ModuleType) -> None:
    for name, part in proof.PARTS.items():
        texts = [path.read_text() for path in BENCHMARKS.glob(f"{part.script}*.py")]
        assert texts, name
        known = set(re.findall(r'"(--[a-z0-9-]+)"', "".join(texts)))
        asked = {word for word in part.words.split() if word.startswith("--")}
        assert asked <= known, name
        assert set(part.needs) <= set(proof.PARTS), name
        proof.command(part, Path("data"), Path("work"))


@pytest.fixture
def parts(proof: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The second fails unless a file is there; the third needs it."""
    monkeypatch.setattr(proof, "HERE", tmp_path)
    add = "open(sys.argv[1], 'a').write(__file__[-4])"
    (tmp_path / "a.py").write_text(f"import sys; {add}")
    (tmp_path / "b.py").write_text(
        f"import os, sys; os.path.exists(sys.argv[2]) or sys.exit(3); {add}"
    )
    out = Path("out.json")
    return {
        "one": proof.Part(script="a", words="{work}/ran", result=out),
        "two": proof.Part(script="b", words="{work}/ran {data}/mended", result=out),
        "three": proof.Part(script="a", words="{work}/ran", result=out, needs=("two",)),
        "four": proof.Part(script="a", words="{work}/ran", result=out),
    }


def test_it_goes_on_where_it_was_stopped(
    proof: ModuleType,
    parts: dict[str, object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", str(tmp_path), "--work", str(tmp_path / "work")]
    ran = tmp_path / "work" / "ran"
    assert proof.main([*words, "--list"], parts) == 0
    assert not (tmp_path / "work").exists()
    capsys.readouterr()
    assert proof.main(words, parts) == 1
    assert ran.read_text() == "aa"
    told = capsys.readouterr().out
    assert "ended with 3" in told
    assert "three: needs two" in told
    assert told.splitlines()[-1].startswith("not done: two, three;")
    (tmp_path / "mended").touch()
    assert proof.main([*words, "--only", "three"], parts) == 1
    assert proof.main([*words, "--only", "two,one"], parts) == 0
    assert ran.read_text() == "aab"
    assert proof.main(words, parts) == 0
    assert proof.main(words, parts) == 0
    assert ran.read_text() == "aaba"


def test_data_is_asked_of_what_reads_it(
    proof: ModuleType, parts: dict[str, object], tmp_path: Path
) -> None:
    words = ["--data", str(tmp_path / "none"), "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit):
        proof.main(words, parts)
    assert not (tmp_path / "work").exists()
    own = dataclasses.replace(parts["one"], reads_data=False)  # type: ignore[type-var]
    assert proof.main(words, {"one": own}) == 0
    assert (tmp_path / "work" / "ran").read_text() == "a"


def test_what_it_does_not_have_is_refused(
    proof: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, problem in (
        (["--data", str(tmp_path / "none")], "is no folder"),
        (["--data", str(tmp_path), "--only", "demo,nothing"], "no part nothing; there are"),
    ):
        with pytest.raises(SystemExit):
            proof.main([*words, "--work", str(tmp_path / "work")])
        assert problem in capsys.readouterr().err
