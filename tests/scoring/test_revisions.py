"""A revision is over all that scores depend on, and over nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import pairs

from dear.checkpoints.files import former_revision_of, revision_of
from dear.checkpoints.registry import locate
from dear.data.labels import Stamp
from dear.errors import ContractMismatch
from dear.scoring.opening import open_model
from dear.scoring.revisions import (
    base_inputs,
    checkpoint_digest,
    former,
    require_revision,
    revision_named,
    scoring_inputs,
)


@pytest.fixture
def model(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("bert"), tmp_path / "model"))


def test_every_tensor_counts(model: Path) -> None:
    file = model / "model.safetensors"
    weights = load_file(file)
    seen = {revision_of(locate(model))}
    for name, value in weights.items():
        changed = value.clone()
        changed.view(-1)[-1] += 1e-3
        save_file(weights | {name: changed}, file, metadata={"format": "pt"})
        seen.add(revision_of(locate(model)))
    assert len(seen) == len(weights) + 1
    save_file(weights, file, metadata={"format": "pt"})
    assert revision_of(locate(model)) in seen


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_the_tokenizer_and_the_configuration_count(model: Path, name: str) -> None:
    before = revision_of(locate(model)), base_inputs(str(model))
    values = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(values | {"something": "else"}))
    assert revision_of(locate(model)) != before[0]
    kind, other = ("base", "tokenizer") if name == "config.json" else ("tokenizer", "base")
    now = base_inputs(str(model))
    assert now[kind] != before[1][kind]
    assert now[other] == before[1][other]


def test_modules_of_an_embedding_model_count(model: Path) -> None:
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    modules = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}]
    (model / "modules.json").write_text(json.dumps(modules))
    before = revision_of(locate(model))
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert revision_of(locate(model)) != before


def test_what_no_score_depends_on_does_not_count(model: Path, tmp_path: Path) -> None:
    before, digest = revision_of(locate(model)), checkpoint_digest(model)
    for name in (
        "calibration.json",
        "dear_training.json",
        "README.md",
        "training_args.bin",
        "optimizer.pt",
        "tensorboard/events",
        "steps/checkpoint-3/model.safetensors",
    ):
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    for folder in (model, copy):
        assert revision_of(locate(folder)) == before
        assert checkpoint_digest(folder) == digest


def test_a_revision_is_known_without_opening_the_model(model: Path) -> None:
    for name in (str(model), f"biencoder:{model}"):
        opened = open_model(name, dtype="float32", device="cpu")
        assert revision_named(name) == opened.revision
        assert scoring_inputs(opened)["model"].digest == opened.revision


def test_the_revision_of_an_earlier_version_is_compared_as_that_one_was_made(model: Path) -> None:
    """It saw no tokenizer; what it did see is still compared."""
    there = former_revision_of(locate(model))
    assert len(there) == len("local-") + 16
    opened = open_model(model, dtype="float32", device="cpu")
    assert former(str(model), there) is True
    assert former(str(model), opened.revision) is None
    require_revision("it was", there, opened)  # type: ignore[arg-type]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"something": "else"}))
    assert former(str(model), there) is False
    with pytest.raises(ContractMismatch, match="it was revision local-"):
        require_revision("it was", there, opened)  # type: ignore[arg-type]


def test_labels_of_an_earlier_revision_are_unverified_and_not_refused(model: Path) -> None:
    from dear.label import stamp_of

    now = stamp_of("c", open_model(model, dtype="float32", device="cpu"))
    earlier = Stamp(
        collection="c",
        teacher=now.teacher,
        revision=former_revision_of(locate(model)),
        fingerprint=now.fingerprint,
        contract=now.contract,
    )
    found = earlier.inputs.changes(now.inputs)
    assert not found
    assert found.unverified == ("revision",)


def test_two_trainings_with_other_seeds_have_other_revisions(tmp_path: Path) -> None:
    """Such as differ in a pooler and a head that lie between the samples of a large file."""
    torch.manual_seed(0)
    folders = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        weights = {
            "bert.embeddings.weight": torch.zeros(64 << 18),
            "classifier.weight": torch.rand(4, generator=generator),
        }
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save_file(weights, folder / "model.safetensors")
        folders.append(folder)
    assert revision_of(locate(folders[0])) != revision_of(locate(folders[1]))


def test_an_export_says_what_it_computes_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor without bfloat16 an export that says bfloat16 computes in float32."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from dear.export import openvino
    from dear.export.openvino import export_openvino
    from dear.scoring.loading import load_scoring_model

    def export(folder: Path, dtype: str, *, bfloat16: bool) -> Path:
        monkeypatch.setattr(openvino, "cpu_has_bfloat16", lambda: bfloat16)
        loaded = load_scoring_model(model, dtype="float32", device="cpu")
        export_openvino(loaded, folder, dtype, calibration=pairs(30, seed=5))  # type: ignore[arg-type]
        return folder

    without = open_model(export(tmp_path / "without", "bfloat16", bfloat16=False))
    plain = open_model(export(tmp_path / "float32", "float32", bfloat16=True))
    assert without.contract.dtype == "float32"
    assert without.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(without.score(pairs(8)), plain.score(pairs(8)))
    few = [open_model(export(tmp_path / f"int8-{b}", "int8", bfloat16=b)) for b in (False, True)]
    in_force = [one.computing["precision"] for one in few]  # type: ignore[attr-defined]
    assert in_force[0] == "f32"
    assert (few[0].fingerprint == few[1].fingerprint) == (in_force[0] == in_force[1])
    # what an earlier version wrote is unverified
    from dear.checkpoints.contract import ScoringContract

    stored = ScoringContract.load(tmp_path / "without")
    assert stored is not None
    assert stored.fingerprint != without.fingerprint
    assert former(str(tmp_path / "without"), stored.fingerprint) is True
