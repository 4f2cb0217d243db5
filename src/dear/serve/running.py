"""From options to a server that listens, and to its end."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from dear.data.splitting import SplitSize
from dear.errors import ConfigError
from dear.rank.reranker import Reranker
from dear.serve.app import make_app
from dear.serve.keys import Keys
from dear.serve.load import Load
from dear.serve.options import ServeOptions
from dear.serve.served import Served
from dear.serve.server import RequestLimits, Server
from dear.steps.runtimes import prepared

BACKLOG = 2048


class Running(uvicorn.Server):
    """uvicorn's server, which tells when it listens and says `stopping` before it ends."""

    def __init__(self, config: uvicorn.Config, server: Server, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.server, self._started = server, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets=sockets)
        # to be ended is how a server ends: the signals are not raised once more
        self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.server.stopping = True
        super().handle_exit(sig, frame)


def open_server(options: ServeOptions) -> Server:
    """Models loaded and warm. ConfigError, DataError and BackendError of theirs."""
    keys = Keys(options.api_key, options.api_key_file)
    chunk = None
    if options.chunk_words is not None:
        chunk = SplitSize(size=options.chunk_words, overlap=options.chunk_overlap)
    models = {}
    for at, (name, spec) in enumerate(options.pairs()):
        calibration = None if at else options.calibration
        # a map that lies elsewhere was fitted on the checkpoint's own scores
        own = options.runtime == "auto" and calibration is not None
        found = prepared(
            spec, runtime="torch" if own else options.runtime, options=options.model_options
        )
        reranker = Reranker(found.model, calibration=calibration, **found.options.to_dict())
        load = Load(most=options.max_concurrent_requests, max_wait_s=options.max_wait)
        models[name] = Served(
            name,
            reranker,
            load,
            chunk=chunk,
            min_probability=options.min_probability,
            deadline_s=options.deadline,
        )
    for model in models.values():
        model.warm_up()
    return Server(
        models=models,
        limits=RequestLimits(
            documents=options.max_client_batch_size, payload=options.payload_limit
        ),
        keys=keys,
        default=options.default_dialect,
        cors=options.cors,
    )


def listen(options: ServeOptions) -> socket.socket:
    """Before models are loaded, so that a port that is taken shows at once. ConfigError."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((options.host, options.port))
    except OSError as error:
        problem = f"{options.host}, port {options.port}: {error.strerror}"
        raise ConfigError(f"{problem}; --port takes another, 0 any that is free") from None
    return found


def serve(options: ServeOptions, *, started: Callable[[str, Server], None]) -> None:
    """Until a signal ends it. started: called with the address when requests are answered."""
    with contextlib.closing(listen(options)) as listening:
        server = open_server(options)
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        _log_requests()
        config = uvicorn.Config(
            make_app(server),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(options.shutdown),
            backlog=BACKLOG,
            lifespan="off",
        )
        Running(config, server, lambda: started(address, server)).run(sockets=[listening])


def _log_requests() -> None:
    """A line of JSON for each request, on standard error."""
    logger = logging.getLogger("dear.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
