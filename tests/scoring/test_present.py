"""Which public models are on this machine: whole ones alone, the strongest first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from published_folders import write_model, write_weights
from safetensors.torch import load_file
from tiny_models import bert_tokenizer, make, save

from dear.checkpoints.present import present_models, public_models
from dear.checkpoints.registry import (
    FAMILY,
    KNOWN_EMBEDDERS,
    KNOWN_RERANKERS,
    Source,
    known_embedder,
    known_reranker,
)
from dear.cli.main import main
from dear.rank.reranker import Reranker
from hub_cache import HubCache

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SMALL, LARGE = "cross-encoder/ms-marco-MiniLM-L6-v2", "BAAI/bge-reranker-v2-m3"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("small") / "m", make("bert"), bert_tokenizer())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make("bert", num_hidden_layers=5)
    return save(tmp_path_factory.mktemp("large") / "m", model, bert_tokenizer())


def test_models_of_the_cache_and_of_a_folder_by_strength(
    hub: HubCache, small: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(SMALL, small)
    hub.add("intfloat/e5-large-v2", large)
    for other in ("cross-encoder/nli-deberta-v3-large", "somebody/else"):
        hub.add(other, large)  # no rerankers, as far as anybody knows
    models = tmp_path / "models"
    (models / "BAAI").mkdir(parents=True)
    (models / LARGE).symlink_to(large)
    (models / "mxbai-rerank-xsmall-v1").symlink_to(small)
    monkeypatch.setenv("DEAR_MODELS", str(models))
    found = public_models()
    assert [(m.spec, m.kind, m.place) for m in found] == [
        (LARGE, "reranker", "DEAR_MODELS"),
        (SMALL, "reranker", "cache"),
        ("mixedbread-ai/mxbai-rerank-xsmall-v1", "reranker", "DEAR_MODELS"),
        ("biencoder:intfloat/e5-large-v2", "embedder", "cache"),
    ]
    for model in found:
        opened = Reranker(model.spec).model
        assert opened.parameters <= model.parameters < 1.2 * opened.parameters
    assert present_models() == found


def test_weights_that_are_not_whole_are_not_there(hub: HubCache, small: Path) -> None:
    snapshot = hub.add(SMALL, small)
    (whole,) = public_models()
    weights = snapshot / "model.safetensors"
    tensors = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-8])
    assert not public_models()
    weights.unlink()
    (snapshot / "pytorch_model.bin").write_bytes(b"a pickle")
    assert not public_models()
    write_weights(snapshot, tensors, shards=3)
    assert public_models() == [whole]
    (snapshot / "model-00002-of-00003.safetensors").unlink()
    assert not public_models()
    (snapshot / "model.safetensors.index.json").write_text("{")
    assert not public_models()


def test_an_adapter_is_there_with_its_base(hub: HubCache, tmp_path: Path) -> None:
    row = FAMILY["rankllama-7b"]
    write_model(tmp_path / "made", row, 1)
    hub.add(row.hub, tmp_path / "made" / row.hub)
    assert not present_models()
    hub.add(row.base, tmp_path / "made" / row.base)
    (found,) = present_models()
    assert (found.spec, found.kind, found.place) == ("rankllama-7b", "reranker", "cache")
    assert found.parameters > Reranker("rankllama-7b").model.parameters
    assert not public_models()


def test_dear_models_lists_them(
    hub: HubCache, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(FAMILY)
    hub.add("intfloat/e5-small-v2", small)
    assert main(["models"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-1][::2] == ["biencoder:intfloat/e5-small-v2", "embedder"]
    assert rows[-1][-1] == "cache"
    assert main(["models", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[-1]
    assert (row["name"], row["spec"]) == ("intfloat/e5-small-v2", rows[-1][0])
    assert (row["kind"], row["place"], row["present"]) == ("embedder", "cache", True)


def test_the_page_names_every_known_model() -> None:
    told: dict[str, str] = {}
    for line in PAGE.splitlines():
        _, names, says, *_ = [*line.split("|"), "", ""]
        told |= dict.fromkeys(re.findall(r"`([\w.-]+/[\w.-]+)`", names), says)
    rerankers = {name: known for name in told if (known := known_reranker(Source(name)))}
    for known in KNOWN_RERANKERS:
        assert known in rerankers.values(), known.names
    for name, known in rerankers.items():
        assert known.contract in told[name], name
    embedders = [known_embedder(Source(name)) for name in told]
    for embedder in KNOWN_EMBEDDERS:
        assert embedder in embedders, embedder.names
