"""What a server says of itself: Prometheus metrics, and a line of JSON for each request. Neither
holds a query or a document."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dear import __version__

logger = logging.getLogger("dear.serve")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DOCUMENTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


class Telemetry:
    """Counters of one server; labels are names of ours and of served models, never a client's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ("model", "dialect")

        def counter(name: str, text: str, labels: tuple[str, ...] = names) -> Counter:
            return Counter(f"dear_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"dear_{name}", text, names, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests by status", (*names, "status"))
        self.seconds = histogram("request_seconds", "From the body to the answer", SECONDS)
        self.documents = histogram("request_documents", "Documents of a request", DOCUMENTS)
        self.tokens = counter("tokens", "Tokens read by models")
        self.cut = counter("cut_documents", "Documents longer than the model reads")
        self.partial = counter("partial_answers", "Answers that a deadline ended")
        self.gone = counter("gone_clients", "Requests whose client went away")
        self.in_flight = Gauge("dear_in_flight", "Requests now", ("model",), registry=self.registry)
        self.waiting = Gauge(
            "dear_wait_seconds", "Work before a new request", ("model",), registry=self.registry
        )
        info = Gauge("dear_info", "The version", ("version",), registry=self.registry)
        info.labels(__version__).set(1)

    def page(self) -> bytes:
        return generate_latest(self.registry)


def log(level: int = logging.INFO, **fields: Any) -> None:
    """A line of JSON; values that are None are left out."""
    if not logger.isEnabledFor(level):
        return
    found = {key: value for key, value in fields.items() if value is not None}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    logger.log(level, json.dumps({"time": stamp, **found}))
