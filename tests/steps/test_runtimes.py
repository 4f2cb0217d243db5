"""`--runtime`: exports made once, the form that auto takes, and when it takes none."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CORPUS, QUERIES, write_reranker
from safetensors.numpy import load_file, save_file

from dear.checkpoints.processor import ProcessorKind
from dear.data.formats import read_run
from dear.errors import ConfigError
from dear.export.certificate import THRESHOLDS, Tolerance, read_certificate
from dear.export.formats import FORMATS
from dear.rank.reranker import Reranker
from dear.scoring.exported import exported_runtime
from dear.steps import runtimes
from dear.steps.calibrate import calibrate
from dear.steps.label import label
from dear.steps.options import (
    CalibrateOptions,
    LabelOptions,
    ModelOptions,
    RankOptions,
    RerankOptions,
)
from dear.steps.rank import rank
from dear.steps.rerank import rerank
from dear.steps.runtimes import FASTEST, prepared

PAIRS = [(q.text, p.text) for q in QUERIES.values() for p in CORPUS.values()]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the exports of this module's tests are kept."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEAR_CACHE", str(kept))
    return kept / "exports"


@pytest.fixture
def on_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    _processor(monkeypatch, "avx2")


def _processor(monkeypatch: pytest.MonkeyPatch, kind: ProcessorKind) -> None:
    monkeypatch.setattr(runtimes, "processor_kind", lambda: kind)


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("*") if path.is_dir()}


def rank_options(animals: str, model: str, output: Path, **more: Any) -> RankOptions:
    return RankOptions(collection=animals, run="bm25", model=model, output=output, **more)


def test_an_export_is_made_once_and_scores_as_the_checkpoint(reranker: str, cache: Path) -> None:
    found = prepared(reranker, runtime="onnx")
    assert exported_runtime(found.model) == "onnx"
    made = {path: path.stat().st_mtime_ns for path in Path(found.model).iterdir()}
    assert prepared(reranker, runtime="onnx") == found
    assert {path: path.stat().st_mtime_ns for path in Path(found.model).iterdir()} == made
    own = Reranker(reranker, dtype="float32", device="cpu").score(PAIRS)
    assert np.abs(Reranker(found.model).score(PAIRS) - own).max() < 1e-4
    assert Path(found.model).parent == cache


def test_what_the_model_is_told_travels_into_the_export(reranker: str) -> None:
    plain = prepared(reranker, runtime="onnx", options=ModelOptions(contract="plain"))
    assert plain.model != prepared(reranker, runtime="onnx").model
    assert plain.options.contract is None
    own = Reranker(reranker, contract="plain", dtype="float32", device="cpu").score(PAIRS)
    assert np.abs(Reranker(plain.model).score(PAIRS) - own).max() < 1e-4


def test_other_weights_get_another_export(reranker: str, tmp_path: Path) -> None:
    other = write_reranker(tmp_path / "tiny", seed=3)
    assert prepared(str(other), runtime="onnx").model != prepared(reranker, runtime="onnx").model


def test_a_map_to_probabilities_that_is_fitted_later_travels_into_another(
    animals: str, reranker: str, tmp_path: Path
) -> None:
    model = str(shutil.copytree(reranker, tmp_path / "calibrated"))
    weights = load_file(f"{model}/model.safetensors")
    # the other way round its scores rise with relevance
    weights |= {name: -value for name, value in weights.items() if name.startswith("classifier")}
    save_file(weights, f"{model}/model.safetensors", {"format": "pt"})
    before = prepared(model, runtime="onnx").model
    asked = CalibrateOptions(
        model=model,
        collection=animals,
        run="bm25",
        split="test",
        allow_test=True,
        unjudged="irrelevant",
    )
    calibrate(asked)
    after = prepared(model, runtime="onnx").model
    assert after != before
    assert Reranker(after).calibration.revision == Reranker(after).model.revision


def test_two_at_once_make_one_export(reranker: str, tmp_path: Path) -> None:
    copy = shutil.copytree(reranker, tmp_path / "at-once")
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(prepared(str(copy), runtime="onnx").model))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len(set(found)) == 1


@pytest.mark.usefixtures("on_avx2")
def test_auto_takes_the_first_form_where_it_pays(reranker: str) -> None:
    form = FASTEST["avx2"][0]
    assert prepared(reranker, pairs=form.pays_from - 1).model == reranker
    found = prepared(reranker, pairs=form.pays_from)
    assert exported_runtime(found.model) == form.runtime
    certificate = read_certificate(found.model)
    assert certificate is not None
    assert certificate.dtype == form.dtype
    assert prepared(reranker) == found


def test_each_kind_of_processor_has_forms_that_exist() -> None:
    for forms in FASTEST.values():
        assert forms
        for form in forms:
            assert form.dtype in FORMATS[form.runtime].dtypes
            assert form.dtype != "int8"  # which loses


@pytest.mark.parametrize("model", ["built-in", "biencoder:minilm-l6", "bm25.toml", "openai:gpt-5"])
@pytest.mark.usefixtures("on_avx2")
def test_auto_leaves_alone_what_is_no_cross_encoder(model: str) -> None:
    assert prepared(model).model == model


def test_auto_knows_no_form_for_other_processors(
    reranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _processor(monkeypatch, "other")
    assert prepared(reranker).model == reranker


@pytest.mark.usefixtures("on_avx2")
def test_auto_says_once_what_is_not_installed(
    reranker: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtimes._installed.cache_clear()
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name in ("onnxscript", "openvino") else object(),
    )
    with caplog.at_level("INFO"):
        assert prepared(reranker).model == reranker
        assert prepared(reranker).model == reranker
    runtimes._installed.cache_clear()
    assert caplog.text.count("pip install 'dear-rerank[export]'") == 2  # ONNX Runtime and OpenVINO


def test_a_refused_export_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _processor(monkeypatch, "amx")
    model = str(write_reranker(tmp_path / "broken", seed=7))
    with monkeypatch.context() as strict:
        strict.setitem(THRESHOLDS, "bfloat16", Tolerance(difference=-1, tau=1, ndcg=0))
        assert prepared(model).model == model
    assert "not scored by openvino in bfloat16" in caplog.text
    with pytest.raises(ConfigError, match="is not the checkpoint"):
        prepared(model, runtime="openvino")


def test_an_export_runs_on_its_own_runtime_alone(reranker: str) -> None:
    made = prepared(reranker, runtime="onnx").model
    assert prepared(made).model == made
    assert prepared(made, runtime="onnx").model == made
    for other in ("torch", "openvino"):
        with pytest.raises(ConfigError, match=f"an export for onnx; --runtime {other} is not"):
            prepared(made, runtime=other)
    with pytest.raises(ConfigError, match="--runtime tensorrt: auto, torch, openvino or onnx"):
        prepared(reranker, runtime="tensorrt")
    for other in ("built-in", "cascade.toml", "openai:gpt-5"):
        with pytest.raises(ConfigError, match="--runtime onnx is for a checkpoint"):
            prepared(other, runtime="onnx")
    with pytest.raises(ConfigError, match="needs pairs to set its ranges"):
        prepared(reranker, runtime="openvino", options=ModelOptions(dtype="int8"))


def test_rank_scores_by_the_runtime_and_its_note_says_so(
    animals: str, reranker: str, tmp_path: Path
) -> None:
    rank(rank_options(animals, reranker, tmp_path / "a", runtime="onnx"))
    rank(
        rank_options(
            animals,
            reranker,
            tmp_path / "b",
            runtime="torch",
            model_options=ModelOptions(dtype="float32"),
        )
    )
    a, b = (read_run(tmp_path / name) for name in "ab")
    assert a.keys() == b.keys()
    for query, ranking in a.items():
        assert np.abs(np.array(ranking.scores) - b[query].scores).max() < 1e-3
    notes = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab"]
    assert notes[0]["revision"] != notes[1]["revision"]
    assert notes[0]["source"] == reranker


@pytest.mark.usefixtures("on_avx2")
def test_a_shard_is_scored_by_the_checkpoint_unless_told(
    animals: str, reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FASTEST["avx2"][0]
    monkeypatch.setitem(FASTEST, "avx2", (type(form)(form.runtime, form.dtype, 1),))
    rank(rank_options(animals, reranker, tmp_path / "a", shard="0/1"))
    assert "source" not in json.loads((tmp_path / "a.json").read_text())
    rank(rank_options(animals, reranker, tmp_path / "b", shard="0/1", runtime="onnx"))
    assert json.loads((tmp_path / "b.json").read_text())["source"] == reranker


def test_rerank_and_label_take_a_runtime(animals: str, reranker: str, tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("\n".join(p.text for p in CORPUS.values()))
    one = rerank(RerankOptions(query="whale", file=str(file), model=reranker, runtime="onnx"))
    plain = ModelOptions(dtype="float32")
    two = rerank(RerankOptions(query="whale", file=str(file), model=reranker, model_options=plain))
    assert [r["id"] for r in one.results] == [r["id"] for r in two.results]
    store = tmp_path / "labels"
    label(
        LabelOptions(
            collection=animals,
            runs=("bm25",),
            split="test",
            models=(reranker,),
            output=store,
            runtime="onnx",
        )
    )
    assert "exports" in json.loads((store / "manifest.json").read_text())["teacher"]
