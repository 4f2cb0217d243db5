"""Exports give the checkpoint's scores, carry its contract, and refuse what they are not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import bert_tokenizer, checkpoint, llama_tokenizer, make, pairs, save, words

from dear import Reranker
from dear.checkpoints.contract import CARD, DEAR
from dear.errors import ConfigError, ContractMismatch, DataError, MissingExtra
from dear.export.graph import HEAD_OPERATIONS, grouped_attention, outlying
from dear.export.openvino import export_openvino
from dear.scoring.batching import token_batches
from dear.scoring.encoding import PairEncoder
from dear.scoring.engines import openvino as engine
from dear.scoring.engines.openvino import GRAPH, load_openvino
from dear.scoring.exported import EXPORT_FILE, is_exported, load_exported
from dear.scoring.loading import load_scoring_model
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")

SOME = [*pairs(12), ("", ""), ("query", words(400))]


def exported(source: Path, folder: Path, dtype: str = "float32") -> Path:
    model = load_scoring_model(source, dtype="float32", device="cpu")
    export_openvino(model, folder, dtype, calibration=pairs(30, seed=5))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def export_of(
    tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The export of a tiny checkpoint, made once: `export_of("llama", "int8")`; never changed."""
    made: dict[tuple[str, str], Path] = {}

    def folder(kind: str, dtype: str = "float32") -> Path:
        if dtype == "int8":
            pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
        if (kind, dtype) not in made:
            place = tmp_path_factory.mktemp("exports") / f"{kind}-{dtype}"
            made[kind, dtype] = exported(tiny(kind), place, dtype)
        return made[kind, dtype]

    return folder


@pytest.fixture(scope="module")
def bert(export_of: Callable[..., Path]) -> Path:
    return export_of("bert")


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta", "gpt2"])
def test_float32_scores_are_the_checkpoints(
    kind: str, tiny: Callable[[str], Path], export_of: Callable[..., Path]
) -> None:
    folder = export_of(kind)
    mine = open_model(folder).score(SOME)
    theirs = open_model(tiny(kind), dtype="float32").score(SOME)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_gated_products_of_smollm2s_sizes_compute_in_bfloat16(tmp_path: Path) -> None:
    """On a processor with AMX, OpenVINO's fused operation ended the process here (SIGFPE)."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
    sizes |= {"num_key_value_heads": 3, "head_dim": 64, "num_hidden_layers": 2}
    source = checkpoint(tmp_path / "source", "llama", **sizes)
    folder = exported(source, tmp_path / "export", "bfloat16")
    mine = open_model(folder).score(SOME)
    theirs = open_model(source, dtype="float32").score(SOME)
    np.testing.assert_allclose(mine, theirs, atol=0.05 * np.ptp(theirs))
    graph = load_openvino().Core().read_model(str(folder / GRAPH))
    assert engine.separate_gates(graph) == 2
    # once is enough
    assert engine.separate_gates(graph) == 0


def test_the_score_is_that_of_the_pair_alone(bert: Path) -> None:
    whole = open_model(bert, batch_tokens=4096).score(SOME)
    alone = np.concatenate([open_model(bert, batch_tokens=1).score([pair]) for pair in SOME])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    back = open_model(bert, batch_tokens=300).score(SOME[::-1])[::-1]
    np.testing.assert_allclose(whole, back, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_int8_follows_the_checkpoint(
    kind: str, tiny: Callable[[str], Path], export_of: Callable[..., Path]
) -> None:
    folder = export_of(kind, "int8")
    opened = open_model(folder)
    assert isinstance(opened, Scorer)
    assert opened.contract.dtype == "int8"
    mine, theirs = opened.score(SOME), open_model(tiny(kind), dtype="float32").score(SOME)
    # weights of random noise are the worst case: what counts is measured in benchmarks/scoring.py
    assert np.corrcoef(mine, theirs)[0, 1] > 0.95
    assert not np.allclose(mine, theirs, atol=1e-5)  # it did become int8


def test_no_two_products_of_8_bits_overflow_16(export_of: Callable[..., Path]) -> None:
    """What a processor without VNNI adds up before it widens: activations are at most 255."""
    graph = read_graph(export_of("llama", "int8"))
    largest = [
        int(np.abs(weights.astype(np.int32)).max())
        for product in of_type(graph, "MatMul")
        if (weights := weights_of(product)).dtype == np.int8
    ]
    # seven in each of three layers
    assert len(largest) == 21
    assert max(largest) * 255 * 2 <= 2**15 - 1
    assert min(largest) > 60  # all of the 7 bits are used


# in a process of its own: oneDNN reads once which instructions it may use
SCORE = """
import sys
import numpy as np
import openvino as ov
graph, feed, out = sys.argv[1:]
settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
compiled = ov.Core().compile_model(graph, "CPU", settings)
rows = [dict(row) for row in np.load(feed, allow_pickle=True)]
np.save(out, [compiled(row)[0].item() for row in rows])
"""


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_int8_gives_the_same_scores_on_older_processors(
    kind: str, tmp_path: Path, export_of: Callable[..., Path]
) -> None:
    """AVX2 and AVX-512 as they were before VNNI; where there is no more, all are the same."""
    folder = export_of(kind, "int8")
    encoder = open_model(folder).encoder
    names = {port.any_name for port in read_graph(folder).inputs}
    rows = []
    for one in encoder.encode(SOME):
        row = {
            "input_ids": [one.ids],
            "attention_mask": [[1] * len(one)],
            "token_type_ids": [one.types],
        }
        rows.append({name: np.array(row[name]) for name in names})
    np.save(tmp_path / "feed.npy", np.array(rows, dtype=object), allow_pickle=True)
    found = {}
    for isa in ("AVX2", "AVX512_CORE", "ALL"):
        out = tmp_path / f"{isa}.npy"
        subprocess.run(
            [
                sys.executable,
                "-c",
                SCORE,
                str(folder / GRAPH),
                str(tmp_path / "feed.npy"),
                str(out),
            ],
            env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa},
            check=True,
        )
        found[isa] = np.load(out)
    spread = np.ptp(found["ALL"])
    assert spread > 1
    # a rounding may fall to the other side; an overflow moves scores by a fifth of their spread
    for isa in ("AVX2", "AVX512_CORE"):
        np.testing.assert_allclose(found[isa], found["ALL"], atol=0.02 * spread)


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_without_its_instructions_nothing_is_computed_in_bfloat16(
    isa: str, tmp_path: Path, export_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would, twenty times as slow, where an export was made on a newer processor."""
    folder = shutil.copytree(export_of("bert", "int8"), tmp_path / "moved")
    about = json.loads((folder / EXPORT_FILE).read_text())
    (folder / EXPORT_FILE).write_text(json.dumps(about | {"precision": "bf16"}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert open_model(folder).computing["precision"] == "f32"


def read_graph(folder: Path) -> Any:
    return load_openvino().Core().read_model(str(folder / GRAPH))


def weights_of(product: Any) -> Any:
    """The constant that a product multiplies with, as it is stored: before its scale."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in ("Multiply", "Convert", "Subtract"):
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else np.empty(0)


def fed_by(node: Any) -> set[str]:
    return {i.get_source_output().get_node().get_type_name() for i in node.inputs()}


def of_type(graph: Any, *types: str) -> list[Any]:
    return [op for op in graph.get_ordered_ops() if op.get_type_name() in types]


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
def test_int8_is_for_products_with_weights_of_the_body(
    kind: str, export_of: Callable[..., Path]
) -> None:
    graph = read_graph(export_of(kind, "int8"))
    quantised: dict[bool, set[bool]] = {True: set(), False: set()}
    for product in of_type(graph, "MatMul"):
        left_out = re.fullmatch(HEAD_OPERATIONS, product.get_friendly_name()) is not None
        quantised[left_out].add("FakeQuantize" in fed_by(product))
    assert quantised == {True: {False}, False: {True}}
    attention = of_type(graph, "ScaledDotProductAttention")
    assert len(attention) == 3
    assert not any("FakeQuantize" in fed_by(one) for one in attention)


def test_a_product_that_reads_outliers_stays_out_of_int8(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    model = make("llama")
    layer = model.model.layers[1].mlp
    with torch.no_grad():
        for part in (layer.gate_proj, layer.up_proj):
            part.weight[7] *= 100
    source = save(tmp_path / "source", model, llama_tokenizer())
    loaded = load_scoring_model(source, dtype="float32", device="cpu")
    encoded = PairEncoder(loaded.tokenizer, loaded.contract).encode(pairs(8))
    assert outlying(loaded, encoded) == ["model.layers.1.mlp.down_proj"]
    graph = read_graph(exported(source, tmp_path / "export", "int8"))
    kept = {
        product.get_friendly_name()
        for product in of_type(graph, "MatMul")
        if "FakeQuantize" not in fed_by(product)
    }
    assert {name for name in kept if "layers" in name} == {
        "__module.model.model.layers.1.mlp.down_proj/aten::linear/MatMul"
    }


def test_a_norms_output_is_rounded_in_one_pass(export_of: Callable[..., Path]) -> None:
    """What smooths outliers stands apart from the norm, whose part it would become."""
    graph = read_graph(export_of("llama", "int8"))
    smoothing = [
        product
        for product in of_type(graph, "Multiply")
        if re.search(r"norm.*nncf_smooth_quant", product.get_friendly_name())
    ]
    # two norms a layer; behind the last of them one token is taken first
    assert len(smoothing) == 5
    assert all("Reshape" in fed_by(product) for product in smoothing)


def test_keys_that_heads_share_are_not_copied(export_of: Callable[..., Path]) -> None:
    graph = read_graph(export_of("llama"))
    attention = of_type(graph, "ScaledDotProductAttention")
    # four heads, two of them to a key
    assert [one.get_input_partial_shape(1)[1].get_length() for one in attention] == [2, 2, 2]


def test_attention_of_its_own_kind_is_not_grouped() -> None:
    states = torch.randn(1, 4, 3, 8)
    keys = states[:, :2]
    mask = torch.zeros(1, 1, 3, 3)
    found, _ = grouped_attention(None, states, keys, keys, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(
        states, keys, keys, attn_mask=mask, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))
    with pytest.raises(ConfigError, match="not grouped"):
        grouped_attention(None, states, keys, keys, mask, softcap=50.0)
    with pytest.raises(ConfigError, match="not grouped"):
        grouped_attention(None, states, keys, keys, None)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_last_layer_of_a_graph_computes_for_one_token(
    kind: str, export_of: Callable[..., Path]
) -> None:
    graph = read_graph(export_of(kind))
    tokens = {
        re.sub(r".*layers?\.(\d)\.(.*)/aten.*", r"\1 \2", op.get_friendly_name()): shape[1]
        for op in of_type(graph, "MatMul")
        if len(shape := op.get_input_partial_shape(0)) == 3
    }
    alone = {name for name, count in tokens.items() if count.is_static and count.get_length() == 1}
    if kind == "llama":
        names = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    else:
        names = ("attention.output.dense", "intermediate.dense", "output.dense")
    assert alone == {f"2 {name}" for name in names}


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=300),
    budget=st.integers(200, 3000),
    streams=st.integers(1, 8),
)
def test_streams_get_equal_shares(lengths: list[int], budget: int, streams: int) -> None:
    shared = engine.shared_budget(lengths, budget, streams)
    assert 0 < shared <= budget
    # no stream waits while another has two batches more than it
    assert shared >= min(budget, -(-sum(lengths) // (streams * -(-sum(lengths) // budget))))


def test_forty_pairs_on_two_streams_are_two_batches() -> None:
    lengths = [80] * 40
    assert [len(b) for b in token_batches(lengths, 2048)] == [25, 15]
    budget = engine.shared_budget(lengths, 2048, 2)
    assert [len(b) for b in token_batches(lengths, budget)] == [20, 20]
    assert engine.shared_budget([], 2048, 2) == 2048


@pytest.mark.parametrize("kind", ["mistral", "qwen3"])
def test_what_the_graph_cannot_say_is_refused(
    kind: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    # sliding windows: the graph would let every token see all before it
    with pytest.raises(ConfigError, match="off transformers' scores"):
        exported(tiny(kind), tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_graph_whose_scores_are_no_numbers_is_refused(tmp_path: Path) -> None:
    """NaN is within no tolerance of anything, itself included."""
    model = make("bert")
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    source = save(tmp_path / "source", model, bert_tokenizer())
    with pytest.raises(ConfigError, match="off transformers' scores by nan"):
        exported(source, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_the_contract_goes_along_and_is_enforced(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "bert")
    DEAR.save(source)
    folder = exported(source, tmp_path / "export")
    opened = open_model(folder)
    assert opened.contract.differences(DEAR, ignore=("dtype", "pooling")) == []
    with pytest.raises(ContractMismatch, match="truncation"):
        load_exported(folder, contract=CARD)
    with pytest.raises(ConfigError, match="computes in float32, not in bfloat16"):
        load_exported(folder, dtype="bfloat16")
    with pytest.raises(ConfigError, match="runs on the CPU"):
        load_exported(folder, device="cuda")


def test_a_batch_is_not_wider_than_the_models_positions(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "bert", max_position_embeddings=46)
    replace(DEAR, max_query_tokens=12, max_passage_tokens=26).save(source)
    folder = exported(source, tmp_path / "export")
    long = [(words(30), words(60, seed)) for seed in range(5)]
    mine, theirs = (open_model(f, dtype="float32").score(long) for f in (folder, source))
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_another_graph_is_another_revision(
    tiny: Callable[[str], Path], bert: Path, tmp_path: Path
) -> None:
    again = exported(tiny("bert"), tmp_path / "again")
    assert open_model(again).revision == open_model(bert).revision
    other = exported(checkpoint(tmp_path / "other", "bert", seed=1), tmp_path / "export")
    assert open_model(other).revision != open_model(bert).revision


def test_the_reranker_takes_the_folder(bert: Path, tiny: Callable[[str], Path]) -> None:
    passages = [words(10, i) for i in range(8)]
    mine = Reranker(bert).rank("river bank", passages)
    theirs = Reranker(tiny("bert"), dtype="float32").rank("river bank", passages)
    assert mine.passage_ids == theirs.passage_ids


def test_damage_is_one_clear_error(bert: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(bert, tmp_path / "cut"))
    weights = cut / engine.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="not the one that was exported"):
        open_model(cut)
    part = Path(shutil.copytree(bert, tmp_path / "part"))
    about = json.loads((part / EXPORT_FILE).read_text())
    del about["precision"]
    (part / EXPORT_FILE).write_text(json.dumps(about))
    with pytest.raises(DataError, match="not whole"):
        open_model(part)
    (part / EXPORT_FILE).unlink()
    assert not is_exported(part)


def test_int8_needs_pairs_and_an_export_float32(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_scoring_model(tiny("bert"), dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match="pairs to calibrate"):
        export_openvino(model, tmp_path / "a", "int8")
    model = load_scoring_model(tiny("bert"), dtype="bfloat16", device="cpu")
    with pytest.raises(ConfigError, match="float32 weights"):
        export_openvino(model, tmp_path / "b", "bfloat16")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"dear-rerank\[openvino\]"):
        open_model(bert)
