"""A server of the tests' own: a real one, on a port that was free."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
import uvicorn

from dear.serve.app import Server, make_app
from dear.serve.options import ServeOptions
from dear.serve.running import Running, listen, open_server

TESTS = Path(__file__).resolve().parents[1]
# the small reranker of the command line's tests, and the browser of the report's
sys.path += [str(TESTS / "cli"), str(TESTS / "report")]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server answers. server: what it answers from."""

    url: str
    server: Server


Serve: TypeAlias = Callable[[ServeOptions], AbstractContextManager[Address]]


@contextlib.contextmanager
def _served(options: ServeOptions) -> Iterator[Address]:
    with contextlib.closing(listen(options)) as listening:
        server = open_server(options)
        config = uvicorn.Config(
            make_app(server),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            lifespan="off",
        )
        ready = threading.Event()
        running = Running(config, server, ready.set)
        thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
        thread.start()
        try:
            assert ready.wait(60), "the server does not answer"
            host, port = listening.getsockname()[:2]
            yield Address(f"http://{host}:{port}", server)
        finally:
            running.should_exit = True
            thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def served() -> Serve:
    """`with served(ServeOptions(port=0, …)) as server`: `server.url` answers until the end."""
    return _served
