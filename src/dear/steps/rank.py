"""Reranking a run: with a model, with a listwise backend, or with one after the other."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dear import checkpoints
from dear.artifacts import check_output, slug
from dear.backends import Backend
from dear.bulk.crew import Crew
from dear.bulk.models import FarModel, about
from dear.checkpoints.processor import processor_name
from dear.checkpoints.registry import BUILT_IN, check_model
from dear.data.collections import Collection, open_collection
from dear.data.formats import read_run, write_run
from dear.data.inputs import pairs_input, run_input, texts_input
from dear.data.origins import write_origin
from dear.data.shards import Share
from dear.digests import Input, Inputs
from dear.errors import BackendError, DataError, DearError, excerpt
from dear.evaluate.cost import Meter, Spent, stage
from dear.rank.leaves import RankedLeaf, RankedLeaves, ranked_leaves
from dear.rank.opening import Parts, RankerSpec, assemble, open_parts
from dear.rank.pointwise import PointwiseRanker
from dear.rank.ranker import Ranker, Totals
from dear.records import Candidates, Ranking, limit_run
from dear.scoring.opening import PairModel
from dear.scoring.revisions import scoring_inputs
from dear.steps.answers import Answers
from dear.steps.cuts import tell_of_cuts
from dear.steps.fusing import FuseWeight, choose_weight, dev_queries
from dear.steps.inputs import Gathered, find_run, gathered, share_of
from dear.steps.options import ModelOptions, RankOptions
from dear.steps.progress import OnProgress, Watch, rank_watched, unwatched
from dear.steps.runtimes import prepared

if TYPE_CHECKING:
    from dear.data.documents import Documents


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """What `rank` wrote.

    fused: None where no weight was asked for.  answers: None without a listwise backend.
    """

    run: dict[str, Ranking]
    totals: Totals
    spent: Spent
    fused: FuseWeight | None
    answers: Answers | None


def rank(options: RankOptions, *, watch: Watch = unwatched) -> Ranked:
    """Rerank a run and write it with its note.

    ConfigError, DataError: options, collection, run and models, before anything is ranked.
    BackendError: what a model or server raises.
    """
    spec, fused = _spec(options)
    if options.model is not None:
        check_model(options.model)
    check_output(options.output)
    collection = open_collection(options.collection)
    path = find_run(collection, options.run, options.split)
    shard = options.place.shard(options.shard)
    share = share_of(collection, [options.run], options.split, shard)
    keep = None if share is None else share.owner()
    first = limit_run(read_run(path, ties="written", keep=keep), top_k=options.top_k)
    candidates = gathered(collection, first)
    choose = options.fuse_weight == "auto"
    dev = dev_queries(collection, options, first, watch) if choose else None
    spec, model_options = _prepared(spec, options, sum(map(len, first.values())))
    leaves = None if share is None else _leaves(share, list(first))
    with ExitStack() as far:
        parts = _Work.open(spec, options, model_options, collection, far)
        tell_of_cuts(collection, parts.points, candidates)
        if dev is not None and parts.points is not None:
            fused = choose_weight(PointwiseRanker(parts.points), dev, options, watch)
            spec = replace(spec, fuse=fused.weight)
        texts = pairs_input(candidates, collection.name)
        inputs = Inputs(parts.inputs(spec) | {"texts": texts, "run": run_input(path)})
        noted = {} if share is None else {"share": share.to_dict()}
        with _kept(options, parts, inputs, noted | _settings(spec)) as kept:
            jobs = None if leaves is None else _Leaves(candidates, leaves, kept)
            found, tokens = _ranked(spec, parts, jobs or candidates, fused, watch)
            write_run(options.output, found.run, slug(options.model or f"listwise-{spec.strategy}"))
            values = _values(options, spec, parts, collection, found, tokens)
            write_origin(options.output, values | noted, first_stage=path, inputs=inputs)
    return found


def _spec(options: RankOptions) -> tuple[RankerSpec, FuseWeight | None]:
    """What ranks, and the weight that was given."""
    weight = options.fuse_weight
    given = weight if isinstance(weight, float) else None
    if options.model == BUILT_IN:
        own = RankerSpec.of(BUILT_IN)
        fuse = own.fuse if given is None else given
        spec = replace(own, fuse=fuse, aggregate=options.aggregate)
        return spec, FuseWeight(weight=fuse, split=options.fuse_split)
    spec = RankerSpec(
        model=options.model,
        listwise=options.listwise,
        depth=options.depth,
        fuse=given or 0.0,
        aggregate=options.aggregate,
        **options.listwise_options.to_dict(),
    )
    return spec, None if given is None else FuseWeight(weight=given, split=options.fuse_split)


def _prepared(
    spec: RankerSpec, options: RankOptions, pairs: int
) -> tuple[RankerSpec, ModelOptions]:
    """The model in the form that is to score. A shard's is not chosen by its own processor or size,
    nor that of a cluster: other machines share the job."""
    if spec.model is None:
        return spec, options.model_options
    automatic = options.runtime == "auto"
    elsewhere = options.shard is not None or options.place.far
    found = prepared(
        spec.model,
        runtime="torch" if automatic and elsewhere else options.runtime,
        options=options.model_options,
        pairs=pairs,
    )
    return replace(spec, model=found.model), found.options


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What a ranker is made of, opened, and where a backend's answers are kept.

    crew: that has the ranker, where it is not in this process; `opened` are then names and stamps.
    """

    opened: Parts
    answers: Answers | None
    crew: Crew | None = None

    @classmethod
    def open(
        cls,
        spec: RankerSpec,
        options: RankOptions,
        model_options: ModelOptions,
        collection: Collection,
        far: ExitStack,
    ) -> _Work:
        how = model_options.to_dict()
        if options.place.far:
            documents = None if spec.aggregate is None else collection.documents
            opener = partial(_open_far, spec, how, documents)
            crew = far.enter_context(Crew(opener, **options.place.to_dict()))
            return cls(opened=_far_parts(crew), answers=None, crew=crew)
        opened = open_parts(spec, how)
        if spec.aggregate is not None:
            opened = replace(opened, documents=collection.documents)
        answers = None
        if opened.lists is not None:
            output = None if options.no_ledger else options.output
            answers = Answers.of(opened.lists, options.ledger, output=output)
        return cls(opened=opened, answers=answers)

    @property
    def points(self) -> PairModel | None:
        return self.opened.points

    def inputs(self, spec: RankerSpec) -> dict[str, Input]:
        """What the rankings depend on, but for texts and run."""
        inputs = {} if self.points is None else scoring_inputs(self.points)
        if self.opened.mixed:
            parts = {one.fingerprint + one.revision: w for one, w in self.opened.mixed}
            mixed = Input.of_values(parts | {"first stage": spec.fuse})
            inputs["model"] = Input(mixed.digest, spec.name or "mixture")
        if self.answers is not None:
            backend = self.answers.backend
            # its digest alone: a server's options may be nobody's business
            identity = listwise_values(spec, backend, one_backbone=self.opened.one_backbone) | {
                "backend": dict(getattr(backend, "identity", {}))
            }
            inputs["lists"] = Input(Input.of_values(identity).digest, backend.name)
        return inputs


def _leaves(share: Share, query_ids: Sequence[str]) -> dict[int, list[int]]:
    """Leaf → places of its queries. DataError: an empty share."""
    if not query_ids:
        raise DataError(f"{share} has no query of the run; take fewer shards")
    return share.by_leaf(range(len(query_ids)), query_ids.__getitem__)


def _settings(spec: RankerSpec) -> dict[str, Any]:
    """What scores depend on and the inputs do not say."""
    return {"fuse": spec.fuse, "aggregate": spec.aggregate}


def _kept(
    options: RankOptions, parts: _Work, inputs: Inputs, values: Mapping[str, Any]
) -> AbstractContextManager[RankedLeaves | None]:
    """Where leaves that are done are kept until all are; a listwise backend has its ledger, and
    nothing is kept beside a pipe or a device."""
    is_file = options.output.is_file() or not options.output.exists()
    if "share" not in values or parts.answers is not None or not is_file:
        return nullcontext()
    return ranked_leaves(options.output, inputs | {"job": Input.of_values(values)})


class _Leaves:
    """What is ranked together, leaf by leaf, so that no batch has pairs of two.

    places: leaf → its candidates' places.  done: of now, and of a command that was stopped.
    """

    def __init__(
        self, candidates: Gathered, places: Mapping[int, Sequence[int]], kept: RankedLeaves | None
    ) -> None:
        self.candidates, self.places, self.kept = candidates, places, kept
        self.done: dict[int, RankedLeaf] = {}
        if kept is not None:
            read = {leaf: kept.read(leaf) for leaf in places}
            self.done = {leaf: found for leaf, found in read.items() if found is not None}
        self.before = self.queries()

    def queries(self) -> int:
        return sum(len(leaf.rankings) for leaf in self.done.values())

    def todo(self) -> Iterator[tuple[int, list[Candidates]]]:
        for leaf, places in self.places.items():
            if leaf not in self.done:
                yield leaf, [self.candidates[i] for i in places]

    def add(self, leaf: int, found: RankedLeaf) -> None:
        if self.kept is not None:
            self.kept.write(leaf, found)
        self.done[leaf] = found

    def report(self, report: OnProgress) -> None:
        report(self.queries(), len(self.candidates), before=self.before)

    def run(self) -> dict[str, Ranking]:
        return {r.query_id: r for leaf in sorted(self.done) for r in self.done[leaf].rankings}

    def tokens(self) -> dict[str, int]:
        counts = Counter[str]()
        for leaf in self.done.values():
            counts.update(leaf.tokens)
        return dict(counts)


def _ranked(
    spec: RankerSpec,
    parts: _Work,
    work: Gathered | _Leaves,
    fused: FuseWeight | None,
    watch: Watch,
) -> tuple[Ranked, dict[str, int]]:
    """The rankings, and the tokens that they took."""
    answers, before = parts.answers, counted(parts.points)
    with Meter() as meter, answers.opened() if answers else nullcontext() as backend:
        ranker = assemble(spec, replace(parts.opened, lists=backend))
        unit = "pairs" if backend is None else "steps"
        if isinstance(work, Gathered):
            run = rank_watched(ranker, list(work), watch, "ranking", unit)
            tokens = since(before, parts.points)
        else:
            with watch("ranking", "queries") as report:
                if parts.crew is None:
                    _by_leaf(ranker, parts.points, work, report)
                else:
                    _by_crew(parts.crew, work, report)
            run, tokens = work.run(), work.tokens()
    totals = Totals.of(run.values())
    if answers is not None:
        answers.count(totals)
    return Ranked(run=run, totals=totals, spent=meter.spent, fused=fused, answers=answers), tokens


def counted(points: PairModel | None) -> dict[str, int]:
    """Tokens so far, of models that count them."""
    counts = {
        "tokens": getattr(points, "tokens_scored", None),
        "tokens_padded": getattr(points, "tokens_padded", None),
    }
    return {key: n for key, n in counts.items() if n is not None}


def since(before: Mapping[str, int], points: PairModel | None) -> dict[str, int]:
    return {key: n - before[key] for key, n in counted(points).items()}


def _bare(ranking: Ranking) -> Ranking:
    """Ids and scores: the texts are where they came from."""
    return replace(ranking, passages=(), positions=(), read=())


def _by_leaf(ranker: Ranker, points: PairModel | None, leaves: _Leaves, report: OnProgress) -> None:
    for leaf, candidates in leaves.todo():
        leaves.report(report)
        before = counted(points)
        rankings = [_bare(one) for one in ranker.rank_candidates(candidates)]
        leaves.add(leaf, RankedLeaf(rankings, since(before, points)))
    leaves.report(report)


def _open_far(
    spec: RankerSpec, options: Mapping[str, Any], documents: Documents | None
) -> tuple[dict[str, Any], Callable[[list[Candidates]], RankedLeaf]]:
    """An opener (dear.bulk.crew): a leaf's candidates → its rankings."""
    parts = replace(open_parts(spec, options), documents=documents)
    ranker = assemble(spec, parts)

    def ranked(group: list[Candidates]) -> RankedLeaf:
        before = counted(parts.points)
        found = [_bare(one) for one in ranker.rank_candidates(group)]
        return RankedLeaf(found, since(before, parts.points))

    points = None if parts.points is None else about(parts.points)
    return {"points": points, "mixed": [(about(one), w) for one, w in parts.mixed]}, ranked


def _far_parts(crew: Crew) -> Parts:
    points, mixed = crew.about["points"], crew.about["mixed"]
    return Parts(
        points=None if points is None else FarModel(points, crew),
        mixed=tuple((FarModel(one, crew), weight) for one, weight in mixed),
    )


def _by_crew(crew: Crew, leaves: _Leaves, report: OnProgress) -> None:
    """As `_by_leaf`, each leaf on whichever worker has room. BackendError: those that were given
    up, once the others are done."""
    failed = list[tuple[int, DearError]]()
    leaves.report(report)
    for leaf, answer in crew.answers(leaves.todo()):
        if isinstance(answer, DearError):
            failed.append((leaf, answer))
            continue
        # workers' seconds pass side by side
        rankings = [_shared(one, crew.workers) for one in answer.rankings]
        leaves.add(leaf, RankedLeaf(rankings, answer.tokens))
        leaves.report(report)
    if failed:
        leaf, why = failed[0]
        more = f" and {len(failed) - 1} more leaves" if len(failed) > 1 else ""
        queries = [leaves.candidates[i].query.id for i in leaves.places[leaf]]
        raise BackendError(
            f"no rankings for queries {excerpt(', '.join(queries))}{more}: {why}; all others are "
            "kept, and the same command goes on"
        )


def _shared(ranking: Ranking, workers: int) -> Ranking:
    assert ranking.cost is not None
    cost = replace(ranking.cost, pointwise_s=ranking.cost.pointwise_s / workers)
    return replace(ranking, cost=cost)


def _values(
    options: RankOptions,
    spec: RankerSpec,
    parts: _Work,
    collection: Collection,
    found: Ranked,
    tokens: Mapping[str, int],
) -> dict[str, Any]:
    """The run's note."""
    values: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    cost = found.totals.cost
    if parts.points is not None:
        stages["pointwise"] = stage("pairs", cost.pairs, cost.pointwise_s, **tokens)
        values = {
            **_model_values(parts.points),
            "fuse": None if found.fused is None else found.fused.to_dict(),
            "pairs": cost.pairs,
            "pairs_per_second": round(cost.pairs / max(cost.pointwise_s, 1e-9), 2),
        }
    if parts.opened.mixed:
        stages["mixture"] = stage("pairs", cost.pairs, cost.pointwise_s)
        mixed = [{**_model_values(one), "weight": w} for one, w in parts.opened.mixed]
        values = {"model": spec.name, "mixture": mixed, "fuse": spec.fuse}
    if parts.answers is not None:
        stages["lists"] = parts.answers.stage(found.totals)
        lists = _answer_values(
            spec, parts.answers, found.totals, one_backbone=parts.opened.one_backbone
        )
        values = {"model": parts.answers.backend.name} | values | {"listwise": lists}
    local = (
        parts.points is not None or bool(parts.opened.mixed) or spec.is_local
    )  # else nothing was computed here
    if spec.model not in (None, options.model):
        values["source"] = options.model  # the checkpoint that an export was made of
    device = _device_name(options.model_options.device) if local else None
    return {
        **values,
        "collection": collection.name,
        "split": options.split,
        "top_k": options.top_k,
        "aggregate": options.aggregate,
        "queries": len(found.run),
        # where all texts are the same, those of the pairs need not be looked at
        "all_texts": texts_input(collection).digest,
        "seconds": round(cost.pointwise_s + cost.listwise_s, 3),
        "cost": {"device": device, **found.spent.to_dict()} | stages,
    }


def _model_values(model: PairModel) -> dict[str, Any]:
    contract = model.contract
    return {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "contract": contract if isinstance(contract, dict) else contract.to_dict(),
        "parameters": model.parameters,
        "engine": getattr(model, "engine_name", None),
    }


def _answer_values(
    spec: RankerSpec, answers: Answers, totals: Totals, *, one_backbone: bool
) -> dict[str, Any]:
    return {
        "backend": answers.backend.name,
        **listwise_values(spec, answers.backend, one_backbone=one_backbone),
        **totals.to_dict(),
        "usage": None if answers.usage is None else answers.usage.to_dict(),
        "ledger": None if answers.ledger is None else str(answers.ledger),
    }


def listwise_values(spec: RankerSpec, backend: Backend, *, one_backbone: bool) -> dict[str, Any]:
    """The listwise stage's options, for a note."""
    own = getattr(backend, "template", None)
    return {
        "strategy": spec.strategy,
        "depth": spec.depth,
        "window": spec.window,
        "step": spec.step,
        "fuse": spec.fuse,
        "guard": spec.guard,
        "prompt": spec.prompt or ("rankvicuna" if own is None else "the model's own"),
        "one_backbone": one_backbone,
    }


def _device_name(device: str) -> str:
    """What it was computed on; the processor where nothing has needed PyTorch."""
    if "torch" not in sys.modules:
        return processor_name()
    return str(checkpoints.hardware.device_name(device))
