"""Early exit drops rows in flight: what finishes has the full model's score, what does not ranks
below it, and a margin without end drops nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from tiny_models import bert_tokenizer, make, pairs, save, tokenizer_for, words

from dear.errors import BackendError, ConfigError, ContractMismatch, DataError
from dear.models.contract import CARD, DEAR, ScoringContract
from dear.models.encoding import Encoded, PairEncoder
from dear.models.engines.early import Bar, EarlyEngine, EarlyExit, put_below
from dear.models.engines.padded import PaddedEngine
from dear.models.loading import ScoringModel, load_scoring_model
from dear.models.scorer import Scorer
from dear.rank import early
from dear.rank.early import _observe, calibrate, rank_early
from dear.records import Candidates, Passage, Query

KINDS = (
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gpt2",
    "bloom",
    "bert",
    "roberta",
    "modernbert",
)
BUDGET = 400
TOP_K = 4


def load(folder: Path, **contract: Any) -> ScoringModel:
    given = replace(DEAR, dtype="float32", **contract)
    return load_scoring_model(folder, contract=given, dtype=given.dtype)


def lists(model: ScoringModel, queries: int, each: int, seed: int = 0) -> list[list[Encoded]]:
    """The candidates of some queries, of very different lengths."""
    encoder = PairEncoder(model.tokenizer, model.contract)
    found = []
    for q in range(queries):
        some = pairs(each, seed=seed * 100 + q, longest=60)
        found.append(encoder.encode([(some[0][0], passage) for _, passage in some]))
    return found


def an_exit(model: ScoringModel, **changes: Any) -> EarlyExit:
    """A probe of random weights: what it decides is arbitrary, what follows is not."""
    hidden = model.model.config.get_text_config().hidden_size
    width = hidden if model.is_decoder else 2 * hidden
    values: dict[str, Any] = {
        "layer": 1,
        "layers": model.model.config.get_text_config().num_hidden_layers,
        "weights": np.random.default_rng(5).normal(size=width).astype(np.float32),
        "bias": 0.5,
        "margin": 0.0,
        "top_k": TOP_K,
        "keep": 0.9,
        "recall": 0.95,
        "share": 0.5,
        "queries": 3,
        "pairs": 60,
        "batch_tokens": BUDGET,
        "revision": model.revision,
        "contract": model.contract,
    }
    return EarlyExit(**values | changes)


def full(model: ScoringModel, encoded: Sequence[Encoded]) -> np.ndarray[Any, Any]:
    return PaddedEngine(model, BUDGET).run(encoded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_finished_scores_are_the_full_models(
    kind: str, side: Any, tiny: Callable[[str], Path]
) -> None:
    model = load(tiny(kind), padding_side=side)
    (encoded,) = lists(model, 1, 30)
    expected = full(model, encoded)
    layers = model.model.config.get_text_config().num_hidden_layers
    dropped = []
    for layer in range(1, layers):
        for margin, budget in ((0.0, 10**6), (0.0, BUDGET), (3.0, BUDGET), (0.0, 1)):
            engine = EarlyEngine(model, an_exit(model, layer=layer, margin=margin), budget)
            scores, finished = engine.rank_scores(encoded)
            assert scores.dtype == np.float32
            assert finished.sum() >= TOP_K
            np.testing.assert_allclose(scores[finished], expected[finished], atol=1e-5)
            assert scores[~finished].max() < scores[finished].min()
            assert engine.share <= 1.0
            dropped.append(int((~finished).sum()))
    assert dropped[0] == 30 - TOP_K  # one batch: exactly the best predictions go on
    assert min(dropped) < max(dropped)
    # no hook is left behind
    np.testing.assert_array_equal(full(model, encoded), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_bar_nothing_is_dropped(kind: str, tiny: Callable[[str], Path]) -> None:
    model = load(tiny(kind))
    (encoded,) = lists(model, 1, 20)
    engine = EarlyEngine(model, an_exit(model, margin=math.inf), BUDGET)
    scores, finished = engine.rank_scores(encoded)
    assert finished.all()
    np.testing.assert_allclose(scores, full(model, encoded), atol=1e-5)
    assert engine.share == 1.0


@pytest.mark.parametrize("kind", ["llama", "bloom", "bert", "modernbert"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_the_probe_reads_is_of_the_pair_alone(
    kind: str, side: Any, tiny: Callable[[str], Path]
) -> None:
    model = load(tiny(kind), padding_side=side)
    (encoded,) = lists(model, 1, 20)
    alone, logits = _observe(model, encoded, [1], 1, None)
    padded, _ = _observe(model, encoded, [1], 10**6, None)
    np.testing.assert_allclose(padded[1], alone[1], atol=1e-4)
    assert alone[1].std(0).min() > 1e-3
    np.testing.assert_allclose(logits, full(model, encoded), atol=1e-5)
    # and it is what decides
    exit = an_exit(model)
    _, finished = EarlyEngine(model, exit, 10**6).rank_scores(encoded)
    best = np.argsort(-alone[1] @ exit.weights)[:TOP_K]
    assert sorted(best) == np.flatnonzero(finished).tolist()


@pytest.mark.parametrize(("kind", "bad"), [("llama", torch.nan), ("bert", torch.inf)])
def test_calibration_on_no_numbers_is_refused(
    kind: str, bad: float, tiny: Callable[[str], Path]
) -> None:
    model = load(tiny(kind))
    queries = lists(model, 3, 10)
    with torch.no_grad():
        if bad == torch.inf:
            model.model.classifier.bias.fill_(bad)
        else:
            model.model.get_input_embeddings().weight[queries[0][0].ids[3]] = bad
    with pytest.raises(BackendError, match="not finite"):
        calibrate(model, queries, top_k=TOP_K, keep=0.8)


@pytest.mark.parametrize("count", [0, 1, TOP_K])
def test_few_candidates_all_finish(count: int, tiny: Callable[[str], Path]) -> None:
    model = load(tiny("llama"))
    encoded = lists(model, 1, TOP_K)[0][:count]
    scores, finished = EarlyEngine(model, an_exit(model), BUDGET).rank_scores(encoded)
    assert scores.shape == finished.shape == (count,)
    assert finished.all()
    if count:
        np.testing.assert_allclose(scores, full(model, encoded), atol=1e-5)


def test_half_precision_drops_too(tiny: Callable[[str], Path]) -> None:
    model = load_scoring_model(tiny("llama"), contract=DEAR, dtype="bfloat16")
    (encoded,) = lists(model, 1, 20)
    scores, finished = EarlyEngine(model, an_exit(model), 10**6).rank_scores(encoded)
    assert finished.sum() == TOP_K
    np.testing.assert_allclose(scores[finished], full(model, encoded)[finished], atol=0.05)


@pytest.mark.parametrize("kind", ["llama", "bert", "modernbert"])
def test_calibration_keeps_what_it_says(kind: str, tiny: Callable[[str], Path]) -> None:
    model = load(tiny(kind))
    queries = lists(model, 12, 25)
    found = calibrate(model, queries, top_k=TOP_K, keep=0.9, batch_tokens=BUDGET)
    assert 0 < found.share < 1
    assert found.recall >= 0.9
    assert (found.queries, found.pairs) == (12, 300)
    engine = EarlyEngine(model, found, BUDGET)
    kept, means = [], []
    for encoded in lists(model, 12, 25, seed=7):
        scores, finished = engine.rank_scores(encoded)
        expected = full(model, encoded)
        kept += finished[np.argsort(-expected, kind="stable")[:TOP_K]].tolist()
        if not finished.all():
            means.append((scores.mean(), expected.mean()))
    # predictions are on the scale of the logits
    assert means
    assert all(abs(found - true) < 4 for found, true in means)
    assert np.mean(kept) >= 0.7  # 48 passages that no probe has seen
    assert engine.share < 1


def test_a_layer_that_holds_the_score_needs_no_margin(tmp_path: Path) -> None:
    """Layers that change nothing: the probe finds the head's own weights."""
    model = make("llama", num_hidden_layers=4)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    scoring = load(save(tmp_path / "model", model, tokenizer_for("llama")))
    found = calibrate(scoring, lists(scoring, 12, 25), top_k=TOP_K, keep=0.9, batch_tokens=10**6)
    assert found.layer == 1
    assert found.recall >= 0.99
    assert found.share == pytest.approx(1 / 4 + 3 / 4 * TOP_K / 25, abs=0.03)
    engine = EarlyEngine(scoring, found, 10**6)
    (encoded,) = lists(scoring, 1, 40, seed=9)
    scores, _ = engine.rank_scores(encoded)
    expected = full(scoring, encoded)
    assert set(np.argsort(-scores)[:TOP_K]) == set(np.argsort(-expected)[:TOP_K])


@pytest.mark.parametrize(
    ("replayed", "layer"),
    [
        ({1: (1.0, 0.5), 2: (0.9, 0.4)}, 2),
        ({1: (0.9, 0.5), 2: (1.0, 0.5)}, 2),
        ({1: (1.0, 0.5), 2: (0.9, 0.5)}, 1),
    ],
)
def test_the_layer_saves_most_and_of_equals_keeps_most(
    replayed: dict[int, tuple[float, float]],
    layer: int,
    tiny: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(tiny("bert"))
    at = iter(replayed.values())
    monkeypatch.setattr(early, "_replay", lambda *_: next(at))
    found = calibrate(model, lists(model, 3, 10), top_k=TOP_K, keep=0.8, layers=[*replayed])
    assert (found.layer, (found.recall, found.share)) == (layer, replayed[layer])


def test_a_higher_keep_gives_a_wider_margin(tiny: Callable[[str], Path]) -> None:
    model = load(tiny("qwen3"))
    queries = lists(model, 10, 25)
    margins = [
        calibrate(model, queries, top_k=TOP_K, keep=keep, layers=[1]).margin
        for keep in (0.5, 0.8, 0.95)
    ]
    assert margins == sorted(margins)
    assert margins[0] < margins[-1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"keep": 0.99}, r"keep 0\.99 of the top 4 takes 25 calibration queries .* not 3"),
        ({"top_k": 10}, r"with more than 10 candidates, not 0"),
        ({"keep": 1.0}, r"keep 1\.0 in \(0, 1\)"),
        ({"layers": [3]}, r"layers \[3\] must be in 1 to 2"),
        ({"layers": []}, r"layers \[\]"),
    ],
)
def test_calibration_refuses(
    change: dict[str, Any], problem: str, tiny: Callable[[str], Path]
) -> None:
    model = load(tiny("bert"))
    with pytest.raises(ConfigError, match=problem):
        calibrate(model, lists(model, 3, 10), **{"top_k": TOP_K, "keep": 0.8} | change)


def test_saved_and_loaded_it_is_the_same(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = load(tiny("bert"))
    queries = lists(model, 6, 20)
    found = calibrate(model, queries, top_k=TOP_K, keep=0.8, batch_tokens=BUDGET)
    found.save(tmp_path / "exit")
    again = EarlyExit.load(tmp_path / "exit", model)
    for encoded in queries:
        first = EarlyEngine(model, found, BUDGET).rank_scores(encoded)
        second = EarlyEngine(model, again, BUDGET).rank_scores(encoded)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    assert (again.layer, again.margin, again.recall) == (found.layer, found.margin, found.recall)
    assert again.contract == found.contract


def test_other_weights_or_another_contract_are_refused(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(tiny("bert"))
    an_exit(model).save(tmp_path / "exit")
    other = load(save(tmp_path / "other", make("bert", seed=1), bert_tokenizer()))
    with pytest.raises(ContractMismatch, match=r"calibrated on revision .* calibrate again"):
        EarlyExit.load(tmp_path / "exit", other)
    with pytest.raises(ContractMismatch, match="calibrated on revision"):
        EarlyEngine(other, an_exit(model), BUDGET)
    carded = load_scoring_model(tiny("bert"), contract=CARD, dtype="float32")
    with pytest.raises(ContractMismatch, match="truncation"):
        EarlyExit.load(tmp_path / "exit", carded)
    short = EarlyEngine(model, an_exit(model, weights=np.ones(7, dtype=np.float32)), BUDGET)
    (encoded,) = lists(model, 1, 9)
    with pytest.raises(ContractMismatch, match="a probe of 7 weights for a state of 64"):
        short.rank_scores(encoded)


def test_a_checkpoints_own_folder_is_refused(tiny: Callable[[str], Path]) -> None:
    """A .safetensors file more would change the checkpoint's revision."""
    model = load(tiny("bert"))
    with pytest.raises(ConfigError, match="would change its revision"):
        an_exit(model).save(tiny("bert"))
    assert load(tiny("bert")).revision == model.revision


def test_damaged_files_are_named(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    an_exit(load(tiny("bert"))).save(tmp_path)
    path = tmp_path / "early_exit.json"
    good = json.loads(path.read_text())
    for change in ({"layer": "2"}, {"margin": None}, {"more": 1}, {"contract": []}):
        path.write_text(json.dumps(good | change))
        with pytest.raises(DataError, match=r"early_exit\.json: "):
            EarlyExit.load(tmp_path)
    path.write_text(json.dumps(good))
    for bad in (math.nan, math.inf):
        save_file({"weights": np.array([0, bad], np.float32)}, tmp_path / "early_exit.safetensors")
        with pytest.raises(DataError, match=r"early_exit\.safetensors: holds no finite float32"):
            EarlyExit.load(tmp_path)
    (tmp_path / "early_exit.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"early_exit\.safetensors: cannot be read"):
        EarlyExit.load(tmp_path)


def test_one_shared_layer_cannot_be_left_early(tmp_path: Path) -> None:
    config = hf.AlbertConfig(
        vocab_size=200,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        num_labels=1,
    )
    albert = hf.AlbertForSequenceClassification(config)
    model = load(save(tmp_path / "albert", albert, bert_tokenizer()))
    with pytest.raises(ConfigError, match=r"early exit does not work here: .*no list of 3 layers"):
        EarlyEngine(model, an_exit(model), BUDGET)


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_that_is_not_inside_is_refused(layer: int, tiny: Callable[[str], Path]) -> None:
    model = load(tiny("bert"))
    with pytest.raises(ConfigError, match="it is one of 1 to 2"):
        EarlyEngine(model, an_exit(model, layer=layer), BUDGET)


def test_a_layer_that_mixes_rows_is_found_out(tiny: Callable[[str], Path]) -> None:
    model = load(tiny("llama"))

    def mix(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output.mean(0, keepdim=True)

    model.model.model.layers[1].register_forward_hook(mix)
    with pytest.raises(ConfigError, match="rows cannot be dropped between the layers of Llama"):
        EarlyEngine(model, an_exit(model), BUDGET)


def test_a_probe_of_nan_hides_nothing(tiny: Callable[[str], Path]) -> None:
    model = load(tiny("bert"))
    (encoded,) = lists(model, 1, 20)
    weights = np.full_like(an_exit(model).weights, np.nan)
    engine = EarlyEngine(model, an_exit(model, weights=weights), BUDGET)
    scores, finished = engine.rank_scores(encoded)
    assert finished.all()
    np.testing.assert_allclose(scores, full(model, encoded), atol=1e-5)


_FLOATS = hnp.arrays(np.float32, 12, elements=st.floats(-1e6, 1e6, width=32))


@given(_FLOATS, hnp.arrays(np.bool_, 12))
def test_what_is_dropped_ranks_below(scores: Any, finished: Any) -> None:
    finished[:2] = True, False  # some of each
    found = put_below(scores, finished)
    np.testing.assert_array_equal(found[finished], scores[finished])
    assert found[~finished].max() < found[finished].min()
    before, after = scores[~finished], found[~finished]
    order = np.argsort(before, kind="stable")
    assert (np.diff(after[order]) >= 0).all()


@given(st.lists(_FLOATS, min_size=1, max_size=4), st.integers(1, 20), st.floats(0, 100))
def test_the_bar_never_drops_one_of_the_best(batches: Any, top_k: int, margin: float) -> None:
    bar = Bar(top_k, margin)
    kept = np.concatenate([bar.keep(batch) for batch in batches])
    predicted = np.concatenate(batches)
    best = np.sort(predicted)[::-1][:top_k]
    assert kept[predicted >= best[-1]].all()
    assert kept.sum() >= min(top_k, len(predicted))


def test_rankings_begin_with_the_full_models(tiny: Callable[[str], Path]) -> None:
    model = load(tiny("modernbert"))
    candidates = [
        Candidates(
            query=Query(id=f"q{q}", text=words(4, q)),
            passages=tuple(Passage(id=f"p{i}", text=words(5 + i, 50 * q + i)) for i in range(n)),
            scores=tuple(float(-i) for i in range(n)),
        )
        for q, n in enumerate((20, 3, 0))
    ]
    seen: list[tuple[int, int]] = []
    exit = an_exit(model, margin=math.inf)
    found = list(rank_early(model, exit, candidates, progress=lambda *n: seen.append(n)))
    scorer = Scorer(model)
    for c, ranking in zip(candidates, found, strict=True):
        assert ranking.query_id == c.query.id
        scores = scorer.score([(c.query.text, p.full_text) for p in c.passages])
        order = np.argsort(-scores, kind="stable")
        assert list(ranking.passage_ids) == [c.passages[i].id for i in order]
    assert seen == [(20, 23), (23, 23), (23, 23)]
    dropping = list(rank_early(model, an_exit(model), candidates, top_k=2))
    assert [len(r.passage_ids) for r in dropping] == [2, 2, 0]
    with pytest.raises(ConfigError, match="top_k must be 1 to 4"):
        rank_early(model, exit, candidates, top_k=5)


def test_equal_scores_keep_the_order_that_came(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rank_scores(_: EarlyEngine, encoded: Sequence[Encoded]) -> Any:
        scores = np.array([i % 2 for i in range(len(encoded))], dtype=np.float32)
        return scores, np.ones(len(encoded), dtype=np.bool_)

    monkeypatch.setattr(EarlyEngine, "rank_scores", rank_scores)
    model = load(tiny("bert"))
    passages = tuple(Passage(id=f"p{i}", text="river") for i in range(6))
    c = Candidates(query=Query(id="q", text="bank"), passages=passages, scores=(0.0,) * 6)
    (ranking,) = rank_early(model, an_exit(model), [c])
    assert ranking.passage_ids == ("p1", "p3", "p5", "p0", "p2", "p4")


def test_the_contract_travels_as_it_is(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = load(tiny("bert"))
    given = an_exit(model)
    given.save(tmp_path)
    assert EarlyExit.load(tmp_path).contract == given.contract
    assert isinstance(EarlyExit.load(tmp_path).contract, ScoringContract)
