"""GGUF files: dequantised once, kept, and made anew when what was kept is damaged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import pairs
from tokenizers import pre_tokenizers

import dear.checkpoints.weights as kept
from dear.checkpoints.files import quiet, revision_of
from dear.checkpoints.registry import Source, locate
from dear.checkpoints.weights import gguf_as_safetensors
from dear.errors import BackendError, ConfigError
from dear.scoring.loading import load_weights
from dear.scoring.opening import open_model
from dear.scoring.zero_shot import ZeroShot

SOME = pairs(4, seed=8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dear" / "gguf"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of two layers with a byte-level tokenizer, quantised to 8 bits."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    hidden, ff, layers, heads = 64, 96, 2, 4
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *letters, "Ġt", "he"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        weights = rng.normal(0, 0.2, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(weights, kind), raw_dtype=kind)

    tensor("token_embd.weight", len(tokens), hidden)
    tensor("output.weight", len(tokens), hidden)
    for i in range(layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{i}.{part}.weight", hidden, hidden)
        tensor(f"blk.{i}.ffn_gate.weight", ff, hidden)
        tensor(f"blk.{i}.ffn_up.weight", ff, hidden)
        tensor(f"blk.{i}.ffn_down.weight", hidden, ff)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{part}.weight", np.ones(hidden, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def oracle(file: Path) -> tuple[Any, Any]:
    with quiet():
        options = {"gguf_file": file.name}
        model = hf.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        return model.eval(), hf.AutoTokenizer.from_pretrained(file.parent, **options)


def test_the_kept_model_is_the_gguf_model(file: Path, cache: Path) -> None:
    model, tokenizer = oracle(file)
    source = gguf_as_safetensors(locate(file))
    assert source.gguf_file is None
    assert source.folder is not None
    assert source.folder.parent == cache
    assert source.name == str(file)
    again = hf.AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    assert getattr(again.config, "quantization_config", None) is None
    weights, expected = again.state_dict(), model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in weights)
    read = hf.AutoTokenizer.from_pretrained(source.path)
    for text in ("the bank", "<s> é漢字 </s>", ""):
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    done: list[Path] = []
    convert = kept._convert
    monkeypatch.setattr(
        kept, "_convert", lambda source, entry: done.append(entry) or convert(source, entry)
    )
    return done


def test_it_is_converted_once(file: Path, conversions: list[Path], cache: Path) -> None:
    first = ZeroShot(file, dtype="float32").score(SOME)
    second = ZeroShot(file, dtype="float32").score(SOME)
    np.testing.assert_array_equal(first, second)
    assert len(conversions) == 1
    assert [p.name for p in cache.iterdir()] == [conversions[0].name]  # nothing half-made is left


def damage_weights(entry: Path) -> None:
    path = entry / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_config(entry: Path) -> None:
    path = entry / "config.json"
    path.write_text(path.read_text().replace("512", "511"))


def lose_tokenizer(entry: Path) -> None:
    (entry / "tokenizer.json").unlink()


def lose_manifest(entry: Path) -> None:
    (entry / "dear_gguf.json").unlink()


def break_manifest(entry: Path) -> None:
    (entry / "dear_gguf.json").write_text("{")


@pytest.mark.parametrize(
    "damage", [damage_weights, damage_config, lose_tokenizer, lose_manifest, break_manifest]
)
def test_a_damaged_entry_is_made_anew(
    damage: Callable[[Path], None], file: Path, conversions: list[Path]
) -> None:
    expected = ZeroShot(file, dtype="float32").score(SOME)
    damage(conversions[0])
    np.testing.assert_array_equal(ZeroShot(file, dtype="float32").score(SOME), expected)
    assert len(conversions) == 2
    ZeroShot(file)
    assert len(conversions) == 2


def test_a_killed_conversion_leaves_no_entry(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            gguf_as_safetensors(locate(file))
    assert list(cache.iterdir()) == []
    assert gguf_as_safetensors(locate(file)).gguf_file is None


def test_a_cache_that_cannot_be_written_costs_time_only(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = ZeroShot(file, dtype="float32").score(SOME)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="dear"):
        scores = ZeroShot(file, dtype="float32").score(SOME)
    np.testing.assert_array_equal(scores, expected)
    assert "cannot be kept" in caplog.text


def test_a_large_file_is_not_kept(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept, "LARGEST_KEPT", 1000)
    model, _, fresh = load_weights(locate(file), dtype="float32")
    assert fresh == {"score.weight"}
    assert not cache.exists()
    model.save_pretrained(tmp_path / "saved")  # plain weights: transformers refuses quantised ones


def test_a_base_of_a_classifier(file: Path) -> None:
    model, tokenizer, fresh = load_weights(locate(file), dtype="float32")
    assert fresh == {"score.weight"}
    assert model.name_or_path == str(file)
    assert model.config.num_labels == 1
    expected, _ = oracle(file)
    torch.testing.assert_close(model.model.norm.weight, expected.model.norm.weight)
    assert tokenizer.pad_token_id == model.config.pad_token_id
    with pytest.raises(ConfigError, match="no trained one-logit head"):
        open_model(str(file))


def test_the_revision_is_the_files(file: Path, cache: Path) -> None:
    revision = revision_of(locate(file))
    assert ZeroShot(file).revision == revision
    assert revision.startswith("local-")


def test_what_is_no_gguf_is_left_alone(tmp_path: Path) -> None:
    source = Source(str(tmp_path))
    assert gguf_as_safetensors(source) is source
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, they said")
    with pytest.raises(BackendError) as caught:
        ZeroShot(tmp_path / "broken.gguf")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.slow
def test_smollm2_reads_through_upr_and_fast_the_second_time() -> None:
    """The real weights, from their package: 15 to 20 s, then about one. In the cache that other
    tests read, too, so that one of them pays."""
    pair = ("how to open a file", "def open(file): Open file and return a stream.")
    other = (pair[0], "The river has two banks.")
    first = open_model("upr:smollm2-135m", dtype="float32")
    expected = first.score([pair, other])
    started = time.process_time()
    second = open_model("upr:smollm2-135m", dtype="float32")
    assert time.process_time() - started < 6
    np.testing.assert_array_equal(second.score([pair, other]), expected)
    assert expected[0] > expected[1] + 0.5
    assert first.parameters == 134_515_008
    assert first.name == "upr:smollm2-135m"
