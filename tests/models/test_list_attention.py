"""Windows ordered by the query's attention: transformers' eager attentions are the oracle."""

from __future__ import annotations

import copy
import functools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import llama_tokenizer, make, words

from dear.errors import ConfigError
from dear.models.lists.in_context import EncodedContext
from dear.models.lists.loading import PLAIN, ListModel, load_list_model
from dear.models.lists.reader import ListReader
from dear.models.listwise_contract import ListwiseContract
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.records import Passage, Query

FULL: dict[str, Any] = {"layer_types": ("full_attention",) * 3, "use_sliding_window": False}
OPTIONS: dict[str, dict[str, Any]] = {"qwen3": FULL}
KINDS = ("llama", "qwen3", "gpt2", "granite")
REAL = "smollm2-135m"


@functools.cache
def tiny(kind: str, max_tokens: int = 600, **options: Any) -> ListModel:
    return ListModel(
        model=make(kind, hf.AutoModelForCausalLM, **(options or OPTIONS.get(kind, {}))),
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
    model = tiny("qwen3", layer_types=("full_attention", "sliding_attention", "full_attention"),
                 use_sliding_window=True, sliding_window=16)  # fmt: skip
    asked = window(6, 3)
    (answer,) = reader(model).read([asked])
    assert answer.scores == pytest.approx(eager(model, encoded(model, asked), [0, 2]), abs=1e-5)
    wide = tiny("mistral", sliding_window=599)
    (answer,) = reader(wide).read([asked])
    assert answer.scores == pytest.approx(eager(wide, encoded(wide, asked), [0, 1, 2]), abs=1e-5)
    with pytest.raises(ConfigError, match="no layer sees as far as"):
        reader(tiny("mistral", sliding_window=12)).read([asked])


@pytest.mark.parametrize("kind", ["bloom", "gemma2"])
def test_models_whose_attention_is_their_own(kind: str) -> None:
    if getattr(make(kind, hf.AutoModelForCausalLM), "_supports_sdpa", False):
        (answer,) = reader(tiny(kind)).read([window(4)])
        assert answer.scores is not None
        return
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
    assert found.in_context.cut == 2
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
    print(found)
    assert sum(found) >= 5, found
