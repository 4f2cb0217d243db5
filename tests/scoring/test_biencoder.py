"""The bi-encoder: sentence-transformers is the oracle, on the real weights and on small ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import bert_tokenizer, llama_tokenizer, make, pairs, save, words

from dear.checkpoints.registry import locate
from dear.errors import BackendError, ConfigError, DataError
from dear.scoring.biencoder import BiEncoder
from dear.scoring.tensors import collate

SOME = [*pairs(8, seed=2, longest=60), (words(20, 1), words(400, 2)), ("", ""), ("open", "")]


def sentence_transformer(folder: Path | str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def cosines(folder: Path | str, some: list[tuple[str, str]]) -> np.ndarray[Any, Any]:
    oracle = sentence_transformer(folder)
    a = oracle.encode_query([q for q, _ in some], normalize_embeddings=True)
    b = oracle.encode_document([p for _, p in some], normalize_embeddings=True)
    return (a * b).sum(-1)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def minilm() -> BiEncoder:
    return BiEncoder("minilm-l6", dtype="float32")


def test_minilm_is_sentence_transformers_cosine(minilm: BiEncoder) -> None:
    some = [
        ("how do I open a file?", "def open(file, mode='r'): Open file and return a stream."),
        ("how do I open a file?", "The bank of a river."),
        ("Fläche", words(700)),
        *SOME,
    ]
    expected = cosines(locate("minilm-l6").path, some)
    scores = minilm.score(some)
    assert minilm.max_tokens == 256
    assert scores[0] > scores[1] + 0.2
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder with sentence-transformers' own files, pooled as asked."""

    def build(
        mode: str = "mean",
        kind: str = "bert",
        prompts: dict[str, str] | None = None,
        normalise: bool = True,
    ) -> Path:
        if kind == "bert":
            tokenizer = bert_tokenizer(model_max_length=20)
        else:
            tokenizer = llama_tokenizer("", pad_token="</s>", model_max_length=20)
        base = save(tmp_path / "base", make(kind, hf.AutoModel), tokenizer)
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules

        parts = [modules.Transformer(str(base)), modules.Pooling(32, pooling_mode=mode)]
        if normalise:
            parts.append(modules.Normalize())
        SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(
            str(tmp_path / "st"), create_model_card=False
        )
        return tmp_path / "st"

    return build


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("normalise", [True, False])
def test_every_pooling(mode: str, kind: str, normalise: bool, folder: Callable[..., Path]) -> None:
    path = folder(mode, kind, normalise=normalise)
    some = [(q or "a", p or "b") for q, p in SOME]
    model = BiEncoder(path, dtype="float32")
    assert model.max_tokens == 20
    expected = cosines(path, some)
    assert expected.std() > 0.002  # the tolerance is a two-hundredth of it
    np.testing.assert_allclose(model.score(some), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_prompts_are_read(folder: Callable[..., Path]) -> None:
    path = folder(prompts={"query": "query: ", "document": "document: "})
    model = BiEncoder(path, dtype="float32")
    assert (model.query_prompt, model.passage_prompt) == ("query: ", "document: ")
    np.testing.assert_allclose(model.score(SOME), cosines(path, SOME), atol=1e-5)
    plain = BiEncoder(folder(), dtype="float32")
    assert model.fingerprint != plain.fingerprint


@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_settings_is_mean_and_256(folder: Callable[..., Path]) -> None:
    model = BiEncoder(folder().parent / "base", dtype="float32")
    assert (model.pooling, model.query_prompt) == ("mean", "")
    assert model.max_tokens == min(256, model.tokenizer.model_max_length)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "best"}, r"no pooling \['best'\]; known: cls"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "x"]}, r"no pooling \['x'\]"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "cosin"}, "'cosine'"),
    ],
)
def test_what_is_not_read_is_refused(
    file: str, change: dict[str, Any], says: str, folder: Callable[..., Path]
) -> None:
    path = folder()
    config = json.loads((path / file).read_text()) | change
    (path / file).write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=says):
        BiEncoder(path)


@pytest.mark.filterwarnings("ignore")
def test_a_dense_layer_without_its_files(folder: Callable[..., Path]) -> None:
    path = folder()
    modules = json.loads((path / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (path / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(DataError, match=r"no 3_Dense/config\.json"):
        BiEncoder(path)
    (path / "3_Dense").mkdir()
    config = {"in_features": 32, "out_features": 8, "bias": False}
    (path / "3_Dense" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"no 3_Dense/model.safetensors"):
        BiEncoder(path)
    (path / "3_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="is a pickle, which DeAR does not open"):
        BiEncoder(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json"])
def test_broken_settings_are_named(name: str, folder: Callable[..., Path]) -> None:
    path = folder()
    (path / name).write_text("{broken")
    with pytest.raises(DataError, match=name):
        BiEncoder(path)


def test_old_pooling_files_are_read(tmp_path: Path) -> None:
    """One switch for each mode, as versions before 5 wrote them."""
    path = save(tmp_path / "m", make("bert", hf.AutoModel), bert_tokenizer())
    (path / "1_Pooling").mkdir()
    for key, pooling in (
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_lasttoken", "last"),
    ):
        switches = {"pooling_mode_cls_token": False, "word_embedding_dimension": 32} | {key: True}
        (path / "1_Pooling" / "config.json").write_text(json.dumps(switches))
        assert BiEncoder(path).pooling == pooling
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(both))
    assert BiEncoder(path).pooling == "cls+mean"


def test_company_changes_nothing(minilm: BiEncoder) -> None:
    expected = [minilm.score([pair])[0] for pair in SOME]
    for budget in (1, 100, 10**5):
        model = BiEncoder("minilm-l6", dtype="float32", batch_tokens=budget)
        order = np.random.default_rng(budget).integers(0, len(SOME), 15)
        scores = model.score([SOME[i] for i in order])
        np.testing.assert_allclose(scores, np.array(expected)[order], atol=1e-5)


def test_prepared_texts_are_embedded_once(
    minilm: BiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    embed = minilm._embed
    monkeypatch.setattr(
        minilm.dual,
        "_represent",
        lambda texts, *rest: calls.append(len(texts)) or embed(texts, *rest),
    )
    monkeypatch.setattr(minilm.dual, "prepared", {})
    minilm.prepare(SOME)
    minilm.prepare(SOME[:3])
    scores = minilm.score(SOME)
    again = minilm.score(SOME[::-1])[::-1]
    assert calls == [len({t for pair in SOME for t in pair}), 0, 0, 0]
    np.testing.assert_array_equal(scores, again)


def test_a_score_does_not_depend_on_what_was_scored_before(
    minilm: BiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: a text's company in its batch decides on those."""
    monkeypatch.setattr(minilm.dual, "prepared", {})
    alone = minilm.score(SOME[:1])
    minilm.score(SOME)
    assert minilm.score(SOME[:1]).tobytes() == alone.tobytes()
    assert minilm.dual.prepared == {}  # a server does not grow for ever, either


def progress_of(model: BiEncoder) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    model.score(SOME, lambda done, total: seen.append((done, total)))
    return seen


def test_progress_counts_pairs(minilm: BiEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm.dual, "prepared", {})
    monkeypatch.setattr(minilm, "batch_tokens", 100)
    for _ in range(2):
        seen = progress_of(minilm)
        assert [t for _, t in seen] == [len(SOME)] * len(seen)
        assert [d for d, _ in seen] == sorted(d for d, _ in seen)
        assert seen[-1] == (len(SOME), len(SOME))
        minilm.prepare(SOME)


def test_vectors_have_length_one(minilm: BiEncoder) -> None:
    vectors = minilm.embed([words(5), "", "é"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    assert minilm.embed([]).shape == (0, 384)
    assert minilm.score([]).shape == (0,)


def test_a_text_of_no_tokens_is_read(tmp_path: Path) -> None:
    tokenizer = llama_tokenizer("", pad_token="</s>")
    model = BiEncoder(save(tmp_path / "m", make("llama", hf.AutoModel), tokenizer))
    assert np.isfinite(model.score([("", ""), ("", "river")])).all()


def test_a_score_that_is_no_number_names_its_pair(tmp_path: Path) -> None:
    model = BiEncoder(save(tmp_path / "m", make("bert", hf.AutoModel), bert_tokenizer()))
    with torch.no_grad():
        model.model.embeddings.word_embeddings.weight[:] = torch.nan
    with pytest.raises(BackendError, match="nan for query 'a', passage 'b'"):
        model.score([("a", "b")])


def test_the_stamp_says_how_texts_become_vectors(minilm: BiEncoder) -> None:
    assert minilm.contract == {
        "kind": "biencoder",
        "pooling": "mean",
        "max_tokens": 256,
        "query_prompt": "",
        "passage_prompt": "",
        "dtype": "float32",
    }
    half = BiEncoder("minilm-l6", dtype="bfloat16")
    assert half.fingerprint != minilm.fingerprint
    assert half.revision == minilm.revision
    np.testing.assert_allclose(half.score(SOME), minilm.score(SOME), atol=0.02)


def test_pooling_does_not_see_the_padding(minilm: BiEncoder) -> None:
    encoded = minilm.encode(["open a file", words(30)])
    a, b = (minilm.pooled(*collate(encoded, pad_id=pad)[:2]).detach() for pad in (0, 2000))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
