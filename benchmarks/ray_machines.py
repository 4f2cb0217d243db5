"""Two machines for Ray out of one: each has a network, processes and a /tmp/ray of its own.

Between them is a switch, a third network namespace, so that a cut is silent: packets vanish, and
nobody is told. All of it needs root and Linux, reaches no other network, and ends with the process
that made it.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ADDRESSES = {"head": "10.77.0.1", "far": "10.77.0.2"}
HEAD = f"{ADDRESSES['head']}:6379"
START_S = 120.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # nobody else is in this network
    "RAY_raylet_start_wait_time_s": "120",
    # a machine that does not answer is dead after some 10 s, in place of 30
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "PYTHONFAULTHANDLER": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
WATCH = f"""
import sys
from ray._raylet import GcsClient
client = GcsClient(address={HEAD!r})
for _ in sys.stdin:
    nodes = client.get_all_node_info().values()
    print(*(node.node_manager_address for node in nodes if node.state == 0), flush=True)
"""
"""Answers each line with the addresses of the machines that Ray takes for alive."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Machine:
    """One of Ray's nodes, of one core. All that runs on it ends with its first process."""

    def __init__(self, name: str, log: IO[bytes]) -> None:
        self.name, self.log = name, log

    def start(self) -> None:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
        ray += [f"--node-ip-address={ADDRESSES[self.name]}", "--object-store-memory=200000000"]
        head = ("--head", "--port=6379", "--include-dashboard=false")
        ray += head if self.name == "head" else (f"--address={HEAD}",)
        own = "mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm"
        enter = f"setpriv --pdeathsig KILL ip netns exec dear-{self.name} unshare --mount --pid"
        alone = ("--fork", "--kill-child", "--mount-proc")
        self.process = subprocess.Popen(
            [*enter.split(), *alone, "sh", "-c", f"{own} && exec {shlex.join(ray)}"],
            stdout=self.log,
            stderr=self.log,
        )
        until = time.monotonic() + START_S
        while not children(self.process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        (self.first,) = children(self.process.pid)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)
        self.process.wait()

    def run(self, words: list[str], **how: Any) -> subprocess.Popen[Any]:
        """A command on this machine; it is the only child of what is returned."""
        enter = f"setpriv --pdeathsig KILL nsenter --target={self.first} --net --mount --pid"
        return subprocess.Popen([*enter.split(), *words], **how)

    def workers(self) -> dict[int, bytes]:
        """Processes that hold a model → what they call themselves."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                title = (path / "cmdline").read_bytes()
                if title.startswith(b"ray::Actor") and network(path) == network(
                    Path(f"/proc/{self.first}")
                ):
                    found[int(path.name)] = title
        return found


class Machines:
    """The head, on which the command is given, too, and one that comes and goes."""

    def __init__(self, log: IO[bytes]) -> None:
        Path("/tmp/ray").mkdir(exist_ok=True)
        self.remove()
        for name in ("switch", *ADDRESSES):
            ip("netns", "add", f"dear-{name}")
            ip("-n", f"dear-{name}", "link", "set", "lo", "up")
        ip("-n", "dear-switch", "link", "add", "switch", "type", "bridge")
        ip("-n", "dear-switch", "link", "set", "switch", "up")
        for name, address in ADDRESSES.items():
            there = ("type", "veth", "peer", "name", "net", "netns", f"dear-{name}")
            ip("-n", "dear-switch", "link", "add", name, *there)
            ip("-n", "dear-switch", "link", "set", name, "up")
            ip("-n", f"dear-{name}", "address", "add", f"{address}/24", "dev", "net")
            ip("-n", f"dear-{name}", "link", "set", "net", "up")
            self.join(name)
        self.head, self.far = (Machine(name, log) for name in ADDRESSES)
        self.head.start()
        time.sleep(10)  # until then there is nothing to look at
        pipe: dict[str, Any] = {"stdin": -1, "stdout": -1, "stderr": log, "text": True}
        self.watcher = self.head.run([sys.executable, "-c", WATCH], **pipe)
        self.far.start()
        self.await_both()

    def join(self, name: str) -> None:
        ip("-n", "dear-switch", "link", "set", name, "master", "switch")

    def cut(self) -> None:
        """Between the two."""
        ip("-n", "dear-switch", "link", "set", "far", "nomaster")

    def alive(self) -> list[str]:
        """Addresses of machines, as Ray has it."""
        assert self.watcher.stdin
        assert self.watcher.stdout
        self.watcher.stdin.write("\n")
        self.watcher.stdin.flush()
        return sorted(self.watcher.stdout.readline().split())

    def await_both(self) -> None:
        """Until both machines are there, each once; one that Ray took for dead is started again."""
        until = time.monotonic() + START_S
        while self.alive() != sorted(ADDRESSES.values()):
            if self.far.process.poll() is not None:
                self.far.start()
            if time.monotonic() > until:
                self.far.kill()
                until = time.monotonic() + START_S
            time.sleep(0.5)

    def kill_worker(self, draw: random.Random) -> str:
        """Of which machine."""
        there = [(m.name, pid) for m in (self.head, self.far) for pid in m.workers()]
        if not there:
            return ""
        name, pid = draw.choice(sorted(there))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return name

    def remove(self) -> None:
        """Also what one that was killed left."""
        for name in ("switch", *ADDRESSES):
            if Path(f"/run/netns/dear-{name}").exists():
                ip("netns", "delete", f"dear-{name}")

    def close(self) -> None:
        self.watcher.kill()
        for machine in (self.far, self.head):
            machine.kill()
        self.remove()


def children(process: int) -> list[int]:
    with suppress(OSError):
        there = Path(f"/proc/{process}/task/{process}/children").read_text()
        return [int(word) for word in there.split()]
    return []


def network(process: Path) -> str:
    return os.readlink(process / "ns" / "net")
