"""Processes that die as `kill -9` kills them, at the moment that a test names."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

PRELOADED = ["dear.label", "dear.train.pointwise", "transformers.models.bert.modeling_bert", "peft"]
"""Imported once, by the server that all processes are forked from: a fresh start takes seconds."""


def in_a_process(work: Callable[..., None], *arguments: Any) -> int:
    """Run `work` in a process of its own; its exit code, -9 if it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=arguments)
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def die() -> None:
    """Nothing is cleaned up, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(call: int, function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
    """`function`, but its `call`-th call (1 is the first) kills the process, before or after."""
    calls = 0

    def replacement(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            die()
        result = function(*arguments, **options)
        if calls == call:
            die()
        return result

    return replacement
