"""What a model is made of, as inputs of what is made with it."""

from __future__ import annotations

from pathlib import Path

from dear.digests import Input, files_digest, lines_digest
from dear.models.contract import ScoringContract
from dear.models.engines.openvino import WEIGHTS
from dear.models.exported import is_exported
from dear.models.family import Source, locate
from dear.models.files import (
    FORMER_REVISION,
    former_revision_of,
    revision_of,
    sampled_digest,
    tokenizer_files,
    weight_files,
)
from dear.models.lora import adapter_config, base_of
from dear.models.tokenizing import has_tokenizer


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


def former(name: str, digest: str) -> bool | None:
    """Whether `digest`, a revision or fingerprint that an earlier version wrote, is of the model
    that is opened by this name, as far as that version looked; None where it is no such digest."""
    spec = Path(name) if Path(name).exists() else Path(name.partition(":")[2] or name)
    if is_exported(spec):
        contract = ScoringContract.load(spec)
        if contract is not None and digest == contract.fingerprint:
            return True
    if not FORMER_REVISION.search(digest):
        return None
    if is_exported(spec):
        return digest == f"local-{sampled_digest([spec / WEIGHTS])}"
    return digest == "+".join(map(former_revision_of, _chain(locate(spec))))


def _chain(source: Source) -> list[Source]:
    """An adapter and what it sits on, to the last; any other model alone."""
    adapter = adapter_config(source)
    return [source] if adapter is None else [source, *_chain(base_of(source, adapter))]


def _weights(source: Source) -> str:
    return revision_of(source) if source.folder is None else files_digest(weight_files(source))


def _tokenizer(source: Source) -> str:
    return revision_of(source) if source.folder is None else files_digest(tokenizer_files(source))
