"""ONNX exports: the checkpoint's scores, by ONNX Runtime and `tokenizers` alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from tiny_models import bert_tokenizer, make, pairs, save, words

from dear.errors import ConfigError, DataError
from dear.export.onnx import export_onnx
from dear.scoring.engines.onnx import GRAPH
from dear.scoring.exported import EXPORT_FILE
from dear.scoring.exported_encoders import ExportedBiEncoder, ExportedSplade
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.queue import queue_of
from dear.scoring.scorer import Scorer

SOME = [*pairs(12, seed=3, longest=60), (words(5, 1), words(400, 2)), ("", "")]


@pytest.fixture(scope="module")
def checkpoints(
    tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Kind of export → the checkpoint that it is made of."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = bert_tokenizer(model_max_length=512)
    save(folder / "mlm", make("bert", hf.AutoModelForMaskedLM), tokenizer)
    save(folder / "body", make("bert", hf.AutoModel), tokenizer)
    return {
        "bert": str(tiny("bert")),
        "llama": str(tiny("llama")),
        "splade": f"splade:{folder / 'mlm'}",
        "biencoder": f"biencoder:{folder / 'body'}",
    }


@pytest.fixture(scope="module")
def export_of(
    checkpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`export_of("splade", "int8", 8)`, made once; never changed."""
    made: dict[tuple[Any, ...], Path] = {}

    def folder(kind: str, dtype: str = "float32", word_bits: int | None = None) -> Path:
        key = (kind, dtype, word_bits)
        if key not in made:
            place = tmp_path_factory.mktemp("exports") / "-".join(map(str, key))
            spec = checkpoints[kind]
            if ":" in spec:
                model: Any = open_model(spec, dtype="float32", device="cpu")
            else:
                model = load_scoring_model(spec, dtype="float32", device="cpu")
            export_onnx(model, place, dtype, word_bits=word_bits)  # type: ignore[arg-type]
            made[key] = place
        return made[key]

    return folder


@pytest.mark.parametrize("kind", ["bert", "llama", "splade", "biencoder"])
def test_float32_scores_are_the_checkpoints(
    kind: str, checkpoints: dict[str, str], export_of: Callable[..., Path]
) -> None:
    mine = open_model(export_of(kind))
    theirs = open_model(checkpoints[kind], dtype="float32", device="cpu")
    expected = theirs.score(SOME)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(mine.score(SOME), expected, atol=1e-4, rtol=1e-4)
    assert mine.parameters == theirs.parameters
    read = queue_of(mine).score(SOME).read if not isinstance(mine, Scorer) else []
    assert [one.cut for one in read] in ([], [False] * 12 + [True, False])


@pytest.mark.parametrize(("kind", "bits"), [("bert", 8), ("splade", 8), ("biencoder", 4)])
def test_8_bits_are_near_and_a_score_is_that_of_the_pair_alone(
    kind: str, bits: int, checkpoints: dict[str, str], export_of: Callable[..., Path]
) -> None:
    """To the bit: ONNX Runtime rounds activations by batch, and a batch holds one sequence."""
    folder = export_of(kind, "int8", bits)
    mine = open_model(folder)
    expected = open_model(checkpoints[kind], dtype="float32", device="cpu").score(SOME)
    scores = mine.score(SOME)
    assert np.corrcoef(scores, expected)[0, 1] > 0.98
    assert not np.array_equal(scores, expected)
    alone = np.concatenate([mine.score([pair]) for pair in SOME])
    np.testing.assert_array_equal(scores, alone)
    np.testing.assert_array_equal(scores[::-1], mine.score(SOME[::-1]))


def test_what_is_opened_is_what_scores(export_of: Callable[..., Path]) -> None:
    assert isinstance(open_model(export_of("splade")), ExportedSplade)
    assert isinstance(open_model(export_of("biencoder")), ExportedBiEncoder)
    bert = open_model(export_of("bert"))
    assert isinstance(bert, Scorer)
    assert bert.computing == {"engine": "onnx", "precision": "f32"}
    passages = ["a b", "c", ""]
    embedder = open_model(export_of("biencoder"))
    assert isinstance(embedder, ExportedBiEncoder)
    lengths = np.linalg.norm(embedder.encode_passages(passages), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert embedder.encode_queries([]).shape == (0, embedder.encode_queries(["a"]).shape[1])


def test_labels_that_go_on_are_those_of_one_run(export_of: Callable[..., Path]) -> None:
    """Prepared texts give the bits that they give in a call."""
    model = open_model(export_of("biencoder"))
    assert isinstance(model, ExportedBiEncoder)
    before = model.score(SOME)
    model.prepare(SOME[:5])
    np.testing.assert_array_equal(model.score(SOME), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, "computes in float32, not in bfloat16"),
        ({"device": "cuda"}, "runs on the CPU, not on 'cuda'"),
        ({"instruction": "find"}, "for one-logit models"),
        ({"contract": "plain"}, "for one-logit models"),
    ],
)
def test_what_an_export_is_not(
    options: dict[str, str], message: str, export_of: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_model(export_of("splade"), **options)  # type: ignore[arg-type]


def test_a_changed_graph_is_refused(export_of: Callable[..., Path], tmp_path: Path) -> None:
    for file in export_of("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = bytearray((tmp_path / GRAPH).read_bytes())
    graph[len(graph) // 2] ^= 1
    (tmp_path / GRAPH).write_bytes(graph)
    with pytest.raises(DataError, match="not the one that was exported"):
        open_model(tmp_path)
    about = json.loads((tmp_path / EXPORT_FILE).read_text())
    (tmp_path / EXPORT_FILE).write_text(json.dumps(about | {"format": "tensorrt"}))
    with pytest.raises(DataError, match="no format 'tensorrt'"):
        open_model(tmp_path)
