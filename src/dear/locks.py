"""Locks between processes, on POSIX systems and on Windows.

Not the package filelock: the ledger locks the file that it writes, and writers into a folder share
the folder's lock (`dear.artifacts.unfinished_in`), neither of which filelock does. A lock ends
with its file descriptor, so that a killed process holds none.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

from dear.errors import DataError


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# untyped: each of them is known to one system's type checker alone
_fcntl: Any = _module("fcntl")
_msvcrt: Any = None if _fcntl else _module("msvcrt")

_BEYOND = 2**40
"""Where no file has bytes: Windows lets nobody else read what is locked."""


def lock(file: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of an open file for this process; False where another one holds it.

    file: its descriptor.  shared: with others that share it; False on Windows, which has no such
    lock here.  wait: until it is free.  DataError: system or file system have no locks.
    """
    if _fcntl:
        kind = _fcntl.LOCK_SH if shared else _fcntl.LOCK_EX
        try:
            _fcntl.flock(file, kind if wait else kind | _fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise DataError(f"the file system has no locks: {error.strerror}") from error
        return True
    if not _msvcrt:
        raise DataError("this system has no locks between processes")
    return False if shared else _lock_on_windows(file, wait)


def _lock_on_windows(file: int, wait: bool) -> bool:
    at = os.lseek(file, 0, os.SEEK_CUR)
    os.lseek(file, _BEYOND, os.SEEK_SET)
    try:
        while True:
            try:
                # LK_LOCK tries for ten seconds
                _msvcrt.locking(file, _msvcrt.LK_LOCK if wait else _msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
    finally:
        os.lseek(file, at, os.SEEK_SET)
