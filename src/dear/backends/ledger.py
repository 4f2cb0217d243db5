"""Answers on disk, so that none is asked, or paid, twice."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from dear.backends.backend import Batched, Completion, Keepable, OnAnswer, Price
from dear.backends.batch import MOST_REQUESTS, BatchFailed
from dear.backends.ledger_file import LedgerFile, prompt_key
from dear.errors import BackendError
from dear.prompts.listwise import WindowPrompt


@dataclass(kw_only=True, slots=True)
class Usage:
    """What answers took, of those whose server said.

    asked, prompt_tokens, completion_tokens: the answers that were asked for now.
    kept: prompts that were answered without asking.  kept_...: what they had taken.
    cost, kept_cost: dollars; None without a price.
    """

    asked: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kept_prompt_tokens: int = 0
    kept_completion_tokens: int = 0
    price: Price | None = None

    @property
    def cost(self) -> float | None:
        if self.price is None:
            return None
        return self.price.cost(self.prompt_tokens, self.completion_tokens)

    @property
    def kept_cost(self) -> float | None:
        if self.price is None:
            return None
        return self.price.cost(self.kept_prompt_tokens, self.kept_completion_tokens)

    def to_dict(self) -> dict[str, Any]:
        """For a run's note."""
        values = asdict(self)
        del values["price"]
        return values | {"cost": self.cost, "kept_cost": self.kept_cost}


Company: TypeAlias = Callable[[WindowPrompt], Hashable]
"""Prompts of equal ones are in each other's company."""


class Ledger:
    """A backend before another one: what its file holds is answered from there, the rest is asked.

    A prompt is known by the SHA-256 of its messages and the backend's identity, whatever it ranks
    and wherever the server runs. Each answer is on disk (fsync) before anybody hears of it. A
    prompt that comes twice in one call is asked once. One process at a time; its threads may share
    it, but for a backend that answers in batches. Close it, or use it as a context manager.

    company: of a backend whose answers depend, to rounding, on what is asked with them. Where one
        prompt has no answer, all of its company in the call are asked, so that what a killed job
        had done changes nothing; the first answer to a prompt counts.
    DataError: the file is no ledger, is broken in the middle, is another process's.
    """

    def __init__(
        self,
        backend: Keepable,
        path: Path | str,
        *,
        sync: bool = True,
        company: Company | None = None,
    ) -> None:
        self.backend = backend
        self._company = company
        self._file = LedgerFile(path, sync=sync)
        self._writing = threading.Lock()
        self._usage = Usage(price=backend.price)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the file to others."""
        self._file.close()

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.backend.identity

    @property
    def price(self) -> Price | None:
        return self.backend.price

    @property
    def path(self) -> Path:
        return self._file.path

    def usage(self) -> Usage:
        """Since it was opened."""
        return replace(self._usage)

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """As the backend's; answers from the file, and repeated ones, are `cached`."""
        asked: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            asked.setdefault(prompt_key(self.identity, prompt), []).append(i)
        told: dict[int, Completion] = {}

        def tell(key: str, *, cached: bool) -> None:
            for i in asked[key]:
                told[i] = replace(self._file.answers[key], cached=cached)
                self._count(told[i])
                cached = True  # the same prompt once more
                if on_answer is not None:
                    on_answer(i, told[i])

        def keep(key: str, completion: Completion) -> None:
            query = prompts[asked[key][0]].query.id if key in asked else ""
            with self._writing:  # another thread may have asked the same
                if key not in self._file.answers:
                    self._file.add(key, query, completion)
            if key in asked and asked[key][0] not in told:
                tell(key, cached=False)

        missing = {key: prompts[at[0]] for key, at in asked.items()}
        for key in asked:
            if key in self._file.answers:
                del missing[key]
                tell(key, cached=True)
        if self._company is not None:
            lacking = set(map(self._company, missing.values()))
            prompt_of = {key: prompts[at[0]] for key, at in asked.items()}
            missing = {k: p for k, p in prompt_of.items() if self._company(p) in lacking}
        try:
            if missing:
                self._ask(missing, keep)
        except BackendError as error:
            kept = len(self._file.answers)
            raise BackendError(
                f"{error}; {kept:,} answer{'' if kept == 1 else 's'} "
                f"in {self.path}: the same command goes on from there"
            ) from None
        return [told[i] for i in range(len(prompts))]

    def _ask(
        self, missing: Mapping[str, WindowPrompt], keep: Callable[[str, Completion], None]
    ) -> None:
        """Hands an answer for each key to `keep`, or raises BackendError."""
        if isinstance(self.backend, Batched):
            self._through_batches(self.backend, missing, keep)
            return
        keys = list(missing)
        found = self.backend.generate(list(missing.values()), lambda i, c: keep(keys[i], c))
        for key, completion in zip(keys, found, strict=True):
            keep(key, completion)

    def _through_batches(
        self,
        backend: Batched,
        missing: Mapping[str, WindowPrompt],
        keep: Callable[[str, Completion], None],
    ) -> None:
        """First those that an earlier process began, then new ones for what they lack."""
        faults: list[str] = []
        for nonce, batch in list(self._file.batches.items()):
            if not missing.keys() & set(batch.keys):
                continue
            if batch.id is None:
                name = backend.find(nonce)
                if name is None:
                    self._file.end_batch(nonce)
                    continue
                self._file.name_batch(nonce, name)
            faults += self._collect(backend, nonce, keep)
        left = [key for key in missing if key not in self._file.answers]
        for start in range(0, len(left), MOST_REQUESTS):
            keys, nonce = left[start : start + MOST_REQUESTS], secrets.token_hex(16)
            self._file.begin_batch(nonce, keys)
            self._file.name_batch(
                nonce, backend.submit([missing[key] for key in keys], keys, nonce)
            )
            faults = self._collect(backend, nonce, keep)
        unanswered = sum(key not in self._file.answers for key in missing)
        if unanswered:
            first = faults[0] if faults else "the batch left prompts out"
            raise BackendError(
                f"{self.name}: {first}; {len(missing) - unanswered} of {len(missing)} prompts "
                "are answered"
            )

    def _collect(
        self, backend: Batched, nonce: str, keep: Callable[[str, Completion], None]
    ) -> list[str]:
        """What failed in a batch; its answers go to `keep`."""
        faults = []
        try:
            with self._file.unsynced():
                batch = self._file.batches[nonce]
                for key, found in backend.collect(batch.id or "", batch.keys):
                    if isinstance(found, str):
                        faults.append(found)
                    else:
                        keep(key, found)
        except BatchFailed:
            self._file.end_batch(nonce)
            raise
        self._file.end_batch(nonce)
        return faults

    def _count(self, completion: Completion) -> None:
        usage = self._usage
        taken = completion.prompt_tokens or 0, completion.completion_tokens or 0
        with self._writing:
            if completion.cached:
                usage.kept += 1
                usage.kept_prompt_tokens += taken[0]
                usage.kept_completion_tokens += taken[1]
            else:
                usage.asked += 1
                usage.prompt_tokens += taken[0]
                usage.completion_tokens += taken[1]
