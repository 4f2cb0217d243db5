"""`dear rank --listwise`: the ledger of its answers, and what they took."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.backends import Keepable
from dear.cli.output import count
from dear.errors import ConfigError
from dear.evaluate.cost import stage

if TYPE_CHECKING:
    from dear.backends import Backend
    from dear.backends.ledger import Usage
    from dear.rank.opening import RankerSpec
    from dear.rank.ranker import Totals


@dataclass(kw_only=True)
class Answers:
    """A listwise backend's answers: where they are kept, and what they took.

    ledger: None where none are kept.  usage: None for backends that say nothing of it.
    """

    backend: Backend
    ledger: Path | None = None
    usage: Usage | None = None

    @classmethod
    def of(cls, backend: Backend, ledger: Path | None, *, beside: Path | None) -> Answers:
        """Names the file for answers; where none is given, one beside the run that is written.

        beside: None to keep none. DataError where answers could not be kept there.
        """

        if not isinstance(backend, Keepable):
            if ledger is not None:
                raise ConfigError(f"--ledger: the answers of {backend.name} are not for a ledger")
            return cls(backend=backend)
        if ledger is None and beside is not None and (beside.is_file() or not beside.exists()):
            ledger = beside.with_name(f"{beside.name}.answers.jsonl")
        found = cls(backend=backend, ledger=ledger)
        with found.kept():  # an unwritable ledger is told before any answer is paid for
            pass
        return found

    @contextlib.contextmanager
    def kept(self) -> Iterator[Backend]:
        """The backend, behind the ledger where there is one."""
        from dear.backends.ledger import Ledger

        if self.ledger is None or not isinstance(self.backend, Keepable):
            yield self.backend
            return
        with Ledger(self.backend, self.ledger) as ledger:
            yield ledger
            self.usage = ledger.usage()

    def count(self, took: Totals) -> None:
        """Where no ledger counts: what this ranking asked for."""
        from dear.backends.ledger import Usage

        if self.ledger is None and isinstance(self.backend, Keepable):
            self.usage = Usage(
                asked=took.cost.windows,
                prompt_tokens=took.cost.prompt_tokens,
                completion_tokens=took.cost.completion_tokens,
                price=self.backend.price,
            )

    def stage(self, took: Totals) -> dict[str, Any]:
        """For the run's note: answers that a ledger had took nothing."""

        usage, cost = self.usage, took.cost
        calls = cost.windows if usage is None else usage.asked
        tokens = cost if usage is None else usage
        said = not calls or tokens.prompt_tokens > 0
        return stage(
            "windows",
            cost.windows,
            cost.listwise_s,
            calls=calls,
            prompt_tokens=tokens.prompt_tokens if said else None,
            completion_tokens=tokens.completion_tokens if said else None,
            dollars=None if usage is None else usage.cost,
        )

    def line(self) -> str | None:
        """What the answers took, where that is known."""
        usage = self.usage
        if usage is None:
            return None
        kept = f", {usage.kept:,} kept from before" if self.ledger is not None else ""
        cost = "" if usage.cost is None else f", ${usage.cost:.4f}"
        return (
            f"{count(usage.asked, 'answer')} asked for{kept}; {usage.prompt_tokens:,} tokens in, "
            f"{usage.completion_tokens:,} out{cost}"
            f"{f' ({self.ledger})' if self.ledger is not None else ''}"
        )


def windows_line(took: Totals) -> str:
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in took.to_dict()["mends"].items())
    return (
        f"{count(took.cost.windows, 'window')}, {took.cost.mended_windows:,} of them mended"
        f"{f' ({kinds})' if kinds else ''}, {took.unreadable:,} without a ranking"
    )


def listwise_options(spec: RankerSpec, backend: Backend, *, one_backbone: bool) -> dict[str, Any]:
    """What the listwise stage was told, for the run's note."""
    own = getattr(backend, "template", None)
    return {
        "strategy": spec.strategy,
        "depth": spec.depth,
        "window": spec.window,
        "step": spec.step,
        "fuse": spec.fuse,
        "guard": spec.guard,
        "prompt": spec.prompt or ("rankvicuna" if own is None else "the model's own"),
        "one_backbone": one_backbone,
    }
