"""Folders that `dear export` wrote: a compiled graph with its tokenizer and contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dear.artifacts import read_json
from dear.checkpoints.contract import DType, ScoringContract, read_contract
from dear.checkpoints.files import sampled_digest, tokenizer_files
from dear.checkpoints.registry import locate
from dear.digests import files_digest
from dear.errors import ConfigError, DataError
from dear.scoring.engines.openvino import BATCH_TOKENS, GRAPH, WEIGHTS, OpenVINOEngine
from dear.scoring.loading import load_tokenizer

EXPORT_FILE = "dear_export.json"

_KEYS = {"precision", "architecture", "parameters", "working_parameters", "graph"}


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What a Scorer needs to know of a graph; the twin of ScoringModel.

    working_parameters: without the input embedding, which is looked up.
    contract: as it was written; what its graph computes in here is for its engine to say.
    precision: "f32" or "bf16", what the graph should compute in beside its int8 parts.
    """

    tokenizer: Any
    contract: ScoringContract
    name: str
    revision: str
    architecture: str
    parameters: int
    working_parameters: int
    precision: str
    folder: Path

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def engine(self, batch_tokens: int | None = None) -> OpenVINOEngine:
        """The graph, compiled for this processor."""
        return OpenVINOEngine(
            self.folder / GRAPH,
            pad_id=self.tokenizer.pad_token_id,
            precision=self.precision,
            longest=self.contract.longest,
            batch_tokens=BATCH_TOKENS if batch_tokens is None else batch_tokens,
        )


def is_exported(name: str | Path) -> bool:
    """True for a folder that `dear export` wrote."""
    return (Path(name) / EXPORT_FILE).is_file()


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
    folder = Path(name)
    about = read_json(folder / EXPORT_FILE)
    stored = ScoringContract.load(folder)
    if stored is None or not about.keys() >= _KEYS:
        raise DataError.at(folder, None, "this export is not whole; write it again")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{name}: an export runs on the CPU, not on {device!r}")
    if dtype not in ("auto", stored.dtype):
        raise ConfigError(f"{name}: this export computes in {stored.dtype}, not in {dtype}")
    if contract is not None:
        asked = contract if isinstance(contract, ScoringContract) else read_contract(contract)
        stored.require(asked, what=str(name), ignore=("dtype", "pooling"))
    if instruction is not None:
        stored = replace(stored, instruction=instruction)
    files = [folder / GRAPH, folder / WEIGHTS]
    if not all(file.is_file() for file in files) or _graph(files, about["graph"]) != about["graph"]:
        raise DataError.at(folder, None, "the graph is not the one that was exported")
    return ExportedModel(
        tokenizer=load_tokenizer(locate(folder)),
        contract=stored,
        name=str(name),
        revision=exported_revision(folder),
        architecture=about["architecture"],
        parameters=about["parameters"],
        working_parameters=about["working_parameters"],
        precision=about["precision"],
        folder=folder,
    )


def exported_revision(folder: Path) -> str:
    """Over weights and tokenizer: the graph names its nodes anew in every export."""
    return f"local-{files_digest({WEIGHTS: folder / WEIGHTS, **tokenizer_files(locate(folder))})}"


def graph_digest(files: Sequence[Path]) -> str:
    """Over the files of a graph."""
    return files_digest({path.name: path for path in files})


def _graph(files: Sequence[Path], stored: str) -> str:
    """In the form of the stored one: earlier versions took samples of 16 digits."""
    return sampled_digest(files) if len(stored) == 16 else graph_digest(files)
