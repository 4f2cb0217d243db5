"""What a person should know of a model that was opened or of a step's work, in one line each.

`say` is for what is as it should be (logged as INFO, shown by the command line), `warn` for what
was guessed, cut or slowed down (WARNING).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

logger = logging.getLogger(__name__)


def say(text: str) -> None:
    logger.info("%s", text)


def warn(text: str) -> None:
    logger.warning("%s", text)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.levelno, record.getMessage()))


@contextlib.contextmanager
def collected() -> Iterator[list[tuple[int, str]]]:
    """Inside, notices are kept as (level, text) instead of logged: a worker sends them on."""
    collector = _Collector()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield collector.found
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagates


def repeat(found: list[tuple[int, str]]) -> None:
    """Log what `collected` kept."""
    for level, text in found:
        logger.log(level, "%s", text)
