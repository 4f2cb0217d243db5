"""Every published name loads from a local copy, with its contract, and scores as its card says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_folders import LISTS, PUBLISHED, SCORERS, logits, oracle, write_base, write_family
from published_tokenizers import LLAMA2
from tiny_models import words

from dear.checkpoints.contract import CARD, CONTRACTS, RANKLLAMA
from dear.checkpoints.contract_resolution import LIST_CONTRACTS, contract_of
from dear.checkpoints.registry import FAMILY, family_of, is_present, locate, place_of
from dear.errors import BackendError, ConfigError, ContractMismatch
from dear.listwise.loading import load_list_model
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer

# short, ordinary, and beyond every limit on either side
PAIRS = [
    (words(q, q), words(p, p + 1)) for q, p in ((1, 3), (5, 30), (60, 20), (8, 400), (90, 700))
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def models(family: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEAR_MODELS", str(family))
    return family


def scores(name: Path | str, **options: Any) -> np.ndarray[Any, Any]:
    return Scorer(load_scoring_model(name, **{"dtype": "float32"} | options)).score(PAIRS)


def as_published(tokenizer: Any, contract: str) -> list[list[int]]:
    """Token ids as the model card, or Tevatron's code for RankLLaMA, makes them."""
    if contract == "card":
        return [
            tokenizer(f"query: {q}", f"document: {p}", truncation=True, max_length=512)["input_ids"]
            for q, p in PAIRS
        ]

    def cut(text: str, limit: int) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:limit]
        return [tokenizer.bos_token_id, *ids]

    return [cut(f"query: {q}", 32) + cut(f"document: {p}", 164 - 3) for q, p in PAIRS]


@pytest.mark.parametrize("name", SCORERS)
def test_a_published_scorer_scores_as_published(name: str, models: Path) -> None:
    row = FAMILY[name]
    loaded = load_scoring_model(name, dtype="float32")
    assert loaded.name == name
    assert replace(loaded.contract, dtype="auto") == CONTRACTS[row.contract]
    base = models / row.base if row.form == "LoRA" else None
    model, tokenizer = oracle(models / row.hub, base)
    expected = logits(model, as_published(tokenizer, row.contract)).numpy()
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(Scorer(loaded).score(PAIRS), expected, atol=1e-5)
    # the limits are at work: without them another score comes out
    freely = [
        tokenizer(f"query: {q}", f"document: {p}")["input_ids"] for q, p in (PAIRS[0], PAIRS[-1])
    ]
    short, long = logits(model, freely).numpy()
    assert abs(short - expected[0]) < 1e-5
    assert abs(long - expected[-1]) > 1e-3


@pytest.mark.parametrize("name", ["rankllama-7b", "dear-3b-reranker-ce-v1"])
def test_a_hub_id_and_a_folder_are_the_same_model(name: str, models: Path) -> None:
    row = FAMILY[name]
    expected = scores(name)
    for other in (row.hub, models / row.hub):
        loaded = load_scoring_model(other, dtype="float32")
        assert replace(loaded.contract, dtype="auto") == CONTRACTS[row.contract]
        np.testing.assert_allclose(Scorer(loaded).score(PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize("name", LISTS)
def test_a_published_list_model_asks_as_it_was_taught(name: str, models: Path) -> None:
    row = FAMILY[name]
    loaded = load_list_model(name, dtype="float32")
    assert loaded.taught
    assert loaded.contract == LIST_CONTRACTS["reasoning"]
    assert loaded.contract.thought
    base = models / row.base if row.form == "LoRA" else None
    model, tokenizer = oracle(models / row.hub, base, task="CAUSAL_LM")
    ids = torch.tensor([tokenizer(words(40))["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- where a name leads


@pytest.mark.parametrize(
    "place", ["castorini/rankllama-v1-7b-lora-passage", "rankllama-v1-7b-lora-passage"]
)
@pytest.mark.parametrize("typed", ["rankllama-7b", "castorini/rankllama-v1-7b-lora-passage"])
def test_a_local_copy_stands_for_a_name(
    typed: str, place: str, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its owner's folder or without, the adapter and its base alike."""
    shutil.copytree(family / FAMILY["rankllama-7b"].hub, tmp_path / place)
    shutil.copytree(family / "meta-llama" / "Llama-2-7b-hf", tmp_path / "Llama-2-7b-hf")
    monkeypatch.setenv("DEAR_MODELS", str(tmp_path))
    assert locate(typed).folder == tmp_path / place
    assert locate(typed).name == typed  # what an adapter on it would name as its base
    assert place_of(typed) == place_of("meta-llama/Llama-2-7b-hf") == "DEAR_MODELS"
    assert is_present(FAMILY["rankllama-7b"])
    ours = scores(typed)
    monkeypatch.setenv("DEAR_MODELS", str(family))
    np.testing.assert_allclose(scores(typed), ours, atol=1e-5)


def test_a_copy_under_the_familys_own_name(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rankllama-7b").symlink_to(family / FAMILY["rankllama-7b"].hub)
    monkeypatch.setenv("DEAR_MODELS", str(tmp_path))
    assert locate("rankllama-7b").folder == family / FAMILY["rankllama-7b"].hub
    with pytest.raises(BackendError, match=r"Llama-2-7b-hf: .*not in the hub's cache"):
        load_scoring_model("rankllama-7b")


def test_without_copies_a_name_is_one_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: Path
) -> None:
    """A revision is the hub's: a folder could not say which one it holds."""
    assert locate("rankllama-7b", revision="main").path == FAMILY["rankllama-7b"].hub
    assert locate("some/other").path == "some/other"
    monkeypatch.delenv("DEAR_MODELS")
    for name in PUBLISHED:
        assert locate(name).path == FAMILY[name].hub
    monkeypatch.setenv("DEAR_MODELS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"DEAR_MODELS: no such folder: .*none"):
        locate("rankllama-7b")
    assert locate("minilm-l6").folder is not None


def test_an_adapter_and_its_base_in_the_hubs_cache(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, commit = FAMILY["rankllama-7b"], "0123456789abcdef0123456789abcdef01234567"
    for hub in (row.hub, row.base):
        repository = tmp_path / f"models--{hub.replace('/', '--')}"
        shutil.copytree(family / hub, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert place_of("rankllama-7b") == place_of(row.base) == "cache"
    assert place_of("rankllama-13b") is None
    loaded = load_scoring_model("rankllama-7b", dtype="float32")
    assert loaded.revision == f"{commit}+{commit}"
    cached = Scorer(loaded).score(PAIRS)
    snapshot = tmp_path / f"models--{row.hub.replace('/', '--')}" / "snapshots" / commit
    assert family_of(locate(snapshot)) is row
    monkeypatch.setenv("DEAR_MODELS", str(family))
    np.testing.assert_allclose(scores("rankllama-7b"), cached, atol=1e-5)


# ---------------------------------------------------------------- contracts


def test_the_published_contracts() -> None:
    for name in SCORERS:
        owner = FAMILY[name].hub.split("/")[0]
        expected = {"abdoelsayed": CARD, "castorini": RANKLLAMA}[owner]
        assert contract_of(locate(name)) == contract_of(locate(FAMILY[name].hub)) == expected
    assert contract_of(locate("some/other")) == CARD
    assert PAIR_PROMPTS[RANKLLAMA.prompt].render("q", "t p") == ("query: q", "document: t p")
    assert not RANKLLAMA.append_eos


def test_a_stored_contract_goes_before_the_published_one(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "rankllama-7b"
    shutil.copytree(family / FAMILY["rankllama-7b"].hub, folder)
    shutil.copytree(family / "meta-llama", tmp_path / "meta-llama")
    monkeypatch.setenv("DEAR_MODELS", str(tmp_path))
    published = scores("rankllama-7b")
    stored = replace(RANKLLAMA, max_passage_tokens=7, append_eos=True)
    stored.save(folder)
    assert contract_of(locate("rankllama-7b")) == stored
    assert np.abs(scores("rankllama-7b") - published).max() > 1e-3
    with pytest.raises(ContractMismatch, match="max_passage_tokens: 7, not 161"):
        load_scoring_model("rankllama-7b", contract=RANKLLAMA)


# ---------------------------------------------------------------- the wrong door


@pytest.mark.parametrize("name", LISTS)
def test_a_list_model_is_no_scorer(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"orders lists .* --listwise local:{name}"):
        open_model(name)
    # where nothing but the folder's own files tells what it is
    unnamed = shutil.copytree(models / FAMILY[name].hub, tmp_path / "m")
    with pytest.raises(ConfigError) as caught:
        open_model(unnamed)
    text = str(caught.value)
    assert "\n" not in text
    # an adapter says what it is of; a whole model, what it lacks
    says = "for lists it opens as --listwise local:" if "-lora-" in name else "(score.weight)"
    assert says in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rankllama-7b", "the adapter of a one-logit model, not of a listwise one"),
        ("dear-8b-reranker-ce-v1", "has no vocabulary's head"),
    ],
)
def test_a_scorer_is_no_list_model(name: str, says: str, models: Path, tmp_path: Path) -> None:
    unnamed = shutil.copytree(models / FAMILY[name].hub, tmp_path / "m")
    for typed in (name, unnamed):
        with pytest.raises(ConfigError) as caught:
            load_list_model(typed)
        text = str(caught.value)
        assert "\n" not in text
        assert says in text


def test_a_tied_scorer_may_read_lists(models: Path) -> None:
    """Llama-3.2-3B's embeddings are its vocabulary's head: nothing is missing."""
    assert load_list_model("dear-3b-reranker-ce-v1", dtype="float32").parameters > 0


# ---------------------------------------------------------------- dear models


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    from dear.cli.main import main

    def run(*words: str) -> str:
        assert main(["models", *words]) == 0
        return capsys.readouterr().out

    return run


def test_dear_models_says_what_is_here(
    listed: Any, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rankllama-7b").symlink_to(family / FAMILY["rankllama-7b"].hub)
    write_base(tmp_path / "abdoelsayed" / "llama2-13b-rankllama-teacher", LLAMA2, scorer=True)
    monkeypatch.setenv("DEAR_MODELS", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(listed("--json"))}
    assert list(rows) == list(FAMILY)
    assert rows["rankllama-7b"]["place"] == "DEAR_MODELS"
    assert rows["rankllama-7b"]["base_place"] is None
    assert rows["llama2-13b-rankllama-teacher"]["present"]
    assert not rows["dear-8b-reranker-ce-v1"]["present"]
    assert rows["minilm-l6"]["place"] == "package"
    assert {rows[name]["contract"] for name in SCORERS} == {"card", "rankllama"}
    lines = {line.split()[0]: line for line in listed().splitlines()[1:]}
    assert lines["rankllama-7b"].endswith("DEAR_MODELS; base: hub")
    assert lines["rankllama-7b"].split()[1:4] == ["7B", "LoRA", "rankllama"]
    assert lines["dear-8b-reranker-listwise-lora-v1"].endswith("hub")
