"""Windows read by a causal model: plain forward passes are the oracle."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONFIGS, ENCODERS, llama_tokenizer, make, words

from dear.checkpoints.contract import ListwiseContract
from dear.errors import ConfigError, ContractMismatch
from dear.listwise.loading import PLAIN, ListModel
from dear.listwise.programs import Found, thinking
from dear.listwise.reader import ListReader
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.prompts.permutations import parse_permutation
from dear.records import Passage, Query

DECODERS = [kind for kind in CONFIGS if kind not in ENCODERS]
SHORT_WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 12},
    "gemma2": {"sliding_window": 12},
}
"""Shorter than a prompt, so that sliding attention shows."""
WAYS = ("first", "constrained")
PROMPTS = LISTWISE_PROMPTS | {
    "numbers": replace(LISTWISE_PROMPTS["list"], identifiers="numbers", after="\nRank: ")
}


@functools.cache
def tiny(kind: str, contract: ListwiseContract = PLAIN, max_tokens: int = 600) -> ListModel:
    options: dict[str, Any] = SHORT_WINDOWS.get(kind, {})
    return ListModel(
        model=make(kind, hf.AutoModelForCausalLM, **options),
        tokenizer=llama_tokenizer(pad_token="</s>"),
        contract=contract,
        taught=contract is not PLAIN,
        max_tokens=max_tokens,
        name="tiny",
        revision="0",
        device=torch.device("cpu"),
        dtype="float32",
    )


def window(count: int, seed: int = 0, prompt: str = "list", longest: int = 9) -> WindowPrompt:
    draw = random.Random(seed)
    passages = [
        Passage(id=str(i), text=words(draw.randint(1, longest), seed * 99 + i))
        for i in range(count)
    ]
    return PROMPTS[prompt].render(Query(id="q", text=words(3, seed)), passages)


def kind_of(asked: WindowPrompt) -> Any:
    return "numbers" if asked.identifiers[0].isdigit() else "letters"


def logits_after(model: ListModel, ids: Sequence[int]) -> torch.Tensor:
    """transformers' own forward pass, without a cache."""
    with torch.no_grad():
        return model.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1].float()


def brute_force(model: ListModel, asked: WindowPrompt) -> tuple[int, ...]:
    """Greedy, token by token, over all that a permutation may go on with."""
    chain = model.encoder.chain(asked.identifiers)
    ids = [*model.encoder.prompt(asked), *chain.open]
    left, order = list(range(len(asked.identifiers))), []
    while left:
        written: tuple[int, ...] = ()
        while True:
            near = [i for i in left if chain.identifiers[i][: len(written)] == written]
            options = dict.fromkeys(
                (*chain.identifiers[i], chain.between[0])[len(written)] for i in near
            )
            if len(left) == 1 and chain.identifiers[near[0]] == written:
                break
            logits = logits_after(model, ids)
            token = max(options, key=lambda t: float(logits[t]))
            if written in chain.identifiers and token == chain.between[0]:
                break
            written, ids = (*written, token), [*ids, token]
            if len(near) == 1 and chain.identifiers[near[0]] == written:
                break
        chosen = chain.identifiers.index(written)
        order.append(chosen)
        left.remove(chosen)
        ids += chain.between
    return tuple(order)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("prompt", ["list", "numbers"])
def test_constrained_is_greedy_over_permutations_without_a_cache(kind: str, prompt: str) -> None:
    model = tiny(kind)
    asked = [window(n, n, prompt) for n in (2, 12, 5)]
    answers = ListReader(model, reading="constrained").read(asked)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.order == brute_force(model, one)
        parsed = parse_permutation(answer.text, len(one.passages), kind_of(one))
        assert (parsed.order, dict(parsed.mends)) == (answer.order, {})
        assert answer.prompt_tokens == len(model.encoder.prompt(one))


@pytest.mark.parametrize("kind", DECODERS)
def test_first_orders_by_the_logits_of_a_plain_forward(kind: str) -> None:
    model = tiny(kind)
    asked = [window(n, n) for n in (7, 2, 26)]
    for one, answer in zip(asked, ListReader(model, reading="first").read(asked), strict=True):
        chain = model.encoder.chain(one.identifiers)
        logits = logits_after(model, [*model.encoder.prompt(one), *chain.open])
        expected = [float(logits[ids[0]]) for ids in chain.identifiers]
        assert answer.scores == pytest.approx(expected, abs=2e-4)
        assert answer.order == tuple(sorted(range(len(expected)), key=lambda i: -expected[i]))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "bloom"])
def test_identifiers_of_several_tokens_are_ordered_by_their_probability(kind: str) -> None:
    model, asked = tiny(kind), window(23, 3, "numbers", longest=4)
    (answer,) = ListReader(model, reading="first").read([asked])
    chain = model.encoder.chain(asked.identifiers)
    assert {len(ids) for ids in chain.identifiers} == {1, 2}
    prompt = [*model.encoder.prompt(asked), *chain.open]
    expected = []
    for ids in chain.identifiers:
        total = 0.0
        for place in range(len(ids) + 1):
            near = [(*o, chain.between[0]) for o in chain.identifiers if o[:place] == ids[:place]]
            options = list(dict.fromkeys(o[place] for o in near))
            if len(options) > 1:
                logs = logits_after(model, [*prompt, *ids[:place]])[options].log_softmax(-1)
                total += float(logs[options.index((*ids, chain.between[0])[place])])
        expected.append(total)
    assert sum(torch.tensor(expected).exp()) == pytest.approx(1.0, abs=1e-4)
    assert answer.scores == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "bloom"])
@pytest.mark.parametrize("way", [*WAYS, "text"])
@settings(max_examples=4)
@given(
    counts=st.lists(st.integers(2, 26), min_size=1, max_size=5),
    batch_tokens=st.sampled_from([1, 150, 10**6]),
    seed=st.integers(0, 99),
    prompt=st.sampled_from(["list", "numbers"]),
)
def test_an_answer_is_that_of_its_window_alone(
    kind: str, way: Any, counts: list[int], batch_tokens: int, seed: int, prompt: str
) -> None:
    # room for 26 passages
    model = tiny(kind, max_tokens=10**6 if kind != "gpt2" else 600)
    asked = [window(n, seed + i, prompt, longest=3) for i, n in enumerate(counts)]
    if kind == "gpt2":
        asked = [one for one in asked if len(model.encoder.prompt(one)) < 450]
    together = ListReader(model, reading=way, batch_tokens=batch_tokens)
    alone = [ListReader(model, reading=way, batch_tokens=1).read([one])[0] for one in asked]
    for answers in (together.read(asked), together.read(asked[::-1])[::-1]):
        assert [a.text for a in answers] == [a.text for a in alone]
        for one, answer in zip(asked, answers, strict=True):
            if way != "text":
                assert answer.order is not None
                assert sorted(answer.order) == list(range(len(one.passages)))


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_free_text_is_what_transformers_generates(kind: str) -> None:
    model = tiny(kind)
    asked = [window(n, n) for n in (3, 8, 5, 2)]
    answers = ListReader(model, reading="text").read(asked)
    for one, answer in zip(asked, answers, strict=True):
        ids = torch.tensor([model.encoder.prompt(one)])
        chain = model.encoder.chain(one.identifiers)
        limit = len(chain.permutation(range(len(one.identifiers)))) + 16
        out = model.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            pad_token_id=2,
        )
        written = out[0, ids.shape[1] :].tolist()
        assert answer.text == model.tokenizer.decode(written, skip_special_tokens=True)
        assert answer.completion_tokens == len(written)
        assert answer.cut == (written[-1] != 2)


def test_sampling_is_seeded_by_the_window() -> None:
    asked = [window(n, n) for n in (6, 4, 9)]

    def texts(seed: int, some: list[WindowPrompt]) -> list[str]:
        reader = ListReader(tiny("llama"), reading="text", temperature=1.0, seed=seed)
        return [answer.text for answer in reader.read(some)]

    assert (
        texts(0, asked) == texts(0, asked[::-1])[::-1] == texts(0, asked[:1]) + texts(0, asked[1:])
    )
    assert texts(0, asked) != texts(1, asked)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "bloom"])
def test_a_thought_that_never_ends_is_ended_and_the_permutation_is_whole(kind: str) -> None:
    model = tiny(kind)
    asked = [window(n, n) for n in (3, 11, 2)]
    reader = ListReader(model, reading="constrained", thought=True, thought_tokens=40)
    answers = reader.read(asked)
    for one, answer in zip(asked, answers, strict=True):
        parsed = parse_permutation(answer.text, len(one.passages), "letters")
        assert parsed.order == answer.order
        assert set(parsed.mends) <= {"thought stripped"}
        assert answer.text.startswith("<think>\n")
        assert answer.thought in answer.text
        (alone,) = reader.read([one])
        assert alone == answer
    assert any(answer.cut for answer in answers)


def test_a_thought_ends_where_the_model_ends_it() -> None:
    tokenizer = llama_tokenizer(pad_token="</s>")
    chain = tiny("llama").encoder.chain(("A", "B", "C"))
    script = tokenizer("B says it.\n</think>", add_special_tokens=False)["input_ids"]
    told = iter(script)
    program = thinking(tokenizer, frozenset({2}), 100, lambda _: next(told), chain)
    fed: list[int] = []
    ask = next(program)
    try:
        while True:
            fed += ask.feed
            among = ask.among
            ask = program.send(torch.arange(len(among) if among is not None else 400).float())
    except StopIteration as end:
        found: Found = end.value
    assert not found.cut
    assert found.order == (2, 1, 0)
    # all but the last choice was fed, and what is no choice with it
    whole = [*found.ids, *tokenizer("\n", add_special_tokens=False)["input_ids"]]
    whole = [*tokenizer("<think>\n", add_special_tokens=False)["input_ids"], *whole]
    whole += chain.permutation(found.order)
    assert fed == whole[: len(fed)]
    assert found.tokens == len(whole)


def test_a_long_window_is_cut_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    contract = ListwiseContract(max_tokens=300)
    model = tiny("llama", contract, 300)
    asked = window(8, 1, longest=40)
    reader = ListReader(model, reading="first")
    with caplog.at_level("WARNING"):
        answers = reader.read([asked, asked])
    assert len(caplog.records) == 1
    encoded = reader.windows.encode(asked)
    assert encoded.words is not None
    # as many words as fit: one more would not
    more = replace(contract.template, max_words=encoded.words + 1)
    whole = len(encoded.chain.permutation(range(8)))
    assert len(encoded.ids) <= 300 - whole
    assert len(model.encoder.prompt(more.render(asked.query, asked.passages))) > 300 - whole
    assert answers[0].prompt_tokens == len(encoded.ids)


@pytest.mark.parametrize(
    ("count", "prompt", "limit", "error", "says"),
    [
        (21, "list", 10**6, ContractMismatch, "20 passages at most, the window holds 21"),
        (9, "rankgpt", 60, ConfigError, "only the model's own prompt"),
        (9, "list", 60, ConfigError, "does not fit"),
    ],
)
def test_windows_that_no_cut_mends_are_refused(
    count: int, prompt: str, limit: int, error: Any, says: str
) -> None:
    model = tiny("llama", ListwiseContract(), limit)
    with pytest.raises(error, match=says):
        ListReader(model).read([window(count, prompt=prompt)])


def test_how_it_was_taught_is_how_it_is_read() -> None:
    def reading(**options: Any) -> tuple[str, bool]:
        reader = ListReader(tiny("llama", ListwiseContract(**options)))
        return reader.reading, reader.thinks

    assert reading() == ("first", False)
    assert reading(learnt="first") == ("first", False)
    assert reading(learnt="text") == ("constrained", False)
    assert reading(thought=True) == ("constrained", True)
    assert ListReader(tiny("llama")).reading == "constrained"


def test_bfloat16_gives_permutations_too() -> None:
    model = tiny("llama")
    half = replace(model, model=copy.deepcopy(model.model).to(torch.bfloat16), dtype="bfloat16")
    asked = [window(n, n) for n in (20, 3, 26)]
    for way in WAYS:
        for one, answer in zip(asked, ListReader(half, reading=way).read(asked), strict=True):
            assert answer.order is not None
            assert sorted(answer.order) == list(range(len(one.passages)))


@functools.cache
def another() -> ListModel:
    return replace(tiny("llama"), revision="1")


SAMPLED = {"reading": "text", "temperature": 1.5}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SAMPLED, SAMPLED | {"seed": 1}),
        (SAMPLED, SAMPLED | {"temperature": 0.7}),
        (SAMPLED, {"reading": "text"}),
        ({"reading": "first"}, {"reading": "constrained"}),
        ({"reading": "first"}, {"reading": "attention"}),
        (
            {"reading": "constrained", "thought": True, "thought_tokens": 20},
            {"reading": "constrained", "thought": True, "thought_tokens": 30},
        ),
        (
            {"reading": "constrained", "thought": True, "thought_tokens": 20},
            {"reading": "constrained"},
        ),
    ],
)
def test_readers_that_answer_otherwise_have_another_identity(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Answers are kept by it: an answer of another reader must not be taken for this one's."""
    asked = [window(6, n) for n in range(3)]
    readers = [ListReader(tiny("llama"), **options) for options in (one, other)]
    answers = [reader.read(asked) for reader in readers]
    assert answers[0] != answers[1]
    assert readers[0].identity != readers[1].identity
    assert json.loads(json.dumps(readers[0].identity)) == readers[0].identity


def test_what_does_not_change_an_answer_is_not_in_the_identity() -> None:
    """Else answers that are there would be paid for again."""
    asked = [window(6, n) for n in range(3)]
    for reading in ("first", "constrained", "text"):
        plain = ListReader(tiny("llama"), reading=reading)  # type: ignore[arg-type]
        other = ListReader(tiny("llama"), reading=reading, seed=3, batch_tokens=64)  # type: ignore[arg-type]
        assert [a.text for a in plain.read(asked)] == [a.text for a in other.read(asked)]
        assert plain.identity == other.identity
    assert ListReader(another()).identity != ListReader(tiny("llama")).identity
    half = replace(tiny("llama"), dtype="bfloat16")
    assert ListReader(half).identity != ListReader(tiny("llama")).identity


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_temperature_is_a_number_from_0_on(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature 0 or more"):
        ListReader(tiny("llama"), reading="text", temperature=temperature)
