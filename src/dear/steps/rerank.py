"""A query over a file of passages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dear.checkpoints.registry import check_model
from dear.data.formats import read_passages
from dear.errors import ConfigError
from dear.notices import say
from dear.rank.reranker import Reranker
from dear.scoring.scorer import Scorer
from dear.steps.options import RerankOptions
from dear.steps.runtimes import prepared


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankedFile:
    """What `rerank` found.

    results: `{"rank", "id", "score", "text"}`, best first, with `probability` and `explanation`
        where they were asked for.
    ranked: passages, those below the threshold included.
    """

    model: str
    results: list[dict[str, Any]]
    ranked: int


def rerank(options: RerankOptions) -> RerankedFile:
    """Rank a file's passages for one query. ConfigError: an explanation of a model without one."""
    check_model(options.model)
    passages = read_passages(options.file)
    # a map that lies elsewhere was fitted on the checkpoint's own scores
    own = options.runtime == "auto" and (options.calibration is not None or options.explain)
    found = prepared(
        options.model,
        runtime="torch" if own else options.runtime,
        options=options.model_options,
        pairs=len(passages),
    )
    reranker = Reranker(found.model, calibration=options.calibration, **found.options.to_dict())
    calibration = reranker.calibration if options.with_probability else None
    if calibration is not None:
        say(
            f"probabilities: by a map fitted on {calibration.described}; for other kinds of "
            "passages, or another first stage's, they are not calibrated"
        )
    ranking = reranker.rank(options.query, passages, top_k=options.top_k)
    texts = {p.id: p.full_text for p in passages}
    results: list[dict[str, Any]] = [
        {"rank": rank, "id": i, "score": score, "text": texts[i]}
        for rank, (i, score) in enumerate(zip(ranking.passage_ids, ranking.scores, strict=True), 1)
    ]
    if calibration is not None:
        probabilities = calibration.probability(ranking.scores).tolist()
        for result, probability in zip(results, probabilities, strict=True):
            result["probability"] = probability
    if options.threshold is not None:
        results = [r for r in results if r["probability"] >= options.threshold]
    if options.explain:
        for result in results:
            result["explanation"] = _explanation(reranker, options.query, str(result["text"]))
    return RerankedFile(model=reranker.name, results=results, ranked=len(ranking))


def _explanation(reranker: Reranker, query: str, passage: str) -> dict[str, Any]:
    scorer = reranker.model
    if not isinstance(scorer, Scorer):
        raise ConfigError(f"--explain: {scorer.name} is no one-logit model")
    return scorer.explain(query, passage).to_dict()
