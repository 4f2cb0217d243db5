"""What all routes of a server share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from dear.errors import excerpt
from dear.serve.asking import Refused
from dear.serve.dialects.table import DEFAULT
from dear.serve.keys import Keys
from dear.serve.served import Served
from dear.serve.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """documents: in a request.  payload: bytes.  held: bytes of all requests that are here; a
    request takes several times its bytes of memory.  body_s: seconds for a body to arrive."""

    documents: int = 1000
    payload: int = 10_000_000
    held: int = 500_000_000
    body_s: float = 60.0


@dataclass(kw_only=True)
class Server:
    """What routes share. models: by name, the first one where a request names none.  held:
    bytes of requests that are here."""

    models: Mapping[str, Served]
    limits: RequestLimits = field(default_factory=RequestLimits)
    keys: Keys = field(default_factory=Keys)
    default: str = DEFAULT
    cors: Sequence[str] = ()
    telemetry: Telemetry = field(default_factory=Telemetry)
    stopping: bool = False
    held: int = 0

    def __post_init__(self) -> None:
        self.threads = anyio.CapacityLimiter(sum(m.load.most for m in self.models.values()))

    def model(self, name: str | None) -> Served:
        """Refused for a name that is none, unless there is one model alone: clients send names of
        the services that they were made for."""
        first = next(iter(self.models.values()))
        if name is None or len(self.models) == 1:
            return first
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refused("unknown model", f"no model {excerpt(name)}; there are: {known}")
        return self.models[name]
