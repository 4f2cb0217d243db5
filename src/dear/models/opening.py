"""From what a user types to something that scores pairs.

folder, hub id or name      a one-logit head (RankLLaMA, DeAR, any cross-encoder), or an export
biencoder:NAME              similarity of embeddings
upr:NAME                    likelihood of the query given the passage, no training
yes-no:NAME                 log-odds of "yes", no training
qwen3:NAME, monot5:NAME     the same with those models' own prompts
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dear.errors import ConfigError, nearest
from dear.models.encoding import Pair
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dear.models.batching import Progress
    from dear.models.contract import DType, ScoringContract
    from dear.models.engines import EngineName


class PairModel(Protocol):
    """Passages in, scores out, stamped: every teacher and every student.

    Higher is better; scales differ between kinds. name, revision and contract are what a label
    file is stamped with.
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def contract(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,), in the order given."""
        ...


def open_model(
    spec: str | Path,
    *,
    contract: ScoringContract | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    engine: EngineName = "auto",
) -> PairModel:
    """The model that `spec` names, ready to score.

    device: one device, or several with commas between them: a process for each.
    engine: for a one-logit model on one device; see dear.models.engines.

    Raises ConfigError for an unknown kind or name, BackendError for weights that do not load.
    """
    if "," in device:
        from dear.models.workers import ScorerPool

        return ScorerPool(
            spec,
            devices=device.split(","),
            contract=contract,
            dtype=dtype,
            batch_tokens=batch_tokens,
        )
    kind, colon, name = str(spec).partition(":")
    if colon and not Path(str(spec)).exists():
        if contract is not None:
            raise ConfigError(f"{spec}: a scoring contract is for one-logit models")
        if kind == "biencoder":
            from dear.models.biencoder import BiEncoder

            return BiEncoder(name, dtype=dtype, device=device, batch_tokens=batch_tokens)
        if kind in ZERO_SHOT_PROMPTS:
            from dear.models.zero_shot import ZeroShot

            return ZeroShot(
                name, prompt=kind, dtype=dtype, device=device, batch_tokens=batch_tokens
            )
        kinds = ("biencoder", *ZERO_SHOT_PROMPTS)
        raise ConfigError(f"{spec}: no kind of model {kind!r}{nearest(kind, kinds)}")
    from dear.models.exported import is_exported, load_exported
    from dear.models.loading import load_scoring_model
    from dear.models.scorer import Scorer

    if is_exported(spec):
        exported = load_exported(spec, contract=contract, dtype=dtype, device=device)
        return Scorer(exported, batch_tokens=batch_tokens, engine=engine)
    model = load_scoring_model(spec, contract=contract, dtype=dtype, device=device)
    return Scorer(model, batch_tokens=batch_tokens, engine=engine)
