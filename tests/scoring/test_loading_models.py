"""From a name to a model that scores: every form of checkpoint, and every way to be broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import (
    CONFIGS,
    bert_tokenizer,
    checkpoint,
    llama_tokenizer,
    make,
    pairs,
    save,
)

import dear.checkpoints.registry as family
from dear import Reranker
from dear.checkpoints import hardware
from dear.checkpoints.contract import CARD, CONTRACT_FILE, DEAR
from dear.checkpoints.files import quiet, revision_of
from dear.checkpoints.hardware import pick_attention, pick_device, pick_dtype
from dear.checkpoints.registry import FAMILY, FamilyModel, Source, locate
from dear.errors import BackendError, ConfigError, ContractMismatch, DataError, DearError
from dear.scoring import loading
from dear.scoring.loading import check_length, load_scoring_model, load_weights, pick_layers
from dear.scoring.opening import open_model
from dear.scoring.revisions import revision_named
from dear.scoring.scorer import Scorer

SOME = pairs(6, seed=5)
Tiny = Callable[[str], Path]


def scores(name: Path | str, **options: Any) -> np.ndarray[Any, Any]:
    return Scorer(load_scoring_model(name, **{"dtype": "float32"} | options)).score(SOME)


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def one_line(caught: pytest.ExceptionInfo[DearError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


# ---------------------------------------------------------------- forms of checkpoints


def test_sharded_weights_score_the_same(tiny: Tiny, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", make("llama"), llama_tokenizer(), max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    np.testing.assert_array_equal(scores(folder), scores(tiny("llama")))


def test_weights_that_were_saved_in_bfloat16(tmp_path: Path) -> None:
    model = make("llama").bfloat16()
    folder = save(tmp_path / "m", model, llama_tokenizer())
    loaded = load_scoring_model(folder, dtype="float32")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    expected = save(tmp_path / "f", model.float(), llama_tokenizer())
    np.testing.assert_allclose(scores(folder), scores(expected), atol=1e-6)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """(folder of an adapter that peft saved, the live model in memory)."""

    def build(kind: str = "llama", base_name: str | None = None) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("adapter")
        auto = hf.AutoModelForCausalLM if kind == "llama" else hf.AutoModel
        tokenizer = llama_tokenizer() if kind == "llama" else bert_tokenizer()
        base = save(folder / "base", make(kind, auto), tokenizer)
        model, _, fresh = load_weights(locate(base), dtype="float32")
        assert fresh
        targets = ["q_proj", "v_proj"] if kind == "llama" else ["query", "value"]
        lora = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=32, target_modules=targets)
        with quiet():  # peft calls what transformers is about to drop
            wrapped = get_peft_model(model, lora)
        torch.manual_seed(1)
        for name, weight in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                torch.nn.init.normal_(weight, std=0.1)
        wrapped.save_pretrained(folder / "adapter")
        if base_name is not None:
            path = folder / "adapter" / "adapter_config.json"
            config = json.loads(path.read_text()) | {"base_model_name_or_path": base_name}
            path.write_text(json.dumps(config))
        return folder / "adapter", wrapped.eval()

    return build


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_an_adapter_merged_and_live(kind: str, adapter: Callable[..., Any]) -> None:
    folder, in_memory = adapter(kind)
    merged, live = scores(folder), scores(folder, merge=False)
    np.testing.assert_allclose(merged, live, atol=1e-5)
    tokenizer = llama_tokenizer() if kind == "llama" else bert_tokenizer()
    with torch.no_grad():
        expected = [
            in_memory(
                **tokenizer(f"query: {q}", f"document: {p}", return_tensors="pt")
            ).logits.item()
            for q, p in SOME
        ]
    np.testing.assert_allclose(merged, expected, atol=1e-5)
    assert np.std(expected) > 0.03


def test_an_adapter_whose_base_is_a_name_of_the_family(
    adapter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = adapter("llama", "small-base")
    expected = scores(adapter("llama")[0])
    with pytest.raises(ConfigError, match="the adapter's base: no model 'small-base'"):
        scores(folder)
    known = FamilyModel(
        name="small-base", hub="a/b", base="", objective="", form="base", parameters="1K"
    )
    monkeypatch.setitem(FAMILY, "small-base", known)
    monkeypatch.setattr(family, "_shipped", lambda _model: folder.parent / "base")
    np.testing.assert_allclose(scores(folder), expected, atol=1e-6)


def test_an_adapter_trained_on_a_named_model_names_it(adapter: Callable[..., Any]) -> None:
    model, _, _ = load_weights(locate("minilm-l6"), dtype="float32")
    assert model.name_or_path == "minilm-l6"
    folder, _ = adapter("llama")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder.parent / "base")


def test_an_adapter_without_its_head_is_untrained(
    adapter: Callable[..., Any], tmp_path: Path
) -> None:
    folder = copy(adapter("llama")[0], tmp_path / "headless")
    path = folder / "adapter_model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if "score" not in k}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError) as caught:
        scores(folder)
    assert f"{folder}: the adapter lacks its head (score.weight)" in one_line(caught)


def test_the_revision_of_an_adapter_changes_with_its_base(adapter: Callable[..., Any]) -> None:
    folder, _ = adapter("llama")
    before = load_scoring_model(folder, dtype="float32").revision
    assert before == load_scoring_model(folder, dtype="float32").revision
    assert before == revision_named(str(folder))
    path = folder.parent / "base" / "model.safetensors"
    weights = {k: v * 1.01 for k, v in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert load_scoring_model(folder, dtype="float32").revision != before


# ---------------------------------------------------------------- contracts beside weights


def test_a_stored_contract_is_honoured(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("llama"), tmp_path / "m")
    stored = replace(DEAR, max_passage_tokens=5, dtype="float32")
    stored.save(folder)
    loaded = load_scoring_model(folder)
    assert loaded.contract == stored
    np.testing.assert_array_equal(scores(folder), scores(tiny("llama"), contract=stored))
    assert np.abs(scores(folder) - scores(tiny("llama"))).max() > 1e-3
    # the dtype of the caller wins, and is what the contract then says
    assert load_scoring_model(folder, dtype="bfloat16").contract.dtype == "bfloat16"


def test_another_contract_than_the_stored_one_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("bert"), tmp_path / "m")
    replace(DEAR, pooling="model").save(folder)
    with pytest.raises(ContractMismatch) as caught:
        Reranker(folder, contract=replace(DEAR, prompt="plain", max_query_tokens=64))
    text = one_line(caught)
    assert "prompt: 'dear', not 'plain'" in text
    assert "max_query_tokens: 32, not 64" in text
    assert str(folder) in text
    # what machine and model decide is no disagreement, and neither is a name
    load_scoring_model(folder, contract=replace(DEAR, name="x", dtype="float16"), dtype="float32")


def test_the_contract_in_force_says_what_was_decided(tiny: Tiny) -> None:
    for kind, pooling in (("llama", "mask"), ("qwen3", "mask"), ("bert", "model")):
        contract = load_scoring_model(tiny(kind)).contract
        assert contract.dtype == pick_dtype("auto", pick_device("auto")) != "auto"
        assert contract.pooling == pooling
        assert contract.name == "card"


def test_a_contract_given_for_a_checkpoint_without_one(tiny: Tiny) -> None:
    given = replace(CARD, prompt="plain", dtype="float32")
    loaded = load_scoring_model(tiny("llama"), contract=given)
    assert loaded.contract == given


def test_a_broken_stored_contract_stops_the_loading(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("bert"), tmp_path / "m")
    (folder / CONTRACT_FILE).write_text('{"max_tokns": 3}')
    with pytest.raises(ConfigError, match="unknown key 'max_tokns'; did you mean 'max_tokens'"):
        load_scoring_model(folder)


# ---------------------------------------------------------------- what is refused, and how


def test_a_base_model_has_no_head(tmp_path: Path) -> None:
    for kind, tokenizer, weight in (
        ("llama", llama_tokenizer(), "score.weight"),
        ("bert", bert_tokenizer(), "classifier.weight"),
        ("modernbert", bert_tokenizer(), "classifier.weight"),
    ):
        folder = save(tmp_path / kind, make(kind, hf.AutoModel), tokenizer)
        with pytest.raises(ConfigError) as caught:
            load_scoring_model(folder)
        text = one_line(caught)
        assert "no trained one-logit head" in text
        assert weight in text
        assert f"`dear train`, or read it without training: biencoder:{folder}" in text


def test_a_classifier_that_lost_its_pooler_has_no_whole_head(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("bert"), tmp_path / "m")
    without(folder, "pooler")
    with pytest.raises(ConfigError, match=r"no trained one-logit head \(bert.pooler"):
        load_scoring_model(folder)


def without(folder: Path, part: str) -> None:
    path = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if part not in k}
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("outputs", [2, 3])
def test_several_outputs_are_no_reranker(outputs: int, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", make("bert", num_labels=outputs), bert_tokenizer())
    with pytest.raises(ConfigError, match=f"{outputs} outputs, but a reranker has one"):
        load_scoring_model(folder)


def test_lost_weights_of_the_body(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("llama"), tmp_path / "m")
    without(folder, "layers.1.mlp")
    with pytest.raises(DataError) as caught:
        load_scoring_model(folder)
    assert "lacks 3 weights: model.layers.1.mlp.down_proj.weight" in one_line(caught)


@pytest.mark.parametrize("keep", [0, 5, 2000, 40000])
def test_truncated_weights(keep: int, tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("llama"), tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError) as caught:
        load_scoring_model(folder)
    assert f"{folder}: the weights are damaged" in one_line(caught)


def test_a_shard_that_is_not_there(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", make("llama"), llama_tokenizer(), max_shard_size="30KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()
    with pytest.raises(DearError) as caught:
        load_scoring_model(folder)
    assert str(folder) in one_line(caught)


def test_weights_of_another_shape(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("llama"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(DearError) as caught:
        load_scoring_model(folder)
    assert str(folder) in one_line(caught)


@pytest.mark.parametrize("text", ["{broken", "[]", '"llama"', "{}", '{"model_type": "nothing"}'])
def test_a_broken_config(text: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("llama"), tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(DearError) as caught:
        load_scoring_model(folder)
    assert str(folder) in one_line(caught)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("tokenizer*", "no tokenizer (tokenizer.json) beside the weights"),
        ("config.json", "no config.json"),
        ("model.safetensors", "cannot load the model"),
    ],
)
def test_a_lost_file(lost: str, says: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("bert"), tmp_path / "m")
    for path in folder.glob(lost):
        path.unlink()
    with pytest.raises(DearError) as caught:
        load_scoring_model(folder)
    assert f"{folder}: " in one_line(caught)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dear-8b-reranker-ce", "did you mean 'dear-8b-reranker-ce-v1'"),
        ("minilm", "did you mean 'minilm-l6'"),
        ("", "no model ''"),
        ("/no/such/folder", "no such folder"),
        ("no/such/model.gguf", "no such file"),
        ("upr:smolm2-135m", "did you mean 'smollm2-135m'"),
        ("biencoder:", "no model ''"),
        ("biencodr:minilm-l6", "no kind of model 'biencodr'; did you mean 'biencoder'"),
    ],
)
def test_an_unknown_name(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_model(name)
    assert says in one_line(caught)


def test_a_contract_is_for_one_logit_models(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="a scoring contract is for one-logit models"):
        open_model("biencoder:minilm-l6", contract=CARD)


@pytest.mark.parametrize("kind", ["", "biencoder:", "upr:"])
@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("castorini/rankllama-v1-7b-lora-passage", "castorini/rankllama-v1-7b-lora-passage"),
        ("dear-3b-reranker-ce-v1", "abdoelsayed/dear-3b-reranker-ce-v1"),
    ],
)
def test_a_hub_model_while_offline(kind: str, name: str, hub: str) -> None:
    with pytest.raises(BackendError) as caught:
        open_model(kind + name)
    text = one_line(caught)
    assert "HF_HUB_OFFLINE=1" in text
    assert hub in text
    assert "huggingface.co" not in text


@pytest.mark.parametrize(("emulates", "expected"), [(False, "bfloat16"), (True, "float16")])
def test_a_gpu_that_emulates_bfloat16_computes_in_float16(
    emulates: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as PyTorch answers for a T4: yes, unless emulation is left out
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or not emulates,
    )
    assert pick_dtype("auto", torch.device("cuda")) == expected
    assert pick_dtype("bfloat16", torch.device("cuda")) == "bfloat16"  # who asks for it gets it


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_there(device: str, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=f"no device '{device}'"):
        load_scoring_model(tiny("bert"), device=device)


def test_a_dtype_that_is_none(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="no dtype 'int2'; try auto"):
        load_scoring_model(tiny("bert"), dtype="int2")  # type: ignore[arg-type]


def test_attention_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for tiles, expected in ((True, "sdpa"), (False, "eager")):
        monkeypatch.setattr(hardware, "cpu_has_tiles", lambda tiles=tiles: tiles)
        assert pick_attention(cpu) == expected
        assert pick_attention(cuda) == "sdpa"


@pytest.mark.parametrize("kind", ["gemma2", "bloom", "bert"])
def test_a_model_without_sdpa_is_loaded_with_what_it_has(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / kind, kind)
    monkeypatch.setattr(loading, "pick_attention", lambda _device: "sdpa")
    model = load_scoring_model(folder, device="cpu")
    expected = "sdpa" if kind == "bert" else "eager"
    assert model.model.config._attn_implementation == expected


def test_rotary_positions_do_not_end() -> None:
    contract = replace(CARD, max_tokens=5000)
    for kind in ("llama", "qwen3", "modernbert"):
        check_length(CONFIGS[kind](), contract, kind)
    roberta = hf.RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    check_length(roberta, replace(CARD, max_tokens=512), "roberta")
    with pytest.raises(ConfigError, match="512 positions"):
        check_length(roberta, replace(CARD, max_tokens=513), "roberta")


# ---------------------------------------------------------------- revisions, hub folders


def test_the_revision_changes_with_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy(tiny("bert"), tmp_path / "m")
    before = revision_of(locate(folder))
    assert before == revision_of(locate(tiny("bert")))
    path = folder / "model.safetensors"
    save_file({k: v * 1.001 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    assert revision_of(locate(folder)) != before


def test_a_model_in_the_hubs_cache(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, by its id: weights, contract and revision are those of the snapshot."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--reranker"
    copy(tiny("bert"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    stored = replace(DEAR, max_passage_tokens=7, pooling="model", dtype="float32")
    stored.save(repository / "snapshots" / commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    loaded = load_scoring_model("some/reranker")
    assert loaded.contract == stored
    assert loaded.revision == commit
    local = load_scoring_model(tiny("bert"), contract=stored)
    np.testing.assert_array_equal(Scorer(loaded).score(SOME), Scorer(local).score(SOME))
    with pytest.raises(ContractMismatch, match="max_passage_tokens"):
        load_scoring_model("some/reranker", contract=CARD)


def test_quiet_gives_the_verbosity_back() -> None:
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()

    def fail() -> None:
        with quiet():
            assert not hf_logging.is_progress_bar_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()) == before


# ---------------------------------------------------------------- fewer layers


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen3"])
@pytest.mark.parametrize("layers", [(0, 2), (2, 1), (1,), (0, 1, 2)])
def test_picked_layers_are_a_model_of_these_layers(
    kind: str, layers: tuple[int, ...], tmp_path: Path
) -> None:
    whole = make(kind, seed=3)
    options: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if kind == "qwen3":
        options["layer_types"] = [whole.config.layer_types[i] for i in layers]
    expected = make(kind, seed=4, **options)
    stem = "bert.encoder.layer" if kind == "bert" else "model.layers"
    weights = {k: v for k, v in whole.state_dict().items() if not k.startswith(stem)}
    for place, i in enumerate(layers):
        part = f"{stem}.{i}."
        for key, value in whole.state_dict().items():
            if key.startswith(part):
                weights[f"{stem}.{place}.{key.removeprefix(part)}"] = value
    expected.load_state_dict(weights)
    pick_layers(whole, layers)
    ids = torch.arange(40).unsqueeze(0) + 5
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, expected(ids).logits, atol=1e-6, rtol=0)
    # and it is so after a round trip
    whole.save_pretrained(tmp_path)
    again = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, expected(ids).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [(), (3,), (-1,), (0, 0)])
def test_layers_that_are_not_there(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        pick_layers(make("bert"), layers)


def test_a_layer_with_other_weights_is_no_first_layer() -> None:
    """ModernBERT's first layer has no norm: another one in its place would lose it on disk."""
    with pytest.raises(ConfigError, match="layer 1 cannot stand in place 0"):
        pick_layers(make("modernbert"), (1, 2))
    pick_layers(make("modernbert"), (0, 2))


def test_named_models_are_where_they_say() -> None:
    assert locate("minilm-l6").folder is not None
    assert locate("minilm-l6").name == "minilm-l6"
    assert locate("dear-3b-reranker-ce-v1") == Source(
        "abdoelsayed/dear-3b-reranker-ce-v1", known_as="dear-3b-reranker-ce-v1"
    )
    assert locate("some/thing", revision="abc") == Source("some/thing", revision="abc")
    assert family.is_present(FAMILY["minilm-l6"])
    assert not family.is_present(FAMILY["rankllama-7b"])
