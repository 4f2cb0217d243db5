"""What a GPU finds is what the CPU finds, in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import bert_tokenizer, checkpoint, llama_tokenizer, make, pairs, save, words

from dear.listwise.loading import PLAIN, ListModel
from dear.listwise.reader import READINGS, ListReader
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.records import Passage, Query
from dear.scoring.biencoder import BiEncoder
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.engines.prefix import PrefixEngine
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

GPU = "cuda"
pytestmark = pytest.mark.gpu


def test_a_shared_query_changes_no_score(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "llama", "llama")
    some = [(words(12), passage) for _, passage in pairs(20)]
    there = load_scoring_model(folder, dtype="float32", device=GPU)
    encoded = Scorer(there).encoder.encode(some)
    found = PrefixEngine(there, 4000, set_tokens=0, pass_tokens=0).run(encoded)
    here = load_scoring_model(folder, dtype="float32", device="cpu")
    np.testing.assert_allclose(found, PaddedEngine(here, 4000).run(encoded), atol=1e-3)


def test_embeddings(tmp_path: Path) -> None:
    folder = save(tmp_path / "bi", make("bert", hf.AutoModel), bert_tokenizer())
    here, there = (BiEncoder(folder, dtype="float32", device=d) for d in ("cpu", GPU))
    some = pairs(20)
    np.testing.assert_allclose(there.score(some), here.score(some), atol=1e-3)


@pytest.mark.parametrize("reading", READINGS)
def test_windows(reading: Any) -> None:
    model = ListModel(
        model=make("llama", hf.AutoModelForCausalLM),
        tokenizer=llama_tokenizer(pad_token="</s>"),
        contract=PLAIN,
        taught=False,
        max_tokens=600,
        name="tiny",
        revision="0",
        device=torch.device("cpu"),
        dtype="float32",
    )
    prompts = [
        LISTWISE_PROMPTS["list"].render(
            Query(id="q", text=words(3, n)),
            [Passage(id=str(i), text=words(4 + i, 9 * n + i)) for i in range(5 + n)],
        )
        for n in range(3)
    ]
    here = ListReader(model, reading=reading).read(prompts)
    moved = replace(model, device=torch.device(GPU))
    moved.model.to(GPU)
    there = ListReader(moved, reading=reading).read(prompts)
    assert [answer.order for answer in there] == [answer.order for answer in here]
