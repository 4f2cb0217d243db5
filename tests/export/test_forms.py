"""Exports score as their checkpoint does, in the programs that they are for, or are not there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import contents
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import BOS_TWICE, bert_tokenizer, checkpoint, llama_tokenizer, make, pairs, save
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dear import Reranker
from dear.checkpoints.contract import CARD, CONTRACT_FILE, DEAR, PLAIN, ScoringContract
from dear.checkpoints.registry import locate
from dear.errors import ConfigError, DataError
from dear.evaluate.calibration import Calibration, calibrate
from dear.evaluate.reliability import JudgedScores
from dear.export import merged
from dear.export.certificate import CERTIFICATE_FILE, THRESHOLDS, read_certificate
from dear.export.score_template import SCORE_TEMPLATE
from dear.scoring.opening import open_model
from dear.steps.export import ExportResult, export
from dear.steps.options import ExportOptions

SOME = pairs(12, longest=20)
WIDE = replace(DEAR, max_query_tokens=150, max_passage_tokens=300)
BARE = replace(PLAIN, max_tokens=500)


def exported(source: Path, folder: Path, form: str, animals: Path, **options: Any) -> ExportResult:
    return export(
        ExportOptions(
            model=str(source),
            output=folder,
            format=form,
            collection=str(animals),
            check_queries=3,
            **options,
        )
    )


def of_contract(folder: Path, kind: str, contract: ScoringContract) -> Path:
    source = checkpoint(folder, kind)
    contract.save(source)
    return source


def scores(folder: Path) -> Any:
    return open_model(folder, dtype="float32").score(SOME)


# -- transformers ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "llama", "roberta"])
def test_a_merged_checkpoint_scores_in_transformers_and_in_dear(
    kind: str, animals: Path, tmp_path: Path
) -> None:
    source = of_contract(tmp_path / "source", kind, WIDE)
    found = exported(source, tmp_path / "out", "safetensors", animals, dtype="float32")
    assert found.certificate is not None
    assert found.certificate.alike == found.certificate.pairs
    assert found.certificate.tau == 1.0
    np.testing.assert_allclose(scores(tmp_path / "out"), scores(source), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    batch = tokenizer(
        [f"query: {query}" for query, _ in SOME],
        [f"document: {passage}" for _, passage in SOME],
        truncation=True,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        theirs = model(**batch).logits[:, 0].numpy()
    np.testing.assert_allclose(theirs, scores(source), atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_an_adapter_is_merged(animals: Path, tmp_path: Path) -> None:
    base = save(tmp_path / "base", make("llama"), llama_tokenizer(BOS_TWICE))
    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=1),
        LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False),
    )
    source = save(tmp_path / "adapter", model, llama_tokenizer(BOS_TWICE))
    WIDE.save(source)
    exported(source, tmp_path / "out", "safetensors", animals, dtype="float32")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    np.testing.assert_allclose(scores(tmp_path / "out"), scores(source), atol=1e-5)
    assert np.abs(scores(tmp_path / "out") - scores(base)).max() > 0.01


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_in_the_dtype_that_is_asked_for(
    dtype: str, animals: Path, tmp_path: Path
) -> None:
    source = of_contract(tmp_path / "source", "bert", WIDE)
    exported(source, tmp_path / "out", "safetensors", animals, dtype=dtype)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {getattr(torch, dtype)}
    contract = ScoringContract.load(tmp_path / "out")
    assert contract is not None
    assert contract.dtype == dtype
    assert not contract.differences(WIDE, ignore=("dtype", "pooling"))


def test_a_decoder_gets_what_vllm_needs(animals: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "source", make("llama"), llama_tokenizer(BOS_TWICE))
    replace(WIDE, append_eos=True).save(source)
    found = exported(source, tmp_path / "out", "safetensors", animals, dtype="float32")
    assert found.certificate is not None
    # through the template, and not at the pad token, which is the one that was appended
    assert found.certificate.largest_difference < 1e-4
    assert (tmp_path / "out" / SCORE_TEMPLATE).is_file()
    readme = (tmp_path / "out" / "README.md").read_text()
    for wanted in (
        "vllm serve out",
        "--runner pooling",
        "--convert classify",
        f"--chat-template out/{SCORE_TEMPLATE}",
        "--max-model-len 453",
        '"max_tokens_per_query"',
    ):
        assert wanted in readme
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["sentence_transformers"]["activation_fn"].endswith("Identity")


def test_the_map_to_probabilities_goes_along(animals: Path, tmp_path: Path) -> None:
    source = of_contract(tmp_path / "source", "bert", WIDE)
    opened = open_model(source, dtype="float32")
    rng = np.random.default_rng(0)
    judged = JudgedScores(
        scores=rng.normal(size=60), relevant=rng.random(60) < 0.4, query=np.repeat(range(6), 10)
    )
    judged.scores[judged.relevant] += 2
    calibrate(judged, "platt", revision=opened.revision, contract=opened.contract.to_dict()).save(
        source
    )
    for form in ("safetensors", "sentence-transformers"):
        folder = tmp_path / form
        exported(source, folder, form, animals, dtype="float32")
        before, after = Calibration.load(source), Calibration.load(folder)
        assert after.map == before.map
        mine, theirs = (Reranker(f, dtype="float32").probability(SOME) for f in (folder, source))
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


# -- sentence-transformers -----------------------------------------------------------------


def library_scores(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), local_files_only=True, device="cpu")
    return model.predict(list(SOME), show_progress_bar=False)


CONTRACTS_IN_THE_LIBRARY = {
    "bare": BARE,
    "prompt": replace(BARE, query_prefix="find: "),
    "words": WIDE,
    "words, one length": replace(CARD, max_tokens=500),
    "appended": replace(WIDE, append_eos=True),
}


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("name", CONTRACTS_IN_THE_LIBRARY)
def test_the_library_gives_the_same_scores(
    kind: str, name: str, animals: Path, tmp_path: Path
) -> None:
    if name == "appended" and kind != "llama":
        pytest.skip("an encoder's tokenizer has no such token")
    source = of_contract(tmp_path / "source", kind, CONTRACTS_IN_THE_LIBRARY[name])
    found = exported(source, tmp_path / "out", "sentence-transformers", animals)
    assert found.certificate is not None
    assert found.certificate.alike == found.certificate.pairs
    assert found.certificate.program.startswith("sentence-transformers ")
    np.testing.assert_allclose(library_scores(tmp_path / "out"), scores(source), atol=1e-4)
    np.testing.assert_allclose(scores(tmp_path / "out"), scores(source), atol=1e-5)


def test_a_real_encoder_in_the_library(tmp_path: Path) -> None:
    """MiniLM's own vocabulary, on the pairs that are on every machine; a head that was not
    trained."""
    torch.manual_seed(0)
    base = locate("minilm-l6").path
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    source = save(tmp_path / "source", model, AutoTokenizer.from_pretrained(base))
    DEAR.save(source)
    found = export(
        ExportOptions(
            model=str(source),
            output=tmp_path / "out",
            format="sentence-transformers",
            check_queries=3,
        )
    )
    assert found.certificate is not None
    assert found.certificate.alike > 20
    assert found.certificate.largest_difference < 1e-5
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("a river", "the bank")["input_ids"]
    words = AutoTokenizer.from_pretrained(base)
    assert words.decode(ids) == "[CLS] query : a river [SEP] document : the bank [SEP]"


CHAT = ScoringContract(
    name="chat",
    prompt="template",
    template=("<s>Does it answer?\n", "{query}", "</s>", "{passage}", "</s>yes or no:"),
    truncation="pair",
    max_tokens=600,
    add_special_tokens=False,
)


def test_a_template_becomes_a_chat_template(animals: Path, tmp_path: Path) -> None:
    source = of_contract(tmp_path / "source", "llama", CHAT)
    found = exported(source, tmp_path / "out", "sentence-transformers", animals)
    assert found.certificate is not None
    assert found.certificate.largest_difference < 1e-4
    np.testing.assert_allclose(library_scores(tmp_path / "out"), scores(source), atol=1e-4)


def test_what_the_library_cannot_read_is_refused(animals: Path, tmp_path: Path) -> None:
    """A word that is tokenised in two segments is another one in one text."""
    contract = replace(CHAT, template=("bri", "dge {query}", "</s>{passage}"))
    source = of_contract(tmp_path / "source", "llama", contract)
    with pytest.raises(ConfigError, match="cannot read pairs as its contract has them"):
        exported(source, tmp_path / "out", "sentence-transformers", animals)
    assert not list((tmp_path / "out").iterdir())


def test_pairs_that_are_cut_elsewhere_are_counted_and_told(animals: Path, tmp_path: Path) -> None:
    # of the collection's passages, a third have more tokens than that
    contract = replace(DEAR, max_query_tokens=30, max_passage_tokens=48)
    source = of_contract(tmp_path / "source", "bert", contract)
    found = exported(source, tmp_path / "out", "sentence-transformers", animals)
    certificate = found.certificate
    assert certificate is not None
    assert 0 < certificate.alike < certificate.pairs
    assert certificate.tau == 1.0
    assert certificate.tau_all < 1.0
    assert "cut elsewhere" in certificate.figures
    assert "scores of pairs that are cut differ" in (tmp_path / "out/README.md").read_text()


def test_what_is_mostly_cut_elsewhere_is_refused(animals: Path, tmp_path: Path) -> None:
    contract = replace(DEAR, max_query_tokens=40, max_passage_tokens=20)
    source = of_contract(tmp_path / "source", "bert", contract)
    with pytest.raises(ConfigError, match="pairs are read as the same tokens"):
        exported(source, tmp_path / "out", "sentence-transformers", animals)


@pytest.mark.parametrize(
    ("kind", "contract", "said"),
    [
        ("bert", BARE, "text-embeddings-router --model-id out"),
        ("llama", BARE, "Not served: it has no classifier of the type `llama`"),
    ],
)
def test_the_readme_says_what_tei_serves(
    kind: str, contract: ScoringContract, said: str, animals: Path, tmp_path: Path
) -> None:
    source = of_contract(tmp_path / "source", kind, contract)
    exported(source, tmp_path / "out", "sentence-transformers", animals)
    assert said in (tmp_path / "out" / "README.md").read_text()


# -- certificates --------------------------------------------------------------------------


def test_a_certificate_is_what_was_computed(animals: Path, tmp_path: Path) -> None:
    source = of_contract(tmp_path / "source", "bert", WIDE)
    found = exported(source, tmp_path / "out", "safetensors", animals)
    assert read_certificate(tmp_path / "out") == found.certificate
    certificate = found.certificate
    assert certificate is not None
    assert certificate.source == str(source)
    assert (certificate.queries, certificate.dtype) == (3, "bfloat16")
    assert certificate.ndcg is not None
    assert certificate.machine["transformers"]
    assert read_certificate(source) is None
    (tmp_path / "out" / CERTIFICATE_FILE).write_text('{"version": "dear-certificate/1"}')
    with pytest.raises(DataError, match=r"dear_certificate\.json"):
        read_certificate(tmp_path / "out")


def test_the_documents_name_the_thresholds() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    for dtype, held in THRESHOLDS.items():
        (row,) = [row for row in rows if len(row) == 6 and row[1] == dtype]
        assert row[2].endswith(f"{held.difference:g}")
        assert row[3].endswith(f"{held.tau:g}")
        assert row[4].endswith(f"{held.ndcg:g}")


def test_every_export_is_certified_without_a_collection(reranker: Path, tmp_path: Path) -> None:
    WIDE.save(reranker)
    found = export(
        ExportOptions(
            model=str(reranker), output=tmp_path / "out", format="safetensors", check_queries=6
        )
    )
    assert found.certificate is not None
    assert found.certificate.queries == 6
    assert "asyncio" in found.certificate.texts
    assert found.certificate.ndcg is not None


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("safetensors", "float32"),
        ("safetensors", "bfloat16"),
        ("sentence-transformers", "float32"),
        ("openvino", "bfloat16"),
    ],
)
def test_a_broken_export_is_refused_and_nothing_is_left(
    form: str, dtype: str, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are disturbed behind the writer's back, before the program reads them."""
    if form == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    source = of_contract(tmp_path / "source", "bert", WIDE)
    disturb(form, monkeypatch)
    with pytest.raises(ConfigError) as refused:
        exported(source, tmp_path / "out", form, animals, dtype=dtype)
    assert "is not the checkpoint" in str(refused.value)
    assert "tau" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "out").iterdir())


def disturb(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negate the head: what a writer that loses a sign would do."""
    if form == "openvino":
        from dear.export import openvino

        original = openvino.scoring_graph

        def broken(ov: Any, model: Any) -> Any:
            with torch.no_grad():
                model.model.classifier.weight.neg_()
            return original(ov, model)

        monkeypatch.setattr(openvino, "scoring_graph", broken)
        return
    write = merged.write_weights

    def spoilt(model: Any, folder: Path, *rest: Any) -> None:
        write(model, folder, *rest)
        path = folder / "model.safetensors"
        weights = load_file(path)
        weights["classifier.weight"] = -weights["classifier.weight"]
        save_file(weights, path, metadata={"format": "pt"})

    for module in ("merged", "cross_encoder"):
        monkeypatch.setattr(f"dear.export.{module}.write_weights", spoilt)


def test_an_export_is_kept_or_refused_by_what_it_was_made_of(animals: Path, tmp_path: Path) -> None:
    source = of_contract(tmp_path / "source", "bert", WIDE)
    exported(source, tmp_path / "out", "safetensors", animals)
    before = contents(tmp_path / "out")
    assert exported(source, tmp_path / "out", "safetensors", animals).unchanged
    with pytest.raises(ConfigError, match=r"settings\.format: 'safetensors' there"):
        exported(source, tmp_path / "out", "sentence-transformers", animals, dtype="bfloat16")
    assert contents(tmp_path / "out") == before


def test_no_checkpoint_is_written_over(animals: Path, tmp_path: Path) -> None:
    source = of_contract(tmp_path / "source", "bert", WIDE)
    before = contents(source)
    with pytest.raises(DataError, match="is not empty"):
        exported(source, source, "safetensors", animals)
    assert contents(source) == before


def test_what_cannot_be_exported_is_one_line(animals: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'safetensors'"):
        ExportOptions(model="x", output=tmp_path, format="safetensor")
    with pytest.raises(ConfigError, match="bfloat16, float32 or float16"):
        ExportOptions(model="x", output=tmp_path, format="safetensors", dtype="int8")
    trained = save(tmp_path / "bi", make("bert"), bert_tokenizer())
    (trained / "dear_training.json").write_text('{"recipe": {"kind": "biencoder"}}')
    with pytest.raises(ConfigError, match="already one of sentence-transformers'"):
        exported(trained, tmp_path / "out", "sentence-transformers", animals)
    assert not (tmp_path / "out").exists()
    assert (trained / CONTRACT_FILE).exists() is False
