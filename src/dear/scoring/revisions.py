"""What a model is made of, as inputs of what is made with it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dear.checkpoints.adapters import adapter_config, base_of
from dear.checkpoints.contract import CONTRACT_FILE, ScoringContract
from dear.checkpoints.files import (
    FORMER_REVISION,
    former_revision_of,
    has_tokenizer,
    revision_of,
    tokenizer_files,
    weight_files,
)
from dear.checkpoints.registry import Source, locate
from dear.digests import Input, Inputs, file_digest, files_digest, lines_digest
from dear.errors import ContractMismatch
from dear.scoring.exported import exported_revision, former_exported_revision, is_exported

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from dear.scoring.loading import ScoringModel
    from dear.scoring.opening import PairModel


def base_inputs(name: str) -> dict[str, Input]:
    """`base` and `tokenizer` of the model that a training starts from, an adapter's base included.

    Of a model of the hub both are its commit. Errors are those of finding the model.
    """
    chain = _chain(locate(name))
    tokenizer = next((source for source in chain if has_tokenizer(source)), chain[-1])
    return {
        "base": Input(lines_digest(map(_weights, chain)), name),
        "tokenizer": Input(_tokenizer(tokenizer), name),
    }


def scoring_inputs(model: PairModel) -> dict[str, Input]:
    """`model` and `contract` of a model that is open: what its scores depend on beside texts."""
    contract = model.contract
    values = dict(contract if isinstance(contract, dict) else contract.to_dict())
    values |= getattr(model, "computing", {})
    values.pop("name", None)
    known = partial(former, model.name)
    return {
        "model": Input(model.revision, model.name, former=known),
        "contract": Input(model.fingerprint, values=values, former=known),
    }


def revision_named(name: str) -> str:
    """The revision of the model that is opened by this name, without opening it."""
    spec = _place(name)
    return exported_revision(spec) if is_exported(spec) else _revision(_chain(locate(spec)))


def checkpoint_digest(folder: Path) -> str:
    """Of a checkpoint in a folder with its contract: all that its scores depend on. What else lies
    there, such as a calibration, does not count."""
    contract = folder / CONTRACT_FILE
    parts = [file_digest(contract)] if contract.is_file() else []
    return lines_digest([revision_named(str(folder)), *parts])


def require_revision(what: str, there: str, model: ScoringModel | PairModel) -> None:
    """ContractMismatch where something, made for the weights of revision `there`, meets others; a
    warning where an earlier version wrote that revision.

    what: `calibration: fitted on`.
    """
    known = Input(model.revision, former=partial(former, model.name))
    found = Inputs({"revision": Input(there)}).changes(Inputs({"revision": known}))
    if found:
        raise ContractMismatch(
            f"{what} revision {there}, but {model.name} is {model.revision}; calibrate again"
        )
    if found.unverified:
        logger.warning(
            "%s weights of %s that are unverified: an earlier version looked at parts of them",
            *(what, model.name),
        )


def former(name: str, digest: str) -> bool | None:
    """Whether `digest`, a revision or fingerprint that an earlier version wrote, is of the model
    that is opened by this name, as far as that version looked; None where it is no such digest."""
    spec = _place(name)
    if is_exported(spec):
        contract = ScoringContract.load(spec)
        if contract is not None and digest == contract.fingerprint:
            return True
    if not FORMER_REVISION.search(digest):
        return None
    if is_exported(spec):
        return digest == former_exported_revision(spec)
    return digest == "+".join(map(former_revision_of, _chain(locate(spec))))


def _place(name: str) -> Path:
    """Of a kind of reading, such as biencoder:NAME, what is read."""
    return Path(name) if Path(name).exists() else Path(name.partition(":")[2] or name)


def _revision(chain: list[Source]) -> str:
    return "+".join(map(revision_of, chain))


def _chain(source: Source) -> list[Source]:
    """An adapter and what it sits on, to the last; any other model alone."""
    adapter = adapter_config(source)
    return [source] if adapter is None else [source, *_chain(base_of(source, adapter))]


def _weights(source: Source) -> str:
    return revision_of(source) if source.folder is None else files_digest(weight_files(source))


def _tokenizer(source: Source) -> str:
    return revision_of(source) if source.folder is None else files_digest(tokenizer_files(source))
