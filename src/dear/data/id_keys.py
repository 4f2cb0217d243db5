"""Ids as whole numbers that sort and cut them evenly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from dear.data.inputs import Keys


def id_keys(ids: Iterable[str]) -> Keys:
    """uint64 (n,): 64 bits of a hash of each id."""
    digests = (hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64, copy=False)
