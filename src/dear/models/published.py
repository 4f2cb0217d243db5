"""What is known of published checkpoints that carry no contract of their own."""

from __future__ import annotations

from dear.errors import ConfigError
from dear.models.contract import CARD, CONTRACT_FILE, CONTRACTS, ScoringContract
from dear.models.family import Source, family_of
from dear.models.files import model_file
from dear.models.listwise_contract import LISTWISE_FILE, ListwiseContract

LIST_CONTRACTS: dict[str, ListwiseContract] = {
    # the limits of stage 2 (Abdallah et al. 2025); the prompt asks for its three steps in our words
    "reasoning": ListwiseContract(
        prompt="reasoning",
        max_words=300,
        max_window=20,
        max_tokens=5000,
        thought=True,
        learnt="text",
    ),
}


def contract_of(source: Source, given: ScoringContract | None = None) -> ScoringContract:
    """The contract that a one-logit checkpoint is scored under.

    The stored one, which a given one must agree with (ContractMismatch); where none is stored the
    given one, else the published one of a model of the family, else CARD.
    """
    path = model_file(source, CONTRACT_FILE)
    stored = ScoringContract.load(path.parent) if path is not None else None
    if stored is not None and given is not None:
        # what the model and the machine decide is no disagreement
        stored.require(given, what=source.name, ignore=("dtype", "pooling"))
    if stored is not None or given is not None:
        return stored or given or CARD
    known = family_of(source)
    return CONTRACTS[known.contract] if known is not None and known.contract else CARD


def list_contract_of(
    source: Source, given: ListwiseContract | None = None
) -> ListwiseContract | None:
    """The same for a model that orders lists; None for one of which nothing is known.

    ConfigError: the stored and the given one differ.
    """
    path = model_file(source, LISTWISE_FILE)
    stored = ListwiseContract.load(path.parent) if path is not None else None
    if stored is not None and given is not None and stored != given:
        raise ConfigError(
            f"{source.name}: the model brings a listwise contract of its own: {stored}"
        )
    if stored is not None or given is not None:
        return stored or given
    known = family_of(source)
    return LIST_CONTRACTS.get(known.contract) if known and known.kind == "listwise" else None


def require_pointwise(source: Source) -> None:
    """ConfigError for a published model that orders lists, opened as one that scores pairs."""
    known = family_of(source)
    if known is not None and known.kind == "listwise":
        raise ConfigError(
            f"{source.name}: {known.name} orders lists and has no one-logit head; it opens as "
            f"--listwise local:{source.name}"
        )


def require_listwise(source: Source) -> None:
    """ConfigError for a published LoRA scorer, opened as a model that orders lists."""
    known = family_of(source)
    if known is not None and known.kind == "pointwise" and known.form == "LoRA":
        raise ConfigError(
            f"{source.name}: the adapter of a one-logit model, not of a listwise one; it opens as "
            f"--model {source.name}"
        )
