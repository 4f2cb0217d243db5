"""A provider's batch API: half the price, and hours of patience."""

from __future__ import annotations

import json
import logging
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from dear.backends.backend import Completion, OnAnswer
from dear.backends.wire import (
    ServerBackend,
    TooLong,
    Unreadable,
    asked,
    fault_of,
    parsed,
    read_answer,
    request_body,
    shown,
)
from dear.errors import BackendError
from dear.prompts.listwise import WindowPrompt

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENDPOINT: Final = "/v1/chat/completions"
MOST_REQUESTS = 50_000
"""In one batch, as OpenAI allows."""

_NONCE = "dear"
_FILES = ("output_file_id", "error_file_id")
_ENDED = ("completed", "failed", "expired", "cancelled")
_ID = re.compile(r"\w[\w.:@+-]{0,255}", re.ASCII)
"""What a provider may call a file or a batch: it becomes part of an address."""


class BatchBackend(ServerBackend):
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
            for name, found in self.collect(self.submit(part, ids, secrets.token_hex(16)), ids):
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
        file = self._patiently(lambda client: _upload(client, data))
        attempts = 0

        async def create(client: openai.AsyncOpenAI) -> str:
            nonlocal attempts
            attempts += 1
            there = await _find(client, nonce) if attempts > 1 else None
            return there or await _create(client, file, nonce)

        return self._patiently(create)

    def find(self, nonce: str) -> str | None:
        """The batch of this nonce, among all that the provider lists."""
        return self._patiently(lambda client: _find(client, nonce))

    def collect(self, batch: str, ids: Collection[str]) -> Iterator[tuple[str, Completion | str]]:
        """Polls until the batch has ended; then its answers, and what failed.

        Of an id that comes twice the first counts; lines about others, or that are none, are
        skipped with a warning. BackendError: it failed as a whole, it takes too long, its files
        can not be had.
        """
        ended = self._wait_for(batch)
        files = [ended[key] for key in _FILES if ended.get(key)]
        if ended["status"] == "failed" or not files:
            raise BatchFailed(f"{self.name}: batch {batch} {ended['status']}{_first_error(ended)}")
        left, skipped = set(ids), 0
        for file in files:
            for line in self._lines(file):
                if line.isspace():
                    continue
                name, found = _read_line(line)
                if name in left:
                    left.remove(name)
                    yield name, found
                else:
                    skipped += 1
        if skipped:
            logger.warning("%s: batch %s: %d lines answer nothing", self.name, batch, skipped)

    def _wait_for(self, batch: str) -> dict[str, Any]:
        """The batch when it has ended."""
        until = time.monotonic() + self.options.batch_timeout_s
        while True:
            found = self._patiently(lambda client: _retrieve(client, batch))
            if found["status"] in _ENDED:
                return found
            if time.monotonic() > until:
                raise BackendError(f"{self.name}: batch {batch} is {found['status']} for too long")
            logger.info("%s: batch %s is %s", self.name, batch, found["status"])
            time.sleep(self.options.batch_poll_s)

    def _lines(self, file: str) -> Iterator[bytes]:
        """Of a file of answers; one that is too long for an answer is empty."""
        most = self.options.most_bytes
        with tempfile.TemporaryFile() as kept:
            self._patiently(
                lambda client: self._download(client, file, kept), self.options.download_timeout_s
            )
            kept.seek(0)
            while line := kept.readline(most):
                rest = line
                while len(rest) == most and not rest.endswith(b"\n"):
                    line, rest = b"", kept.readline(most)
                yield line

    async def _download(self, client: openai.AsyncOpenAI, file: str, kept: IO[bytes]) -> None:
        most, size = int(self.options.max_file_mib * 2**20), 0
        kept.seek(0)
        kept.truncate()
        async with client.files.with_streaming_response.content(file) as answer:
            async for piece in answer.iter_bytes():
                size += len(piece)
                if size > most:
                    raise TooLong(f"a file of more than {most:,} bytes; max_file_mib is the limit")
                kept.write(piece)

    def _patiently(
        self,
        call: Callable[[openai.AsyncOpenAI], Awaitable[T]],
        seconds: float | None = None,
    ) -> T:
        """`call`, repeated as the options say. BackendError: the last failure."""
        attempt = 0
        while True:
            try:
                return asked(self.options, call, seconds)
            except Exception as error:
                fault = fault_of(error, self.options, seconds)
            if not fault.retry or attempt >= self.options.retries:
                raise BackendError(f"{self.name}: {fault.reason}")
            time.sleep(self.options.pause_s(attempt, fault.wait_s, "batch"))
            attempt += 1


class BatchFailed(BackendError):
    """A batch that has ended without answers: asking for it again would not help."""


async def _upload(client: openai.AsyncOpenAI, data: bytes) -> str:
    made = await client.files.with_raw_response.create(file=("dear.jsonl", data), purpose="batch")
    return _id(parsed(made.content))


async def _create(client: openai.AsyncOpenAI, file: str, nonce: str) -> str:
    made = await client.batches.with_raw_response.create(
        input_file_id=file,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={_NONCE: nonce},
    )
    return _id(parsed(made.content))


async def _retrieve(client: openai.AsyncOpenAI, batch: str) -> dict[str, Any]:
    """With a `status`, and names of _FILES where there are any."""
    found = parsed((await client.batches.with_raw_response.retrieve(batch)).content)
    status = found.get("status") if isinstance(found, dict) else None
    if not isinstance(status, str) or not _ID.fullmatch(status):
        raise Unreadable(f"no batch: {shown(found, 120)}")
    for key in _FILES:
        if found.get(key):
            _id(found, key)
    return dict(found)


async def _find(client: openai.AsyncOpenAI, nonce: str) -> str | None:
    """Page by page, as long as a request may take."""
    query: dict[str, str] = {}
    while True:
        page = await client.batches.with_raw_response.list(limit=100, **query)  # type: ignore[arg-type]
        found = parsed(page.content)
        rows = found.get("data") if isinstance(found, dict) else None
        if not isinstance(rows, list):
            raise Unreadable(f"no list of batches: {shown(found, 120)}")
        for row in rows:
            about = row.get("metadata") if isinstance(row, dict) else None
            if isinstance(about, dict) and about.get(_NONCE) == nonce:
                return _id(row)
        if not rows or found.get("has_more") is not True:
            return None
        query = {"after": _id(rows[-1])}


def _id(value: Any, key: str = "id") -> str:
    """Unreadable: there is none."""
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise Unreadable(f"no {key}: {shown(value, 120)}")
    return found


def _first_error(batch: Mapping[str, Any]) -> str:
    try:
        return f": {shown(batch['errors']['data'][0]['message'], 160)}"
    except (KeyError, IndexError, TypeError):
        return ""


def _read_line(line: bytes) -> tuple[str, Completion | str]:
    """(id, answer or what failed); the id is empty where the line is none."""
    name = ""
    try:
        row = parsed(line)
        if not isinstance(row["custom_id"], str):
            return "", ""
        name, response = row["custom_id"], row.get("response") or {}
        status = response.get("status_code")
        if status == 200:
            return name, read_answer(response.get("body"))
        why = row.get("error") or (response.get("body") or {}).get("error") or response
        message = why.get("message") if isinstance(why, dict) else None
        known = status if type(status) is int else "failed"
        return name, f"{known}: {shown(message or why, 160)}"
    except Unreadable as error:
        return name, str(error)
    except (KeyError, AttributeError, TypeError):
        return name, f"no line of an answer: {shown(line.decode('utf-8', 'replace'), 80)}"
