"""Hopeless candidates leave the model at an early layer (top-k ranking only).

After `layer` layers a linear probe on a pooled hidden state predicts the final logit. A passage
predicted more than a calibrated margin below the k-th best prediction goes no further: its row is
taken out of the batch, and it ranks below every passage that went through. Those that do go
through have the full model's scores. dear.rank.early calibrates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dear.artifacts import atomic_path, read_json, write_json
from dear.digests import Input, Inputs, files_digest
from dear.errors import ConfigError, ContractMismatch, DataError
from dear.models.batching import ANY_SHAPE, token_batches
from dear.models.contract import ScoringContract
from dear.models.encoding import Encoded, PairEncoder
from dear.models.engines.dropping import AllDropped, RowDropper, full_mask
from dear.models.engines.padded import PaddedEngine
from dear.models.loading import ScoringModel
from dear.models.revisions import require_revision
from dear.models.threads import exclusive

WEIGHTS_FILE = "early_exit.safetensors"
JSON_FILE = "early_exit.json"
INPUTS = "inputs"

_PROBE_PAIRS = [("a", "b"), ("a", "b c d e f g"), ("a b", "c d e")]
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlyExit:
    """A probe, its margin, and what calibration measured.

    layer:     layers that every passage goes through; 1 to layers - 1.
    weights:   float32 (d,), on the pooled state of dropping.pooled_state.
    bias:      puts predictions on the scale of the logits; decides nothing.
    margin:    logits below the k-th best prediction at which a passage is dropped.
    top_k:     the ranks that the margin protects.
    keep:      the share of the full model's top_k that was asked for.
    recall:    the share of it that the calibration queries kept.
    share:     of layer computations still done there, in padded tokens; 1.0 is no saving.
    queries, pairs, batch_tokens: what recall and share were measured with.
    """

    layer: int
    layers: int
    weights: NDArray[np.float32]
    bias: float
    margin: float
    top_k: int
    keep: float
    recall: float
    share: float
    queries: int
    pairs: int
    batch_tokens: int
    revision: str
    contract: ScoringContract

    def require(self, model: ScoringModel) -> None:
        """ContractMismatch unless this was calibrated on these weights under this contract."""
        require_revision("early exit: calibrated on", self.revision, model)
        self.contract.require(
            model.contract, what="early exit", ignore=("dtype", "pooling", "padding_side")
        )

    def save(self, folder: Path, inputs: Inputs | None = None) -> None:
        """early_exit.safetensors and early_exit.json, in a folder of their own.

        inputs: what it was calibrated on, to be written down.
        ConfigError for a checkpoint's folder: its revision is a digest over the weights in it.
        """
        from safetensors.numpy import save

        if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
            raise ConfigError(
                f"{folder}: a checkpoint; an early exit in it would change its revision, save it "
                "elsewhere"
            )
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "weights"}
        with atomic_path(folder / WEIGHTS_FILE) as path:
            path.write_bytes(save({"weights": self.weights}))
        values |= {"contract": self.contract.to_dict()}
        values |= {} if inputs is None else {INPUTS: inputs.to_dict()}
        write_json(folder / JSON_FILE, values)

    @staticmethod
    def inputs_of(folder: Path) -> Inputs:
        """What the early exit in a folder was calibrated on, as far as it says so."""
        return Inputs.from_dict(read_json(folder / JSON_FILE).get(INPUTS))

    @staticmethod
    def input_of(folder: Path) -> Input:
        """The early exit in a folder, as an input of a ranking."""
        files = {name: folder / name for name in (WEIGHTS_FILE, JSON_FILE)}
        return Input(files_digest(files), str(folder))

    @classmethod
    def load(cls, folder: Path, model: ScoringModel | None = None) -> EarlyExit:
        """DataError for absent or damaged files, ContractMismatch where `model` is another."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = folder / JSON_FILE
        values = read_json(path)
        values.pop(INPUTS, None)
        wanted = {f.name: f.type for f in fields(cls) if f.name != "weights"}
        if values.keys() != wanted.keys():
            raise DataError.at(path, None, f"must hold {', '.join(wanted)} and nothing else")
        for name, kind in wanted.items():
            known: Any = {"int": int, "float": (int, float), "str": str}.get(str(kind), dict)
            if not isinstance(values[name], known) or isinstance(values[name], bool):
                raise DataError.at(path, None, f"{name} cannot be {values[name]!r}")
        try:
            weights = load((folder / WEIGHTS_FILE).read_bytes())["weights"]
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError.at(folder / WEIGHTS_FILE, None, f"cannot be read: {error}") from error
        if weights.ndim != 1 or weights.dtype != np.float32 or not np.isfinite(weights).all():
            raise DataError.at(folder / WEIGHTS_FILE, None, "holds no finite float32 vector")
        values["contract"] = ScoringContract.from_dict(values["contract"])
        found = cls(weights=weights, **values)
        if model is not None:
            found.require(model)
        return found


class Bar:
    """The running k-th best prediction of one query: it rises, so an early batch drops less."""

    def __init__(self, top_k: int, margin: float) -> None:
        self.top_k = top_k
        self.margin = margin
        self._best = np.empty(0, dtype=np.float32)

    def keep(self, predicted: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(B,) True for what goes on; a prediction that is no number decides nothing."""
        seen = np.concatenate([self._best, predicted[np.isfinite(predicted)]])
        self._best = np.sort(seen)[-self.top_k :]
        if len(self._best) < self.top_k:
            return np.ones(len(predicted), dtype=np.bool_)
        dropped: NDArray[np.bool_] = predicted < self._best[0] - np.float32(self.margin)
        return ~dropped


class EarlyEngine:
    """Scores the candidates of one query; hopeless ones are dropped in flight.

    ContractMismatch for an exit of other weights; ConfigError for a model whose rows cannot be
    dropped, which a trial with three short pairs finds out.
    """

    def __init__(self, model: ScoringModel, exit: EarlyExit, batch_tokens: int) -> None:
        exit.require(model)
        self.model = model
        self.exit = exit
        self.batch_tokens = batch_tokens
        # rows leave a batch in the middle of the model: no shape comes again
        self.padded = PaddedEngine(model, batch_tokens, ANY_SHAPE)
        self.dropper = RowDropper(model, exit.layer)
        self._weights = torch.from_numpy(exit.weights).to(model.device)
        self._done = self._all = 0
        with exclusive(model.model):
            _try(self.padded, self.dropper)

    @property
    def share(self) -> float:
        """Of the layer computations that everything so far would have taken, in padded tokens."""
        return self._done / self._all if self._all else 1.0

    def rank_scores(
        self, encoded: Sequence[Encoded]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(scores (n,), finished (n,)) for all candidates of one query, in the order given.

        finished: True where the score is the full model's. The others are predictions, moved down
        together until the best of them is below every finished score. At least min(n, top_k)
        finish. A score that is not finite is the caller's to refuse.
        """
        n = len(encoded)
        scores = np.empty(n, dtype=np.float32)
        finished = np.ones(n, dtype=np.bool_)
        bar = Bar(self.exit.top_k, self.exit.margin)
        for batch in token_batches([len(e) for e in encoded], self.batch_tokens):
            some = [encoded[i] for i in batch]
            with exclusive(self.model.model):
                logits, keep = self._batch(some, bar if n > bar.top_k else None)
                self._count(len(batch), int(keep.sum()), len(some[0]))
            scores[batch] = logits
            finished[batch] = keep
        return put_below(scores, finished), finished

    def _batch(
        self, some: Sequence[Encoded], bar: Bar | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Logits (predictions where not kept) and what was kept."""
        kept = np.ones(len(some), dtype=np.bool_)
        if bar is None:
            return self.padded.forward(some), kept
        predicted = np.empty(len(some), dtype=np.float32)

        def decide(pooled: torch.Tensor) -> NDArray[np.bool_]:
            if pooled.shape[1] != len(self._weights):
                raise ContractMismatch(
                    f"early exit: a probe of {len(self._weights)} weights for a state of "
                    f"{pooled.shape[1]}"
                )
            predicted[:] = (pooled @ self._weights.to(pooled.device)).cpu().numpy()
            predicted[:] += self.exit.bias
            kept[:] = bar.keep(predicted)
            return kept

        try:
            with self.dropper.dropping(full_mask(some, self.model), decide):
                logits = self.padded.forward(some)
        except AllDropped:
            return predicted, kept
        return np.where(kept, logits, predicted), kept

    def _count(self, rows: int, kept: int, width: int) -> None:
        layers, layer = self.exit.layers, self.exit.layer
        self._all += width * rows * layers
        self._done += width * (rows * layer + kept * (layers - layer))


def put_below(scores: NDArray[np.float32], finished: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The unfinished moved down by one constant so that each is strictly below all finished."""
    real = scores[finished & np.isfinite(scores)]
    out = scores.copy()
    if not len(real) or finished.all():
        return out
    ceiling = np.nextafter(real.min(), np.float32(-np.inf))
    excess = max(0.0, float(scores[~finished].max()) - float(ceiling))
    # the subtraction rounds, and may round up
    out[~finished] = np.minimum(scores[~finished] - np.float32(excess), ceiling)
    return out


def _try(padded: PaddedEngine, dropper: RowDropper) -> None:
    """ConfigError unless this model gives two rows the same scores when a third is dropped."""
    model = padded.model
    some = PairEncoder(model.tokenizer, model.contract).encode(_PROBE_PAIRS)
    keep = np.array([True, False, True])
    dropper.learn(lambda rows: padded.forward(some[:rows]))
    expected = padded.forward(some)
    calls: list[int] = []

    def decide(pooled: torch.Tensor) -> NDArray[np.bool_]:
        calls.append(len(pooled))
        return keep

    try:
        with dropper.dropping(full_mask(some, model), decide):
            found = padded.forward(some)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{model.name}: early exit does not work here: {reason}") from error
    atol = _TOLERANCE[model.contract.dtype] * max(1.0, float(np.abs(expected).max()))
    if calls != [3] or not np.allclose(found[keep], expected[keep], atol=atol, rtol=0):
        raise ConfigError(
            f"{model.name}: early exit does not work here: rows cannot be dropped between the "
            f"layers of {type(model.model).__name__}"
        )
