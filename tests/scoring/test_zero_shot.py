"""Language models as they come: a naive computation, one pair at a time, is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import BOS_ONCE, T5_STYLE, llama_tokenizer, make, pairs, save, words

from dear.errors import BackendError, ConfigError, DataError
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS
from dear.scoring.zero_shot import ZeroShot

SOME = [*pairs(8, seed=4), ("", "open"), ("open", ""), ("yes </s>", "a </s> b"), (" \n", "x")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make("llama", hf.AutoModelForCausalLM)
    return save(tmp_path_factory.mktemp("lm") / "m", model, llama_tokenizer(BOS_ONCE))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = hf.T5Config(
        vocab_size=400,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        initializer_factor=1.0,
    )
    tokenizer = llama_tokenizer(T5_STYLE, pad_token="<unk>")
    return save(
        tmp_path_factory.mktemp("t5") / "m", hf.T5ForConditionalGeneration(config), tokenizer
    )


def naive_likelihood(folder: Path, prompt: str, query: str, passage: str) -> float:
    """Full logits of one sequence; the mean log-probability of the target's tokens."""
    if not query.strip():
        return 0.0
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text, target = ZERO_SHOT_PROMPTS[prompt].render(query, passage)
    # no text writes a control token
    head = tokenizer(text, split_special_tokens=True)["input_ids"]
    scored = tokenizer(target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    with torch.no_grad():
        logs = model(torch.tensor([head + scored])).logits[0].log_softmax(-1)
    return float(np.mean([logs[len(head) + i - 1, t].item() for i, t in enumerate(scored)]))


def naive_odds(folder: Path, prompt: str, query: str, passage: str) -> float:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    asked = ZERO_SHOT_PROMPTS[prompt]
    text, _ = asked.render(query, passage)
    yes, no = (
        tokenizer(a, add_special_tokens=False)["input_ids"][0] for a in (asked.yes, asked.no)
    )
    inputs = tokenizer(text, return_tensors="pt", split_special_tokens=True)
    if asked.seq2seq:
        model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
        inputs["decoder_input_ids"] = torch.tensor([[0]])
    else:
        model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        odds = model(**inputs).logits[0, -1].log_softmax(-1)
    return float(odds[yes] - odds[no])


@pytest.mark.parametrize("prompt", ["upr", "upr-code"])
def test_likelihood_is_the_naive_one(prompt: str, llama: Path) -> None:
    model = ZeroShot(llama, prompt=prompt, dtype="float32")
    expected = [naive_likelihood(llama, prompt, *pair) for pair in SOME]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(model.score(SOME), expected, atol=1e-4)


@pytest.mark.parametrize("prompt", ["yes-no", "qwen3"])
def test_log_odds_are_the_naive_ones(prompt: str, llama: Path) -> None:
    model = ZeroShot(llama, prompt=prompt, dtype="float32")
    expected = [naive_odds(llama, prompt, *pair) for pair in SOME]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(model.score(SOME), expected, atol=1e-4)


def test_an_encoder_decoder_answers_with_its_first_token(t5: Path) -> None:
    model = ZeroShot(t5, prompt="monot5", dtype="float32")
    expected = [naive_odds(t5, "monot5", *pair) for pair in SOME]
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(model.score(SOME), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["gemma2", "granite"])
@pytest.mark.parametrize("prompt", ["upr", "yes-no"])
def test_logits_that_are_capped_or_scaled(kind: str, prompt: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", make(kind, hf.AutoModelForCausalLM), llama_tokenizer())
    naive = naive_likelihood if prompt == "upr" else naive_odds
    expected = [naive(folder, prompt, *pair) for pair in SOME[:4]]
    scores = ZeroShot(folder, prompt=prompt, dtype="float32").score(SOME[:4])
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("prompt", ["upr", "yes-no"])
def test_company_changes_nothing(prompt: str, llama: Path) -> None:
    one = ZeroShot(llama, prompt=prompt, dtype="float32")
    expected = np.array([one.score([pair])[0] for pair in SOME])
    for budget in (1, 200, 10**6):
        model = ZeroShot(llama, prompt=prompt, dtype="float32", batch_tokens=budget)
        picked = np.random.default_rng(budget).integers(0, len(SOME), 20)
        scores = model.score([SOME[i] for i in picked])
        np.testing.assert_allclose(scores, expected[picked], atol=1e-5)


def test_company_changes_nothing_for_an_encoder_decoder(t5: Path) -> None:
    model = ZeroShot(t5, prompt="monot5", dtype="float32", batch_tokens=10**6)
    expected = [model.score([pair])[0] for pair in SOME]
    np.testing.assert_allclose(model.score(SOME), expected, atol=1e-5)


@pytest.mark.parametrize("prompt", ["upr", "yes-no"])
def test_half_precision(prompt: str, llama: Path) -> None:
    """bfloat16 moves a mean log-probability or log-odds of size 1 to 6 by less than 0.3; logits in
    float32 keep close scores apart."""
    full = ZeroShot(llama, prompt=prompt, dtype="float32").score(SOME[:8])
    half = ZeroShot(llama, prompt=prompt, dtype="bfloat16").score(SOME[:8])
    np.testing.assert_allclose(half, full, atol=0.3)
    assert len(set(half.tolist())) == 8


@pytest.mark.parametrize("prompt", ["upr", "yes-no"])
def test_texts_are_cut_at_their_limits(prompt: str, llama: Path) -> None:
    """Each at its own: a score is that of the texts up to there, whatever follows."""
    model = ZeroShot(
        llama, prompt=prompt, dtype="float32", max_query_tokens=5, max_passage_tokens=9
    )
    unlimited = ZeroShot(llama, prompt=prompt, dtype="float32")
    query, passage = words(40, 1), words(90, 2)
    tokenizer = llama_tokenizer(BOS_ONCE)

    def start_of(text: str, tokens: int) -> str:
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return text[: spans["offset_mapping"][tokens - 1][1]]

    cut = (start_of(query, 5), start_of(passage, 9))
    expected = unlimited.score([cut])[0]
    longer = [(query, passage), (query + " " + words(50, 3), passage + words(99)), cut]
    assert model.score(longer) == pytest.approx([expected] * 3, abs=1e-6)
    # and no token earlier
    for shorter in ((start_of(query, 4), passage), (query, start_of(passage, 8))):
        assert abs(model.score([shorter])[0] - expected) > 1e-3


def test_the_default_reads_long_passages_and_tells_its_cuts(
    llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ZeroShot(llama, dtype="float32")
    assert model.contract["max_passage_tokens"] == 1024
    start = words(250, 1)  # of more than 256 tokens
    ends = model.score([("river", f"{start} river bank"), ("river", f"{start} code")])
    assert abs(ends[0] - ends[1]) > 1e-4
    assert not [r for r in caplog.records if "are cut" in r.getMessage()]
    long = ("river", words(1500, 2))
    model.score([long, ("river", "bank"), long])
    model.score([long])
    (line,) = [r.getMessage() for r in caplog.records if "are cut" in r.getMessage()]
    assert "2 of 3 pairs are cut, to 1024 tokens of the passage (max_passage_tokens)" in line
    wider = ZeroShot(llama, dtype="float32", max_passage_tokens=1500)
    assert len(wider._ask([long])[0]) > len(model._ask([long])[0]) + 400


def test_a_prompt_fits_the_model(tmp_path: Path) -> None:
    """What surrounds a passage stays, and nothing is longer than the positions."""
    short = make("gpt2", hf.AutoModelForCausalLM)
    folder = save(tmp_path / "m", short, llama_tokenizer())
    for prompt in ("upr", "yes-no"):
        model = ZeroShot(folder, prompt=prompt, dtype="float32")
        asked = model._ask([(words(900, 1), words(2000, 2))])[0]
        assert len(asked) == 600  # its positions
        plain = model._ask([("a", "b")])[0]
        if prompt == "yes-no":
            assert asked.ids[-5:] == plain.ids[-5:]  # "Answer:"
        assert np.isfinite(model.score([(words(900, 1), words(2000, 2))])).all()


def test_a_blank_query_says_nothing_about_any_passage(llama: Path) -> None:
    model = ZeroShot(llama, dtype="float32")
    assert model.score([("", "open"), (" \n", words(20)), ("", "")]).tolist() == [0, 0, 0]


def test_braces_in_texts_are_text(llama: Path) -> None:
    model = ZeroShot(llama, dtype="float32")
    some = [("{passage}", "{query}"), ("{query}", "{passage} {0}")]
    expected = [naive_likelihood(llama, "upr", *pair) for pair in some]
    np.testing.assert_allclose(model.score(some), expected, atol=1e-4)


def test_progress_and_nothing(llama: Path) -> None:
    model = ZeroShot(llama, batch_tokens=100)
    seen: list[tuple[int, int]] = []
    model.score(SOME, lambda done, total: seen.append((done, total)))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (len(SOME), len(SOME))
    assert model.score([]).shape == (0,)


def test_the_stamp_changes_with_the_question(llama: Path) -> None:
    prints = {ZeroShot(llama, prompt=p).fingerprint for p in ("upr", "upr-code", "yes-no")}
    prints |= {ZeroShot(llama, max_query_tokens=9).fingerprint}
    prints |= {ZeroShot(llama, max_passage_tokens=9).fingerprint}
    prints |= {ZeroShot(llama, dtype="float16").fingerprint}
    assert len(prints) == 6
    assert ZeroShot(llama).name == f"upr:{llama}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "urp"}, "no prompt 'urp'; did you mean 'upr'"),
        ({"max_query_tokens": 0}, "must be 1 or more"),
        ({"batch_tokens": 0}, "batch_tokens must be 1 or more"),
        ({"prompt": "monot5"}, "cannot load the model"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], says: str, llama: Path) -> None:
    with pytest.raises((ConfigError, BackendError), match=says) as caught:
        ZeroShot(llama, **options)
    assert "\n" not in str(caught.value)


def test_answers_that_begin_alike_are_refused(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    same = dataclasses.replace(ZERO_SHOT_PROMPTS["yes-no"], yes=" water", no=" water")
    monkeypatch.setitem(ZERO_SHOT_PROMPTS, "yes-no", same)
    with pytest.raises(ConfigError, match="does not tell ' water' from ' water'"):
        ZeroShot(llama, prompt="yes-no")


def test_a_classifier_is_no_language_model(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", make("llama"), llama_tokenizer())
    with pytest.raises(DataError, match=r"lacks 1 weights: lm_head.weight"):
        ZeroShot(folder)


def test_a_score_that_is_no_number_names_its_pair(tmp_path: Path) -> None:
    model = make("llama", hf.AutoModelForCausalLM)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    folder = save(tmp_path / "m", model, llama_tokenizer())
    with pytest.raises(BackendError, match="nan for query 'a', passage 'b'"):
        ZeroShot(folder).score([("a", "b")])


@pytest.mark.gpu
@pytest.mark.parametrize("prompt", ["upr", "yes-no"])
def test_a_gpu_gives_the_scores_of_the_cpu(prompt: str, llama: Path) -> None:
    cpu = ZeroShot(llama, prompt=prompt, dtype="float32", device="cpu").score(SOME)
    gpu = ZeroShot(llama, prompt=prompt, dtype="float32", device="cuda").score(SOME)
    np.testing.assert_allclose(gpu, cpu, atol=1e-3)
