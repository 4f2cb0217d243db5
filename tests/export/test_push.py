"""What is published: listed files, a card that the hub reads, nothing of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import contents, dear, good, read, refused
from tiny_models import BOS_TWICE, bert_tokenizer, checkpoint, llama_tokenizer, make, save

from dear.checkpoints.contract import DEAR, PLAIN
from dear.steps.export import export
from dear.steps.options import ExportOptions, PushOptions
from dear.steps.push import push

BARE = replace(PLAIN, max_tokens=300)
RESULTS: dict[str, Any] = {
    "measure": "nDCG@10",
    "queries": 30,
    "top_k": 100,
    "collection": "/home/somebody/secret/mydata",
    "rows": [
        {
            "system": "first stage",
            "name": "BM25",
            "score": 0.4,
            "interval": [0.3, 0.5],
            "difference": None,
            "p": None,
        },
        {
            "system": "student",
            "name": "student",
            "score": 0.5,
            "interval": [0.41, 0.59],
            "difference": 0.1,
            "p": 0.012,
        },
    ],
}
RECIPE = {
    "name": "mine",
    "kind": "pointwise",
    "model": {"base": "minilm-l6", "lora": None},
    "data": [
        {"collection": "nfcorpus", "split": "train"},
        {"collection": "/home/somebody/secret/mydata", "labels": ["/home/somebody/labels/mine"]},
    ],
}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A checkpoint as a distillation leaves it, with its results beside it."""
    folder = checkpoint(tmp_path / "run" / "student", "bert")
    BARE.save(folder)
    (folder / "dear_training.json").write_text(json.dumps({"recipe": RECIPE}))
    (folder.parent / "results.json").write_text(json.dumps(RESULTS))
    return folder


@pytest.fixture
def exported(student: Path, animals: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make_export(form: str) -> Path:
        folder = tmp_path / form
        export(
            ExportOptions(
                model=str(student),
                output=folder,
                format=form,
                collection=str(animals),
                check_queries=3,
                dtype="float32",
            )
        )
        return folder

    return make_export


def front_matter(card: str) -> Any:
    from huggingface_hub import ModelCard

    found = ModelCard(card)
    assert found.text.strip()
    return found.data.to_dict()


@pytest.mark.parametrize("form", ["sentence-transformers", "safetensors"])
def test_a_dry_run_is_all_that_would_be_published(
    form: str, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = exported(form)
    for stray in ("notes.txt", "optimizer.pt", "training_args.bin", "wandb.json"):
        (folder / stray).write_text("mine")
    before = contents(folder)
    out = tmp_path / "published"
    said = good(
        *("push", folder, "me/student", "--dry-run", "--output", out),
        *("--license", "apache-2.0", "--language", "en"),
    )
    assert "nothing was uploaded" in said
    assert contents(folder) == before
    published = contents(out)
    assert {"README.md", "model.safetensors", "scoring_contract.json"} <= published.keys()
    assert published.keys() <= before.keys()
    assert not {"notes.txt", "optimizer.pt", "training_args.bin", "wandb.json"} & published.keys()
    assert published["model.safetensors"] == before["model.safetensors"]
    for name, data in published.items():
        for secret in (b"somebody", str(tmp_path).encode()):
            assert secret not in data, name


def test_a_card_says_what_the_hub_and_a_person_ask(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    found = push(
        PushOptions(
            folder=exported("sentence-transformers"),
            repo="me/student",
            dry_run=True,
            output=tmp_path / "out",
            license="mit",
            language=("en",),
        )
    )
    assert found.url is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card) == {
        "language": ["en"],
        "license": "mit",
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "tags": ["cross-encoder", "reranker"],
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "datasets": ["BeIR/nfcorpus"],
    }
    for wanted in (
        'CrossEncoder("me/student"',
        'Reranker("me/student")',
        "vllm serve me/student",
        "text-embeddings-router --model-id me/student",
        "| **student** | 0.5000 | 0.4100 – 0.5900 | +0.1000 | 0.0120 |",
        "30 queries of mydata",
        "bare pairs of at most 300 tokens",
        '"base": "minilm-l6"',
        "| nfcorpus | academic use only |",
        "## Limits",
        "## Certificate",
        "computed by sentence-transformers",
    ):
        assert wanted in card, wanted


def test_a_template_is_fetched_before_vllm_reads_it(animals: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "source", make("llama"), llama_tokenizer(BOS_TWICE))
    replace(DEAR, max_query_tokens=150, max_passage_tokens=300).save(source)
    export(
        ExportOptions(
            model=str(source),
            output=tmp_path / "form",
            format="safetensors",
            collection=str(animals),
            check_queries=3,
        )
    )
    good("push", tmp_path / "form", "me/llama", "--dry-run", "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "hf download me/llama score_template.jinja" in card
    assert "--chat-template score_template.jinja" in card
    assert front_matter(card)["library_name"] == "transformers"
    assert (tmp_path / "out" / "score_template.jinja").is_file()


def test_a_card_names_the_words_that_the_tokenizer_places(animals: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "bert")
    replace(DEAR, max_query_tokens=150, max_passage_tokens=300).save(source)
    export(
        ExportOptions(
            model=str(source),
            output=tmp_path / "form",
            format="sentence-transformers",
            collection=str(animals),
            check_queries=3,
        )
    )
    good("push", tmp_path / "form", "me/words", "--dry-run", "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The tokenizer places `query :` before the query and `document :` before" in card
    assert "cuts a query at 148 tokens and a passage at 298" in card
    assert "text-embeddings-router --model-id me/words" in card


def test_a_biencoder_is_shown_as_one(tmp_path: Path) -> None:
    from dear.train.biencoder import write_modules

    folder = save(tmp_path / "bi", make("bert"), bert_tokenizer())
    write_modules(folder, 80, 32)
    training = {"recipe": {**RECIPE, "kind": "biencoder"}}
    (folder / "dear_training.json").write_text(json.dumps(training))
    good("push", folder, "me/bi", "--dry-run", "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert front_matter(card)["pipeline_tag"] == "sentence-similarity"
    assert 'SentenceTransformer("me/bi")' in card
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


def test_other_weights_than_the_certified_are_refused(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = exported("safetensors")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"gelu"', '"relu"'))
    line = refused("push", folder, "--dry-run", "--output", tmp_path / "out")
    assert "its files are not those of dear_certificate.json" in line
    assert not (tmp_path / "out").exists()


def test_a_path_or_a_token_is_not_published(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = exported("sentence-transformers"), tmp_path / "out"
    settings = folder / "scoring_contract.json"
    values = read(settings)
    settings.write_text(json.dumps({**values, "query_prefix": f"{Path.home()}/texts: "}))
    assert "a path of this machine" in refused("push", folder, "--dry-run", "-o", out)
    settings.write_text(json.dumps({**values, "query_prefix": "hf_0123456789 "}))
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    assert "your token" in refused("push", folder, "--dry-run", "-o", out)
    assert not list(out.iterdir())


def test_what_is_no_model_of_ones_own_is_refused(student: Path, tmp_path: Path) -> None:
    assert "push needs OWNER/NAME" in refused("push", student)
    (student / "adapter_config.json").write_text("{}")
    assert "--format safetensors" in refused("push", student, "--dry-run")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no weights" in refused("push", empty, "--dry-run")
    assert "no such folder" in refused("push", tmp_path / "gone", "--dry-run")


def test_without_the_hub_it_is_one_line(student: Path, tmp_path: Path) -> None:
    """The tests run offline."""
    done = dear("push", student, "me/student", "--output", tmp_path / "out")
    assert done.status == 2
    assert "me/student: not uploaded" in done.err.splitlines()[-1]
    assert (tmp_path / "out" / "README.md").is_file()
