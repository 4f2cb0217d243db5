"""Does a model's output for a text depend on what stands beside it in a batch?

It must not. But some architectures look at padding, whatever the mask says: convolutions over
positions (ConvBERT), landmarks and Fourier transforms of a whole row (Nyströmformer, FNet), heads
that read a row's last position (XLNet). They are computed in batches of one length.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dear.checkpoints.contract import DType
from dear.errors import ConfigError
from dear.notices import warn
from dear.scoring.encoding import Encoded, Pair

logger = logging.getLogger(__name__)


def computes(run: Callable[[], object]) -> bool:
    """False where a forward pass ends in an error: Fourier transforms and some old code know
    float32 alone."""
    try:
        run()
    except RuntimeError as error:
        logger.debug("it does not compute: %s", error)
        return False
    return True


def require_computing(name: str, asked: DType, picked: DType, run: Callable[[], object]) -> bool:
    """False where a model has to be read again, in float32, because `picked` was nobody's wish.

    ConfigError where `asked` was that dtype.
    """
    if picked not in ("bfloat16", "float16") or computes(run):
        return True
    if asked != "auto":
        raise ConfigError(f"{name}: this architecture does not compute in {picked}; take float32")
    warn(f"{name}: this architecture does not compute in {picked}; float32 is taken")
    return False


SHORT = "water bank"
LONG = "the water of a river runs under a bridge by the bank and through a garden to the sea"
PROBE: tuple[Pair, ...] = ((SHORT, SHORT), (LONG, LONG), (SHORT, LONG), (LONG, SHORT))
"""Pairs that are tried out: short ones beside long ones, as text, so that they end as texts do."""


READ_PADDING = frozenset(("convbert", "fnet", "nystromformer", "xlnet"))
"""Model types that are known for it: in low precision a trial cannot tell it from rounding."""


def depends_on_company(
    run: Callable[[Sequence[Encoded]], NDArray[np.float32]],
    probe: Sequence[Encoded],
    *,
    exact: bool,
) -> bool:
    """Tried out: texts of several lengths alone, and in one padded batch.

    run: one batch to (B,) or (B, D).
    exact: float32, where rounding is no excuse; else what is a fifth of the spread counts.
    """
    try:
        together = run(probe)
        alone = np.concatenate([run([one]) for one in probe])
    except Exception as error:  # whatever a strange model may raise; scoring will tell
        logger.debug("not tried out: %s", error)
        return False
    if not (np.isfinite(together).all() and np.isfinite(alone).all()):
        return False  # scoring names it
    apart = float(np.abs(together - alone).max())
    if exact:
        return not apart <= 1e-4 * (1 + float(np.abs(alone).max()))
    return not apart <= 0.2 * (float(np.ptp(alone, axis=0).max()) + 1e-3)


def tell(name: str) -> None:
    warn(
        f"{name}: this architecture looks at the padding beside a text; batches hold texts of one "
        "length, which is exact and slower"
    )
