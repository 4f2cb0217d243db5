"""`dear bench`: this machine's matrix rate, then every system in turns, then the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dear.bench.machine import RATE_DTYPES, describe, matrix_rate
from dear.bench.peers import as_system, installed
from dear.bench.turns import Score, System, Timing, in_turns, pairs_of, quality
from dear.checkpoints.contract import DType, ScoringContract
from dear.checkpoints.hardware import pick_device, pick_dtype
from dear.errors import ConfigError
from dear.records import Candidates, Judgements
from dear.scoring.engines import EngineName
from dear.scoring.exported import is_exported
from dear.scoring.opening import open_model
from dear.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class _BenchRow:
    """One system. ndcg: None where nothing is judged.  load_s: until it was ready.
    share: of the machine's bfloat16 matrix rate, or float32 where it has no bfloat16."""

    name: str
    pairs_per_s: float
    ndcg: float | None
    share: float
    load_s: float
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What `dear bench` found. gflop_s: of a matrix product, by dtype.
    gflop_per_pair: 2 x parameters without the input embedding x mean tokens."""

    model: str
    machine: dict[str, Any]
    gflop_s: dict[str, float]
    gflop_per_pair: float
    pairs: int
    queries: int
    mean_tokens: float
    longest_tokens: int
    rows: tuple[_BenchRow, ...]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    models: Sequence[str],
    candidates: Sequence[Candidates],
    judgements: Judgements | None,
    *,
    device: str = "auto",
    rounds: int = 3,
    peers: bool = True,
    also: Sequence[System] = (),
    tune: bool = False,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **opening: Any,
) -> BenchReport:
    """Measure `models` (each also in float32 where it may) and the peers on the first of them.

    The first model is a checkpoint's folder, which the peers read too; the others may be exports
    of it, or other models to put beside it.  also: more systems, on the same pairs.
    tune: find the fastest token budget of each of our models first, and remember it.
    opening: contract, instruction and revision, as for `open_model`.
    """
    if not models:
        raise ConfigError("name a model to measure")
    pairs = pairs_of(candidates)
    if not pairs:
        raise ConfigError("there is no pair to score")
    where = str(pick_device(device))
    reference = _open(models[0], "auto", device, batch_tokens, opening)
    lengths = [len(e) for e in reference.encoder.encode(pairs)]
    contract, working = reference.contract, reference.model.working_parameters
    del reference  # each system loads its own
    if tune:
        for model in models:
            _open(model, "auto", device, None, opening).tune()
    systems = [s for m in models for s in _ours(m, device, batch_tokens, opening)]
    systems += also
    failed: dict[str, str] = {}
    if peers:
        if is_exported(models[0]) or not Path(models[0]).is_dir():
            failed["peers"] = "they need a checkpoint's folder as the first model"
        elif contract.yes or contract.template:
            failed["peers"] = "they read a language model in other ways each"
        else:
            systems += [
                as_system(name, peer, models[0], contract, where)
                for name, peer in installed().items()
            ]
    rates = {d: matrix_rate(d, device) for d in RATE_DTYPES}
    timings, broken = in_turns(systems, pairs, rounds=rounds, progress=progress)
    flop = 2 * working * float(np.mean(lengths))
    rate = rates["bfloat16" if pick_dtype("auto", pick_device(device)) != "float32" else "float32"]
    return BenchReport(
        model=Path(models[0]).name,
        machine=describe(device),
        gflop_s={d: round(r / 1e9, 1) for d, r in rates.items()},
        gflop_per_pair=round(flop / 1e9, 4),
        pairs=len(pairs),
        queries=len(candidates),
        mean_tokens=round(float(np.mean(lengths)), 1),
        longest_tokens=max(lengths),
        rows=tuple(_row(t, candidates, judgements, flop / rate) for t in timings),
        failed=failed | broken,
    )


def _row(
    timing: Timing,
    candidates: Sequence[Candidates],
    judgements: Judgements | None,
    ideal_s: float,
) -> _BenchRow:
    judged = judgements is not None and any(c.query.id in judgements for c in candidates)
    return _BenchRow(
        name=timing.name,
        pairs_per_s=round(timing.pairs_per_s, 2),
        ndcg=quality(timing.scores, candidates, judgements or {}) if judged else None,
        share=round(timing.pairs_per_s * ideal_s, 3),
        load_s=round(timing.load_s, 2),
        seconds=tuple(round(s, 3) for s in timing.seconds),
    )


def _ours(
    model: str, device: str, batch_tokens: int | None, opening: dict[str, Any]
) -> list[System]:
    def system(dtype: DType, engine: EngineName = "auto") -> System:
        def load() -> Score:
            return _open(model, dtype, device, batch_tokens, opening, engine).score

        return System(name=f"dear, {_label(model, dtype, engine)}", load=load)

    if is_exported(model):
        return [system("auto")]
    where = pick_device(device)
    best = pick_dtype("auto", where)
    found = [system(best)] + ([system("float32")] if best != "float32" else [])
    # which of them wins depends on the GPU and on the lengths
    engines: tuple[EngineName, ...] = ("packed", "padded") if where.type == "cuda" else ()
    return found + [system(best, engine) for engine in engines]


def _label(model: str, dtype: DType, engine: str) -> str:
    if is_exported(model):
        stored = ScoringContract.load(Path(model))
        return f"OpenVINO {stored.dtype if stored else ''} ({Path(model).name})"
    return f"{dtype}{'' if engine == 'auto' else f', {engine}'} ({Path(model).name})"


def _open(
    model: str,
    dtype: DType,
    device: str,
    batch_tokens: int | None,
    opening: dict[str, Any],
    engine: EngineName = "auto",
) -> Scorer:

    found = open_model(
        model, dtype=dtype, device=device, batch_tokens=batch_tokens, engine=engine, **opening
    )
    if not isinstance(found, Scorer):
        raise ConfigError(f"{model}: `dear bench` measures one-logit models and their exports")
    return found
