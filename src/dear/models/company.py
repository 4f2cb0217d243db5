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

from dear.errors import ConfigError
from dear.models.contract import DType
from dear.models.encoding import Encoded
from dear.models.notices import warn

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


LENGTHS = (4, 24, 9)
"""Tokens of the texts that are tried out: short ones beside a long one."""


def depends_on_company(
    run: Callable[[Sequence[Encoded]], NDArray[np.float32]],
    *,
    vocabulary: int,
    longest: int,
    exact: bool,
) -> bool:
    """Tried out: three short texts alone and in one padded batch.

    run: one batch to (B,) or (B, D).  vocabulary: ids lie below it.
    exact: float32, where rounding is no excuse; else what is a fifth of the spread counts.
    """
    probe = []
    for n in LENGTHS:
        n = min(n, longest)
        # the middle of a vocabulary: special tokens stand at its ends
        ids = [vocabulary // 4 + (7919 * i + 11 * n) % max(1, vocabulary // 2) for i in range(n)]
        probe.append(Encoded(ids, [0] * n))
    together = run(probe)
    alone = np.concatenate([run([one]) for one in probe])
    apart = float(np.abs(together - alone).max())
    if exact:
        return not apart <= 1e-4 * (1 + float(np.abs(alone).max()))
    return not apart <= 0.2 * (float(np.ptp(alone, axis=0).max()) + 1e-3)


def tell(name: str) -> None:
    warn(
        f"{name}: this architecture looks at the padding beside a text; batches hold texts of one "
        "length, which is exact and slower"
    )
