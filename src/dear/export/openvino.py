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
from typing import TYPE_CHECKING, Literal

from dear.artifacts import whole_files, write_json
from dear.checkpoints.hardware import cpu_has_bfloat16
from dear.checkpoints.plain_tokenizer import save_tokenizer
from dear.digests import Inputs
from dear.errors import ConfigError
from dear.export.graph import quantised, scoring_graph
from dear.scoring.encoding import Pair
from dear.scoring.engines.openvino import GRAPH, WEIGHTS, load_openvino
from dear.scoring.exported import EXPORT_FILE, graph_digest
from dear.scoring.loading import ScoringModel

if TYPE_CHECKING:
    from collections.abc import Iterator

ExportDType = Literal["float32", "bfloat16", "int8"]


def export_openvino(
    model: ScoringModel,
    folder: Path,
    dtype: ExportDType,
    *,
    calibration: Sequence[Pair] = (),
    inputs: Inputs | None = None,
) -> None:
    """Write `model` to `folder` as a graph that OpenVINO runs on a CPU.

    model: in float32, on the CPU, its adapter merged.
    calibration: for int8, pairs like those that will be scored; their judgements do not matter.
    inputs: what it is made from, to be written down.
    ConfigError for a model whose graph does not give transformers' own scores, and for int8
    without pairs; nothing is left in `folder` then.
    """
    if model.contract.dtype != "float32" or model.device.type != "cpu":
        raise ConfigError("an export starts from float32 weights on the CPU")
    if dtype == "int8" and not calibration:
        raise ConfigError("int8 needs pairs to calibrate on")
    ov = load_openvino()
    with _silent():
        graph = scoring_graph(ov, model)
        if dtype == "int8":
            graph = quantised(graph, model, calibration)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_files(folder, last=EXPORT_FILE) as building:
        ov.save_model(graph, str(building / GRAPH), compress_to_fp16=False)
        save_tokenizer(model.tokenizer, building)
        model.model.config.save_pretrained(str(building))
        replace(model.contract, dtype=dtype).save(building)
        # last: a folder without it is no export
        write_json(
            building / EXPORT_FILE,
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
                **({} if inputs is None else {"inputs": inputs.to_dict()}),
                "graph": graph_digest([building / GRAPH, building / WEIGHTS]),
            },
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
