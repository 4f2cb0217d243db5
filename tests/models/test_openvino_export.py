"""Exports give the checkpoint's scores, carry its contract, and refuse what they are not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import checkpoint, pairs, words

from dear import Reranker
from dear.errors import ConfigError, ContractMismatch, DataError, MissingExtra
from dear.export.openvino import GATED_OPERATIONS, HEAD_OPERATIONS, export_openvino
from dear.models.contract import CARD, DEAR
from dear.models.engines import openvino as engine
from dear.models.engines.openvino import GRAPH, load_openvino
from dear.models.exported import EXPORT_FILE, is_exported, load_exported
from dear.models.loading import load_scoring_model
from dear.models.opening import open_model
from dear.models.scorer import Scorer

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")

SOME = [*pairs(12), ("", ""), ("query", words(400))]


def exported(source: Path, folder: Path, dtype: str = "float32") -> Path:
    model = load_scoring_model(source, dtype="float32", device="cpu")
    export_openvino(model, folder, dtype, calibration=pairs(30, seed=5))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def bert(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tiny("bert"), tmp_path_factory.mktemp("exports") / "bert")


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta", "gpt2"])
def test_float32_scores_are_the_checkpoints(
    kind: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = exported(tiny(kind), tmp_path / "export")
    mine = open_model(folder).score(SOME)
    theirs = open_model(tiny(kind), dtype="float32").score(SOME)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_gated_products_of_smollm2s_sizes_compute_in_bfloat16(tmp_path: Path) -> None:
    """On a processor with AMX, OpenVINO's fused operation ended the process here (SIGFPE)."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
    sizes |= {"num_key_value_heads": 3, "head_dim": 64, "num_hidden_layers": 2}
    source = checkpoint(tmp_path / "source", "llama", **sizes)
    folder = exported(source, tmp_path / "export", "bfloat16")
    mine = open_model(folder).score(SOME)
    theirs = open_model(source, dtype="float32").score(SOME)
    np.testing.assert_allclose(mine, theirs, atol=0.05 * np.ptp(theirs))
    graph = load_openvino().Core().read_model(str(folder / GRAPH))
    assert engine.separate_gates(graph) == 2
    # once is enough
    assert engine.separate_gates(graph) == 0


def test_the_score_is_that_of_the_pair_alone(bert: Path) -> None:
    whole = open_model(bert, batch_tokens=4096).score(SOME)
    alone = np.concatenate([open_model(bert, batch_tokens=1).score([pair]) for pair in SOME])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    back = open_model(bert, batch_tokens=300).score(SOME[::-1])[::-1]
    np.testing.assert_allclose(whole, back, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_int8_follows_the_checkpoint(
    kind: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    folder = exported(tiny(kind), tmp_path / "export", "int8")
    opened = open_model(folder)
    assert isinstance(opened, Scorer)
    assert opened.contract.dtype == "int8"
    mine, theirs = opened.score(SOME), open_model(tiny(kind), dtype="float32").score(SOME)
    # weights of random noise are the worst case: what counts is measured in benchmarks/scoring.py
    assert np.corrcoef(mine, theirs)[0, 1] > 0.95
    assert not np.allclose(mine, theirs, atol=1e-5)  # it did become int8


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
def test_what_int8_cannot_hold_is_left_out(
    kind: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    folder = exported(tiny(kind), tmp_path / "export", "int8")
    graph = load_openvino().Core().read_model(str(folder / GRAPH))
    quantised: dict[bool, set[bool]] = {True: set(), False: set()}
    for product in (op for op in graph.get_ops() if op.get_type_name() == "MatMul"):
        fed = {i.get_source_output().get_node().get_type_name() for i in product.inputs()}
        name = product.get_friendly_name()
        left_out = any(re.fullmatch(p, name) for p in (HEAD_OPERATIONS, GATED_OPERATIONS))
        quantised[left_out].add("FakeQuantize" in fed)
    assert quantised == {True: {False}, False: {True}}


@pytest.mark.parametrize("kind", ["mistral", "qwen3"])
def test_what_the_graph_cannot_say_is_refused(
    kind: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    # sliding windows: the graph would let every token see all before it
    with pytest.raises(ConfigError, match="off transformers' scores"):
        exported(tiny(kind), tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_the_contract_goes_along_and_is_enforced(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "bert")
    DEAR.save(source)
    folder = exported(source, tmp_path / "export")
    opened = open_model(folder)
    assert opened.contract.differences(DEAR, ignore=("dtype", "pooling")) == []
    with pytest.raises(ContractMismatch):
        load_exported(folder, contract=CARD)
    with pytest.raises(ConfigError, match="computes in float32, not in bfloat16"):
        load_exported(folder, dtype="bfloat16")
    with pytest.raises(ConfigError, match="runs on the CPU"):
        load_exported(folder, device="cuda")


def test_a_batch_is_not_wider_than_the_models_positions(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "bert", max_position_embeddings=46)
    replace(DEAR, max_query_tokens=12, max_passage_tokens=26).save(source)
    folder = exported(source, tmp_path / "export")
    long = [(words(30), words(60, seed)) for seed in range(5)]
    mine, theirs = (open_model(f, dtype="float32").score(long) for f in (folder, source))
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_another_graph_is_another_revision(
    tiny: Callable[[str], Path], bert: Path, tmp_path: Path
) -> None:
    again = exported(tiny("bert"), tmp_path / "again")
    assert open_model(again).revision == open_model(bert).revision
    other = exported(checkpoint(tmp_path / "other", "bert", seed=1), tmp_path / "export")
    assert open_model(other).revision != open_model(bert).revision


def test_the_reranker_takes_the_folder(bert: Path, tiny: Callable[[str], Path]) -> None:
    passages = [words(10, i) for i in range(8)]
    mine = Reranker(bert).rank("river bank", passages)
    theirs = Reranker(tiny("bert"), dtype="float32").rank("river bank", passages)
    assert mine.passage_ids == theirs.passage_ids


def test_damage_is_one_clear_error(bert: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(bert, tmp_path / "cut"))
    weights = cut / engine.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="not the one that was exported"):
        open_model(cut)
    part = Path(shutil.copytree(bert, tmp_path / "part"))
    about = json.loads((part / EXPORT_FILE).read_text())
    del about["precision"]
    (part / EXPORT_FILE).write_text(json.dumps(about))
    with pytest.raises(DataError, match="not whole"):
        open_model(part)
    (part / EXPORT_FILE).unlink()
    assert not is_exported(part)


def test_int8_needs_pairs_and_an_export_float32(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_scoring_model(tiny("bert"), dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match="pairs to calibrate"):
        export_openvino(model, tmp_path / "a", "int8")
    model = load_scoring_model(tiny("bert"), dtype="bfloat16", device="cpu")
    with pytest.raises(ConfigError, match="float32 weights"):
        export_openvino(model, tmp_path / "b", "bfloat16")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"dear-rerank\[openvino\]"):
        open_model(bert)
