"""A model under the name that it is served by: a RankRequest in, a RankAnswer out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.threads import tokenize
from dear.data.documents import document_of
from dear.data.splitting import MARK, SplitSize, split_document, word_starts
from dear.errors import ConfigError
from dear.export.certificate import read_certificate
from dear.rank.passages import BestPassage
from dear.rank.reranker import Reranker
from dear.records import Candidates, Passage, Query, Ranking
from dear.scoring.exported import exported_runtime, is_exported
from dear.serve.asking import Document, RankAnswer, RankRequest, Refused, Result
from dear.serve.load import Load
from dear.serve.scales import Scale, scale_of

WARM_UP = 32
"""Passages of the request that a server asks itself before it is ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stops:
    """deadline: a time of `time.monotonic()`.  gone: whether the client went away."""

    deadline: float | None = None
    gone: Callable[[], bool] | None = None


class Served:
    """reranker: what computes.  chunk: documents are read in passages of so many words, the best of
    which counts.  min_probability: documents below it are left out, unless a request says another.
    deadline_s: of requests that bring none.

    ConfigError: a least probability without a map.
    """

    def __init__(
        self,
        name: str,
        reranker: Reranker,
        load: Load,
        *,
        chunk: SplitSize | None = None,
        min_probability: float | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self.name, self.reranker, self.load = name, reranker, load
        self.chunk, self.min_probability, self.deadline_s = chunk, min_probability, deadline_s
        self.ranker = reranker.ranker
        if chunk is not None and not isinstance(self.ranker, BestPassage):
            self.ranker = BestPassage(self.ranker)
        self.scale: Scale = scale_of(reranker)
        if min_probability is not None and not self.scale.is_probability:
            raise ConfigError(_no_map(name))
        try:
            self.model: Any = reranker.model
        except ConfigError:
            self.model = None
        self.tokenizer = getattr(self.model, "tokenizer", None) or getattr(
            getattr(self.model, "model", None), "tokenizer", None
        )

    @property
    def contract(self) -> str:
        """Its fingerprint; "none" of what has no contract of its own."""
        return getattr(self.model, "fingerprint", None) or "none"

    def described(self) -> dict[str, Any]:
        """For /info: what it is, and what its scores mean."""
        model = self.model
        contract = getattr(model, "contract", None)
        if isinstance(contract, ScoringContract):
            contract = contract.to_dict()
        found = {
            "id": self.name,
            "model": self.reranker.name,
            "revision": getattr(model, "revision", None),
            "parameters": getattr(model, "parameters", None),
            "scale": self.scale.name,
            "raw_scale": self.scale.raw,
            "map": self.scale.revision,
            "min_probability": self.min_probability,
            "fingerprint": getattr(model, "fingerprint", None),
            "contract": contract,
            "chunk": None
            if self.chunk is None
            else {"words": self.chunk.size, "overlap": self.chunk.overlap},
        }
        found |= _export_of(str(getattr(model, "name", "")))
        return {key: value for key, value in found.items() if value is not None}

    def warm_up(self) -> None:
        """A first request, so that nobody waits for what is done once, and the rate is known."""
        documents = [Document(text=f"{n} " + "the quick brown fox " * 16) for n in range(WARM_UP)]
        ask = RankRequest(queries=["what does the fox do"], documents=documents)
        with self.load.admitted(ask.characters):
            self.answer(ask, Stops())

    def answer(self, ask: RankRequest, stops: Stops) -> RankAnswer:
        """Refused for what cannot be answered, Cancelled where the client went away; BackendError
        and whatever else the model raises."""
        started = time.perf_counter()
        least = self.min_probability if ask.min_probability is None else ask.min_probability
        if ask.min_probability is not None and not self.scale.is_probability:
            raise Refused("invalid", _no_map(self.name))
        if ask.in_pairs and self.model is None:
            raise Refused("invalid", f"{self.name} orders lists and has no score for a pair")
        candidates = list(self._candidates(ask))
        rankings = list(
            self.ranker.rank_candidates(candidates, deadline=stops.deadline, cancel=stops.gone)
        )
        results = [
            result
            for at, (c, ranking) in enumerate(zip(candidates, rankings, strict=True))
            for result in self._results(ask, c, ranking, at)
        ]
        if ask.limits.whole and any(result.cut for result in results):
            raise Refused("too long", "a document is longer than the model reads")
        kept = [one for one in results if least is None or ask.in_pairs or one.score >= least]
        scored = sum(result.scored for result in results)
        return RankAnswer(
            model=self.name,
            results=kept[: ask.top_n],
            scale=self.scale.raw if ask.raw else self.scale.name,
            contract=self.contract,
            map=None if ask.raw else self.scale.revision,
            scored=scored,
            asked=len(ask.documents),
            tokens=sum(_tokens(ranking) for ranking in rankings),
            cut=sum(bool(result.cut) for result in results),
            left_out=len(results) - len(kept),
            seconds=time.perf_counter() - started,
        )

    # -- documents to candidates -------------------------------------------------------------

    def _candidates(self, ask: RankRequest) -> Iterator[Candidates]:
        documents = self._shortened(ask)
        queries = self._cut(ask.queries, ask.limits.query, ask.limits.side)
        passages = [
            Passage(id=str(at), text=text, title=document.title)
            for at, (document, text) in enumerate(zip(ask.documents, documents, strict=True))
        ]
        if ask.in_pairs:
            for at, (query, passage) in enumerate(zip(queries, passages, strict=True)):
                yield _of(Query(id=str(at), text=query), self._in_chunks([passage]), {})
            return
        scores = {
            str(at): document.score
            for at, document in enumerate(ask.documents)
            if document.score is not None
        }
        known = scores if len(scores) == len(passages) else {}
        yield _of(Query(id="", text=queries[0]), self._in_chunks(passages), known)

    def _in_chunks(self, passages: Sequence[Passage]) -> list[Passage]:
        if self.chunk is None:
            return list(passages)
        return [
            part
            for passage in passages
            for part in split_document(
                passage, word_starts(passage.text), len(passage.title.split()), self.chunk
            )
        ]

    def _shortened(self, ask: RankRequest) -> list[str]:
        texts = [document.text for document in ask.documents]
        if ask.limits.side == "left" and ask.limits.document is None:
            return self._cut(texts, _longest(self.model), ask.limits.side)
        return self._cut(texts, ask.limits.document, ask.limits.side)

    def _cut(self, texts: Sequence[str], most: int | None, side: str) -> list[str]:
        """Texts of at most so many tokens; as they are for models without a tokenizer here."""
        # a token is a byte or more, so a short text need not be read
        if most is None or self.tokenizer is None:
            return list(texts)
        long = [at for at, text in enumerate(texts) if 4 * len(text) > most]
        if not long:
            return list(texts)
        read = tokenize(
            self.tokenizer,
            [texts[at] for at in long],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        found = list(texts)
        for at, spans in zip(long, read["offset_mapping"], strict=True):
            if len(spans) > most:
                kept = spans[-most:] if side == "left" else spans[:most]
                found[at] = texts[at][kept[0][0] : kept[-1][1]]
        return found

    # -- rankings to results -----------------------------------------------------------------

    def _results(
        self, ask: RankRequest, c: Candidates, ranking: Ranking, pair: int
    ) -> Iterator[Result]:
        raw = np.asarray(ranking.scores, dtype=np.float64)
        scores = raw if ask.raw else self.scale.apply(raw)
        read = ranking.read or (None,) * len(ranking)
        chosen = [c.passages[at] for at in ranking.positions]
        seen = _seen(ranking)
        for passage, score, own, of_it, was_scored in zip(
            chosen, scores.tolist(), raw.tolist(), read, seen, strict=True
        ):
            index = pair if ask.in_pairs else int(document_of(passage.id).partition(MARK)[0])
            in_chunks = self.chunk is not None
            yield Result(
                index=index,
                score=score if was_scored or ask.raw else 0.0,
                raw=own if was_scored else None,
                document=ask.documents[index],
                tokens=None if of_it is None else of_it.tokens,
                cut=None if of_it is None else of_it.cut,
                chunk=passage.text if in_chunks else None,
                chunk_number=int(passage.id.rpartition(MARK)[2]) if in_chunks else None,
            )


def _of(query: Query, passages: Sequence[Passage], known: dict[str, float]) -> Candidates:
    """known: scores of the stage before, by document; by position where there are none."""
    if known:
        scores = tuple(known[document_of(passage.id)] for passage in passages)
    else:
        scores = tuple(float(-at) for at in range(len(passages)))
    return Candidates(query=query, passages=tuple(passages), scores=scores, unscored=not known)


def _seen(ranking: Ranking) -> list[bool]:
    """Which of its documents a model has scored: all, unless a deadline came first."""
    if ranking.complete:
        return [True] * len(ranking)
    if any(ranking.read):
        return [one is not None for one in ranking.read]
    pairs = 0 if ranking.cost is None else ranking.cost.pairs
    return [at < pairs for at in range(len(ranking))]


def _tokens(ranking: Ranking) -> int:
    if ranking.read:
        return sum(one.tokens for one in ranking.read if one is not None)
    cost = ranking.cost
    return 0 if cost is None else cost.prompt_tokens + cost.completion_tokens


def _longest(model: Any) -> int:
    contract = getattr(model, "contract", None)
    longest = getattr(contract, "max_passage_tokens", None) or getattr(contract, "longest", None)
    if longest is None and isinstance(contract, dict):
        longest = contract.get("max_tokens")
    return int(longest) if longest and math.isfinite(longest) else 512


def _export_of(name: str) -> dict[str, Any]:
    """What runs an export, and its certificate; nothing for another model."""
    if not is_exported(name):
        return {}
    certificate = read_certificate(name)
    told = {} if certificate is None else {"certificate": certificate.rows}
    return {"runtime": exported_runtime(name), **told}


def _no_map(name: str) -> str:
    return (
        f"{name} has no map from scores to probabilities, so that no least one can be asked for; "
        "`dear calibrate` fits one"
    )
