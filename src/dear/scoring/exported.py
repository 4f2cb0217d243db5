"""Folders that `dear export` wrote: a graph, its tokenizer and contract, scored without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from dear.artifacts import read_json
from dear.checkpoints import processor
from dear.checkpoints.contract import CONTRACT_FILE, DType, ScoringContract, read_contract
from dear.checkpoints.files import sampled_digest, tokenizer_files
from dear.checkpoints.plain_tokenizer import PlainTokenizer
from dear.checkpoints.registry import locate
from dear.digests import files_digest
from dear.errors import ConfigError, DataError
from dear.scoring.engines import onnx, openvino
from dear.scoring.engines.onnx import OnnxEngine
from dear.scoring.engines.openvino import OpenVINOEngine

EXPORT_FILE = "dear_export.json"

GraphEngine: TypeAlias = OpenVINOEngine | OnnxEngine

_KEYS = {"precision", "architecture", "parameters", "working_parameters", "graph"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs graphs.

    graph, files: the file that is opened, and all that it consists of, weights last.
    opened: the engine of a graph, with its keywords.  package: the library.
    """

    graph: str
    files: tuple[str, ...]
    opened: Callable[..., GraphEngine]
    package: Callable[[], Any]


RUNTIMES: dict[str, Runtime] = {
    "openvino": Runtime(
        openvino.GRAPH,
        (openvino.GRAPH, openvino.WEIGHTS),
        OpenVINOEngine,
        openvino.load_openvino,
    ),
    "onnx": Runtime(onnx.GRAPH, (onnx.GRAPH,), OnnxEngine, onnx.load_onnxruntime),
}
"""Formats of `dear export` by name."""


@dataclass(frozen=True, slots=True)
class _Processor:
    """Stands for a torch.device."""

    type: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """A graph and what it was made of.

    working_parameters: without the input embedding, which is looked up.
    precision: "f32" or "bf16", what the graph should compute in beside its int8 parts.
    kind: "pairs" for a logit of each pair, else the reading of texts that it is for, with `encoder`
        as its contract.
    """

    tokenizer: PlainTokenizer
    name: str
    revision: str
    architecture: str
    parameters: int
    working_parameters: int
    precision: str
    folder: Path
    runtime: str
    kind: str
    encoder: Mapping[str, Any]

    @property
    def device(self) -> _Processor:
        return _Processor()

    @property
    def runs_on(self) -> list[str | int]:
        """See `dear.scoring.budget`."""
        version = str(RUNTIMES[self.runtime].package().__version__)
        return ["cpu", processor.processor_name(), processor.threads(), self.runtime, version]

    def open_engine(self, batch_tokens: int | None, *, longest: int) -> GraphEngine:
        """The graph, compiled for this processor. longest: tokens of a sequence at most."""
        runtime = RUNTIMES[self.runtime]
        more: dict[str, Any] = {} if batch_tokens is None else {"batch_tokens": batch_tokens}
        if self.runtime == "openvino":
            more |= {"precision": self.precision, "longest": longest}
        graph = self.folder / runtime.graph
        return runtime.opened(graph, pad_id=self.tokenizer.pad_token_id, **more)


@dataclass(frozen=True, kw_only=True)
class ExportedModel(ExportedGraph):
    """A graph of one logit a pair; the twin of ScoringModel.

    contract: as it was written; what its graph computes in here is for its engine to say.
    """

    contract: ScoringContract

    def engine(self, batch_tokens: int | None = None) -> GraphEngine:
        """The graph, compiled for this processor."""
        return self.open_engine(batch_tokens, longest=self.contract.longest)


def is_exported(name: str | Path) -> bool:
    """True for a folder that `dear export` wrote."""
    return (Path(name) / EXPORT_FILE).is_file()


def exported_kind(name: str | Path) -> str:
    """ "pairs", or the reading of texts that an export is for."""
    return str(read_json(Path(name) / EXPORT_FILE).get("kind", "pairs"))


def exported_runtime(name: str | Path) -> str:
    """What runs the graph of an export; a key of RUNTIMES."""
    return _runtime_of(Path(name), read_json(Path(name) / EXPORT_FILE))


def load_exported(
    name: str | Path,
    *,
    contract: ScoringContract | str | Path | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    instruction: str | None = None,
) -> ExportedModel:
    """An exported model; its dtype was settled when it was written, and its device is the CPU.

    Raises ConfigError for another dtype or device, ContractMismatch, DataError for damage.
    """
    stored = ScoringContract.load(Path(name))
    if stored is None:
        raise DataError.at(name, None, _NOT_WHOLE)
    graph = load_graph(name, dtype=dtype, device=device)
    if contract is not None:
        asked = contract if isinstance(contract, ScoringContract) else read_contract(contract)
        stored.require(asked, what=str(name), ignore=("dtype", "pooling"))
    if instruction is not None:
        stored = replace(stored, instruction=instruction)
    return ExportedModel(contract=stored, **vars(graph))


def load_graph(name: str | Path, *, dtype: DType = "auto", device: str = "auto") -> ExportedGraph:
    """An export without the contract of pairs. Raises what `load_exported` raises."""
    folder = Path(name)
    about = read_json(folder / EXPORT_FILE)
    if not about.keys() >= _KEYS:
        raise DataError.at(folder, None, _NOT_WHOLE)
    runtime = _runtime_of(folder, about)
    contract = about.get("encoder") or read_json(folder / CONTRACT_FILE)
    stored = contract.get("dtype")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{name}: an export runs on the CPU, not on {device!r}")
    if dtype not in ("auto", stored):
        raise ConfigError(f"{name}: this export computes in {stored}, not in {dtype}")
    files = [folder / file for file in RUNTIMES[runtime].files]
    if not all(file.is_file() for file in files) or _graph(files, about["graph"]) != about["graph"]:
        raise DataError.at(folder, None, "the graph is not the one that was exported")
    return ExportedGraph(
        tokenizer=PlainTokenizer(folder),
        name=str(name),
        revision=exported_revision(folder),
        architecture=about["architecture"],
        parameters=about["parameters"],
        working_parameters=about["working_parameters"],
        precision=about["precision"],
        folder=folder,
        runtime=runtime,
        kind=about.get("kind", "pairs"),
        encoder=about.get("encoder", {}),
    )


_NOT_WHOLE = "this export is not whole; write it again"


def _runtime_of(folder: Path, about: Mapping[str, Any]) -> str:
    runtime = str(about.get("format", "openvino"))
    if runtime not in RUNTIMES:
        raise DataError.at(folder / EXPORT_FILE, None, f"no format {runtime!r} that is read here")
    return runtime


def exported_revision(folder: Path) -> str:
    """Over weights and tokenizer: OpenVINO's graph names its nodes anew in every export."""
    weights = _weights(folder)
    return f"local-{files_digest({weights.name: weights, **tokenizer_files(locate(folder))})}"


def former_exported_revision(folder: Path) -> str:
    """As an earlier version wrote it: by samples of the weights."""
    return f"local-{sampled_digest([_weights(folder)])}"


def _weights(folder: Path) -> Path:
    return folder / RUNTIMES[_runtime_of(folder, read_json(folder / EXPORT_FILE))].files[-1]


def graph_digest(files: Sequence[Path]) -> str:
    """Over the files of a graph."""
    return files_digest({path.name: path for path in files})


def _graph(files: Sequence[Path], stored: str) -> str:
    """In the form of the stored one: earlier versions took samples of 16 digits."""
    return sampled_digest(files) if len(stored) == 16 else graph_digest(files)
