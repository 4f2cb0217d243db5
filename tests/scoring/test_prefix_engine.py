"""Shared prefixes change the work, not the scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_models import CONFIGS, DECODER, ENCODERS, llama_tokenizer, make, pairs, words

from dear.checkpoints.contract import DEAR
from dear.checkpoints.files import quiet
from dear.checkpoints.heads import float32_head, pool_by_mask
from dear.scoring.encoding import Encoded, PairEncoder
from dear.scoring.engines import prefix
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.engines.prefix import PrefixEngine, common_prefixes, shares_prefix
from dear.scoring.loading import ScoringModel, load_scoring_model

# granite has no sequence classifier
DECODERS = [kind for kind in CONFIGS if kind not in (*ENCODERS, "granite")]
SHORT_WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5},
}
"""qwen3 has a window of 16 in one of its layers as it is."""

token_lists = st.lists(
    st.one_of(
        st.lists(st.integers(3, 5), min_size=1, max_size=12),
        # two long beginnings, of each other's first 9 tokens
        st.builds(
            lambda n, tail: [*range(10, 19), *[7, 8] * n, *tail],
            st.sampled_from([0, 8]),
            st.lists(st.integers(3, 5), min_size=1, max_size=20),
        ),
    ),
    max_size=24,
)


def ready(model: Any, dtype: Any = "float32") -> ScoringModel:
    model = model.to(getattr(torch, dtype))
    pool_by_mask(model)
    float32_head(model)
    return ScoringModel(
        model=model.eval(),
        tokenizer=llama_tokenizer(pad_token="</s>"),
        contract=replace(DEAR, dtype=dtype),
        name="tiny",
        revision="0",
        device=torch.device("cpu"),
    )


@functools.cache
def tiny_decoder(kind: str, dtype: str = "float32") -> ScoringModel:
    return ready(make(kind, **SHORT_WINDOWS.get(kind, {})), dtype)


def eager(model: ScoringModel, batch_tokens: int = 300) -> PrefixEngine:
    """One that shares whatever can be shared."""
    return PrefixEngine(model, batch_tokens, set_tokens=0, pass_tokens=0)


def sequences(ids: list[list[int]]) -> list[Encoded]:
    return [Encoded(one, [0] * len(one)) for one in ids]


def runs(queries: int, passages: int, seed: int = 0) -> list[Encoded]:
    """Every passage of every query, in random order; queries of 5 to 40 tokens."""
    rng = np.random.default_rng(seed)
    out = []
    for query in range(queries):
        start = [1, 10, 11, *rng.integers(3, 400, rng.integers(2, 38)).tolist()]
        out += [
            [*start, 20, *rng.integers(3, 400, rng.integers(1, 60)).tolist()]
            for _ in range(passages)
        ]
        out.append([1, 30 + query])
    rng.shuffle(out)
    return sequences(out)


def alone(model: ScoringModel, encoded: list[Encoded]) -> np.ndarray[Any, Any]:
    return PaddedEngine(model, 1).run(encoded)


def shared_tokens(engine: PrefixEngine, encoded: list[Encoded]) -> int:
    return sum(each.saved for sets in engine.passes(encoded) for each in sets)


@pytest.mark.parametrize("kind", DECODERS)
def test_scores_are_those_without_sharing(kind: str) -> None:
    model, encoded = tiny_decoder(kind), runs(6, 8)
    assert shares_prefix(model)
    expected = alone(model, encoded)
    assert expected.std() > 0.1
    for batch_tokens in (1, 90, 700, 10**6):
        engine = eager(model, batch_tokens)
        assert shared_tokens(engine, encoded) > 200
        scores = engine.run(encoded)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=2e-5)


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=15)
@given(ids=token_lists, batch_tokens=st.sampled_from([1, 40, 10**6]))
def test_any_token_lists(kind: str, ids: list[list[int]], batch_tokens: int) -> None:
    model, encoded = tiny_decoder(kind), sequences(ids)
    scores = eager(model, batch_tokens).run(encoded)
    assert scores.shape == (len(ids),)
    if ids:
        np.testing.assert_allclose(scores, alone(model, encoded), atol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loses_no_more_than_without_sharing(dtype: str) -> None:
    model, encoded = tiny_decoder("llama", dtype), runs(4, 6)
    assert shares_prefix(model)
    exact = alone(tiny_decoder("llama"), encoded)
    scores = eager(model).run(encoded)
    ours, theirs = (np.square(s - exact).mean() ** 0.5 for s in (scores, alone(model, encoded)))
    assert ours < 1.25 * theirs < 0.1  # of scores with a spread of 4
    assert len(set(scores.tolist())) > 20  # no ties: the head is float32


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_attention(attention: str) -> None:
    for kind in ("llama", "qwen3"):
        bare = make(kind)
        bare.set_attn_implementation(attention)
        model, encoded = ready(bare), runs(4, 6)
        assert shares_prefix(model)
        np.testing.assert_allclose(eager(model).run(encoded), alone(model, encoded), atol=2e-5)


def test_a_score_does_not_depend_on_its_company() -> None:
    model, encoded = tiny_decoder("llama"), runs(5, 7)
    engine = eager(model, 200)
    expected = engine.run(encoded)
    rng = np.random.default_rng(3)
    for size in (1, 2, 11, 60):
        picked = rng.integers(0, len(encoded), size)  # with duplicates
        np.testing.assert_allclose(
            engine.run([encoded[i] for i in picked]), expected[picked], atol=2e-5
        )
    assert engine.run(encoded).tolist() == expected.tolist()  # nothing is left behind


def test_kept_keys_and_values_are_never_written() -> None:
    model = tiny_decoder("llama")
    with torch.inference_mode():
        for prefixes in ([[3, 4, 5]], [[3, 4, 5], [6, 7]]):
            shared = prefix._Shared(model, prefixes)
            before = [tensor.clone() for both in shared.kept for tensor in both]
            rests = [prefix._Rest(row, [9, 8 + row]) for row in range(len(prefixes))] * 2
            first = shared.logits(rests)
            assert shared.logits(rests).tolist() == first.tolist()
            after = [tensor for both in shared.kept for tensor in both]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("total", [None, 1000])
@pytest.mark.parametrize("pass_tokens", [0, 10**9])
def test_progress_rises_to_the_total(total: int | None, pass_tokens: int) -> None:
    model, encoded = tiny_decoder("llama"), runs(4, 6)
    seen: list[tuple[int, int]] = []
    engine = PrefixEngine(model, 100, set_tokens=0, pass_tokens=pass_tokens)
    engine.run(encoded, lambda done, of: seen.append((done, of)), total)
    wanted = total or len(encoded)
    assert {of for _, of in seen} == {wanted}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == wanted
    assert len(seen) > 5


def test_nothing_gives_nothing() -> None:
    scores = PrefixEngine(tiny_decoder("llama"), 100).run([])
    assert scores.shape == (0,)
    assert scores.dtype == np.float32


def test_what_saves_too_little_is_padded() -> None:
    model = tiny_decoder("llama")
    engine = PrefixEngine(model, 2048)
    query = list(range(3, 13))

    def run_of(passages: int) -> list[Encoded]:
        return sequences([[*query, 20 + i, 30 + i] for i in range(passages)])

    assert engine.passes(run_of(1)) == engine.passes(run_of(7)) == []  # 60 tokens
    assert [len(s.members) for sets in engine.passes(run_of(8)) for s in sets] == [8]
    assert PrefixEngine(model, 2048, set_tokens=70).passes(run_of(8)) == []
    # many small sets pay together
    many = [one for q in range(20) for one in sequences([[*[q + 50] * 10, i] for i in range(3)])]
    assert len(engine.passes(many)[0]) == 20


def test_prefixes_are_held_a_part_of_a_batch_at_a_time() -> None:
    encoded = runs(40, 3)
    groups = eager(tiny_decoder("llama"), 800).passes(encoded)
    assert len(groups) > 5
    for sets in groups:
        assert len(sets) == 1 or len(sets) * max(each.prefix for each in sets) <= 100


@given(token_lists, st.integers(0, 20))
def test_sets_are_disjoint_and_truly_share(ids: list[list[int]], set_tokens: int) -> None:
    sets = common_prefixes(ids, set_tokens)
    members = [i for each in sets for i in each.members]
    assert len(members) == len(set(members))
    for each in sets:
        assert each.saved > set_tokens
        assert len({tuple(ids[i][: each.prefix]) for i in each.members}) == 1
        assert all(len(ids[i]) > each.prefix for i in each.members)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), max_size=9), st.integers(0, 4))
def test_no_other_sets_save_more(ids: list[list[int]], set_tokens: int) -> None:
    """Against the same by recursion: all that begin with a prefix, or the best for each of the
    prefixes that are one token longer."""

    def best(common: list[int]) -> int:
        size = len(common)
        members = sum(one[:size] == common and len(one) > size for one in ids)
        if members < 2:
            return 0
        return max(size * (members - 1) - set_tokens, sum(best([*common, t]) for t in (0, 1)))

    found = sum(each.saved - set_tokens for each in common_prefixes(ids, set_tokens))
    assert found == max(0, best([]))


def test_a_deep_nest_of_prefixes_is_no_deep_recursion() -> None:
    ids = [[5] * n for n in range(1, 3000)]
    sets = common_prefixes(ids, 8)
    assert sum(each.saved for each in sets) > 1000 * 1000


@pytest.mark.parametrize("contract", ["dear", "eos"])
def test_queries_of_a_run_are_found(contract: str, tiny: Callable[[str], Path]) -> None:
    given = replace(DEAR, append_eos=contract == "eos")
    model = load_scoring_model(tiny("llama"), contract=given, dtype="float32")
    encoder = PairEncoder(model.tokenizer, given)
    queries = [words(8, seed) for seed in range(3)]
    encoded = encoder.encode([(q, p) for q in queries for _, p in pairs(12, seed=1)])
    engine = PrefixEngine(model, 2048)
    (sets,) = engine.passes(encoded)
    assert sorted(len(each.members) for each in sets) == [12, 12, 12]
    np.testing.assert_allclose(engine.run(encoded), alone(model, encoded), atol=2e-5)


def adapted(adapter: Any) -> ScoringModel:
    with quiet():
        wrapped = get_peft_model(make("llama"), adapter)
    torch.manual_seed(1)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return ready(wrapped)


def test_a_live_adapter() -> None:
    model = adapted(LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"]))
    encoded = runs(4, 6)
    assert shares_prefix(model)
    expected = alone(model, encoded)
    assert np.abs(expected - alone(tiny_decoder("llama"), encoded)).max() > 0.1
    np.testing.assert_allclose(eager(model).run(encoded), expected, atol=2e-5)


def test_an_adapter_beside_the_layers_shares_nothing() -> None:
    assert not shares_prefix(adapted(PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)))
    activated = adapted(LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    assert shares_prefix(activated)
    activated.model.peft_config["default"].alora_invocation_tokens = [5]
    assert not shares_prefix(activated)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_share_nothing(kind: str, tiny: Callable[[str], Path]) -> None:
    assert not shares_prefix(load_scoring_model(tiny(kind), contract=DEAR, dtype="float32"))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    ],
)
def test_rotary_angles_that_follow_the_length_share_nothing(rope: dict[str, Any]) -> None:
    parameters = {"rope_theta": 1e4, "original_max_position_embeddings": 64, **rope}
    assert not shares_prefix(ready(make("llama", rope_parameters=parameters)))


def test_a_model_that_reads_both_ways_shares_nothing() -> None:
    assert not shares_prefix(ready(make("llama", is_causal=False)))


def test_other_states_than_keys_and_values_share_nothing() -> None:
    config = hf.Qwen3NextConfig(
        **DECODER
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        num_labels=1,
    )
    assert not shares_prefix(ready(hf.AutoModelForSequenceClassification.from_config(config)))
