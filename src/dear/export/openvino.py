"""A one-logit model as an OpenVINO graph, in float32, bfloat16 or int8.

Every export is checked against transformers' own forward pass before it is kept.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import nn

from dear.artifacts import write_json
from dear.errors import BackendError, ConfigError, MissingExtra
from dear.models.batching import collate
from dear.models.encoding import Encoded, Pair, PairEncoder
from dear.models.engines.openvino import GRAPH, WEIGHTS, OpenVINOEngine, load_openvino
from dear.models.engines.padded import PaddedEngine
from dear.models.exported import EXPORT_FILE
from dear.models.files import sampled_digest
from dear.models.hardware import cpu_has_bfloat16
from dear.models.heads import HEAD_PARTS
from dear.models.loading import ScoringModel

if TYPE_CHECKING:
    from collections.abc import Iterator

ExportDType = Literal["float32", "bfloat16", "int8"]

CALIBRATION_PAIRS = 256
"""Pairs whose activations set the ranges of int8."""

FAR = -30_000.0
"""Added to the attention logits of what is not seen; a bfloat16 holds it, and half of it, too."""

HEAD_OPERATIONS = rf".*\.({'|'.join(HEAD_PARTS)})[./].*"
"""Names of a graph's operations that belong to the head, as a regular expression. A row a pair:
nothing to gain, and five sixths of an encoder's int8 error were in it."""

GATED_OPERATIONS = r".*\.down_proj[./].*"
"""Products behind a gated activation, whose outliers int8 cannot hold: half of a decoder's
error."""

TOLERANCE = 2e-4
"""Largest difference from transformers, in float32, in units of 1 + |logit|."""


class _Graph(nn.Module):
    """(input_ids, attention_mask[, token_type_ids]), padded on the right, to (B,) logits.

    The attention mask is handed to the body in four dimensions: that is what it adds, whatever
    the shapes, so nothing of the example's shape is left in the traced graph.
    """

    def __init__(self, model: ScoringModel) -> None:
        super().__init__()
        self.model = model.model
        self.is_decoder = model.is_decoder

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        seen = attention_mask[:, None, None, :] > 0
        if not self.is_decoder:
            extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            bias = torch.where(seen, 0.0, FAR)
            found = self.model(input_ids=input_ids, attention_mask=bias, **extra).logits
            return cast(torch.Tensor, found[:, 0])
        count, width = input_ids.shape
        places = torch.arange(width)
        bias = torch.where(seen & (places[None, :] <= places[:, None]), 0.0, FAR)
        body = getattr(self.model, self.model.base_model_prefix)
        hidden = body(
            input_ids=input_ids,
            attention_mask=bias,
            position_ids=places[None].expand(count, width),
            use_cache=False,
        ).last_hidden_state
        last = (attention_mask.sum(-1) - 1).clamp(min=0)
        pooled = hidden.gather(1, last[:, None, None].expand(count, 1, hidden.shape[-1]))
        return cast(torch.Tensor, self.model.score(pooled[:, 0])[:, 0])


def export_openvino(
    model: ScoringModel,
    folder: Path,
    dtype: ExportDType,
    *,
    calibration: Sequence[Pair] = (),
) -> None:
    """Write `model` to `folder` as a graph that OpenVINO runs on a CPU.

    model: in float32, on the CPU, its adapter merged.
    calibration: for int8, pairs like those that will be scored; their judgements do not matter.
    ConfigError for a model whose graph does not give transformers' own scores, and for int8
    without pairs; nothing is left in `folder` then.
    """
    if model.contract.dtype != "float32" or model.device.type != "cpu":
        raise ConfigError("an export starts from float32 weights on the CPU")
    if dtype == "int8" and not calibration:
        raise ConfigError("int8 needs pairs to calibrate on")
    ov = load_openvino()
    with _silent():
        graph = _converted(ov, model)
        _require_same(model, graph)
        if dtype == "int8":
            graph = _quantised(graph, model, calibration)
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(graph, str(folder / GRAPH), compress_to_fp16=False)
    model.tokenizer.save_pretrained(str(folder))
    model.model.config.save_pretrained(str(folder))
    replace(model.contract, dtype=dtype).save(folder)
    # last: a folder without it is no export
    write_json(
        folder / EXPORT_FILE,
        {
            "format": "openvino",
            "source": model.name,
            "source_revision": model.revision,
            "architecture": f"OpenVINO {model.architecture}",
            "parameters": model.parameters,
            "working_parameters": model.working_parameters,
            # of an int8 graph: what is not quantised, attention above all
            "precision": "bf16" if dtype != "float32" and cpu_has_bfloat16() else "f32",
            "calibration_pairs": len(calibration) if dtype == "int8" else 0,
            "openvino": ov.__version__,
            "graph": sampled_digest([folder / GRAPH, folder / WEIGHTS]),
        },
    )


def _converted(ov: Any, model: ScoringModel) -> Any:
    encoded = [_numbered(model, n) for n in (17, 9, 13)]
    ids, mask, types = collate(encoded, pad_id=model.tokenizer.pad_token_id)
    example = {"input_ids": ids, "attention_mask": mask}
    if not model.is_decoder and _has_types(model):
        example["token_type_ids"] = types
    try:
        with torch.no_grad():
            graph = ov.convert_model(_Graph(model), example_input=example)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{model.name}: OpenVINO cannot read this model: {first}") from error
    for port, name in zip(graph.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    return graph


def _has_types(model: ScoringModel) -> bool:
    return getattr(model.model.config, "type_vocab_size", 0) > 1


def _numbered(model: ScoringModel, length: int) -> Encoded:
    """A sequence of `length` tokens that has nothing special in it."""
    rows = model.model.get_input_embeddings().num_embeddings
    ids = np.random.default_rng(length).integers(min(1000, rows // 2), rows, size=length)
    return Encoded([int(i) for i in ids], [0] * (length // 2) + [1] * (length - length // 2))


def _require_same(model: ScoringModel, graph: Any) -> None:
    """ConfigError unless the graph gives transformers' scores at lengths it was not traced with."""
    longest = min(model.contract.longest, 1024)
    lengths = (1, 2, 5, 31, 64, longest // 2, longest)
    probe = [_numbered(model, min(n, longest)) for n in lengths]
    if not _has_types(model):
        probe = [Encoded(e.ids, [0] * len(e)) for e in probe]
    engine = OpenVINOEngine(
        graph,
        pad_id=model.tokenizer.pad_token_id,
        precision="f32",
        batch_tokens=512,
        longest=model.contract.longest,
    )
    mine = engine.run(probe)
    theirs = PaddedEngine(model, 512).run(probe)
    worst = float(np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))))
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"{model.name}: the exported graph is off transformers' scores by {worst:.2g}; this "
            "architecture cannot be exported"
        )


def _quantised(graph: Any, model: ScoringModel, calibration: Sequence[Pair]) -> Any:
    try:
        import nncf
    except ImportError:
        raise MissingExtra.of("nncf", "openvino") from None
    names = [port.any_name for port in graph.inputs]
    encoded = PairEncoder(model.tokenizer, model.contract).encode(list(calibration))

    def feed(rows: Sequence[Encoded]) -> dict[str, Any]:
        ids, mask, types = collate(rows, pad_id=model.tokenizer.pad_token_id)
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: tensors[name].numpy() for name in names}

    # one at a time: padding would take part in the ranges
    samples = nncf.Dataset([[e] for e in encoded], feed)
    return nncf.quantize(
        graph,
        samples,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(encoded),
        # one row of a few hundred numbers: nothing to gain, and most of int8's error was in it
        ignored_scope=nncf.IgnoredScope(
            patterns=[HEAD_OPERATIONS, GATED_OPERATIONS], validate=False
        ),
    )


@contextmanager
def _silent() -> Iterator[None]:
    """The converters talk to the log, to standard output and through warnings."""
    talkers = [logging.getLogger(name) for name in ("nncf", "openvino", "transformers")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
