"""Windows ordered by the query's attention: transformers' eager attentions are the oracle."""

from __future__ import annotations

import copy
import functools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from tiny_models import llama_tokenizer, make, save, words

from dear.checkpoints.contract import ListwiseContract
from dear.errors import ConfigError, DataError
from dear.listwise.in_context import EncodedContext
from dear.listwise.loading import (
    HEADS_FILE,
    PLAIN,
    HeadWeights,
    ListModel,
    fit_heads,
    load_list_model,
)
from dear.listwise.reader import ListReader
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.records import Passage, Query

OPTIONS: dict[str, dict[str, Any]] = {
    "qwen3": {"layer_types": ["full_attention"] * 3, "use_sliding_window": False},
    "mistral": {"sliding_window": 12},
}
KINDS = ("llama", "qwen3", "gpt2", "granite")
REAL = "smollm2-135m"


@functools.cache
def tiny(kind: str, max_tokens: int = 600, **options: Any) -> ListModel:
    return ListModel(
        model=make(kind, hf.AutoModelForCausalLM, **(OPTIONS.get(kind, {}) | options)),
        tokenizer=llama_tokenizer(pad_token="</s>"),
        contract=PLAIN,
        taught=False,
        max_tokens=max_tokens,
        name="tiny",
        revision="0",
        device=torch.device("cpu"),
        dtype="float32",
    )


def reader(model: ListModel, **options: Any) -> ListReader:
    return ListReader(model, reading="attention", **options)


def window(
    count: int, seed: int = 0, *, longest: int = 9, query: str = "", prompt: str = "list"
) -> WindowPrompt:
    draw = random.Random(seed)
    passages = [
        Passage(id=str(i), text=words(draw.randint(1, longest), seed * 99 + i))
        for i in range(count)
    ]
    asked = Query(id="q", text=query or words(draw.randint(1, 30), seed))
    return LISTWISE_PROMPTS[prompt].render(asked, passages)


def encoded(model: ListModel, asked: WindowPrompt) -> EncodedContext:
    found = reader(model).in_context
    assert found is not None
    return found.encode(asked)


def eager(model: ListModel, context: EncodedContext, layers: list[int]) -> list[float]:
    """Scores from whole forward passes, every (T, T) matrix of them."""
    plain = copy.deepcopy(model.model)
    plain.set_attn_implementation("eager")
    width, paid = len(context.ids), []
    for follow in (context.query, context.blank):
        ids = torch.tensor([[*context.ids, *follow]])
        with torch.no_grad():
            found = plain(ids, output_attentions=True, use_cache=False).attentions
        paid.append(torch.stack([found[i][0, :, width:, :width].mean(1) for i in layers]))
    tokens = (paid[0] - paid[1]).mean((0, 1))
    scores = []
    for start, stop in context.spans:
        part = tokens[start:stop].double()
        kept = part[part >= part.mean() - 2 * part.std(correction=0)]
        scores.append(float(kept.sum()))
    return scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longest", [1, 9, 30])
def test_scores_are_those_of_eager_attention(kind: str, longest: int) -> None:
    model = tiny(kind)
    # more passages than letters, and more tokens of a query than are fed in one short step
    asked = [window(n, n, longest=longest, prompt="rankvicuna") for n in (2, 7)]
    asked.append(window(7, 1, longest=longest, query=words(40, 2)))
    for one, answer in zip(asked, reader(model).read(asked), strict=True):
        context = encoded(model, one)
        expected = eager(model, context, list(range(model.model.config.num_hidden_layers)))
        assert answer.scores == pytest.approx(expected, abs=1e-5)
        assert answer.order == tuple(sorted(range(len(expected)), key=lambda i: -expected[i]))
        assert answer.text == " > ".join(f"[{one.identifiers[i]}]" for i in answer.order)
        assert (answer.prompt_tokens, answer.completion_tokens) == (context.tokens, 0)
        assert not answer.cut
        assert answer.thought == ""


def test_layers_that_do_not_see_all_passages_are_left_out() -> None:
    # its second layer slides
    model = replace(tiny("qwen3"), model=make("qwen3", hf.AutoModelForCausalLM))
    asked = window(6, 3)
    (answer,) = reader(model).read([asked])
    assert answer.scores == pytest.approx(eager(model, encoded(model, asked), [0, 2]), abs=1e-5)
    wide = tiny("mistral", sliding_window=599)
    (answer,) = reader(wide).read([asked])
    assert answer.scores == pytest.approx(eager(wide, encoded(wide, asked), [0, 1, 2]), abs=1e-5)
    with pytest.raises(ConfigError, match="no layer sees as far as"):
        reader(tiny("mistral")).read([asked])


@pytest.mark.parametrize("kind", ["bloom", "gemma2"])
def test_models_whose_attention_is_their_own_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        reader(tiny(kind))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(counts=st.lists(st.integers(2, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_an_answer_is_that_of_its_window_alone(kind: str, counts: list[int], seed: int) -> None:
    model = tiny(kind)
    asked = [window(n, seed + i, longest=3) for i, n in enumerate(counts)]
    alone = [reader(model).read([one])[0] for one in asked]
    told: dict[int, Any] = {}
    assert reader(model, batch_tokens=9).read(asked, told.__setitem__) == alone
    assert [told[i] for i in range(len(asked))] == alone
    assert reader(model).read(asked[::-1])[::-1] == alone


def test_a_query_without_content_says_nothing() -> None:
    """Where a passage stands counts for nothing by itself."""
    (answer,) = reader(tiny("llama")).read([window(5, query="N/A")])
    assert answer.scores == (0.0,) * 5
    assert answer.order == tuple(range(5))
    (answer,) = reader(tiny("llama")).read([window(5, query="river bank")])
    assert answer.order is not None
    assert answer.scores is not None
    assert len(set(answer.scores)) == 5
    assert sorted(answer.order) == list(range(5))


def test_the_model_attends_as_before_and_other_readings_too() -> None:
    model, asked = tiny("llama"), [window(5, 1)]
    before = model.model.config._attn_implementation
    first = ListReader(model, reading="first").read(asked)
    reader(model).read(asked)
    assert model.model.config._attn_implementation == before
    assert ListReader(model, reading="first").read(asked) == first


def test_long_windows_are_cut_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama", 200)
    asked = window(8, 1, longest=40, query="river bank")
    with caplog.at_level("WARNING"):
        found = reader(model)
        answers = found.read([asked, asked])
    assert found.in_context is not None
    assert len(caplog.records) == 1
    context = found.in_context.encode(asked)
    assert len(context.ids) + max(len(context.query), len(context.blank)) <= 200
    assert answers[0].prompt_tokens == context.tokens
    with pytest.raises(ConfigError, match="one word of each"):
        found.read([window(60, 1, prompt="rankvicuna")])
    # words are the contract's; the window's own prompt counts for nothing
    short = replace(model, contract=ListwiseContract(max_words=2), taught=True, max_tokens=600)
    kept = [replace(p, text=" ".join(p.text.split()[:2])) for p in asked.passages]
    same = LISTWISE_PROMPTS["list"].render(asked.query, kept)
    assert encoded(short, asked) == encoded(tiny("llama"), same)


def test_it_has_no_thought() -> None:
    with pytest.raises(ConfigError, match="`attention` has no thought"):
        reader(tiny("llama"), thought=True)
    assert not reader(replace(tiny("llama"), contract=ListwiseContract(thought=True))).thinks


def test_bfloat16_gives_nearly_the_same() -> None:
    model = tiny("llama")
    half = replace(model, model=copy.deepcopy(model.model).to(torch.bfloat16), dtype="bfloat16")
    (whole,), (rough,) = (reader(m).read([window(6, 2)]) for m in (model, half))
    assert whole.scores is not None
    assert rough.scores == pytest.approx(whole.scores, abs=0.05 * max(map(abs, whole.scores)))


def heads_of(model: ListModel, seed: int = 0) -> HeadWeights:
    config = model.model.config
    shape = config.num_hidden_layers, config.num_attention_heads
    drawn = np.random.default_rng(seed).normal(size=shape)
    return HeadWeights(tuple(tuple(row) for row in drawn.tolist()))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_count_as_they_are_weighed(kind: str) -> None:
    model, asked = tiny(kind), window(7, 4)
    heads = heads_of(model)
    read = reader(model, heads=heads)
    assert read.in_context is not None
    (answer,) = read.read([asked])
    assert answer.scores is not None
    context = encoded(model, asked)
    tokens = read.in_context.attention(context).double()
    weighed = torch.einsum("lht,lh->t", tokens, torch.tensor(heads.weights, dtype=torch.float64))
    expected = [float(weighed[start:stop].sum()) for start, stop in context.spans]
    assert answer.scores == pytest.approx(expected, abs=1e-6)
    assert answer.order == tuple(sorted(range(7), key=lambda i: -expected[i]))
    assert read.identity["heads"] != reader(model, heads=heads_of(model, 1)).identity["heads"]
    assert "heads" not in reader(model).identity


def test_heads_that_a_teacher_follows_are_found_again() -> None:
    model = tiny("llama")
    asked = [window(8, n) for n in range(40)]
    read = reader(model, heads=heads_of(model))
    assert read.in_context is not None
    paid = [read.in_context.paid(read.in_context.encode(one)) for one in asked]
    assert paid[0].shape == (8, 3, 4)
    answers = read.read(asked)
    scores = [answer.scores for answer in answers if answer.scores is not None]
    # neither the scale of a list's scores nor a list without differences matters
    scores = [tuple(5 + n + value for value in given) for n, given in enumerate(scores)]
    found = fit_heads(paid[:30], scores[:30], strength=0.01)
    flat = fit_heads([*paid[:30], paid[31]], [*scores[:30], (1.0,) * 8], strength=0.01)
    assert np.allclose(flat.weights, found.weights)
    right = [
        kendalltau(again.scores, answer.scores).statistic
        for again, answer in zip(
            reader(model, heads=found).read(asked[30:]), answers[30:], strict=True
        )
    ]
    assert np.mean(right) > 0.8


def lists_of_heads(seed: int) -> tuple[list[Any], list[Any]]:
    """(attention paid (N, 2, 3) by list, scores (N,) by list); heads of very different size."""
    draw = np.random.default_rng(seed)
    sizes = 10.0 ** draw.uniform(-4, 2, size=(2, 3))
    paid = [draw.normal(size=(n, 2, 3)) * sizes + draw.normal(size=(2, 3)) for n in (4, 7, 5, 6)]
    return paid, [draw.normal(size=len(one)) * 3 + 5 for one in paid]


@pytest.mark.parametrize("strength", [0.1, 50.0, 1000.0])
def test_heads_are_fitted_by_ridge_regression_on_standardised_attention(strength: float) -> None:
    """numpy's least squares is the oracle: a penalty is one more row for each head."""
    paid, scores = lists_of_heads(1)
    rows = np.concatenate([(one - one.mean(0)).reshape(-1, 6) for one in paid])
    spread = rows.std(0)
    wanted = np.concatenate([(s - s.mean()) / s.std() for s in scores])
    x = np.concatenate([rows / spread, np.sqrt(strength) * np.eye(6)])
    expected = np.linalg.lstsq(x, np.concatenate([wanted, np.zeros(6)]))[0] / spread
    found = fit_heads(paid, scores, strength=strength)
    np.testing.assert_allclose(np.ravel(found.weights), expected, rtol=1e-9)
    assert np.abs(np.log10(np.abs(expected))).max() > 2


@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_the_unit_of_a_heads_attention_does_not_matter(factor: float) -> None:
    """However strong the penalty: what a head adds to a score stays the same."""
    paid, scores = lists_of_heads(2)
    factors = np.array([[1.0, factor, 1.0], [factor, 1.0, factor**2]])
    plain = fit_heads(paid, scores)
    other = fit_heads([one * factors for one in paid], scores)
    np.testing.assert_allclose(np.array(other.weights) * factors, plain.weights, rtol=1e-6)


def test_heads_stand_beside_a_model(tmp_path: Path) -> None:
    model, asked = tiny("llama"), window(5, 1)
    folder = save(tmp_path, model.model, model.tokenizer)
    assert load_list_model(folder, dtype="float32", device="cpu").heads is None
    heads_of(model).save(folder)
    loaded = load_list_model(folder, dtype="float32", device="cpu")
    assert loaded.heads == HeadWeights.load(folder) == heads_of(model)
    assert reader(loaded).read([asked]) == reader(model, heads=heads_of(model)).read([asked])
    for bad in ('{"weights": [[1.0], [1.0, 2.0]]}', '{"weights": []}', '{"heads": 3}', "[1]"):
        (folder / HEADS_FILE).write_text(bad)
        with pytest.raises(DataError, match=HEADS_FILE):
            load_list_model(folder, dtype="float32", device="cpu")


def test_heads_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="weights for 2 layers of 4 heads, not for the 3 layers"):
        reader(tiny("llama"), heads=heads_of(tiny("gpt2"))).read([window(3)])
    with pytest.raises(ConfigError, match="`attention` alone"):
        ListReader(tiny("llama"), reading="first", heads=heads_of(tiny("llama")))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match="finite"):
            HeadWeights(((0.0, bad),))
    for strength in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="strength must be above 0"):
            fit_heads([np.ones((2, 1, 1), np.float32)], [(1.0, 2.0)], strength=strength)
    with pytest.raises(ConfigError, match="nothing to fit"):
        fit_heads([np.ones((2, 1, 1), np.float32)], [(1.0, 1.0)])


TOYS = [
    ("who painted the ceiling of the Sistine Chapel",
     "Michelangelo painted the ceiling of the Sistine Chapel in Rome."),
    ("how do bees make honey", "Bees make honey from the nectar that they gather from flowers."),
    ("capital of Australia", "Canberra is the capital of Australia."),
    ("boiling point of water at high altitude",
     "At high altitude the boiling point of water is lower."),
    ("why did the Titanic sink", "The Titanic did sink because it struck an iceberg."),
    ("what is photosynthesis", "Photosynthesis is how plants turn light into sugar."),
]  # fmt: skip


@functools.cache
def real() -> ListModel:
    return load_list_model(REAL, dtype="float32")


def test_a_model_that_was_never_trained_finds_the_passage() -> None:
    texts = [text for _, text in TOYS]
    found = []
    asked = []
    for i, (query, _) in enumerate(TOYS):
        # the right one stands elsewhere each time
        places = texts[i + 1 :] + texts[: i + 1]
        places = places[2 * i % 6 :] + places[: 2 * i % 6]
        passages = [Passage(id=str(j), text=text) for j, text in enumerate(places)]
        asked.append(LISTWISE_PROMPTS["list"].render(Query(id=str(i), text=query), passages))
    for i, answer in enumerate(reader(real()).read(asked)):
        assert answer.order is not None
        found.append(asked[i].passages[answer.order[0]].text == texts[i])
    assert sum(found) >= 5, found
