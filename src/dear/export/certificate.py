"""What an export is worth: its scores beside the checkpoint's, by the program that will use it.

Every folder that `dear export` writes holds one, and none is written whose figures are below
THRESHOLDS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dear.artifacts import read_json, write_json
from dear.errors import ConfigError, DataError, excerpt

CERTIFICATE_FILE = "dear_certificate.json"
_FORMAT = "dear-certificate/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What an export may lose.

    difference: the most that a score may be off, in units of 1 + |score|.
    tau: the least mean of Kendall's tau-b within queries.
    ndcg: the most that nDCG@10 may fall, where there are judgements.
    """

    difference: float
    tau: float
    ndcg: float


THRESHOLDS: dict[str, Tolerance] = {
    "float32": Tolerance(difference=1e-3, tau=0.99, ndcg=0.005),
    "float16": Tolerance(difference=0.02, tau=0.97, ndcg=0.02),
    "bfloat16": Tolerance(difference=0.15, tau=0.8, ndcg=0.05),
    "int8": Tolerance(difference=1.0, tau=0.7, ndcg=0.08),
}
"""By dtype, each well beyond what was measured (docs/LOG.md): a broken export is far outside."""

LEAST_ALIKE = 0.25
"""Share of the pairs that both programs must read as the same tokens."""

CUT_NDCG = 0.05
"""The most that nDCG@10 may fall, whatever the dtype, where some pairs are cut elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """An export beside the checkpoint that it was made of, on the same pairs.

    program: what computed the export's scores.  texts: whose pairs they are.
    alike: pairs that both read as the same tokens; the others are cut elsewhere.
    largest_difference: of a score, over `alike`, in units of 1 + |score|.
    tau: mean of Kendall's tau-b within queries, over `alike`.  tau_all: over all pairs.
    ndcg, export_ndcg: nDCG@10 of the checkpoint and of the export over all pairs; None without
        judgements.
    source, source_revision: the checkpoint.  revision: that of the export's own files.
    machine: processor, its features, versions of programs.
    inputs: what the export was made from.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    format: str
    dtype: str
    program: str
    texts: str
    queries: int
    pairs: int
    alike: int
    largest_difference: float
    tau: float
    tau_all: float
    ndcg: float | None
    export_ndcg: float | None
    thresholds: Tolerance
    source: str
    source_revision: str
    revision: str
    machine: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @property
    def figures(self) -> str:
        """`largest difference 2e-06, tau 1.000, nDCG@10 0.7512 → 0.7512 on 200 pairs`."""
        parts = [f"largest difference {self.largest_difference:.2g}", f"tau {self.tau:.3f}"]
        if self.ndcg is not None and self.export_ndcg is not None:
            parts.append(f"nDCG@10 {self.ndcg:.4f} → {self.export_ndcg:.4f}")
        cut = self.pairs - self.alike
        where = f"{self.pairs:,} pairs"
        if cut:
            where += f", {cut:,} of them cut elsewhere (with these: tau {self.tau_all:.3f})"
        return f"{', '.join(parts)} on {where}"

    @property
    def rows(self) -> dict[str, str]:
        """For people: a heading, what stands under it."""
        return {
            "made of": self.source,
            "form": f"{self.format}, {self.dtype}",
            "computed by": self.program,
            "compared on": self.texts,
            "figures": self.figures,
            "processor": str(self.machine.get("processor", "")),
        }

    @property
    def broken(self) -> list[str]:
        """What is beyond its threshold, in words."""
        held, found = self.thresholds, []
        if self.alike < LEAST_ALIKE * self.pairs:
            found.append(f"only {self.alike} of {self.pairs} pairs are read as the same tokens")
        # not `>`: nothing is within a threshold of NaN
        if not self.largest_difference <= held.difference:
            found.append(f"a score is off by more than {held.difference:g} of 1 + |score|")
        if not self.tau >= held.tau:
            found.append(f"tau is below {held.tau:g}")
        before, after = self.ndcg, self.export_ndcg
        most = held.ndcg if self.alike == self.pairs else max(held.ndcg, CUT_NDCG)
        if before is not None and after is not None and not before - after <= most:
            found.append(f"nDCG@10 falls by more than {most:g}")
        return found

    def require(self) -> None:
        """ConfigError, with the figures, for an export that is not the checkpoint."""
        if self.broken:
            raise ConfigError(
                f"{self.source}: the {self.format} export in {self.dtype} is not the checkpoint, "
                f"as {self.program} computes it: {'; '.join(self.broken)} ({self.figures}); "
                "nothing was written"
            )

    def save(self, folder: Path) -> None:
        write_json(folder / CERTIFICATE_FILE, {"version": _FORMAT, **asdict(self)})


def read_certificate(folder: Path | str) -> Certificate | None:
    """The certificate of an export; None for a folder that has none. DataError: damaged."""
    path = Path(folder) / CERTIFICATE_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    if values.pop("version", None) != _FORMAT:
        raise DataError.at(path, None, f"is not of format {_FORMAT}")
    try:
        return TypeAdapter(Certificate).validate_python(values)
    except ValidationError as error:
        raise DataError.at(path, None, excerpt(str(error), 200)) from None
