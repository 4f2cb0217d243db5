"""`dear rank --listwise`: the backend, its ledger, and what the answers took."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.cli.output import count
from dear.cli.progress import progress
from dear.errors import ConfigError, nearest

if TYPE_CHECKING:
    from dear.backends import Backend
    from dear.backends.ledger import Usage
    from dear.prompts.listwise import ListwisePrompt
    from dear.rank.listwise import ListwiseReport
    from dear.rank.reranker import Reranker
    from dear.records import Candidates, Ranking


class Lists:
    """What `--listwise` and its options say; wrong ones are refused before any work."""

    def __init__(
        self,
        backend: str,
        prompt: str | None,
        strategy: str,
        window: int,
        step: int,
        depth: int | None,
        blend: float = 0.0,
        *,
        guard: bool = False,
    ) -> None:
        from dear.backends import check_backend
        from dear.prompts.listwise import LISTWISE_PROMPTS
        from dear.rank.fusion import check_weight
        from dear.rank.strategies import open_strategy

        if prompt is not None and prompt not in LISTWISE_PROMPTS:
            raise ConfigError(f"--prompt {prompt!r}{nearest(prompt, LISTWISE_PROMPTS)}")
        if (
            prompt is not None
            and LISTWISE_PROMPTS[prompt].ends
            and not backend.startswith("local:")
        ):
            raise ConfigError(
                f"--prompt {prompt!r} does not say what to answer: only a local model that was "
                "trained on it can read it"
            )
        check_backend(backend)
        check_weight(blend)
        self.blend, self.guard = blend, guard
        self.named, self.prompt, self.depth = backend, prompt, depth
        self.strategy = open_strategy(strategy, window=window, step=step)
        self.options = {
            "strategy": strategy,
            "depth": depth,
            "window": window,
            "step": step,
            "blend": blend,
            "guard": guard,
        }
        self.backend: Backend | None = None
        self.template: str | ListwisePrompt = "rankvicuna"
        self.ledger: Path | None = None
        self.usage: Usage | None = None

    def open(self, model: str | None, options: dict[str, Any]) -> Reranker | None:
        """Opens the backend; and `model`, where both sit on one base, which is then read once.

        options: of `opening_options`; those that only `model` understands keep them apart, and
            a revision is that of the lists' model where there is no other.
        """
        from dear.backends import open_backend
        from dear.backends.local import open_local
        from dear.prompts.listwise import guard
        from dear.rank.cascade import open_on_one_backbone

        shared = {key: options[key] for key in ("dtype", "device", "batch_tokens")}
        plain = all(value is None for key, value in options.items() if key not in shared)
        kind, _, where = self.named.partition(":")
        reranker = None
        if kind != "local":
            self.backend = open_backend(self.named)
        elif model is not None and plain and (both := open_on_one_backbone(model, where, shared)):
            reranker, self.backend = both
        else:
            revision = options["revision"] if model is None else None
            self.backend = open_local(where, **shared, revision=revision)
        own = getattr(self.backend, "template", None)
        self.template = self.prompt or own or self.template
        if self.guard:
            self.template = guard(self.template)
        self.options["prompt"] = self.prompt or ("rankvicuna" if own is None else "the model's own")
        self.options["one_backbone"] = reranker is not None
        return reranker

    @property
    def opened(self) -> Backend:
        assert self.backend is not None
        return self.backend

    @property
    def name(self) -> str:
        return self.opened.name

    @property
    def identity(self) -> dict[str, Any]:
        """What an order depends on beside its texts, as JSON values."""
        own = getattr(self.opened, "identity", {})
        return {**self.options, "depth": self.depth, "backend": dict(own)}

    @property
    def is_local(self) -> bool:
        """True where the model computes in this process."""
        return self.named.startswith("local:")

    def keep_in(self, ledger: Path | None, *, beside: Path) -> None:
        """Names the file for answers; where none is given, one beside the run that is written.

        DataError where answers could not be kept there.
        """
        from dear.backends import Keepable

        if isinstance(self.backend, Keepable):
            whole = beside.is_file() or not beside.exists()
            self.ledger = ledger or (
                beside.with_name(f"{beside.name}.answers.jsonl") if whole else None
            )
            with self._kept():
                pass
        elif ledger is not None:
            raise ConfigError(f"--ledger: the answers of {self.name} are not for a ledger")

    @contextlib.contextmanager
    def _kept(self) -> Iterator[Backend]:
        """The backend, behind the ledger where there is one."""
        from dear.backends import Keepable
        from dear.backends.ledger import Ledger

        if self.ledger is None or not isinstance(self.backend, Keepable):
            yield self.opened
            return
        with Ledger(self.backend, self.ledger) as ledger:
            yield ledger
            self.usage = ledger.usage()

    def rank(self, candidates: list[Candidates]) -> tuple[dict[str, Ranking], ListwiseReport]:
        from dear.backends import Batched, Keepable
        from dear.backends.batch import MOST_REQUESTS
        from dear.backends.ledger import Usage
        from dear.rank.listwise import BATCH_WINDOWS, rank_listwise

        with self._kept() as backend, progress("ranking lists", "windows") as shown:
            rankings, report = rank_listwise(
                candidates,
                backend,
                strategy=self.strategy,
                prompt=self.template,
                depth=self.depth,
                blend=self.blend,
                batch_windows=MOST_REQUESTS if isinstance(self.backend, Batched) else BATCH_WINDOWS,
                progress=shown,
            )
        if self.ledger is None and isinstance(self.backend, Keepable):
            self.usage = Usage(
                asked=report.windows,
                prompt_tokens=report.prompt_tokens,
                completion_tokens=report.completion_tokens,
                price=self.backend.price,
            )
        return {ranking.query_id: ranking for ranking in rankings}, report

    def values(self, report: ListwiseReport) -> dict[str, Any]:
        """For the run's note."""
        usage = None if self.usage is None else self.usage.to_dict()
        ledger = None if self.ledger is None else str(self.ledger)
        values = {"backend": self.name, **self.options, **report.to_dict()}
        return values | {"usage": usage, "ledger": ledger}

    def cost(self, report: ListwiseReport) -> dict[str, Any]:
        """What this ranking took, for the run's note: answers that a ledger had took nothing."""
        from dear.evaluate.cost import stage

        usage = self.usage
        took = report if usage is None else usage
        calls = report.windows if usage is None else usage.asked
        said = not calls or took.prompt_tokens > 0
        return stage(
            "windows",
            report.windows,
            report.seconds,
            calls=calls,
            prompt_tokens=took.prompt_tokens if said else None,
            completion_tokens=took.completion_tokens if said else None,
            dollars=None if usage is None else usage.cost,
        )

    def spent(self) -> list[str]:
        """What the answers took, in a line, where that is known."""
        usage = self.usage
        if usage is None:
            return []
        kept = f", {usage.kept:,} kept from before" if self.ledger is not None else ""
        cost = "" if usage.cost is None else f", ${usage.cost:.4f}"
        return [
            f"{count(usage.asked, 'answer')} asked for{kept}; {usage.prompt_tokens:,} tokens in, "
            f"{usage.completion_tokens:,} out{cost}"
            f"{f' ({self.ledger})' if self.ledger is not None else ''}"
        ]


def mended_line(report: ListwiseReport) -> str:
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(report.mends.items()))
    return (
        f"{count(report.windows, 'window')}, {report.mended:,} of them mended"
        f"{f' ({kinds})' if kinds else ''}, {report.parse_errors:,} without a ranking"
    )
