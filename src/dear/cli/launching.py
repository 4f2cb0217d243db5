"""`dear train` in several processes: what its options mean, and which process talks."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from dear.cli.output import quiet
from dear.errors import ConfigError
from dear.train.launching import Launch, launch, require_gpus

GpusOption = Annotated[
    int | None, typer.Option(metavar="N", help="Train on N GPUs of this machine.")
]
ProcessesOption = Annotated[
    int | None, typer.Option(metavar="N", help="Train in N processes on the CPU.")
]
NodesOption = Annotated[
    int, typer.Option(metavar="N", help="Machines; the command is started on each.")
]
NodeRankOption = Annotated[
    int, typer.Option(metavar="I", help="The number of this machine, from 0.")
]
MainAddressOption = Annotated[
    str | None, typer.Option(metavar="HOST[:PORT]", help="Where machine 0 is found.")
]


def launched(arguments: list[str], places: Launch | None) -> bool:
    """Run `dear` with `arguments` in all places and return True; False without places: the work
    is this process's own."""
    if places is None:
        if int(os.environ.get("RANK", "0")):
            quiet.set(True)  # the first process speaks for all
        return False

    if quiet.get():
        arguments = [*arguments, "--quiet"]
    if logging.getLogger("dear").level == logging.DEBUG:
        arguments = [*arguments, "--debug"]
    status = launch(arguments, places)
    if status:
        raise typer.Exit(status)
    return True


def places_of(
    kind: str,
    gpus: int | None,
    processes: int | None,
    nodes: int,
    node_rank: int,
    main_address: str | None,
) -> Launch | None:
    """The processes to start, or None to train in this one."""

    if gpus is None and processes is None:
        if nodes > 1 or node_rank or main_address is not None:
            raise ConfigError("--nodes, --node-rank and --main-address go with --gpus")
        return None
    if gpus is not None and processes is not None:
        raise ConfigError("either --gpus or --processes")
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("a launcher has started this process: leave out --gpus and --processes")
    if kind in ("heads", "biencoder"):
        raise ConfigError(f"a {kind} model trains in one process")
    if gpus is not None:
        require_gpus(gpus)
    places = Launch(
        processes=gpus or processes or 0,
        nodes=nodes,
        node_rank=node_rank,
        address=main_address,
        on_cpu=gpus is None,
    )
    places.environments()
    return None if places.processes * places.nodes == 1 and gpus else places
