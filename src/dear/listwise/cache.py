"""Keys and values of many windows in one place, with room for what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 96
"""Columns that are added at a time: a chain of 26 letters takes 77 tokens."""


@dataclass(slots=True)
class Room:
    """Where the next forward pass stands: its rows, and the columns [start, stop) behind it."""

    count: int
    columns: int
    rows: slice
    start: int
    stop: int


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Written in place: a step does not copy what was there before it."""

    def __init__(self, room: Room) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys: torch.Tensor = self._new(key_states)
        self.values: torch.Tensor = self._new(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, heads, start … stop + S, D) keys and values of the rows, S new ones included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        room = self.room
        end = room.stop + key_states.shape[-2]
        self.keys[room.rows, :, room.stop : end] = key_states
        self.values[room.rows, :, room.stop : end] = value_states
        return (
            self.keys[room.rows, :, room.start : end],
            self.values[room.rows, :, room.start : end],
        )

    def get_seq_length(self) -> int:
        return self.room.stop - self.room.start

    def keep(self, rows: torch.Tensor | None) -> None:
        """Only these rows, in a place of the room's new size; all rows where None."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            old = old[: self.room.count] if rows is None else old.index_select(0, rows)
            new = self._new(old)
            new[:, :, : self.room.stop] = old[:, :, : self.room.stop]
            setattr(self, name, new)

    def _new(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((self.room.count, like.shape[1], self.room.columns, like.shape[3]))


class WindowCache:
    """The cache of `count` windows, the longest of `width` tokens; all end at column `width`."""

    def __init__(self, layers: int, count: int, width: int, device: torch.device) -> None:
        self.room = Room(count, width + ROOM, slice(0, count), 0, 0)
        self.layers = [_RoomyLayer(self.room) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))
        self.mask = torch.zeros(count, self.room.columns, dtype=torch.int64, device=device)
        """1 where a column of a row holds a token that is still meant."""

    def place(self, rows: slice, start: int, stop: int) -> None:
        self.room.rows, self.room.start, self.room.stop = rows, start, stop

    def reserve(self, more: int) -> None:
        """Columns for `more` tokens behind `stop`."""
        room = self.room
        if room.stop + more > room.columns:
            room.columns = room.stop + more + ROOM
            self._resize(None)

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows from now on, in this order."""
        self.room.count = len(rows)
        self.room.rows = slice(0, len(rows))
        self.mask = self.mask.index_select(0, rows)
        self._resize(rows)

    def forget(self, counts: list[int]) -> None:
        """Each row loses its last tokens, `counts` of them."""
        room = self.room
        most = max(counts, default=0)
        if not most:
            return
        tail = self.mask[:, room.stop - most : room.stop]
        if min(counts) == most and bool(tail.all()):
            room.stop -= most
            self.mask[:, room.stop :] = 0
            return
        for row, count in enumerate(counts):
            if count:
                columns = self.mask[row].nonzero()[-count:, 0]
                self.mask[row, columns] = 0

    def _resize(self, rows: torch.Tensor | None) -> None:
        for layer in self.layers:
            if layer.is_initialized:
                layer.keep(rows)
        mask = self.mask.new_zeros((self.room.count, self.room.columns))
        mask[:, : self.room.stop] = self.mask[:, : self.room.stop]
        self.mask = mask
