"""How often and how fast a server is asked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable


class Pace:
    """Evenly spaced starts: in any T minutes at most T times what a minute allows, and one more.

    Buckets without a burst, because providers count in windows shorter than a minute. It knows no
    event loop: `reserve` says how long to wait, who asks waits. Threads share it.
    """

    def __init__(
        self,
        requests: float | None = None,
        tokens: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_s = 0.0 if requests is None else 60.0 / requests
        self._token_s = 0.0 if tokens is None else 60.0 / tokens
        self._clock, self._guard = clock, threading.Lock()
        self._next_request = self._next_token = float("-inf")

    def reserve(self, tokens: int) -> float:
        """Seconds until a request of so many tokens may start; the next one follows later."""
        with self._guard:
            now = self._clock()
            start = max(now, self._next_request, self._next_token)
            self._next_request = start + self._request_s
            self._next_token = start + tokens * self._token_s
            return start - now

    def settle(self, reserved: int, used: int) -> None:
        """A request took fewer tokens, or more, than were reserved: at most four times as many,
        which is a token for each byte, whatever a server says."""
        used = min(max(used, 0), 4 * reserved)
        with self._guard:
            self._next_token += (used - reserved) * self._token_s

    def hold(self, seconds: float) -> None:
        """Nobody starts before that."""
        with self._guard:
            self._next_request = max(self._next_request, self._clock() + seconds)


def backoff(attempt: int, *, first_s: float, longest_s: float, seed: str) -> float:
    """Seconds before attempt + 1: twice as long each time, times 0.5 to 1 drawn by `seed`."""
    whole = min(longest_s, first_s * 2.0 ** min(attempt, 60))
    return whole * (0.5 + 0.5 * random.Random(f"{seed}:{attempt}").random())
