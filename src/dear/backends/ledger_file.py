"""The file behind a ledger: JSON lines that are only ever added."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dear import locks
from dear.artifacts import folder_to_disk
from dear.backends.backend import Completion
from dear.errors import DataError, excerpt
from dear.prompts.listwise import WindowPrompt

T = TypeVar("T")

logger = logging.getLogger(__name__)

FORMAT = "dear-ledger/1"
_HEADER = json.dumps({"format": FORMAT}).encode("ascii") + b"\n"


def prompt_key(identity: Mapping[str, Any], prompt: WindowPrompt) -> str:
    """SHA-256, in hex, over what an answer depends on."""
    whole = json.dumps([dict(identity), prompt.messages], sort_keys=True)
    return hashlib.sha256(whole.encode("ascii")).hexdigest()


@dataclass(slots=True)
class _OpenBatch:
    """A batch that was begun and not collected. id: None where its creation was not confirmed."""

    keys: tuple[str, ...]
    id: str | None = None


class LedgerFile:
    """`answers` by key, and the batches that are still out; every change is a line at the end.

    sync: each line is on disk (fsync) before the call returns; else it is the system's, which
    outlives a killed process but no power cut. A last line that was cut off is dropped.
    DataError: no ledger (it is left as it is), a broken line before the last, another process's,
    a file that can not be written.
    """

    def __init__(self, path: Path | str, *, sync: bool = True) -> None:
        self.path = Path(path)
        self.answers: dict[str, Completion] = {}
        self.batches: dict[str, _OpenBatch] = {}
        self._sync = sync
        self._closed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._error(f"cannot be written: {error.strerror}") from None
        try:
            self._claim()
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._file)

    def add(self, key: str, query: str, completion: Completion) -> None:
        """One answer. query: for people who read the file."""
        row: dict[str, Any] = {
            "key": key,
            "query": query,
            "text": completion.text,
            "finish": completion.finish,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        }
        if completion.reasoning:
            row["reasoning"] = completion.reasoning
        for name in ("order", "scores"):
            if (values := getattr(completion, name)) is not None:
                row[name] = list(values)
        self._append(row)
        self.answers[key] = completion

    @contextlib.contextmanager
    def unsynced(self) -> Iterator[None]:
        """Lines that are added meanwhile reach the disk with the next one after it.

        For answers that can be had again: a batch's, until `end_batch`.
        """
        before, self._sync = self._sync, False
        try:
            yield
        finally:
            self._sync = before

    def begin_batch(self, nonce: str, keys: Sequence[str]) -> None:
        """Before a batch is created."""
        self._append({"batch": nonce, "keys": list(keys)})
        self.batches[nonce] = _OpenBatch(tuple(keys))

    def name_batch(self, nonce: str, name: str) -> None:
        """When it has an id."""
        self._append({"batch": nonce, "id": name})
        self.batches[nonce].id = name

    def end_batch(self, nonce: str) -> None:
        """When all that it holds is here, or it never was created."""
        self._append({"batch": nonce, "done": True})
        del self.batches[nonce]

    def _error(self, problem: str, line: int | None = None) -> DataError:
        return DataError.at(self.path, line, problem)

    def _claim(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise self._error("is no regular file, a ledger is one")
        if not locks.lock(self._file):
            raise self._error("another process is writing answers here")

    def _load(self) -> None:
        with open(self._file, "rb", closefd=False) as stream:
            data = stream.read()
        whole, newline, tail = data.rpartition(b"\n")
        whole += newline
        if not data.startswith(_HEADER):
            if not _HEADER.startswith(data):
                raise self._error(f"is no ledger of answers ({FORMAT})", 1)
            os.ftruncate(self._file, 0)
            self._write(_HEADER)
            if self._sync:  # a file without a name could not be found
                folder_to_disk(Path(os.path.realpath(self.path)).parent)
            return
        for number, line in enumerate(whole.splitlines(), 1):
            if number > 1 and line.strip():
                self._take(_parsed(line), line, number)
        last = _parsed(tail)
        if last is not None:
            # all of it but the line feed; a part of an object is no object
            self._take(last, tail, None)
            self._write(b"\n")
        elif tail:
            logger.warning("%s: the last line was cut off and is dropped", self.path)
            os.ftruncate(self._file, len(whole))

    def _take(self, row: dict[str, Any] | None, line: bytes, number: int | None) -> None:
        try:
            if row is None:
                raise ValueError
            if "batch" in row:
                self._take_batch(row)
            else:
                self.answers.setdefault(_text(row["key"]), _completion(row))
        except (KeyError, TypeError, ValueError):
            shown = excerpt(line.decode("utf-8", "replace"), 40)
            raise self._error(f"a broken line, {shown}; remove it to go on", number) from None

    def _take_batch(self, row: Mapping[str, Any]) -> None:
        nonce = _text(row["batch"])
        if row.get("done"):
            self.batches.pop(nonce, None)
        elif "id" in row:
            self.batches[nonce].id = _text(row["id"])
        else:
            if not isinstance(row["keys"], list):
                raise ValueError
            self.batches[nonce] = _OpenBatch(tuple(map(_text, row["keys"])))

    def _append(self, row: Mapping[str, Any]) -> None:
        # ASCII: an answer may hold half a surrogate pair
        self._write(json.dumps(row).encode("ascii") + b"\n")

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            if self._sync:
                os.fsync(self._file)
        except OSError as error:
            # half a line would spoil the next one
            os.ftruncate(self._file, before)
            raise self._error(f"cannot be written: {error.strerror}") from None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _completion(row: Mapping[str, Any]) -> Completion:
    return Completion(
        text=_text(row["text"]),
        finish=_text(row["finish"]),
        prompt_tokens=_count(row["prompt_tokens"]),
        completion_tokens=_count(row["completion_tokens"]),
        reasoning=_text(row.get("reasoning", "")),
        order=_tuple(row.get("order"), int),
        scores=_tuple(row.get("scores"), float),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _tuple(value: Any, kind: type[T]) -> tuple[T, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise ValueError
    return tuple(value)


def _count(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError
    return value
