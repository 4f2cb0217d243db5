"""Reranker: what users make from a spec."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dear import checkpoints, evaluate, scoring
from dear.errors import ConfigError
from dear.rank.arguments import Text, as_pairs, names_ours
from dear.rank.opening import RankerSpec, open_ranker
from dear.rank.passages import BestPassage
from dear.rank.pointwise import PointwiseRanker
from dear.rank.ranker import Cancel, Progress, Ranker, rank_one
from dear.records import Candidates, Ranking

if TYPE_CHECKING:
    from dear.checkpoints.contract import DType, ScoringContract
    from dear.evaluate.calibration import Calibration
    from dear.scoring.opening import PairModel

_calibrating = threading.Lock()


class Reranker:
    """Scores and ranks passages for queries.

        reranker = Reranker("runs/pydocs/student")
        reranker.rank("open a file", ["def open(...)", "def close(...)"], top_k=1)

    model: a folder, a hub id, a name of `dear models`, or a zero-shot reading of one such as
        "biencoder:minilm-l6" or "upr:smollm2-135m" (dear.scoring.opening lists them); a listwise
        backend such as "openai:gpt-5-mini"; a table of both, in TOML or as a dict
        (dear.rank.opening.RankerSpec); or a model or Ranker that is open already, to which the
        next seven arguments mean nothing.
    contract: one, its name ("plain": bare pairs), or a file that holds one, for a checkpoint that
        brings none. Where None is given, the model's name and files decide, and one line says so.
    dtype: "auto" (bfloat16 where the hardware has it), "float32", "bfloat16" or "float16".
    device: "auto", "cpu", "cuda", "cuda:1", …; several with commas: a process for each.
    batch_tokens: padded tokens in a batch; a default for the device where None.
    revision: of a hub id: a branch, a tag or a commit.
    instruction: what the model is to look for, for those that are told, such as Qwen3-Reranker.
    max_passage_tokens: of a zero-shot reading; 1,024 where None.
    calibration: what `dear calibrate` wrote elsewhere than into the checkpoint.

    `score`, `predict` and `probability` are for what scores pairs: ConfigError for a cascade or a
    listwise model. Threads may share it: a call gives what it gives alone (docs/scoring.md).
    """

    _calibration: Calibration | None = None

    @names_ours
    def __init__(
        self,
        model: str | Path | Mapping[str, Any] | RankerSpec | PairModel | Ranker,
        *,
        contract: ScoringContract | str | Path | None = None,
        dtype: DType = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        revision: str | None = None,
        instruction: str | None = None,
        max_passage_tokens: int | None = None,
        calibration: str | Path | None = None,
    ) -> None:
        self.ranker: Ranker = open_ranker(
            model,
            contract=contract,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
            revision=revision,
            instruction=instruction,
            max_passage_tokens=max_passage_tokens,
        )
        self._calibration = None if calibration is None else _loaded(self.model, Path(calibration))

    @property
    def name(self) -> str:
        return self.ranker.name

    @property
    def model(self) -> PairModel:
        """What scores pairs. ConfigError for a cascade or a listwise model."""
        ranker = self.ranker.ranker if isinstance(self.ranker, BestPassage) else self.ranker
        if not isinstance(ranker, PointwiseRanker):
            raise ConfigError(f"{self.name} orders lists and has no score for a pair: use rank")
        return ranker.model

    @names_ours
    def score(
        self, pairs: Iterable[tuple[str, Text]], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """float32 (n,) logits, one for each (query, passage), in the order given.

        A passage is a string, or a Passage whose title goes in front of its text, or what `rank`
        takes for one. Identical pairs are scored once. Raises BackendError for a score that is not
        finite, DataError that names the pair that is none.
        """
        return self.model.score(as_pairs(pairs), progress)

    @names_ours
    def predict(
        self,
        inputs: Iterable[tuple[str, Text]] | tuple[str, Text],
        *,
        activation_fn: Callable[[Any], Any] | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """float32 (n,) scores as CrossEncoder.predict gives them: logits behind the activation.

        inputs: (query, passage) pairs; for one pair, the answer is its score alone.
        activation_fn: torch tensor to torch tensor; the model's own where None (Sigmoid unless its
            files say else, for bi-encoders none). It changes no order.
        """
        import torch

        one = isinstance(inputs, tuple | list) and len(inputs) == 2 and isinstance(inputs[0], str)
        logits = self.score([inputs] if one else inputs, progress=progress)  # type: ignore[list-item, arg-type]
        apply = (
            checkpoints.activations.activation_of(self.model.contract)
            if activation_fn is None
            else activation_fn
        )
        found = np.asarray(apply(torch.from_numpy(logits)).numpy(), dtype=np.float32)
        return found[0] if one else found

    @property
    def calibration(self) -> Calibration:
        """The model's map from scores to probabilities.

        ConfigError where there is none, ContractMismatch for that of other weights.
        """
        with _calibrating:
            if self._calibration is None:
                self._calibration = _loaded(self.model, None)
            return self._calibration

    @names_ours
    def probability(
        self, pairs: Iterable[tuple[str, Text]], *, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """float64 (n,): how likely each passage is relevant to its query, in the order given.

        It orders passages as `score` does, and holds for pairs like those that the map was fitted
        on. Raises what `score` and `calibration` raise.
        """
        calibration = self.calibration
        return calibration.probability(self.score(pairs, progress=progress))

    @names_ours
    def rank(
        self,
        query: str,
        passages: Iterable[Text],
        *,
        top_k: int | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Ranking:
        """The passages, best first.

        passages: strings, Passages, dicts with a `text`, or documents of other libraries (objects
            with `page_content`, `text` or `content`), from any iterable: a list, a generator, a
            column of NumPy or pandas.
        top_k, deadline, cancel: as in `Ranker.rank_candidates`.
        Ids are those that passages bring, else the position in `passages`, counted from 0. Equal
        scores keep the order given. No passages give an empty Ranking. DataError names the
        position of what is no text: None, NaN, half a character.
        """
        return rank_one(self.ranker, query, passages, top_k=top_k, deadline=deadline, cancel=cancel)

    @names_ours
    def rank_candidates(
        self,
        candidates: Iterable[Candidates],
        *,
        top_k: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Ranking]:
        """A Ranking for each query, in order; see `Ranker.rank_candidates`."""
        return self.ranker.rank_candidates(
            candidates, top_k=top_k, progress=progress, deadline=deadline, cancel=cancel
        )


def _loaded(model: PairModel, path: Path | None) -> Calibration:
    """From a file or folder; from beside the weights where None."""
    if path is None:
        # a kind of reading, such as biencoder:NAME, is no place
        path = Path(model.name).expanduser() / evaluate.calibration.CALIBRATION_FILE
        if not path.is_file():
            raise ConfigError(
                f"{model.name}: no map from scores to probabilities; `dear calibrate {model.name} "
                "--collection NAME` fits one"
            )
    found = evaluate.calibration.Calibration.load(path)
    contract = model.contract
    scoring.revisions.require_revision("calibration: fitted on", found.revision, model)
    found.require(contract if isinstance(contract, dict) else contract.to_dict(), model=model.name)
    return found
