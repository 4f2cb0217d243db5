"""What `dear export` writes: each format by name, its writer and the program that will use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from dear.lazy import attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dear.digests import Inputs
    from dear.scoring.encoding import Pair
    from dear.scoring.loading import ScoringModel


class Writer(Protocol):
    """Writes a model, in float32 on the CPU with its adapter merged, into an empty folder.

    calibration: pairs like those that will be scored.  inputs: what it is made from.
    ConfigError: the model has no such form.  The model may be changed.
    """

    def __call__(
        self,
        model: ScoringModel,
        folder: Path,
        dtype: Any,
        *,
        calibration: Sequence[Pair],
        inputs: Inputs,
    ) -> None: ...


class Program(Protocol):
    """A program that will use an export, with the export open. name: with its version."""

    name: str

    def read(self, pairs: Sequence[Pair]) -> list[list[int]]:
        """The token ids that it reads of each pair."""
        ...

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """float32 (n,) logits, in the order given."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """write: `module:function`, a Writer.  use: the same, from the export's folder to a Program.

    dtypes: in which it can be written, the one that is taken unless another is named first.
    package, extra: what must be installed, and the extra that brings it.
    calibrated: whether int8 needs pairs like those that will be scored.
    reads_apart: whether models that read query and passage apart have this form, too.
    """

    write: str
    use: str
    dtypes: tuple[str, ...]
    package: str = ""
    extra: str = ""
    calibrated: bool = False
    reads_apart: bool = False

    @property
    def writer(self) -> Writer:
        return cast("Writer", attribute(self.write))

    def opened(self, folder: Path) -> Program:
        return cast("Program", attribute(self.use)(folder))


FORMATS: dict[str, Format] = {
    "openvino": Format(
        write="dear.export.openvino:export_openvino",
        use="dear.export.programs:Ours",
        dtypes=("bfloat16", "float32", "int8"),
        package="openvino",
        extra="export",
        calibrated=True,
    ),
    "onnx": Format(
        write="dear.export.onnx:export_onnx",
        use="dear.export.programs:Ours",
        dtypes=("float32", "int8"),
        package="onnxscript",
        extra="export",
        reads_apart=True,
    ),
    "safetensors": Format(
        write="dear.export.merged:export_merged",
        use="dear.export.programs:Transformers",
        dtypes=("bfloat16", "float32", "float16"),
    ),
    "sentence-transformers": Format(
        write="dear.export.cross_encoder:export_cross_encoder",
        use="dear.export.programs:CrossEncoders",
        dtypes=("float32", "bfloat16", "float16"),
        package="sentence_transformers",
        extra="sbert",
    ),
}
