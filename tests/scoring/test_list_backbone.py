"""Two adapters on one backbone are the two models that they are alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from tiny_models import make, pairs, save, tokenizer_for, words

from dear.artifacts import write_json
from dear.backends.local import Local, open_local
from dear.checkpoints.contract import DEAR, ListwiseContract
from dear.checkpoints.files import quiet
from dear.checkpoints.threads import before_passes
from dear.errors import ConfigError
from dear.listwise.backbone import Backbone, share_base
from dear.listwise.loading import HeadWeights, load_list_model
from dear.listwise.reader import ListReader
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.records import Passage, Query
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

CONTRACT = replace(DEAR, max_query_tokens=32, max_passage_tokens=96)
PAIRS = pairs(30, longest=20)


def windows(count: int = 6) -> list[WindowPrompt]:
    return [
        LISTWISE_PROMPTS["list"].render(
            Query(id="q", text=words(3, i)),
            [Passage(id=str(p), text=words(5 + p % 7, 99 * i + p)) for p in range(3 + 3 * i)],
        )
        for i in range(count)
    ]


def lora(model: Any, folder: Path, *, seed: int, **options: Any) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4,
        target_modules=options.pop("target_modules", ["q_proj", "v_proj", "down_proj"]),
        init_lora_weights=False,
        **options,
    )
    with quiet():
        wrapped = get_peft_model(model, config)
        for name, weight in wrapped.named_parameters():
            if name.endswith("score.modules_to_save.default.weight"):
                torch.nn.init.normal_(weight)
        wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def pointwise_adapter(base: Path, folder: Path) -> Path:
    model = hf.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    lora(model, folder, seed=1, task_type="SEQ_CLS", modules_to_save=["score"])
    CONTRACT.save(folder)
    return folder


def lists_adapter(base: Path, folder: Path, **options: Any) -> Path:
    model = hf.AutoModelForCausalLM.from_pretrained(base)
    lora(model, folder, seed=2, task_type="CAUSAL_LM", **options)
    ListwiseContract(max_window=26, max_tokens=2000).save(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def two_adapters(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Path, Path]:
    """Both on one causal model."""
    at = tmp_path_factory.mktemp(request.param)
    kind = request.param
    base = save(at / "base", make(kind, hf.AutoModelForCausalLM), tokenizer_for(kind))
    return pointwise_adapter(base, at / "points"), lists_adapter(base, at / "lists")


@pytest.fixture(scope="module")
def on_pointwise(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A listwise adapter on a one-logit checkpoint, whose embeddings are the head."""
    at = tmp_path_factory.mktemp("full")
    points = save(at / "points", make("llama", tie_word_embeddings=True), tokenizer_for("llama"))
    CONTRACT.save(points)
    return points, lists_adapter(points, at / "lists")


def check_alike(points: Path, lists: Path) -> None:
    backbone = Backbone(points, lists, dtype="float32", device="cpu")
    alone = Scorer(load_scoring_model(points, dtype="float32", device="cpu"))
    scores = alone.score(PAIRS)
    assert scores.std() > 0.1
    for reading in ("first", "constrained"):
        reader = ListReader(load_list_model(lists, dtype="float32", device="cpu"), reading=reading)
        expected = reader.read(windows())
        two = Backbone(points, lists, dtype="float32", device="cpu", reading=reading)
        assert [a.order for a in two.lists.read(windows())] == [a.order for a in expected]
        assert reader.model.contract == ListwiseContract(max_window=26, max_tokens=2000)
    found = backbone.pairs.score(PAIRS)
    # merged weights round differently
    np.testing.assert_allclose(found, scores, atol=5e-5)
    live = Scorer(load_scoring_model(points, dtype="float32", device="cpu", merge=False))
    np.testing.assert_allclose(found, live.score(PAIRS), atol=1e-5)
    assert backbone.pairs.contract == alone.contract
    assert backbone.pairs.revision == alone.revision


def check_switches(points: Path, lists: Path) -> None:
    backbone = Backbone(points, lists, dtype="float32", device="cpu", reading="first")
    scores, answers = backbone.pairs.score(PAIRS), backbone.lists.read(windows())
    for _ in range(10):
        assert [a.scores for a in backbone.lists.read(windows())] == [a.scores for a in answers]
        assert (backbone.pairs.score(PAIRS) == scores).all()
    # the adapters do something
    shell, causal = backbone.pairs.model.model, backbone.lists.model.model  # type: ignore[union-attr]
    before_passes(causal, shell.dear_before_pass)
    others = backbone.lists.read(windows())
    assert [a.scores for a in others] != [a.scores for a in answers]


def test_each_is_what_it_is_alone(two_adapters: tuple[Path, Path]) -> None:
    check_alike(*two_adapters)


def test_ten_switches_change_no_bit(two_adapters: tuple[Path, Path]) -> None:
    check_switches(*two_adapters)


def test_an_adapter_sits_on_the_pointwise_model_itself(on_pointwise: tuple[Path, Path]) -> None:
    check_alike(*on_pointwise)
    check_switches(*on_pointwise)


def test_the_weights_are_there_once(two_adapters: tuple[Path, Path]) -> None:
    backbone = Backbone(*two_adapters, dtype="float32", device="cpu")
    shell, causal = backbone.pairs.model.model, backbone.lists.model.model  # type: ignore[union-attr]
    bodies = [dict(m.named_parameters()) for m in (shell.model, causal.model)]
    assert bodies[0].keys() == bodies[1].keys()
    assert all(a.data_ptr() == bodies[1][name].data_ptr() for name, a in bodies[0].items())
    own = {p.data_ptr() for p in shell.parameters()} - {p.data_ptr() for p in causal.parameters()}
    assert len(own) == 1  # the head
    assert not any(p.is_meta for p in shell.parameters())


def test_two_bases_are_refused_with_both_names(
    two_adapters: tuple[Path, Path], on_pointwise: tuple[Path, Path]
) -> None:
    assert share_base(*two_adapters)
    assert not share_base(two_adapters[0], on_pointwise[1])
    with pytest.raises(ConfigError, match=r"sits on .*base, .*lists on .*points"):
        Backbone(two_adapters[0], on_pointwise[1])


def test_an_adapter_of_more_than_lora_layers_is_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", make("llama", hf.AutoModelForCausalLM), tokenizer_for("llama"))
    points = pointwise_adapter(base, tmp_path / "points")
    lists = lists_adapter(base, tmp_path / "lists", modules_to_save=["lm_head"])
    with pytest.raises(ConfigError, match="changes more than LoRA layers"):
        Backbone(points, lists)


def test_a_checkpoint_without_a_vocabulary_head_is_refused(tmp_path: Path) -> None:
    points = save(tmp_path / "points", make("llama"), tokenizer_for("llama"))
    with pytest.raises(ConfigError, match="no vocabulary's head"):
        load_list_model(points)


def test_the_adapter_of_the_other_kind_is_refused(two_adapters: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="the adapter of a one-logit model"):
        load_list_model(two_adapters[0])


def test_a_backend_by_name(two_adapters: tuple[Path, Path]) -> None:
    lists = two_adapters[1]
    backend = open_local(f"{lists}#constrained", dtype="float32", device="cpu")
    assert backend.name == f"local:{lists}#constrained"
    assert backend.template.max_words == 100
    seen: dict[int, Any] = {}
    completions = backend.generate(windows(), seen.__setitem__)
    assert [seen[i] for i in range(6)] == completions
    assert all(c.finish == "stop" and c.prompt_tokens and c.completion_tokens for c in completions)
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        open_local(f"{lists}#fist")
    # the same through a backbone
    shared = Local(Backbone(*two_adapters, dtype="float32", reading="constrained").lists)
    assert [c.text for c in shared.generate(windows())] == [c.text for c in completions]


def test_weighted_heads_share_the_base_of_a_pointwise_adapter(tmp_path: Path) -> None:
    base = save(tmp_path / "base", make("llama", hf.AutoModelForCausalLM), tokenizer_for("llama"))
    points = pointwise_adapter(base, tmp_path / "points")
    heads = tmp_path / "heads"
    config = load_list_model(base).model.config
    draw = np.random.default_rng(0).normal(
        size=(config.num_hidden_layers, config.num_attention_heads)
    )
    HeadWeights(tuple(map(tuple, draw.tolist()))).save(heads)
    ListwiseContract(max_window=26, learnt="attention").save(heads)
    write_json(
        heads / "adapter_config.json",
        {"peft_type": "DEAR_HEADS", "base_model_name_or_path": str(base)},
    )
    assert share_base(points, heads)
    backbone = Backbone(points, heads, dtype="float32", device="cpu")
    alone = ListReader(load_list_model(heads, dtype="float32", device="cpu"))
    expected = [a.order for a in alone.read(windows())]
    scores = Scorer(load_scoring_model(points, dtype="float32", device="cpu", merge=False))
    for _ in range(2):
        assert [a.order for a in backbone.lists.read(windows())] == expected
        np.testing.assert_allclose(backbone.pairs.score(PAIRS), scores.score(PAIRS), atol=1e-5)
