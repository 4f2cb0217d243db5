"""Models that actors hold, as the driver knows them: by name and stamp, without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dear import scoring
from dear.backends import Backend, Completion, Keepable, OnAnswer, Price, open_backend
from dear.backends.ledger import Company
from dear.bulk.crew import Crew
from dear.checkpoints.contract import ScoringContract
from dear.errors import BackendError, DearError
from dear.prompts.listwise import WindowPrompt
from dear.scoring.failing import ScoredPairs, score_each
from dear.scoring.worker import about as stamped

if TYPE_CHECKING:
    from dear.scoring.batching import Progress
    from dear.scoring.encoding import Pair
    from dear.scoring.opening import PairModel


def open_scorer(
    spec: str, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[Sequence[Pair]], tuple[ScoredPairs, int]]]:
    """An opener (dear.bulk.crew): pairs → (their scores, tokens that were scored)."""
    model = scoring.opening.open_model(spec, **options)

    def score(pairs: Sequence[Pair]) -> tuple[ScoredPairs, int]:
        before = getattr(model, "tokens_scored", 0)
        return score_each(model.score, pairs), getattr(model, "tokens_scored", 0) - before

    return about(model), score


def about(model: PairModel) -> dict[str, Any]:
    """What `FarModel` is made of."""
    return {
        **stamped(model),
        "engine_name": getattr(model, "engine_name", None),
        "tokens_scored": 0 if hasattr(model, "tokens_scored") else None,
    }


class FarModel:
    """A PairModel that is open elsewhere: what `about` says of it.

    It scores where the crew has `open_scorer`'s; other crews' is a name and a stamp.
    """

    def __init__(self, about: Mapping[str, Any], crew: Crew) -> None:
        self._crew = crew
        self.name: str = about["name"]
        self.revision: str = about["revision"]
        self.fingerprint: str = about["fingerprint"]
        self.parameters: int = about["parameters"]
        self.computing: dict[str, str] = about["computing"]
        self.engine_name: str | None = about["engine_name"]
        self.tokens_scored: int | None = about["tokens_scored"]
        plain = about["contract"]
        self.contract: Any = plain if about["plain_contract"] else ScoringContract.from_dict(plain)

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,), as one leaf."""
        ((_, found),) = self.score_leaves([(0, pairs)])
        if isinstance(found, DearError):
            raise found
        for reason in found.reasons.values():
            raise BackendError(reason)
        return found.scores

    def score_leaves(
        self, leaves: Iterable[tuple[int, Sequence[Pair]]]
    ) -> Iterator[tuple[int, ScoredPairs | DearError]]:
        """(leaf, its scores) in any order, or why it has none."""
        for leaf, answer in self._crew.answers(leaves):
            if isinstance(answer, DearError):
                yield leaf, answer
                continue
            found, tokens = answer
            self.count(tokens)
            yield leaf, found

    def count(self, tokens: int) -> None:
        """Where the model counts them."""
        if self.tokens_scored is not None:
            self.tokens_scored += tokens


def open_answering(
    name: str,
) -> tuple[dict[str, Any], Callable[[Sequence[WindowPrompt]], list[Completion]]]:
    """An opener (dear.bulk.crew): prompts → what a backend of this name answers."""
    backend: Backend = open_backend(name)
    assert isinstance(backend, Keepable)  # a local one
    return {"name": backend.name, "identity": dict(backend.identity)}, backend.generate


class FarBackend:
    """A Keepable backend whose model each actor of the crew has, by `open_answering`.

    company: prompts that are one leaf, asked together.
    """

    def __init__(self, crew: Crew, company: Company) -> None:
        self._crew, self._company = crew, company
        self.name: str = crew.about["name"]
        self.identity: Mapping[str, Any] = crew.about["identity"]

    @property
    def price(self) -> Price | None:
        return None

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        """As a Backend does, leaf by leaf. BackendError: a leaf that was given up."""
        leaves: dict[Any, list[int]] = {}
        for i, prompt in enumerate(prompts):
            leaves.setdefault(self._company(prompt), []).append(i)
        places = list(leaves.values())
        found: dict[int, Completion] = {}
        failed: list[DearError] = []
        given = ((number, [prompts[i] for i in at]) for number, at in enumerate(places))
        for number, answers in self._crew.answers(given):
            if isinstance(answers, DearError):
                failed.append(answers)
                continue
            for i, answer in zip(places[number], answers, strict=True):
                found[i] = answer
                if on_answer is not None:
                    on_answer(i, answer)
        if failed:
            left = len(prompts) - len(found)
            raise BackendError(f"no answer to {left:,} of {len(prompts):,} prompts: {failed[0]}")
        return [found[i] for i in range(len(prompts))]
