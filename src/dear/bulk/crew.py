"""Leaves of a job through actors of Ray, each of which holds an opened model.

Ray carries and nothing more: the driver deals leaves out and hears of answers, and whoever takes
them from `Crew.answers` writes them. Nothing that is lost matters, and nothing is written twice,
because the first answer of a leaf counts and later ones are dropped:

    an actor dies, or its machine       another one takes its place, its leaves are dealt again
    a leaf ends TRIES actors            it is given up; the others are done first
    no leaf is left for an idle actor   it takes one that waits for another, or is late there
    an actor says nothing               its leaf is late; with nobody idle it is ended when STUCK

Two leaves are in flight for each actor, one at work and one behind it: back-pressure on the input,
and memory that does not grow with the job.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias

from dear.errors import BackendError, ContractMismatch, DearError, MissingExtra
from dear.notices import collected, repeat, warn

Work: TypeAlias = Callable[[Any], Any]
"""A leaf's input → its answer."""
Opener: TypeAlias = Callable[[], tuple[Any, Work]]
"""What is called once on each actor: (what was opened, as plain values that are equal on all of
them; the work). A function of a module, or a partial of one: Ray passes it by name."""

IN_FLIGHT = 2
"""Leaves of an actor."""
TRIES = 3
"""Actors that a leaf may end, or errors that it may raise."""
OPENINGS = 3
"""Times that one actor's place may fail to open what it is to work with."""
LATE, STUCK = 3.0, 30.0
"""Times the median of a leaf's seconds after which a leaf is dealt to an idle actor, too; after
which its actor is ended."""
LATE_S, STUCK_S = 2.0, 600.0
"""And never before."""
EMPTY_S = 600.0
"""What a cluster gets to start one actor."""
OBJECT_STORE_BYTES = 1 << 30
"""Of a Ray that is started here: what is in flight is far less."""


class Actor:
    """What runs on an actor. Errors come back as values: an exception is Ray's alone."""

    def __init__(self, threads: int, folder: str) -> None:
        # before torch or tokenizers are imported, which read them once
        os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(threads)
        with contextlib.suppress(OSError):  # another machine; names of models are all it needs then
            os.chdir(folder)

    def open(self, opener: Opener) -> tuple[Any, list[tuple[int, str]]] | DearError:
        """(what was opened, notices)"""
        try:
            with collected() as notices:
                about, self._work = opener()
        except Exception as error:
            return _plain(error)
        return about, notices

    def work(self, leaf: Any) -> Any:
        try:
            return self._work(leaf)
        except Exception as error:
            return _plain(error)


def _plain(error: Exception) -> DearError:
    """One that every machine can unpickle, its text on one line."""
    if isinstance(error, DearError):
        return error
    return BackendError(f"{type(error).__name__}: {error}".splitlines()[0])


@dataclass(eq=False, slots=True)
class _Place:
    """Of an actor, and of those that take its place.

    born, opening: what its process and its start are awaited by; `opening` is None once it works.
    tasks: reference → leaf, the one at work first, since when.  failures: to open, in a row.
    """

    actor: Any = None
    born: Any = None
    opening: Any = None
    tasks: dict[Any, int] = field(default_factory=dict)
    since: float = 0.0
    failures: int = 0


@dataclass(eq=False, slots=True)
class _Leaf:
    """input: a reference to it.  failures: what it ended, or raised."""

    input: Any
    failures: list[DearError] = field(default_factory=list)


class Crew:
    """Actors, all with the same opened.

        with Crew(partial(open_scorer, "runs/teacher"), workers=8, gpus=1) as crew:
            for leaf, answer in crew.answers(leaves):
                ...

    address: of a cluster; None: RAY_ADDRESS, else a Ray that is started here and ended with the
        block.
    workers: None: as many as the cluster has room for now.
    gpus, cpus: of each. None: one GPU where the cluster has any; the threads that OMP_NUM_THREADS
        says, else the cores of the smallest machine, so that each has one.
    about: what was opened.
    MissingExtra: no Ray. BackendError: no cluster, no room for one actor, the cluster went away.
    What opening raises on every actor is raised.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        workers: int | None = None,
        gpus: float | None = None,
        cpus: int | None = None,
        address: str | None = None,
    ) -> None:
        self._ray = _ray()
        self._opener = opener
        self._places: list[_Place] = []
        self._seconds: deque[float] = deque(maxlen=101)
        self.about: Any = None
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, address)
        try:
            self.workers, self._each = self._sized(workers, gpus, cpus)
            self._places = [_Place() for _ in range(self.workers)]
            self._alive = time.monotonic()
            for place in self._places:
                self._start(place)
            with _one_line(self._ray):
                while self.about is None:
                    for place, _ in self._heard():
                        self._meet(place)
        except BaseException:
            self.close()
            raise

    def answers(self, leaves: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """(leaf, its answer) in the order in which they come, each leaf once; in place of an answer
        the DearError of a leaf that was given up.

        leaves: number → input; taken when an actor has room.
        """
        self._source, self._again = iter(leaves), deque[int]()
        self._open: dict[int, _Leaf] = {}
        self._taken = False  # all that there is
        for place in self._places:
            place.tasks.clear()  # of a job that was left before its end
        with _one_line(self._ray):
            self._deal()
            while self._open or not self._taken:
                for place, reference in self._heard():
                    if reference is place.opening:
                        self._meet(place)
                    elif (found := self._hear(place, reference)) is not None:
                        yield found
                yield from self._end_stuck()
                self._deal()

    def close(self) -> None:
        """End the actors, and what was started or connected here. Twice does no harm."""
        places, self._places = self._places, []
        with contextlib.suppress(Exception):  # the cluster may be gone
            for place in places:
                self._ray.kill(place.actor)
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _sized(
        self, workers: int | None, gpus: float | None, cpus: int | None
    ) -> tuple[int, dict[str, Any]]:
        """How many actors, and what each of them has."""
        machines = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        total = {kind: sum(m.get(kind, 0) for m in machines) for kind in ("CPU", "GPU")}
        if gpus is None:
            gpus = 1 if total["GPU"] else 0
        if cpus is None:
            least = min((int(m["CPU"]) for m in machines if m.get("CPU")), default=1)
            cpus = 1 if gpus else int(os.environ.get("OMP_NUM_THREADS") or least)
        if workers is None:
            room = total["GPU"] // gpus if gpus else total["CPU"] // cpus
            workers = max(1, int(room))
        return workers, {"num_cpus": cpus, "num_gpus": gpus}

    def _start(self, place: _Place) -> None:
        kind = self._ray.remote(Actor).options(
            **self._each, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        place.actor = kind.remote(self._each["num_cpus"], os.getcwd())
        place.born = place.actor.__ray_ready__.remote()
        place.opening = place.actor.open.remote(self._opener)

    def _heard(self) -> list[tuple[_Place, Any]]:
        """Whose start or task has ended, waited for a second. BackendError: no actor starts."""
        awaited = {ref: p for p in self._places for ref in p.tasks}
        awaited |= {p.opening: p for p in self._places if p.opening is not None}
        ready, _ = self._ray.wait(list(awaited), timeout=1.0)
        born = [p.born for p in self._places]
        if ready or self._ray.wait(born, timeout=0)[0]:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > EMPTY_S:
            asked = ", ".join(f"{n} {kind}" for kind, n in self._each.items())
            raise BackendError(
                f"Ray started no worker in {EMPTY_S:.0f} s: each asks for {asked}, and the cluster "
                f"has {self._ray.available_resources()}"
            )
        return [(awaited[ref], ref) for ref in ready]

    def _meet(self, place: _Place) -> None:
        """An actor whose start has ended. What it raises where no actor ever opened; where others
        have, its place is given up after OPENINGS times."""
        try:
            found = self._ray.get(place.opening)
        except self._ray.exceptions.RayError as error:
            found, died = _died(error), True
        else:
            died = False
        if not isinstance(found, DearError):
            about, notices = found
            if self.about is None:
                self.about = about
                repeat(notices)
            elif about != self.about:
                raise ContractMismatch(
                    f"the workers would score differently ({self.about} and {about}); set the "
                    "dtype, and use one kind of machine and one version"
                )
            place.opening, place.failures = None, 0
            return
        place.failures += 1
        if self.about is None and not died:
            raise found
        if place.failures < OPENINGS:
            warn(f"{found}; another worker takes its place")
            self._start(place)
            return
        self._places.remove(place)
        if not self._places:
            raise found
        warn(f"a worker does not start, {len(self._places)} go on: {found}")

    def _deal(self) -> None:
        """Every actor gets its leaves, all of them their first before any its second."""
        ready = [place for place in self._places if place.opening is None]
        for depth in range(IN_FLIGHT):
            for place in ready:
                if len(place.tasks) <= depth and (number := self._next()) is not None:
                    self._send(place, number)
        for place in ready:
            if not place.tasks and (number := self._taken_over()) is not None:
                self._send(place, number)

    def _next(self) -> int | None:
        """A leaf that is to be dealt."""
        while self._again:
            if (number := self._again.popleft()) in self._open:
                return number
        for number, given in self._source:
            self._open[number] = _Leaf(self._ray.put(given))
            return number
        self._taken = True
        return None

    def _send(self, place: _Place, number: int) -> None:
        if not place.tasks:
            place.since = time.monotonic()
        place.tasks[place.actor.work.remote(self._open[number].input)] = number

    def _taken_over(self) -> int | None:
        """For an idle actor, when all leaves are dealt: one that waits for another one's end, else
        the one that is latest."""
        for place in self._places:
            if len(place.tasks) > 1:
                reference, number = place.tasks.popitem()
                with contextlib.suppress(Exception):  # it may have begun: then it is done twice
                    self._ray.cancel(reference)
                if number in self._open:
                    return number
        now, limit = time.monotonic(), self._limit(LATE, LATE_S)
        late = [p for p in self._places if p.tasks and now - p.since > limit]
        for place in sorted(late, key=lambda p: p.since):
            number = next(iter(place.tasks.values()))
            if number in self._open and not self._dealt(number, beside=place):
                return number
        return None

    def _dealt(self, number: int, *, beside: _Place) -> bool:
        """Whether another actor has it, too."""
        return any(number in p.tasks.values() for p in self._places if p is not beside)

    def _limit(self, times: float, least: float) -> float:
        if not self._seconds:
            return float("inf")
        return max(least, times * statistics.median(self._seconds))

    def _hear(self, place: _Place, reference: Any) -> tuple[int, Any] | None:
        """The answer of a task that has ended, where it is the leaf's first."""
        if reference not in place.tasks:  # of an actor that was lost meanwhile
            return None
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._lost(place, _died(error))
        now, number = time.monotonic(), place.tasks.pop(reference)
        seconds, place.since = now - place.since, now
        if number not in self._open:
            return None
        if isinstance(answer, DearError):
            return self._failed(number, answer)
        self._seconds.append(seconds)
        del self._open[number]
        return number, answer

    def _lost(self, place: _Place, error: DearError) -> tuple[int, DearError] | None:
        """Another actor for this place. Its leaves are dealt again, unless the one at work is given
        up."""
        warn(f"{error}; another worker takes its place")
        at_work, *behind = place.tasks.values()
        place.tasks.clear()
        with contextlib.suppress(Exception):
            self._ray.kill(place.actor)
        self._start(place)
        self._again.extendleft(behind)
        return self._failed(at_work, error) if at_work in self._open else None

    def _failed(self, number: int, error: DearError) -> tuple[int, DearError] | None:
        failures = self._open[number].failures
        failures.append(error)
        if len(failures) < TRIES:
            self._again.append(number)
            return None
        del self._open[number]
        return number, error

    def _end_stuck(self) -> Iterator[tuple[int, DearError]]:
        now, limit = time.monotonic(), self._limit(STUCK, STUCK_S)
        for place in self._places:
            if place.tasks and now - place.since > limit:
                error = BackendError(f"a worker did not answer for {now - place.since:.0f} s")
                if (found := self._lost(place, error)) is not None:
                    yield found


def _ray() -> Any:
    """The library. MissingExtra."""
    # nothing is reported to anybody, whatever Ray's default is
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingExtra.of("ray", "ray") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """To a cluster, or to one of this machine alone, on the loopback interface, without pages."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        how |= {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        how["object_store_memory"] = OBJECT_STORE_BYTES
    else:
        how["address"] = address
    try:
        ray.init(**how)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "here" if address is None else f"at {address}"
        asked = address is not None and "RAY_AUTH_MODE" not in os.environ
        token = " (one that asks for a token needs RAY_AUTH_MODE=token here, too)" if asked else ""
        raise BackendError(f"no Ray {where}: {_first_line(error)}{token}") from None


@contextlib.contextmanager
def _one_line(ray: Any) -> Iterator[None]:
    """What Ray raises of itself, as one line."""
    try:
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise BackendError(
            f"the Ray cluster does not answer: {_first_line(error)}; what is done is kept, the "
            "same command goes on"
        ) from None


def _died(error: Exception) -> BackendError:
    return BackendError(f"the worker died: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
