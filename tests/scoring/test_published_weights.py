"""Full weights as they are published: shards, dtypes, tied heads, pad ids, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_folders import edit_json, logits, oracle, write_adapter, write_base, write_weights
from published_tokenizers import LLAMA2, LLAMA3, Llama
from safetensors.torch import load_file
from tiny_models import pairs

from dear.errors import ConfigError, DataError, DearError
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer

SOME = pairs(6, seed=5)
BOTH = pytest.mark.parametrize("llama", [LLAMA2, LLAMA3], ids=["llama2", "llama3"])


def scores(name: Path | str, **options: Any) -> np.ndarray[Any, Any]:
    return Scorer(load_scoring_model(name, **{"dtype": "float32"} | options)).score(SOME)


def refusal(name: Path | str, kind: type[DearError] = DearError) -> str:
    with pytest.raises(kind) as caught:
        load_scoring_model(name, dtype="float32")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def expected(folder: Path, base: Path | None = None) -> np.ndarray[Any, Any]:
    model, tokenizer = oracle(folder, base)
    ids = [tokenizer(f"query: {q}", f"document: {p}")["input_ids"] for q, p in SOME]
    found = logits(model, ids).numpy()
    assert np.std(found) > 0.05
    return np.asarray(found)


# ---------------------------------------------------------------- forms


@BOTH
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_shards_and_tied_heads(llama: Llama, tied: bool, shards: int, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "m", llama, scorer=True, shards=shards, tie_word_embeddings=tied)
    assert len(list(folder.glob("*.safetensors"))) == shards
    np.testing.assert_allclose(scores(folder), expected(folder), atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
def test_the_base_of_an_adapter_in_shards(tied: bool, shards: int, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", LLAMA3, shards=shards, tie_word_embeddings=tied)
    folder = write_adapter(tmp_path / "a", str(base), llama=LLAMA3)
    np.testing.assert_allclose(scores(folder), expected(folder, base), atol=1e-5)


def test_a_language_head_beside_the_score_is_left_alone(tmp_path: Path) -> None:
    """Merged with other tools, the vocabulary's head is sometimes saved as well."""
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True)
    before, weights = scores(folder), load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(weights["model.embed_tokens.weight"].shape)
    write_weights(folder, weights)
    np.testing.assert_allclose(scores(folder), before, atol=1e-5)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_on_disk_and_what_is_asked_for(
    stored: torch.dtype, wanted: Any, tmp_path: Path
) -> None:
    folder = write_base(tmp_path / "m", LLAMA3, scorer=True, dtype=stored)
    loaded = load_scoring_model(folder, dtype=wanted)
    types = {name: p.dtype for name, p in loaded.model.named_parameters() if name != "score.weight"}
    assert set(types.values()) == {getattr(torch, wanted)}
    assert loaded.model.score.weight.dtype == torch.float32
    close = 1e-5 if wanted == "float32" else 0.15
    np.testing.assert_allclose(Scorer(loaded).score(SOME), expected(folder), atol=close)


MEASURE = """
import sys, threading, time
from dear.scoring.loading import load_scoring_model

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

def measure(folder):
    before, peak, done = anonymous(), [0.0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    loaded = load_scoring_model(folder, dtype="bfloat16")
    done.set()
    thread.join()
    print(peak[0] - before, anonymous() - before, loaded.parameters * 2 / 2**20)
    return loaded

for small in sys.argv[1:3]:
    load_scoring_model(small, dtype="bfloat16")  # what is imported stays
kept = [measure(large) for large in sys.argv[3:]]
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
def test_float32_on_disk_becomes_bfloat16_without_a_copy(tmp_path: Path) -> None:
    folders = []
    for size, layers in ((32, 2), (512, 8)):
        shape = {"hidden_size": size, "intermediate_size": 4 * size, "num_hidden_layers": layers}
        place = tmp_path / str(size)
        folders.append(write_base(place / "full", LLAMA3, scorer=True, **shape))
        base = write_base(place / "base", LLAMA3, **shape)
        sizes = {"hidden": size, "intermediate": 4 * size, "layers": layers}
        folders.append(write_adapter(place / "a", str(base), llama=LLAMA3, **sizes))
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
        # what is freed leaves the process at once, so that live tensors are what is seen
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    rows = [[float(x) for x in line.split()] for line in process.stdout.splitlines()]
    assert len(rows) == 2
    for peak, left, mib in rows:
        assert mib > 50
        # a float32 copy alone would be 2 x mib; a tensor at a time is there in both dtypes
        assert left < 1.2 * mib
        assert peak < 1.5 * mib, f"{peak} MiB at the peak for a model of {mib}"


# ---------------------------------------------------------------- padding


@BOTH
@pytest.mark.parametrize("pad", ["absent", None, -1, 0, "eos"])
def test_whatever_the_pad_id_the_score_is_the_same(llama: Llama, pad: Any, tmp_path: Path) -> None:
    """Published: none (Llama-2, 3.x), -1 (Llama-1 exports), 0 (Tevatron), eos (the cards)."""
    plain = write_base(tmp_path / "plain", llama, scorer=True)
    folder = write_base(tmp_path / "m", llama, scorer=True)
    config = json.loads((folder / "config.json").read_text())
    del config["pad_token_id"]
    config |= {} if pad == "absent" else {"pad_token_id": llama.eos_id if pad == "eos" else pad}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_scoring_model(folder, dtype="float32")
    assert loaded.tokenizer.pad_token == llama.eos
    assert loaded.model.config.pad_token_id == llama.eos_id
    together = Scorer(loaded).score(SOME)
    alone = np.concatenate([Scorer(loaded).score([pair]) for pair in SOME])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, expected(plain), atol=1e-5)


@BOTH
def test_a_pad_token_beyond_the_embeddings(llama: Llama, tmp_path: Path) -> None:
    """Added to the tokenizer alone, as many fine-tuning scripts do."""
    folder = write_base(tmp_path / "m", llama, scorer=True)
    before = scores(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer["added_tokens"].append(
        {
            "id": rows,
            "content": "[PAD]",
            "special": True,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        }
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit_json(folder / "tokenizer_config.json", pad_token="[PAD]")
    loaded = load_scoring_model(folder, dtype="float32")
    assert loaded.tokenizer.pad_token == llama.eos
    np.testing.assert_allclose(Scorer(loaded).score(SOME), before, atol=1e-5)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_model.bin"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
    ],
)
@pytest.mark.parametrize("kind", ["", "upr:", "biencoder:"])
def test_weights_that_are_a_pickle(kind: str, names: list[str], tmp_path: Path) -> None:
    """Refused unopened: what stands in them here is no pickle at all."""
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True)
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).write_bytes(b"never read")
    with pytest.raises(ConfigError) as caught:
        open_model(f"{kind}{folder}")
    text = str(caught.value)
    assert f"{folder}: no safetensors; {names[0]} is a pickle, which DeAR does not open" in text
    assert "docs/models.md" in text
    assert "\n" not in text


def test_safetensors_beside_a_pickle_are_read(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True)
    before = scores(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    np.testing.assert_allclose(scores(folder), before, atol=1e-5)


def test_several_outputs_before_the_weights_are_read(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True, outputs=2)
    (folder / "model.safetensors").write_bytes(b"")
    assert refusal(folder, ConfigError) == f"{folder}: 2 outputs, but a reranker has one"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 999}, "model.embed_tokens.weight is "),
        ({"intermediate_size": 50}, "model.layers.0.mlp.down_proj.weight is 32 x 48, but 32 x 50"),
        ({"num_hidden_layers": 3}, "the checkpoint lacks 9 weights: model.layers.2."),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True)
    edit_json(folder / "config.json", **changes)
    text = refusal(folder, DataError)
    assert says in text
    assert str(folder) in text


def test_a_score_of_another_width(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True)
    weights = load_file(folder / "model.safetensors")
    write_weights(folder, weights | {"score.weight": torch.randn(2, 32)})
    assert "score.weight is 2 x 32, but 1 x 32 by config.json" in refusal(folder, DataError)


def test_a_lost_shard(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "m", LLAMA2, scorer=True, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert str(folder) in refusal(folder)
