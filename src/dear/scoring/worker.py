"""One process of a ScorerPool: its model, and what it says through its pipe.

Bytes pass, no objects: a letter, then JSON, or float32 scores.

to a worker     S pairs                     (the end of the pipe is the end of the worker)
from a worker   R what the model is         P pairs done
                F scores                    E class and text of an error
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

import dear.errors
from dear import scoring
from dear.checkpoints.contract import ScoringContract
from dear.errors import BackendError, DearError
from dear.notices import collected

if TYPE_CHECKING:
    # no torch before _load: it reads OMP_NUM_THREADS when it is imported
    from dear.scoring.encoding import Pair
    from dear.scoring.opening import PairModel

PASSED_ON = (
    "dtype",
    "device",
    "batch_tokens",
    "revision",
    "instruction",
    "max_passage_tokens",
)
"""Arguments of `open_model` that a worker gets as they are."""

READY, SCORE, PROGRESS, FINISHED, ERROR = b"R", b"S", b"P", b"F", b"E"


def work(pipe: Connection, argument: str) -> None:
    """The life of the process. argument: JSON of what `open_model` takes, and `threads`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to handle
    options = json.loads(argument)
    if options["threads"]:
        os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(options["threads"])
    # a pipe that breaks: the parent is done with us, or gone
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            with collected() as notices:
                model = _load(options)
        except Exception as error:
            pipe.send_bytes(_error(error, options["device"]))
            return
        found = {"model": about(model), "notices": notices}
        pipe.send_bytes(READY + json.dumps(found).encode())
        while True:
            pairs = [(query, passage) for query, passage in json.loads(pipe.recv_bytes()[1:])]
            try:
                scores = model.score(
                    pairs, lambda done, _: pipe.send_bytes(PROGRESS + b"%d" % done)
                )
                answer = FINISHED + scores.astype(np.float32, copy=False).tobytes()
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                answer = _error(error, options["device"])
            pipe.send_bytes(answer)


def as_request(pairs: Sequence[Pair]) -> bytes:
    return SCORE + json.dumps(pairs).encode()


def as_error(body: bytes) -> DearError:
    """The worker's error, of the class that it had there."""
    name, text = json.loads(body)
    kind: type[DearError] = getattr(dear.errors, name)
    return kind(text)


def _error(error: Exception, device: str) -> bytes:
    if isinstance(error, DearError):
        known = [type(error).__name__, str(error)]
    else:
        text = f"{device}: {type(error).__name__}: {error}"
        known = [BackendError.__name__, text.splitlines()[0]]
    return ERROR + json.dumps(known).encode()


def _load(options: dict[str, Any]) -> PairModel:
    import torch

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    contract = options["contract"]
    return scoring.opening.open_model(
        options["spec"],
        contract=ScoringContract.from_dict(contract) if isinstance(contract, dict) else contract,
        **{name: options[name] for name in PASSED_ON},
    )


def about(model: PairModel) -> dict[str, Any]:
    """What results are stamped with, as plain values."""
    contract = model.contract
    plain = isinstance(contract, dict)
    return {
        "name": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "parameters": model.parameters,
        "contract": contract if plain else contract.to_dict(),
        "plain_contract": plain,
        "computing": getattr(model, "computing", {}),
    }
