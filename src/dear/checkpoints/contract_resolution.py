"""Which contract a checkpoint is scored under, and why: one place that decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dear.checkpoints.contract import (
    CARD,
    CONTRACT_FILE,
    CONTRACTS,
    LISTWISE_FILE,
    PLAIN,
    ListwiseContract,
    ScoringContract,
    read_contract,
)
from dear.checkpoints.files import model_file
from dear.checkpoints.registry import Source, family_of, known_reranker
from dear.checkpoints.sentence_transformers import (
    SETTINGS,
    activation_of,
    cross_encoder_evidence,
    default_prompt,
    modules_of,
)
from dear.errors import ConfigError, excerpt
from dear.notices import say, warn
from dear.prompts.pointwise import PAIR_PROMPTS

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """The contract that a model is scored under, and why that one.

    guessed:       nothing says so: the default.
    own_length:    `max_tokens` is not known before tokenizer and configuration are.
    answers:       a language model of sentence-transformers' files: see load_answering.
    modules:       a transformer with sentence-transformers' modules behind it: see load_modules.
    stored:        it is the checkpoint's own, which needs no telling.
    """

    contract: ScoringContract
    why: str
    guessed: bool = False
    own_length: bool = False
    answers: bool = False
    modules: bool = False
    stored: bool = False

    def tell(self, name: str, contract: ScoringContract) -> None:
        """One line: the contract in force, and why."""
        if self.stored:
            return
        text = f"{name}: {summary_of(contract)}: {self.why}"
        (warn if self.guessed else say)(text)


def resolve(source: Source, given: ScoringContract | str | Path | None = None) -> Resolved:
    """The contract of a checkpoint: the first of these that there is.

    The one that is given, which a stored one must agree with (ContractMismatch); the stored one
    (scoring_contract.json); that of a model known by its name; what sentence-transformers' files
    say; CARD.
    """
    found = _resolve(source, given)
    kinds = {entry.kind for entry in modules_of(source)}
    cross_encoder = cross_encoder_evidence(source) == SETTINGS
    return replace(
        found,
        answers=cross_encoder and "LogitScore" in kinds,
        modules=cross_encoder and "Pooling" in kinds,
    )


def _resolve(source: Source, given: ScoringContract | str | Path | None) -> Resolved:
    path = model_file(source, CONTRACT_FILE)
    stored = ScoringContract.load(path.parent) if path is not None else None
    named = None if given is None or isinstance(given, ScoringContract) else str(given)
    asked = given if isinstance(given, ScoringContract) else named and read_contract(named)
    if stored is not None:
        if asked:
            # what the model and the machine decide is no disagreement
            stored.require(asked, what=source.name, ignore=("dtype", "pooling"))
        return Resolved(contract=stored, why=f"its own {CONTRACT_FILE} says so", stored=True)
    activation = activation_of(source)
    if asked:
        if asked.activation is None:
            asked = replace(asked, activation=activation)
        return Resolved(contract=asked, why="as asked for", own_length=named == PLAIN.name)
    family = family_of(source)
    if family is not None and family.contract in CONTRACTS:
        why = f"it is the published {family.name}"
        return Resolved(contract=CONTRACTS[family.contract], why=why)
    known = known_reranker(source)
    evidence = cross_encoder_evidence(source)
    why = f"known by its name ({known.documented})" if known else f"its {evidence} says so"
    if known is not None and known.contract in CONTRACTS and known.contract != PLAIN.name:
        contract = replace(CONTRACTS[known.contract], activation=activation)
        return Resolved(contract=contract, why=why)
    if known is None and not evidence:
        why = (
            "nothing in the folder says how it was trained, so it is read as a DeAR model; "
            "--contract plain reads bare pairs, as most public cross-encoders want"
        )
        return Resolved(contract=CARD, why=why, guessed=True)
    plain = replace(PLAIN, activation=activation, query_prefix=default_prompt(source))
    return Resolved(contract=plain, why=why, own_length=True)


def contract_of(source: Source, given: ScoringContract | None = None) -> ScoringContract:
    """The contract that `resolve` finds, before the model itself has its say."""
    return resolve(source, given).contract


def summary_of(contract: ScoringContract) -> str:
    """`bare pairs of at most 512 tokens (contract plain)`."""
    if contract.template:
        texts = "a template of its own"
    elif contract.prompt == PLAIN.prompt:
        texts = "bare pairs"
    else:
        prompt = PAIR_PROMPTS[contract.prompt]
        texts = " and ".join(
            f"'{text.replace('{query}', '…').replace('{passage}', '…')}'"
            for text in (prompt.query, prompt.passage)
        )
    if contract.query_prefix:
        texts += f" behind {excerpt(contract.query_prefix)}"
    if contract.max_tokens is not None:
        limit = f"{contract.max_tokens:,}"
    else:
        limit = f"{contract.max_query_tokens} + {contract.max_passage_tokens}"
    return f"{texts} of at most {limit} tokens (contract {contract.name})"


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
