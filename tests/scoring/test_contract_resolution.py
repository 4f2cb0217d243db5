"""Which contract a folder is scored under, and what is said about it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import bert_tokenizer, llama_tokenizer, make, pairs, save, words

from dear import Reranker
from dear.checkpoints import hardware
from dear.checkpoints.contract import (
    CARD,
    CONTRACTS,
    DEAR,
    PLAIN,
    RANKLLAMA,
    ScoringContract,
    read_contract,
)
from dear.checkpoints.contract_resolution import resolve
from dear.checkpoints.files import quiet
from dear.checkpoints.registry import (
    KNOWN_EMBEDDERS,
    KNOWN_RERANKERS,
    Source,
    known_embedder,
    known_reranker,
    locate,
)
from dear.errors import ConfigError, ContractMismatch, DataError
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer

Tiny = Callable[[str], Path]
SOME = pairs(6, seed=5)
NOTICES = "dear.notices"


def marked(tiny: Tiny, folder: Path, **config: Any) -> Path:
    """A one-logit folder whose config.json says more."""
    shutil.copytree(tiny("bert"), folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def told(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == NOTICES and r.levelno >= level]


# ---------------------------------------------------------------- the order of what counts


def test_the_first_that_there_is(tiny: Tiny, tmp_path: Path) -> None:
    st = marked(tiny, tmp_path / "st", sbert_ce_default_activation_function="torch.nn.Identity")
    assert resolve(locate(tiny("bert"))).contract == CARD
    assert resolve(locate(tiny("bert"))).guessed
    assert resolve(locate(st)).contract == replace(PLAIN, activation="Identity")
    # a name before what the files say
    named = Source(str(st), known_as="castorini/rankllama-v1-7b-lora-passage")
    assert resolve(named).contract == RANKLLAMA
    gemma = Source(str(st), known_as="BAAI/bge-reranker-v2-gemma")
    assert resolve(gemma).contract.name == "bge-reranker-gemma"
    # what is asked for before both
    assert resolve(named, DEAR).contract == replace(DEAR, activation="Identity")
    # what is stored before all of them, and nothing may contradict it
    stored = replace(DEAR, max_passage_tokens=9)
    stored.save(st)
    assert resolve(named).contract == stored
    assert resolve(named, stored).contract == stored
    with pytest.raises(ContractMismatch, match="prompt: 'dear', not 'plain'"):
        resolve(named, "plain")


def test_published_dear_models_are_what_they_were(tiny: Tiny) -> None:
    for name in ("rankllama-7b", "castorini/rankllama-v1-13b-lora-passage"):
        assert resolve(locate(name)).contract == RANKLLAMA
    for name in ("dear-8b-reranker-ce-v1", "abdoelsayed/llama2-13b-rankllama-teacher"):
        assert resolve(locate(name)).contract == CARD


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"sentence_transformers": {"version": "4.1.0"}}),
        ("config.json", {"sbert_ce_default_activation_function": "torch.nn.Identity"}),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}),
        ("README.md", "---\nlibrary_name: sentence-transformers\ntags:\n- cross-encoder\n---\n# M"),
    ],
)
def test_every_mark_of_the_library(file: str, values: Any, tiny: Tiny, tmp_path: Path) -> None:
    folder = marked(tiny, tmp_path / "m", **(values if file == "config.json" else {}))
    if file != "config.json":
        text = values if isinstance(values, str) else json.dumps(values)
        (folder / file).write_text(text)
    found = resolve(locate(folder))
    assert found.contract.prompt == "plain"
    assert file in found.why


def test_a_card_that_names_no_cross_encoder_is_no_mark(tiny: Tiny, tmp_path: Path) -> None:
    folder = marked(tiny, tmp_path / "m")
    (folder / "README.md").write_text("# M\n- cross-encoder\n")
    assert resolve(locate(folder)).guessed


def test_a_code_of_somebody_is_no_activation(tiny: Tiny, tmp_path: Path) -> None:
    folder = marked(tiny, tmp_path / "m", sbert_ce_default_activation_function="evil.Code")
    reranker = Reranker(folder, dtype="float32")
    expected = torch.sigmoid(torch.from_numpy(reranker.score(SOME))).numpy()
    np.testing.assert_allclose(reranker.predict(SOME), expected, atol=1e-6)


def test_one_line_says_which_and_why(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=NOTICES)
    st = marked(tiny, tmp_path / "st", sbert_ce_default_activation_function="torch.nn.Identity")
    Reranker(st)
    (line,) = told(caplog)
    assert "bare pairs of at most 512 tokens (contract plain): its config.json says so" in line
    caplog.clear()
    Reranker(tiny("bert"))
    (line,) = told(caplog, logging.WARNING)
    assert "'query: …' and 'document: …' of at most 512 tokens (contract card)" in line
    assert "--contract plain" in line
    caplog.clear()
    # a checkpoint with a contract of its own needs no word
    replace(DEAR, pooling="model").save(st)
    Reranker(st)
    assert not told(caplog)


def test_a_contract_by_name_or_file(tiny: Tiny, tmp_path: Path) -> None:
    mine = replace(CARD, name="mine", prompt="plain", max_tokens=77)
    mine.save(tmp_path)
    for given in (tmp_path, tmp_path / "scoring_contract.json"):
        assert read_contract(given) == mine
    by_file = Reranker(tiny("bert"), contract=tmp_path, dtype="float32")
    by_value = Reranker(tiny("bert"), contract=mine, dtype="float32")
    np.testing.assert_array_equal(by_file.score(SOME), by_value.score(SOME))
    by_name = Reranker(tiny("bert"), contract="plain").model.contract
    # asked for by name, its length is the model's
    assert (by_name.prompt, by_name.max_tokens) == ("plain", 512)
    with pytest.raises(ConfigError, match=r"no contract 'plian'.*did you mean 'plain'"):
        Reranker(tiny("bert"), contract="plian")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"template": ["{query}"]}, "the template needs {passage} once"),
        ({"template": ["{query}{query}{passage}"]}, "the template needs {query} once"),
        ({"template": "text"}, "template must be a list of texts"),
        ({"template": ["{query}{passage}"], "truncation": "separate"}, "needs"),
        ({"prompt": "plain"}, "template means nothing under 'plain'"),
        ({"instruction": "x", "template": ["{query}{passage}"]}, "takes no instruction"),
        ({"yes": ""}, "no means nothing without yes"),
        ({"query_prefix": 3}, "query_prefix must be a text"),
    ],
)
def test_a_wrong_template_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("{", r"\{").replace("}", r"\}")):
        ScoringContract.from_dict(CONTRACTS["qwen3-reranker"].to_dict() | change)


def test_later_fields_change_no_old_fingerprint() -> None:
    """Labels and calibrations of before stay those of their models."""
    assert CARD.fingerprint == "31647e8855da27e3"
    assert DEAR.fingerprint == "c866422d6f2aa439"
    assert replace(CARD, activation="Tanh").fingerprint == CARD.fingerprint
    assert replace(CARD, query_prefix="q: ").fingerprint != CARD.fingerprint


def test_the_tables_of_known_models() -> None:
    for known in KNOWN_RERANKERS:
        assert known.contract in {**CONTRACTS, **ZERO_SHOT_PROMPTS}
    for table, find in ((KNOWN_RERANKERS, known_reranker), (KNOWN_EMBEDDERS, known_embedder)):
        for row in table:
            for pattern in row.names:
                name = pattern.replace("*", "x").replace("?", "m")
                assert find(Source(name)) == row, name  # no earlier row takes it
    assert known_reranker(Source("/models/bge-reranker-base")) is not None
    assert known_reranker(Source("somebody/else")) is None


# ---------------------------------------------------------------- positions, tokenizers


def test_a_model_of_few_positions_caps_the_contract(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(tmp_path / "m", make("bert", max_position_embeddings=100), bert_tokenizer())
    long = [(words(90), words(90))]
    card = load_scoring_model(folder, dtype="float32")
    assert card.contract == replace(CARD, max_tokens=100, dtype="float32", pooling="model")
    assert "100 positions: max_tokens is lowered from 512 to 100" in told(caplog)[0]
    given = replace(CARD, max_tokens=100)
    np.testing.assert_array_equal(
        Scorer(card).score(long),
        Scorer(load_scoring_model(folder, contract=given, dtype="float32")).score(long),
    )
    apart = load_scoring_model(folder, contract=DEAR, dtype="float32")
    assert (apart.contract.max_query_tokens, apart.contract.max_passage_tokens) == (32, 60)
    assert np.isfinite(Scorer(apart).score(long)).all()
    with pytest.raises(ConfigError, match="the model has 100 positions; lower"):
        load_scoring_model(folder, contract=replace(DEAR, max_query_tokens=95))


@pytest.mark.parametrize("kind", ["", "biencoder:"])
def test_a_tokenizer_longer_than_the_embedding(kind: str, tmp_path: Path) -> None:
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens(["riverbank"])
    auto = hf.AutoModel if kind else None
    model = make("llama", auto, vocab_size=len(tokenizer) - 1)
    folder = save(tmp_path / "m", model, tokenizer)
    with pytest.raises(ConfigError) as caught:
        Reranker(f"{kind}{folder}")
    text = str(caught.value)
    assert f"the token 'riverbank' with id {len(tokenizer) - 1}" in text
    assert "\n" not in text


def test_a_pad_token_without_a_row_is_replaced(tmp_path: Path) -> None:
    tokenizer = llama_tokenizer(pad_token="[PAD]")
    model = make("llama", vocab_size=len(tokenizer) - 1)
    folder = save(tmp_path / "m", model, tokenizer)
    scores = Reranker(folder, dtype="float32").score([*SOME, ("[PAD]", "a [PAD] b")])
    assert np.isfinite(scores).all()


# ---------------------------------------------------------------- adapters


def adapter_with_embedding(folder: Path) -> tuple[Path, Any]:
    base = save(folder / "base", make("llama", hf.AutoModelForSequenceClassification),
                llama_tokenizer())  # fmt: skip
    model = hf.AutoModelForSequenceClassification.from_pretrained(base)
    with quiet():
        model.resize_token_embeddings(408)
        lora = LoraConfig(
            task_type="SEQ_CLS",
            r=4,
            target_modules=["q_proj"],
            modules_to_save=["embed_tokens", "score"],
            init_lora_weights=False,
        )
        wrapped = get_peft_model(model, lora)
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "modules_to_save" in name:
                    weight.add_(0.1)
        wrapped.save_pretrained(folder / "adapter")
    return folder / "adapter", wrapped.eval()


@pytest.mark.filterwarnings("ignore")
def test_a_grown_embedding_that_is_saved_twice(tmp_path: Path) -> None:
    folder, live = adapter_with_embedding(tmp_path)
    stored = load_file(folder / "adapter_model.safetensors")
    assert sum("embed_tokens" in key for key in stored) > 1  # as peft writes it
    tokenizer = llama_tokenizer()
    expected = []
    for query, passage in SOME:
        inputs = tokenizer(f"query: {query}", f"document: {passage}", return_tensors="pt")
        with torch.no_grad():
            expected.append(float(live(**inputs).logits[0, 0]))
    score = Reranker(folder, dtype="float32", contract=CARD).score
    np.testing.assert_allclose(score(SOME), expected, atol=1e-4)
    # two that differ: nobody can tell which was trained
    plain = next(k for k in stored if k.endswith("model.embed_tokens.weight"))
    save_file(
        stored | {plain: stored[plain] + 1}, folder / "adapter_model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DataError, match=r"holds model\.embed_tokens\.weight twice"):
        Reranker(folder, contract=CARD)


# ---------------------------------------------------------------- code of others, slow dtypes


def test_code_of_a_repository_is_not_run(tiny: Tiny, tmp_path: Path) -> None:
    auto_map = {"AutoModelForSequenceClassification": "modeling_new.NewModel"}
    folder = marked(tiny, tmp_path / "new", model_type="new", auto_map=auto_map)
    with pytest.raises(ConfigError, match="the model type 'new' is code that comes with"):
        Reranker(folder)
    # an architecture that is known, with weights that belong to another
    folder = marked(tiny, tmp_path / "jina", auto_map=auto_map)
    weights = load_file(folder / "model.safetensors")
    odd = {k.replace("attention.self", "mixer"): v for k, v in weights.items()}
    save_file(odd, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="code of the repository's own, which DeAR does not run"):
        Reranker(folder)


def test_bfloat16_without_instructions_is_told(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for has in (True, False):
        monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda has=has: has)
        caplog.clear()
        load_scoring_model(tiny("bert"), contract=CARD, dtype="bfloat16", device="cpu")
        slow = [line for line in told(caplog) if "no bfloat16 instructions" in line]
        assert len(slow) == (not has)
    assert "0.8 GFLOP/s" in slow[0]
    caplog.clear()
    load_scoring_model(tiny("bert"), contract=CARD, device="cpu")
    assert not [line for line in told(caplog) if "bfloat16 instructions" in line]


def test_the_ways_out_that_an_error_names_are_there(tmp_path: Path) -> None:
    folder = save(tmp_path / "bert", make("bert", hf.AutoModel), bert_tokenizer())
    with pytest.raises(ConfigError, match=f"without training: biencoder:{folder}$"):
        Reranker(folder)
    assert np.isfinite(Reranker(f"biencoder:{folder}").score(SOME)).all()
    folder = save(tmp_path / "lm", make("llama", hf.AutoModelForCausalLM), llama_tokenizer())
    with pytest.raises(ConfigError, match=f"biencoder:{folder} or upr:{folder}$"):
        Reranker(folder)
    assert np.isfinite(Reranker(f"upr:{folder}").score(SOME)).all()


def test_an_instruction_needs_a_place(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="card takes no instruction"):
        Reranker(tiny("bert"), instruction="Find code.")
    folder = save(tmp_path / "lm", make("llama", hf.AutoModelForCausalLM), llama_tokenizer())
    with pytest.raises(ConfigError, match="upr: this prompt takes no instruction"):
        Reranker(f"upr:{folder}", instruction="Find code.")
    with pytest.raises(ConfigError, match="max_passage_tokens is for zero-shot readings"):
        Reranker(tiny("bert"), max_passage_tokens=9)


# ---------------------------------------------------------------- the tables in the documents


def documented(header: str) -> dict[str, str]:
    """First hub id of a row → its second cell, of the table in docs/models.md."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = page.partition(f"| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {one[0].split("`")[1]: one[1] for one in cells}


def test_the_tables_say_what_is_taken_and_are_what_is_tested() -> None:
    from public_folders import BARE_PAIRS, EMBEDDERS, TEMPLATES

    rerankers, embedders = documented("reranker"), documented("embedder")
    assert set(rerankers) >= {*BARE_PAIRS, *TEMPLATES} - {"BAAI/bge-reranker-v2-m3"}
    assert len(rerankers) >= 12
    for name, cell in rerankers.items():
        known = known_reranker(Source(name))
        assert known is not None, name
        assert known.contract in cell, name
    assert set(embedders) >= set(EMBEDDERS)
    assert len(EMBEDDERS) >= 8
    for name in set(embedders) - set(EMBEDDERS):  # the page says that they are known by name alone
        assert known_embedder(Source(name)) is not None, name
