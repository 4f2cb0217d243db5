"""Who is let in: a request that would wait too long is refused while that is cheap."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dear.serve.asking import Refused

HALF_LIFE_S = 15.0
"""After so long, what was measured counts half."""


class Load:
    """What a model has to do, in characters, and how fast it does it.

    most: requests at once.  max_wait_s: seconds that a request may have to wait before it is
    computed, by the rate so far.
    """

    def __init__(self, *, most: int, max_wait_s: float) -> None:
        self.most, self.max_wait_s = most, max_wait_s
        self.requests = 0
        self.characters = 0
        self._done = 0.0
        self._busy_s = 0.0
        self._since = time.monotonic()
        self._guard = threading.Lock()

    @property
    def rate(self) -> float:
        """Characters in a second of work; 0 where nothing was measured."""
        return self._done / self._busy_s if self._busy_s else 0.0

    @property
    def wait_s(self) -> float:
        """Until a request that comes now would begin, if all were equal."""
        return self.characters / self.rate if self.rate else 0.0

    @contextmanager
    def admitted(self, characters: int) -> Iterator[None]:
        """While a request is here. Refused where there are too many before it."""
        with self._guard:
            wait = self.wait_s
            if self.requests >= self.most or (self.requests and wait > self.max_wait_s):
                message = (
                    f"overloaded: {self.requests} requests are before this one, "
                    f"about {math.ceil(wait)} s of work"
                )
                raise Refused("overloaded", message, retry_after=max(1.0, wait))
            self._tick()
            self.requests += 1
            self.characters += characters
        done = False
        try:
            yield
            done = True
        finally:
            with self._guard:
                self._tick()
                self.requests -= 1
                self.characters -= characters
                if done:
                    self._done += characters

    def _tick(self) -> None:
        """Time goes on: as busy, if anything was to be done."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        if not self.requests:
            return
        fade = 0.5 ** (passed / HALF_LIFE_S)
        self._done *= fade
        self._busy_s = self._busy_s * fade + passed
