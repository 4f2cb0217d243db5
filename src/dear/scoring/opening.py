"""From what a user types to something that scores pairs.

folder, hub id or name      a one-logit model (RankLLaMA, DeAR, any cross-encoder, a language model
                            that ranks by an answer's logit), or an export
biencoder:NAME              similarity of embeddings
splade:NAME                 dot product of a masked language model's term weights
upr:NAME                    likelihood of the query given the passage, no training
yes-no:NAME                 log-odds of "yes", no training
qwen3:NAME, monot5:NAME     the same with those models' own prompts
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dear import scoring
from dear.checkpoints.files import TRAINING_FILE, model_json
from dear.checkpoints.registry import ENCODER_KINDS, known_reranker, locate
from dear.errors import ConfigError, nearest
from dear.notices import say
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS
from dear.scoring.encoding import Pair
from dear.scoring.exported import exported_kind, is_exported, load_exported
from dear.scoring.exported_encoders import ENCODERS
from dear.scoring.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dear.checkpoints.contract import DType, ScoringContract
    from dear.scoring.batching import Progress
    from dear.scoring.engines import EngineName


class PairModel(Protocol):
    """Passages in, scores out, stamped: every teacher and every student.

    Higher is better; scales differ between kinds. name, revision and contract are what a label
    file is stamped with.
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def contract(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        """float32 (n,), in the order given."""
        ...


def open_model(
    spec: str | Path,
    *,
    contract: ScoringContract | str | Path | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    engine: EngineName = "auto",
    revision: str | None = None,
    instruction: str | None = None,
    max_passage_tokens: int | None = None,
) -> PairModel:
    """The model that `spec` names, ready to score.

    contract: of a one-logit model: one, its name, or a file that holds one; None: the model's own.
    device: one device, or several with commas between them: a process for each.
    engine: for a one-logit model on one device; see dear.scoring.engines.
    revision: of a hub id: a branch, a tag or a commit.
    instruction: for models with a place for one, such as Qwen3-Reranker and `qwen3:NAME`.
    max_passage_tokens: of a zero-shot reading.

    Raises ConfigError for an unknown kind or name, BackendError for weights that do not load.
    """
    if "," in device:
        return scoring.workers.ScorerPool(
            spec,
            devices=device.split(","),
            contract=contract,
            dtype=dtype,
            batch_tokens=batch_tokens,
            revision=revision,
            instruction=instruction,
            max_passage_tokens=max_passage_tokens,
        )
    how: dict[str, Any] = {"dtype": dtype, "device": device, "batch_tokens": batch_tokens}
    if is_exported(spec):
        _require_none(max_passage_tokens, spec)
        return _open_exported(spec, contract, instruction, engine, how)
    how |= {"revision": revision, "instruction": instruction}
    kind, name = kind_of(spec)
    if kind is None and contract is None:
        kind = _reading_of(name, revision)
    library = _left_to_the_library(name, kind, revision)
    if (kind is not None or library is not None) and contract is not None:
        raise ConfigError(f"{spec}: a scoring contract is for one-logit models")
    if library is not None:
        _require_none(max_passage_tokens, spec)
        return scoring.sentence_transformers_library.LibraryModel(name, kind=library, **how)
    if kind in ZERO_SHOT_PROMPTS:
        return scoring.zero_shot.ZeroShot(
            name, prompt=kind, max_passage_tokens=max_passage_tokens, **how
        )
    _require_none(max_passage_tokens, spec)
    if kind is not None:
        return _encoder(kind)(name, **how)
    del how["batch_tokens"]
    model = scoring.loading.load_scoring_model(spec, contract=contract, **how)
    return Scorer(model, batch_tokens=batch_tokens, engine=engine)


def _encoder(kind: str) -> Callable[..., PairModel]:
    """The class that encodes query and passage apart."""
    if kind == "splade":
        return scoring.splade.Splade
    return scoring.biencoder.BiEncoder


def _open_exported(
    spec: str | Path,
    contract: ScoringContract | str | Path | None,
    instruction: str | None,
    engine: EngineName,
    how: dict[str, Any],
) -> PairModel:
    kind = exported_kind(spec)
    if kind not in ENCODERS:
        batch_tokens = how.pop("batch_tokens")
        exported = load_exported(spec, contract=contract, instruction=instruction, **how)
        return Scorer(exported, batch_tokens=batch_tokens, engine=engine)
    if contract is not None or instruction is not None or engine != "auto":
        raise ConfigError(
            f"{spec}: a contract, an instruction or an engine is for one-logit models"
        )
    return ENCODERS[kind](spec, **how)


def kind_of(spec: str | Path) -> tuple[str | None, str | Path]:
    """(the kind of reading in front of a name, the name); (None, spec) for a one-logit model.

    ConfigError for a kind that is none.
    """
    kind, colon, name = str(spec).partition(":")
    if not colon or Path(str(spec)).exists():
        return None, spec
    kinds = (*ENCODER_KINDS, *ZERO_SHOT_PROMPTS)
    if kind not in kinds:
        raise ConfigError(f"{spec}: no kind of model {kind!r}{nearest(kind, kinds)}")
    return kind, name


def _reading_of(name: str | Path, revision: str | None) -> str | None:
    """How a model is read that says it itself, or is known by its name: a bi-encoder that was
    trained here, or a public zero-shot reranker such as monoT5."""
    source = locate(name, revision=revision)
    if model_json(source, TRAINING_FILE).get("recipe", {}).get("kind") == "biencoder":
        say(f"{name}: read as biencoder:{name}: it was trained as one")
        return "biencoder"
    known = known_reranker(source)
    if known is None or known.contract not in ZERO_SHOT_PROMPTS:
        return None
    say(f"{name}: read as {known.contract}:{name}: known by its name ({known.documented})")
    return known.contract


def _left_to_the_library(name: str | Path, kind: str | None, revision: str | None) -> str | None:
    if kind not in (None, "biencoder"):
        return None
    found = scoring.sentence_transformers_library.library_kind(
        locate(name, revision=revision), kind
    )
    return None if found is None else str(found)


def _require_none(max_passage_tokens: int | None, spec: str | Path) -> None:
    if max_passage_tokens is not None:
        raise ConfigError(
            f"{spec}: max_passage_tokens is for zero-shot readings; other models have a contract"
        )
