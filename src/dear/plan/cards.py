"""The graphics cards that a plan may name, from their makers' data sheets; and this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dear.bench.machine import matrix_rate
from dear.checkpoints.hardware import cpu_has_bfloat16, pick_device
from dear.errors import ConfigError, nearest

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One device.

    memory: bytes that it has.  rate: bfloat16 operations a second of a dense matrix product (the
        sheet's peak; measured for "cpu").  bandwidth: bytes a second between it and its memory.
    """

    name: str
    memory: int
    rate: float
    bandwidth: float

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"


def _card(name: str, gib: int, tflops: float, gb_s: float) -> Card:
    return Card(name=name, memory=gib * GIB, rate=tflops * 1e12, bandwidth=gb_s * 1e9)


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _card("rtx-4090", 24, 165.2, 1008),
        _card("l4", 24, 121.0, 300),
        _card("a10g", 24, 70.0, 600),
        _card("a100-40gb", 40, 312.0, 1555),
        _card("a100-80gb", 80, 312.0, 2039),
        _card("h100", 80, 989.4, 3350),
        _card("h200", 141, 989.4, 4800),
        _card("b200", 180, 2250.0, 8000),
        _card("mi300x", 192, 1307.4, 5300),
    )
}
"""SXM forms where there are several. Dense rates: sheets that print twice as much mean sparse
matrices. Memory as sold; what a driver keeps back is in the plan's own part."""

CPU, DEFAULT = "cpu", "h100"
SMALL = 150_000_000
"""Parameters that a CPU trains in hours."""


def here(parameters: int) -> str:
    """The card to plan for where none is named: "cpu" for a small model on a machine without a
    GPU, else "h100".

    parameters: of the model.
    """
    small = parameters <= SMALL and pick_device("auto").type == "cpu"
    return CPU if small else DEFAULT


def find_card(name: str) -> Card:
    """ConfigError names the nearest known card. "cpu" is this machine, its rate measured now."""
    if name == CPU:
        return _this_machine()
    if name not in CARDS:
        raise ConfigError(f"no gpu {name!r}{nearest(name, (*CARDS, CPU))}")
    return CARDS[name]


def _this_machine() -> Card:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rate = matrix_rate("bfloat16" if cpu_has_bfloat16() else "float32", "cpu", rounds=3)
    # what an ordinary desktop reads from its memory; decides nothing but generation
    return Card(name=CPU, memory=memory, rate=rate, bandwidth=20e9)
