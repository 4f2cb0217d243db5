"""A finished checkpoint is an ordinary one: transformers and sentence-transformers read it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import bert_tokenizer, llama_tokenizer, make, pairs, save

from dear.checkpoints.contract import DEAR
from dear.checkpoints.registry import locate
from dear.scoring.loading import load_scoring_model, load_weights
from dear.scoring.scorer import Scorer

SHORT = [(q, p) for q, p in pairs(8, seed=6, longest=15)]


@pytest.fixture(params=["bert", "llama", "modernbert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What training leaves: a base with a new head, its tokenizer, the contract."""
    kind = request.param
    tokenizer = llama_tokenizer() if kind == "llama" else bert_tokenizer()
    base = save(tmp_path / "base", make(kind, hf.AutoModel), tokenizer)
    torch.manual_seed(0)
    model, tokenizer, _ = load_weights(locate(base), dtype="float32")
    with torch.no_grad():
        torch.nn.init.normal_(model.score.weight if kind == "llama" else model.classifier.weight)
    finished = save(tmp_path / "finished", model, tokenizer)
    DEAR.save(finished)
    return finished


def test_transformers_reads_it(folder: Path) -> None:
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    texts = [f"query: {q}" for q, _ in SHORT], [f"document: {p}" for _, p in SHORT]
    inputs = tokenizer(*texts, padding=True, return_tensors="pt")  # a padded batch, too
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0].numpy()
    assert expected.std() > 0.05
    scores = Scorer(load_scoring_model(folder, dtype="float32")).score(SHORT)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert model.config.architectures[0].endswith("ForSequenceClassification")


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_reads_it(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import CrossEncoder

    encoder: Any = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    texts = [(f"query: {q}", f"document: {p}") for q, p in SHORT]
    expected = encoder.predict(texts, show_progress_bar=False)
    scores = Scorer(load_scoring_model(folder, dtype="float32")).score(SHORT)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_its_tokenizer_keeps_its_own_length(folder: Path) -> None:
    """Ours is the contract's; whoever reads the folder without it must not overrun the model."""
    before = hf.AutoTokenizer.from_pretrained(folder.parent / "base").model_max_length
    assert hf.AutoTokenizer.from_pretrained(folder).model_max_length == before
