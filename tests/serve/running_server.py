"""A real server on loopback, in a thread of the tests, and the plainest client."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import uvicorn

from dear.serve.app import make_app
from dear.serve.options import ServeOptions
from dear.serve.running import Running, listen, open_server
from dear.serve.server import Server


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    url: str
    server: Server

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """body: bytes as they are, else as JSON; None for a GET."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return Answered(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answered(error.code, _lower(error.headers), error.read())

    def server_with(self, **changes: Any) -> Server:
        """Another server of the same models."""
        return replace(self.server, **changes)

    def metric(self, name: str) -> float:
        """The sum over its labels."""
        page = self.ask("/metrics").body.decode()
        lines = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def _lower(headers: Any) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}


@contextlib.contextmanager
def running(server: Server | None = None, **options: Any) -> Iterator[Served]:
    """options: of ServeOptions; server: one that is open already."""
    # an export for each model would be made otherwise
    asked = ServeOptions(port=0, **{"runtime": "torch", **options})
    open_already = server or open_server(asked)
    listening = listen(asked)
    config = uvicorn.Config(
        make_app(open_already), log_config=None, access_log=False, lifespan="off",
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    begun = threading.Event()
    run = Running(config, open_already, begun.set)
    thread = threading.Thread(target=run.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert begun.wait(60)
        host, port = listening.getsockname()[:2]
        yield Served(f"http://{host}:{port}", open_already)
    finally:
        run.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 60) -> None:
    """Fails where it does not become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
