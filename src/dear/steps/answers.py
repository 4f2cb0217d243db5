"""The answers of a listwise backend: the ledger they are kept in, and what they took."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.backends import Backend, Keepable
from dear.backends.ledger import Ledger, Usage
from dear.errors import ConfigError
from dear.evaluate.cost import stage
from dear.rank.ranker import Totals


@dataclass(kw_only=True)
class Answers:
    """A listwise backend with its ledger.

    ledger: None where answers are not kept.  usage: None for backends that do not report any.
    """

    backend: Backend
    ledger: Path | None = None
    usage: Usage | None = None

    @classmethod
    def of(cls, backend: Backend, ledger: Path | None, *, output: Path | None) -> Answers:
        """The ledger is `ledger`, else a file next to the run `output`; none where both are None.

        ConfigError: a ledger for a backend whose answers cannot be kept. DataError: one that
        cannot be written.
        """
        if not isinstance(backend, Keepable):
            if ledger is not None:
                raise ConfigError(f"--ledger: the answers of {backend.name} are not for a ledger")
            return cls(backend=backend)
        if ledger is None and output is not None and (output.is_file() or not output.exists()):
            ledger = output.with_name(f"{output.name}.answers.jsonl")
        found = cls(backend=backend, ledger=ledger)
        with found.opened():  # an unwritable ledger is reported before any answer is paid for
            pass
        return found

    @contextlib.contextmanager
    def opened(self) -> Iterator[Backend]:
        """The backend, through the ledger where there is one; its usage is set at the end."""
        if self.ledger is None or not isinstance(self.backend, Keepable):
            yield self.backend
            return
        with Ledger(self.backend, self.ledger) as ledger:
            yield ledger
            self.usage = ledger.usage()

    def count(self, totals: Totals) -> None:
        """Set the usage of a backend without a ledger: what the ranking asked for."""
        if self.ledger is None and isinstance(self.backend, Keepable):
            self.usage = Usage(
                asked=totals.cost.windows,
                prompt_tokens=totals.cost.prompt_tokens,
                completion_tokens=totals.cost.completion_tokens,
                price=self.backend.price,
            )

    def stage(self, totals: Totals) -> dict[str, Any]:
        """Cost of the listwise stage for the run's note; answers from the ledger cost nothing."""
        usage, cost = self.usage, totals.cost
        calls = cost.windows if usage is None else usage.asked
        tokens = cost if usage is None else usage
        known = not calls or tokens.prompt_tokens > 0
        return stage(
            "windows",
            cost.windows,
            cost.listwise_s,
            calls=calls,
            prompt_tokens=tokens.prompt_tokens if known else None,
            completion_tokens=tokens.completion_tokens if known else None,
            dollars=None if usage is None else usage.cost,
        )
