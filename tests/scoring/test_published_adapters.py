"""LoRA adapters as they are published: every spelling of a head, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_folders import HIDDEN, LAYERS, edit_json, logits, oracle, write_adapter, write_base
from published_tokenizers import LLAMA2, LLAMA3, write_json, write_tokenizer
from safetensors.torch import load_file, save_file
from tiny_models import pairs

from dear.checkpoints.lora import plain_name, read_adapter
from dear.checkpoints.registry import locate
from dear.errors import ConfigError, DataError, DearError
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

SOME = pairs(6, seed=5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "Llama-2-7b-hf", LLAMA2)


def scores(name: Path | str, **options: Any) -> np.ndarray[Any, Any]:
    return Scorer(load_scoring_model(name, **{"dtype": "float32"} | options)).score(SOME)


def refusal(name: Path | str, kind: type[DearError] = DearError) -> str:
    with pytest.raises(kind) as caught:
        load_scoring_model(name, dtype="float32")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def store(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def expected(adapter: Path, base: Path) -> np.ndarray[Any, Any]:
    model, tokenizer = oracle(adapter, base)
    ids = [tokenizer(f"query: {q}", f"document: {p}")["input_ids"] for q, p in SOME]
    found = logits(model, ids).numpy()
    assert np.std(found) > 0.05
    return np.asarray(found)


# ---------------------------------------------------------------- spellings


@pytest.mark.parametrize("saved", [None, ["score"], ["classifier", "score"]])
@pytest.mark.parametrize("merge", [True, False])
def test_peft_agrees(saved: list[str] | None, merge: bool, base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2, modules_to_save=saved)
    np.testing.assert_allclose(scores(folder, merge=merge), expected(folder, base), atol=1e-5)


def spelt(key: str, how: str) -> str:
    """A plain key as other versions of peft, and wrappers around it, have written it."""
    if how == "modules_to_save":
        return key.replace(".score.", ".score.modules_to_save.")
    if how == "named":
        key = key.replace(".score.", ".score.modules_to_save.default.")
        return key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
    if how == "bare":
        return key.removeprefix("base_model.model.")
    return {"tevatron": "hf_model.", "ddp": "module.", "both": "module.hf_model."}[how] + key


SPELLINGS = ["modules_to_save", "named", "bare", "tevatron", "ddp", "both"]


@pytest.mark.parametrize("how", SPELLINGS)
def test_other_spellings_are_the_same_adapter(how: str, base: Path, tmp_path: Path) -> None:
    plain = write_adapter(tmp_path / "plain", str(base), llama=LLAMA2)
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2, modules_to_save=["score"])
    weights = {spelt(key, how): value for key, value in stored(folder).items()}
    if how == "named":  # the untrained copy that peft keeps beside the trained one
        weights["base_model.model.score.original_module.weight"] = torch.full((1, HIDDEN), 9.0)
    assert weights.keys() != stored(plain).keys()
    store(folder, weights)
    assert read_adapter(locate(folder)).keys() == read_adapter(locate(plain)).keys()
    np.testing.assert_allclose(scores(folder), scores(plain), atol=1e-5)


def test_names_of_a_model_are_left_alone() -> None:
    for key in ("model.layers.0.mlp.up_proj.lora_A.weight", "score.weight", "default.weight"):
        assert plain_name(key) == plain_name(f"base_model.model.{key}") == key
    # a module that happens to have the adapter's name
    assert plain_name("base_model.model.default.lora_B.default.weight") == "default.lora_B.weight"


def test_a_head_in_two_spellings_is_none(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    weights = stored(folder)
    weights["base_model.model.score.modules_to_save.weight"] = torch.zeros(1, HIDDEN)
    store(folder, weights)
    assert "holds score.weight twice" in refusal(folder, DataError)


def test_the_keys_of_newer_and_of_unknown_configurations(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    before = scores(folder)
    edit_json(
        folder / "adapter_config.json",
        alpha_pattern={},
        rank_pattern={},
        use_dora=False,
        use_rslora=False,
        exclude_modules=None,
        peft_version="0.99.0",
        a_key_of_tomorrow={"x": 1},
    )
    np.testing.assert_allclose(scores(folder), before, atol=1e-5)
    edit_json(folder / "adapter_config.json", use_rslora=True)
    assert np.abs(scores(folder) - before).max() > 1e-3
    np.testing.assert_allclose(scores(folder), expected(folder, base), atol=1e-5)


def test_an_adapter_without_a_task_brings_its_head(base: Path, tmp_path: Path) -> None:
    plain = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    folder = write_adapter(
        tmp_path / "b", str(base), llama=LLAMA2, task_type=None, modules_to_save=["score"]
    )
    np.testing.assert_allclose(scores(folder), scores(plain), atol=1e-5)


def test_trained_biases_come_along(base: Path, tmp_path: Path) -> None:
    """`bias="all"` saves them whole, beside the low-rank weights."""
    biased = write_base(tmp_path / "base", LLAMA2, attention_bias=True)
    folder = write_adapter(tmp_path / "a", str(biased), llama=LLAMA2, bias="all")
    before, weights = scores(folder), stored(folder)
    for i in range(LAYERS):
        weights[f"base_model.model.model.layers.{i}.self_attn.q_proj.bias"] = torch.randn(HIDDEN)
    store(folder, weights)
    assert np.abs(scores(folder) - before).max() > 1e-3


def test_an_embedding_that_was_grown_for_new_tokens(base: Path, tmp_path: Path) -> None:
    """A pad token is added, and the longer embedding is saved with the adapter."""
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    plain = scores(folder)
    weights, old = (
        stored(folder),
        load_file(base / "model.safetensors")["model.embed_tokens.weight"],
    )
    grown = torch.cat([old, torch.randn(3, HIDDEN)])
    weights["base_model.model.model.embed_tokens.weight"] = grown
    store(folder, weights)
    loaded = load_scoring_model(folder, dtype="float32")
    assert loaded.model.get_input_embeddings().num_embeddings == len(grown)
    np.testing.assert_allclose(Scorer(loaded).score(SOME), plain, atol=1e-5)
    weights["base_model.model.model.embed_tokens.weight"] = old[:-3].contiguous()
    store(folder, weights)
    assert "the adapter does not fit its base: model.embed_tokens.weight is" in refusal(folder)


def test_a_base_on_somebody_elses_disk(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published adapter that names a path: what is known of its base stands in for it."""
    shutil.copytree(base, tmp_path / "meta-llama" / "Llama-2-7b-hf")
    named = tmp_path / "castorini" / "rankllama-v1-7b-lora-passage"
    write_adapter(named, "meta-llama/Llama-2-7b-hf")
    monkeypatch.setenv("DEAR_MODELS", str(tmp_path))
    before = scores("rankllama-7b")
    edit_json(named / "adapter_config.json", base_model_name_or_path="/store2/x/Llama-2-7b-hf")
    np.testing.assert_allclose(scores("rankllama-7b"), before, atol=1e-5)
    elsewhere = shutil.copytree(named, tmp_path / "mine")
    assert "the adapter's base: no model '/store2/x/Llama-2-7b-hf'" in refusal(elsewhere)


def test_its_own_tokenizer_goes_before_the_bases(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    write_tokenizer(folder, LLAMA2)
    edit_json(folder / "tokenizer_config.json", pad_token="<unk>")
    assert load_scoring_model(folder, dtype="float32").tokenizer.pad_token == "<unk>"


# ---------------------------------------------------------------- refusals


def test_several_outputs(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2, outputs=2)
    assert refusal(folder, ConfigError) == f"{folder}: 2 outputs, but a reranker has one"


def test_a_lost_head(base: Path, tmp_path: Path) -> None:
    for saved in (None, ["score"]):
        folder = write_adapter(
            tmp_path / str(saved), str(base), llama=LLAMA2, head=None, modules_to_save=saved
        )
        assert "the adapter lacks its head (score.weight)" in refusal(folder, ConfigError)
    folder = write_adapter(tmp_path / "b", str(base), llama=LLAMA2, head=None, task_type=None)
    assert "no trained one-logit head (score.weight)" in refusal(folder, ConfigError)


def test_a_saved_module_that_is_not_there(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(
        tmp_path / "a", str(base), llama=LLAMA2, modules_to_save=["score", "embed_tokens"]
    )
    assert "the adapter lacks its embed_tokens" in refusal(folder, ConfigError)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden": 16}, "score.weight is 1 x 16, in the base 1 x 32"),
        ({"layers": 3}, "the base has no place for model.layers.2."),
        ({"layers": 1}, "it lacks model.layers.1."),
        ({"target_modules": ["c_attn"]}, "Target modules"),
    ],
)
def test_another_base_than_the_adapters(
    changes: dict[str, Any], says: str, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(
        tmp_path / "a", str(base), llama=LLAMA2, **{k: v for k, v in changes.items() if k in SIZES}
    )
    edit_json(
        folder / "adapter_config.json", **{k: v for k, v in changes.items() if k not in SIZES}
    )
    text = refusal(folder)
    assert says in text
    assert str(folder) in text


SIZES = ("hidden", "layers")


def test_a_base_of_another_generation(tmp_path: Path) -> None:
    """Llama-3 shares keys and values among heads: they are half as wide here."""
    other = write_base(tmp_path / "Llama-3.1-8B", LLAMA3)
    folder = write_adapter(tmp_path / "a", str(other), llama=LLAMA2)
    assert "v_proj.lora_B.weight is 32 x 4, the base wants 16 x 4" in refusal(folder, DataError)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "a LoRA adapter is expected, not IA3"),
        ({"peft_type": "NEXT_YEAR"}, "a LoRA adapter is expected, not NEXT_YEAR"),
        ({"peft_type": None}, "a LoRA adapter is expected, not None"),
        ({"task_type": "CAUSAL_LM"}, "of a language model (CAUSAL_LM), not of a one-logit scorer"),
        ({"task_type": "TOKEN_CLS"}, "an adapter for TOKEN_CLS does not score pairs"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "/nobody"}, "the adapter's base: no model '/nobody'"),
    ],
)
def test_what_is_no_adapter_of_a_scorer(
    changes: dict[str, Any], says: str, base: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2, **changes)
    text = refusal(folder)
    assert says in text
    assert str(folder) in text


def test_an_adapter_that_is_a_pickle(base: Path, tmp_path: Path) -> None:
    """Refused unopened: what stands in it here is no pickle at all."""
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    text = refusal(folder, ConfigError)
    assert f"{folder}: no adapter_model.safetensors; adapter_model.bin is a pickle" in text
    assert "docs/models.md" in text
    (folder / "adapter_model.bin").unlink()
    assert "no adapter_model.safetensors beside adapter_config.json" in refusal(folder, DataError)


def test_a_truncated_adapter(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA2)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{folder}: the weights are damaged" in refusal(folder, DataError)
    (folder / "adapter_config.json").write_text("{broken")
    refusal(folder)
    write_json(folder / "adapter_config.json", {})
    assert "names no base_model_name_or_path" in refusal(folder)
    assert json.loads((folder / "adapter_config.json").read_text()) == {}
