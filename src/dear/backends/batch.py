"""A provider's batch API: half the price, and hours of patience."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from dear.backends import Completion, OnAnswer
from dear.backends.wire import (
    OfServer,
    Unreadable,
    fault_of,
    plain_client,
    read_answer,
    request_body,
)
from dear.errors import BackendError, excerpt
from dear.prompts.listwise import WindowPrompt

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENDPOINT: Final = "/v1/chat/completions"
MOST_REQUESTS = 50_000
"""In one batch, as OpenAI allows."""

_NONCE = "dear"
_ENDED = ("completed", "failed", "expired", "cancelled")


class BatchBackend(OfServer):
    """Prompts to completions through files: write, upload, create, poll, download.

    A batch carries a nonce in its metadata, so that one whose creation was not confirmed is found
    again instead of being made, and paid, twice.
    """

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """One batch, or several where there are too many prompts. BackendError: as `Backend`."""
        answers: dict[int, Completion] = {}
        why = ""
        for start in range(0, len(prompts), MOST_REQUESTS):
            part = prompts[start : start + MOST_REQUESTS]
            ids = [str(start + i) for i in range(len(part))]
            for name, found in self.collect(self.submit(part, ids, secrets.token_hex(16))):
                if isinstance(found, str):
                    why = why or found
                    continue
                answers[int(name)] = found
                if on_answer is not None:
                    on_answer(int(name), found)
        if len(answers) < len(prompts):
            why = why or "the batch left prompts out"
            raise BackendError(
                f"{self.name}: {why}; {len(answers)} of {len(prompts)} prompts are answered"
            )
        return [answers[i] for i in range(len(prompts))]

    def submit(self, prompts: Sequence[WindowPrompt], ids: Sequence[str], nonce: str) -> str:
        """The id of a new batch. ids: by which `collect` names the answers, each once."""
        lines = [
            json.dumps(
                {
                    "custom_id": name,
                    "method": "POST",
                    "url": ENDPOINT,
                    "body": request_body(self.options, prompt),
                }
            )
            for name, prompt in zip(ids, prompts, strict=True)
        ]
        data = ("\n".join(lines) + "\n").encode("ascii")
        with plain_client(self.options) as client:
            file = self._patiently(
                lambda: client.files.create(file=("dear.jsonl", data), purpose="batch")
            )
            attempts = 0

            def create() -> str:
                nonlocal attempts
                attempts += 1
                there = _find(client, nonce) if attempts > 1 else None
                return there or _create(client, file.id, nonce)

            return self._patiently(create)

    def find(self, nonce: str) -> str | None:
        """The batch of this nonce, among all that the provider lists."""
        with plain_client(self.options) as client:
            return self._patiently(lambda: _find(client, nonce))

    def collect(self, batch: str) -> Iterator[tuple[str, Completion | str]]:
        """Polls until the batch has ended; then its answers, and what failed.

        BackendError: it failed as a whole, or its files can not be had.
        """
        with plain_client(self.options) as client:
            ended = self._wait_for(client, batch)
            files = [ended.output_file_id, ended.error_file_id]
            if ended.status == "failed" or not any(files):
                raise BatchFailed(f"{self.name}: batch {batch} {ended.status}{_first_error(ended)}")
            for file in filter(None, files):
                text = self._patiently(lambda name=file: client.files.content(name).text)  # type: ignore[misc]
                for line in text.splitlines():
                    if line.strip():
                        yield _read_line(line)

    def _wait_for(self, client: openai.OpenAI, batch: str) -> Batch:
        while True:
            found = self._patiently(lambda: client.batches.retrieve(batch))
            if found.status in _ENDED:
                return found
            logger.info("%s: batch %s is %s", self.name, batch, found.status)
            time.sleep(self.options.batch_poll_s)

    def _patiently(self, call: Callable[[], T]) -> T:
        """`call`, repeated as the options say. BackendError: the last failure."""
        attempt = 0
        while True:
            try:
                return call()
            except Exception as error:
                fault = fault_of(error, self.options)
            if not fault.retry or attempt >= self.options.retries:
                raise BackendError(f"{self.name}: {fault.reason}")
            time.sleep(self.options.pause_s(attempt, fault.wait_s, "batch"))
            attempt += 1


class BatchFailed(BackendError):
    """A batch that has ended without answers: asking for it again would not help."""


def _create(client: openai.OpenAI, file: str, nonce: str) -> str:
    made = client.batches.create(
        input_file_id=file,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={_NONCE: nonce},
    )
    return made.id


def _find(client: openai.OpenAI, nonce: str) -> str | None:
    for batch in client.batches.list(limit=100):
        if (batch.metadata or {}).get(_NONCE) == nonce:
            return batch.id
    return None


def _first_error(batch: Batch) -> str:
    errors = batch.errors.data if batch.errors is not None else None
    return f": {errors[0].message}" if errors else ""


def _read_line(line: str) -> tuple[str, Completion | str]:
    try:
        row = json.loads(line)
        name, response = str(row["custom_id"]), row.get("response") or {}
        if response.get("status_code") == 200:
            return name, read_answer(response.get("body"))
        why = row.get("error") or (response.get("body") or {}).get("error") or response
        message = why.get("message") if isinstance(why, dict) else None
        said = str(message or json.dumps(why))
        return name, f"{response.get('status_code') or 'failed'}: {excerpt(said, 160)}"
    except Unreadable as error:
        return name, str(error)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise BackendError(f"a line of the batch's file is none: {excerpt(line, 80)}") from None
