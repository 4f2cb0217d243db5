"""Which sequences begin alike, and which of their beginnings are worth sharing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefixSet:
    """Sequences that begin with the same `prefix` tokens; each goes on after them."""

    prefix: int
    members: tuple[int, ...]

    @property
    def saved(self) -> int:
        """Tokens that are not computed again."""
        return self.prefix * (len(self.members) - 1)


def common_prefixes(sequences: Sequence[Sequence[int]], set_tokens: int) -> list[PrefixSet]:
    """Disjoint sets: all sequences that begin with a prefix and go on after it, for the prefixes
    that save the most tokens, less `set_tokens` for each set."""
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    spans = [_Span(0, 0)]
    # a span is a run of neighbours in order; its prefix is the shortest that two of them share.
    # Spans nest: the last in `spans` is the innermost that is still open.
    for place, index in enumerate(order):
        last = place + 1 == len(order)
        shared = 0 if last else _shared(sequences[index], sequences[order[place + 1]])
        inner = _Span(shared, place)
        while spans[-1].prefix > shared:
            closed = spans.pop()
            closed.take(inner)
            closed.settle(place + 1, set_tokens)
            inner = closed
        if spans[-1].prefix == shared:
            spans[-1].take(inner)
        else:
            spans.append(_Span(shared, inner.start, inner.gain, inner.sets))
    return [PrefixSet(prefix, tuple(order[start:stop])) for prefix, start, stop in spans[0].sets]


@dataclass(slots=True)
class _Span:
    """The best found for neighbours from `start` on: (prefix, start, stop) of each set."""

    prefix: int
    start: int
    gain: int = 0
    sets: tuple[tuple[int, int, int], ...] = ()

    def take(self, inner: _Span) -> None:
        self.gain += inner.gain
        self.sets += inner.sets

    def settle(self, stop: int, set_tokens: int) -> None:
        """One set for all, if that gains more than the sets within."""
        gain = self.prefix * (stop - self.start - 1) - set_tokens
        if gain > self.gain:
            self.gain, self.sets = gain, ((self.prefix, self.start, stop),)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens of the common prefix that leaves each a token of its own; sequences of 1 or more."""
    limit = min(len(a), len(b)) - 1
    return next((i for i in range(limit) if a[i] != b[i]), limit)
