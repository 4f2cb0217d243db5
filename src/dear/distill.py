"""The whole way: retrieve, teach, label, distil, rank, evaluate; each stage once.

Everything is below one folder. A stage that ended leaves a note in `stages/` with what it made;
a later run of the same distillation takes it over as long as that is still there, unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.artifacts import atomic_path, read_json, versions, write_json
from dear.data.collections import Collection
from dear.data.formats import read_run, write_run
from dear.errors import ConfigError, DataError
from dear.recipes import DataRecipe, DistillRecipe, LossRecipe, Recipe
from dear.records import Judgements, Query, Ranking, Run, gather

if TYPE_CHECKING:
    from dear.models.opening import PairModel

MEASURE = "nDCG@10"
FIRST, TEACHER, STUDENT, CONTROL = "first stage", "teacher", "student", "student, no labels"
ZERO_SHOT, ZERO_SHOT_FUSED = "zero-shot", "zero-shot + first stage"
NO_LABELS = "student-no-labels"
"""The control's checkpoint, run and stages. It is not called `control`, as older ones were that
started from other weights than the student: those must not be taken for this one."""
_STAGE_OF = {
    ZERO_SHOT: "zero-shot",
    ZERO_SHOT_FUSED: "zero-shot",
    TEACHER: "teacher",
    STUDENT: "student",
    CONTROL: NO_LABELS,
}
PLAN = "distillation.json"
RESULTS = "results.json"
PLOT = "results.svg"

Report = Callable[[int, int], None]
"""Called with (done, in all)."""

Watch = Callable[[str, str], AbstractContextManager[Report]]
"""(what is done, what is counted) → where its progress goes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One system of a table.

    score: mean nDCG@10, or, where nothing is judged, agreement with the teacher (mean Kendall's
        tau).  difference, p: against the first stage; p is of the paired randomisation test,
        Holm-corrected over all pairs of the table's systems; None where there is none.
    pairs_per_s: while ranking the test queries, reading of texts included.
    seconds: that its training took.
    """

    system: str
    score: float
    interval: tuple[float, float] | None
    difference: float | None
    p: float | None
    parameters: int | None
    pairs_per_s: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Glimpse:
    """The three best passages of one query, before and after. relevant: which are judged so."""

    query: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    relevant_before: tuple[bool, ...]
    relevant_after: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Untrained:
    """The first table: what the test queries get without any training.

    zero_shot: the model that ranks as it comes, as `dear rank --model` names it.
    """

    collection: str
    queries: int
    top_k: int
    measure: str
    zero_shot: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsWorth:
    """Student minus control, which differ in the teacher's labels alone.

    difference: in the table's measure, with the bootstrap's 95 % interval.  p: of the paired
        randomisation test, Holm-corrected over all pairs of the final table's systems.
    start: the weights that both started from, TEACHER or the name of a base.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    start: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """What `distill` found out.

    untrained: None where no test query is judged.  labels_worth: None without a control.
    """

    folder: Path
    collection: str
    queries: int
    top_k: int
    measure: str
    untrained: Untrained | None
    rows: tuple[Row, ...]
    labels_worth: LabelsWorth | None
    glimpse: Glimpse | None
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Split:
    """Which queries teach and which test; judgements are None where there are none."""

    train: dict[str, Query]
    test: dict[str, Query]
    train_judgements: Judgements | None
    test_judgements: Judgements | None


def distill(
    collection: Collection,
    recipe: DistillRecipe,
    folder: Path,
    *,
    watch: Watch | None = None,
    note: Callable[[str], None] | None = None,
    first: Callable[[Untrained], None] | None = None,
) -> Distilled:
    """From a collection to a student in `folder/student`, and what it is worth.

    With judgements for training the teacher is trained, without them it is read as it comes;
    without judgements for testing the result is agreement with the teacher on held-out queries.
    A killed run goes on where it stopped. Raises ConfigError where `folder` holds another
    distillation.

    first: called with the first table before anything is trained, where test queries are judged.
    """
    made = _Distillation(collection, recipe, folder, watch or _unwatched, note or _silent)
    return made.run(first or _silent)


@contextlib.contextmanager
def _unwatched(_what: str, _unit: str) -> Iterator[Report]:
    yield lambda _done, _total: None


def _silent(_found: object) -> None:
    return None


class _Distillation:
    def __init__(
        self,
        collection: Collection,
        recipe: DistillRecipe,
        folder: Path,
        watch: Watch,
        note: Callable[[str], None],
    ) -> None:
        self.collection = collection
        self.recipe = recipe
        self.folder = folder
        self.watch = watch
        self.note = note
        self.seconds: dict[str, float] = {}

    def run(self, first: Callable[[Untrained], None]) -> Distilled:
        self._claim()
        split = _split(self.collection, self.recipe.test.queries)
        self.note(
            f"{len(split.train):,} training queries "
            f"({'judged' if split.train_judgements else 'not judged'}), "
            f"{len(split.test):,} test queries "
            f"({'judged' if split.test_judgements else 'not judged'}), "
            f"{len(self.collection.corpus):,} passages"
        )
        judged = split.train_judgements is not None
        trains_teacher = judged and self.recipe.teacher.model is not None
        test_run = self._retrieve("test", split.test, self.recipe.test.top_k)
        runs: dict[str, Run] = {FIRST: test_run}
        untrained = None
        if split.test_judgements is not None:
            runs |= self._rank_zero_shot(test_run, is_teacher=not trains_teacher)
            untrained = self._untrained(split.test_judgements, runs)
            first(untrained)
        train_run = self._retrieve("train", split.train, self.recipe.depth)
        teacher = self._teacher(split) if trains_teacher else self.recipe.teacher.zero_shot
        labels = self._labels(split, train_run, teacher)
        self._student("student", split, labels)
        has_control = self.recipe.control and judged
        if has_control:
            self._student(NO_LABELS, split, None)
        if TEACHER not in runs:
            ranked = self._rank("teacher", test_run, teacher)
            runs[TEACHER] = self._with_first_stage(ranked, test_run)
        runs[STUDENT] = self._rank("student", test_run)
        if has_control:
            runs[CONTROL] = self._rank(NO_LABELS, test_run)
        return self._report(split, untrained, runs)

    # -- stages ----------------------------------------------------------------------------

    def _retrieve(self, part: str, queries: Mapping[str, Query], top_k: int) -> Run:
        from dear.data.bm25 import options_for, retrieve

        path = self.folder / "first-stage" / f"{part}.trec"

        def work() -> dict[str, Any]:
            with self.watch(f"retrieving, {part}", "queries") as report:
                run = retrieve(
                    self.collection.corpus,
                    queries,
                    top_k=top_k,
                    options=options_for(self.collection.name),
                    progress=report,
                )
            write_run(path, run, "bm25")
            return {}

        self._stage(f"retrieve {part}", work, path)
        return read_run(path)

    def _teacher(self, split: _Split) -> str:
        """The name of the teacher, which is trained here."""
        stage = self.recipe.teacher
        assert stage.model is not None
        recipe = Recipe(
            name=f"{self.recipe.name}-teacher",
            kind="biencoder",
            model=stage.model,
            contract=stage.contract,
            groups=stage.groups,
            loss=LossRecipe(main=("ce",), alpha=0.0),
            train=stage.train,
            data=(DataRecipe(collection=self.collection.name),),
        )
        self._train("teacher", recipe, split, stage.queries, labels=None)
        return f"biencoder:{self.folder / 'teacher'}"

    def _labels(self, split: _Split, run: Run, teacher: str) -> Path:
        from dear.label import FirstStage, label_with_all
        from dear.models.opening import open_model

        path = self.folder / "labels"
        weight = self.recipe.teacher.first_stage

        def work() -> dict[str, Any]:
            wanted = {q: run[q] for q in _sample(run, self.recipe.student.queries)}
            teachers: dict[str, PairModel | FirstStage] = {"teacher": open_model(teacher)}
            if weight:
                teachers["first-stage"] = FirstStage([wanted])
            with self.watch("labelling", "pairs") as report:
                done = label_with_all(
                    self.collection,
                    [wanted],
                    teachers,
                    path,
                    weights=(1.0, weight) if weight else (1.0,),
                    judged=split.train_judgements,
                    progress=report,
                )
            return {"pairs": done[0].scored + done[0].kept}

        self._stage("label", work, path)
        return path

    def _student(self, name: str, split: _Split, labels: Path | None) -> None:
        """The student, or, without labels, the same student trained on judgements alone."""
        stage = self.recipe.student
        loss, model = stage.loss, stage.model
        if self._starts_from_teacher():
            model = replace(model, base=str(self.folder / "teacher"))
        if labels is None:
            loss = LossRecipe(main=("ce",), alpha=0.0)
        elif split.train_judgements is None:
            loss = LossRecipe(main=(), alpha=1.0, temperature=stage.loss.temperature)
        recipe = Recipe(
            name=f"{self.recipe.name}-{name}",
            model=model,
            contract=stage.contract,
            groups=stage.groups,
            loss=loss,
            train=stage.train,
            data=(DataRecipe(collection=self.collection.name),),
        )
        self._train(name, recipe, split, stage.queries, labels)

    def _starts_from_teacher(self) -> bool:
        """Whether student and control start there: both do, so that they differ in labels alone."""
        return self.recipe.student.from_teacher and (self.folder / "teacher").is_dir()

    def _train(
        self, name: str, recipe: Recipe, split: _Split, queries: int | None, labels: Path | None
    ) -> None:
        path = self.folder / name

        def work() -> dict[str, Any]:
            from dear.data.labels import read_labels
            from dear.train.checkpoints import TRAINING_FILE, is_finished
            from dear.train.examples import draw_groups, examples_of
            from dear.train.pointwise import train

            if is_finished(path):  # killed between its end and the stage's note
                return _trained(read_json(path / TRAINING_FILE)["metrics"])
            run = read_run(self.folder / "first-stage" / "train.trec")
            groups = draw_groups(
                {q: run[q] for q in _sample(run, queries)},
                recipe.groups,
                judgements=split.train_judgements,
                labels=read_labels(labels).scaled(self.recipe.teacher.scale) if labels else None,
                corpus=self.collection.corpus,
                seed=recipe.train.seed,
            )
            if not groups:
                raise DataError(
                    f"{self.collection.name}: BM25 finds fewer than two candidates for every "
                    "training query; the collection is too small to learn from"
                )
            examples = examples_of(groups, self.collection.queries(), self.collection.corpus)
            with self.watch(f"training, {name}", "steps") as report:
                trained = train(
                    recipe, path, examples=examples, progress=lambda s: report(s.done, s.total)
                )
            return _trained(asdict(trained))

        self._stage(f"train {name}", work, path)

    def _rank_zero_shot(self, run: Run, *, is_teacher: bool) -> dict[str, Run]:
        """The zero-shot model's runs over `run`: alone, and with the first stage's score.

        is_teacher: none is trained, so that the last of them is the teacher's.
        """
        name = "teacher" if is_teacher else _STAGE_OF[ZERO_SHOT]
        found = {ZERO_SHOT: self._rank(name, run, self.recipe.teacher.zero_shot)}
        if self.recipe.teacher.first_stage:
            found[ZERO_SHOT_FUSED] = self._with_first_stage(found[ZERO_SHOT], run)
        if is_teacher:
            found[TEACHER] = found.popitem()[1]
        return found

    def _with_first_stage(self, ranked: Run, run: Run) -> Run:
        """A teacher's run as the student knows it: with the first stage's score, if so declared."""
        from dear.rank.fusion import fuse_runs

        weight = self.recipe.teacher.first_stage
        return fuse_runs(ranked, run, weight) if weight else ranked

    def _rank(self, name: str, run: Run, model: str | None = None) -> Run:
        from dear.rank.reranker import Reranker

        path = self.folder / "ranked" / f"{name}.trec"

        def work() -> dict[str, Any]:
            reranker = Reranker(model or self.folder / name)
            queries, corpus = self.collection.queries(), self.collection.corpus
            candidates = [gather(ranking, queries, corpus) for ranking in run.values()]
            started = time.perf_counter()
            with self.watch(f"ranking, {name}", "pairs") as report:
                ranked = {
                    r.query_id: r for r in reranker.rank_candidates(candidates, progress=report)
                }
            seconds = time.perf_counter() - started
            write_run(path, ranked, name)
            pairs = sum(len(r) for r in ranked.values())
            return {
                "pairs_per_s": round(pairs / seconds, 1),
                "parameters": reranker.model.parameters,
            }

        self._stage(f"rank {name}", work, path)
        return read_run(path)

    # -- the end ---------------------------------------------------------------------------

    def _untrained(self, judgements: Judgements, runs: Mapping[str, Run]) -> Untrained:
        rows, _ = self._judged(judgements, runs)
        return Untrained(
            collection=self.collection.name,
            queries=len(runs[FIRST]),
            top_k=self.recipe.test.top_k,
            measure=MEASURE,
            zero_shot=self.recipe.teacher.zero_shot,
            rows=tuple(rows),
        )

    def _report(
        self, split: _Split, untrained: Untrained | None, runs: Mapping[str, Run]
    ) -> Distilled:
        if split.test_judgements is not None:
            rows, worth = self._judged(split.test_judgements, runs)
            glimpse = _glimpse(self.collection, split.test_judgements, runs)
            measure = MEASURE
        else:
            rows, worth, glimpse = self._agreement(runs), None, None
            measure = "agreement with the teacher (Kendall's tau)"
        found = Distilled(
            folder=self.folder,
            collection=self.collection.name,
            queries=len(runs[FIRST]),
            top_k=self.recipe.test.top_k,
            measure=measure,
            untrained=untrained,
            rows=tuple(rows),
            labels_worth=worth,
            glimpse=glimpse,
            stage_seconds=dict(self.seconds),
        )
        values = asdict(found) | {
            "folder": self.folder.name,
            "recipe": self.recipe.name,
            "versions": versions(),
        }
        write_json(self.folder / RESULTS, json.loads(json.dumps(values)))
        if split.test_judgements is not None:
            with atomic_path(self.folder / PLOT) as path:
                path.write_text(_plot(found), encoding="utf-8")
        return found

    def _judged(
        self, judgements: Judgements, runs: Mapping[str, Run]
    ) -> tuple[list[Row], LabelsWorth | None]:
        from dear.evaluate.compare import compare_all
        from dear.evaluate.metrics import evaluate
        from dear.evaluate.paired import bootstrap_interval

        found = {name: evaluate(run, judgements, (MEASURE,)) for name, run in runs.items()}
        pairs = {(c.a, c.b): c for c in compare_all(found, MEASURE)}
        rows = [
            self._row(
                name,
                evaluation.means[MEASURE],
                bootstrap_interval(list(evaluation.per_query[MEASURE].values())),
                evaluation.means[MEASURE] - found[FIRST].means[MEASURE],
                None if name == FIRST else pairs[FIRST, name].holm_randomisation,
            )
            for name, evaluation in found.items()
        ]
        if CONTROL not in found:
            return rows, None
        compared = pairs[STUDENT, CONTROL]
        return rows, LabelsWorth(
            difference=compared.comparison.difference,
            interval=compared.comparison.interval,
            p=compared.holm_randomisation,
            start=TEACHER if self._starts_from_teacher() else self.recipe.student.model.base,
        )

    def _agreement(self, runs: Mapping[str, Run]) -> list[Row]:
        return [
            self._row(name, agreement(run, runs[TEACHER]), None, None, None)
            for name, run in runs.items()
            if name != TEACHER
        ]

    def _row(
        self,
        system: str,
        score: float,
        interval: tuple[float, float] | None,
        difference: float | None,
        p: float | None,
    ) -> Row:
        name = _STAGE_OF.get(system)
        ranked = self._note_of(f"rank {name}") if name else {}
        if system == ZERO_SHOT and not ranked:  # it is the teacher
            ranked = self._note_of("rank teacher")
        trained = self._note_of(f"train {name}") if name else {}
        return Row(
            system=system,
            score=score,
            interval=interval,
            difference=None if system == FIRST else difference,
            p=p,
            parameters=ranked.get("parameters"),
            pairs_per_s=ranked.get("pairs_per_s"),
            seconds=trained.get("seconds"),
        )

    # -- bookkeeping -----------------------------------------------------------------------

    def _claim(self) -> None:
        """The folder is for this distillation, or ConfigError."""
        plan = {
            "collection": self.collection.name,
            "texts": _texts_digest(self.collection),
            "recipe": json.loads(json.dumps(self.recipe.to_dict())),
        }
        path = self.folder / PLAN
        if path.is_file():
            from dear.train.checkpoints import differences

            if found := differences(plan, read_json(path)):
                raise ConfigError(
                    f"{self.folder} holds another distillation ({'; '.join(found[:3])}); choose "
                    "another --output, or remove it"
                )
        else:
            write_json(path, plan)

    def _stage(self, name: str, work: Callable[[], dict[str, Any]], made: Path) -> None:
        """Do `work` unless its note says that it is done and what it made is unchanged."""
        path = self._note_path(name)
        if path.is_file() and made.exists():
            there = read_json(path)
            if there.get("made") == _digest(made):
                self.seconds[name] = there["stage_seconds"]
                self.note(f"{name}: done before, kept")
                return
        started = time.perf_counter()
        result = work()
        seconds = round(time.perf_counter() - started, 1)
        write_json(path, {**result, "stage_seconds": seconds, "made": _digest(made)})
        self.seconds[name] = seconds
        self.note(f"{name}: {seconds:.0f} s")

    def _note_path(self, name: str) -> Path:
        return self.folder / "stages" / f"{name.replace(' ', '-')}.json"

    def _note_of(self, name: str) -> dict[str, Any]:
        path = self._note_path(name)
        return read_json(path) if path.is_file() else {}


def agreement(run: Run, teacher: Run) -> float:
    """Mean Kendall's tau-b over the queries of `teacher`; a query that `run` lacks counts 0."""
    from scipy.stats import kendalltau

    total = 0.0
    for query_id, reference in teacher.items():
        ranking = run.get(query_id)
        if ranking is None or len(reference) < 2:
            continue
        mine = {p: -i for i, p in enumerate(ranking.passage_ids)}
        shared = [p for p in reference.passage_ids if p in mine]
        if len(shared) > 1:
            tau = kendalltau([mine[p] for p in shared], range(len(shared), 0, -1)).statistic
            total += float(tau)
    return total / len(teacher)


def _split(collection: Collection, test_queries: int | None) -> _Split:
    """train and test as the collection has them; else its queries, split by a hash of their ids."""
    everything = collection.queries()
    judged = {s for s in collection.splits if collection.has_judgements(s)}
    train_judgements = collection.judgements("train") if "train" in judged else None
    test_split = next((s for s in ("test", "dev") if s in judged), None)
    test_judgements = collection.judgements(test_split) if test_split else None
    test_ids = list(test_judgements or (q for q in everything if _hash(q) % 10 < 3))
    train_ids = list(train_judgements or ())
    if not train_ids:
        taken = set(test_ids)
        train_ids = [q for q in everything if q not in taken]
    if not train_ids:  # every query is a judged test query: some of them teach, unjudged
        train_ids = [q for q in test_ids if _hash(q) % 10 >= 3]
        test_ids = [q for q in test_ids if _hash(q) % 10 < 3]
    lost = [q for q in (*train_ids, *test_ids) if q not in everything]
    if lost:
        raise DataError(f"{collection.name}: query {lost[0]!r} is judged, but has no text")
    if not train_ids or not test_ids:
        raise DataError(
            f"{collection.name}: {len(everything)} queries are too few to train on some and test "
            "on others"
        )
    picked = _sample(dict.fromkeys(test_ids), test_queries)
    return _Split(
        {q: everything[q] for q in train_ids},
        {q: everything[q] for q in picked},
        train_judgements,
        None if test_judgements is None else {q: test_judgements[q] for q in picked},
    )


def _sample(ids: Mapping[str, Any], count: int | None) -> list[str]:
    """`count` of the ids, the same ones every time, in the order of their hashes."""
    return sorted(ids, key=lambda q: (_hash(q), q))[:count]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _glimpse(
    collection: Collection, judgements: Judgements, runs: Mapping[str, Run]
) -> Glimpse | None:
    """The query whose best three gained most, of those with a readable length."""
    from dear.evaluate.metrics import evaluate

    before = evaluate(runs[FIRST], judgements, ("nDCG@3",)).per_query["nDCG@3"]
    after = evaluate(runs[STUDENT], judgements, ("nDCG@3",)).per_query["nDCG@3"]
    queries, corpus = collection.queries(), collection.corpus
    usable = [q for q in runs[STUDENT] if 20 <= len(queries[q].text) <= 90] or list(runs[STUDENT])
    if not usable:
        return None
    best = max(usable, key=lambda q: (after[q] - before[q], -_hash(q)))

    def show(ranking: Ranking) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        ids = ranking.passage_ids[:3]
        return (
            tuple(corpus[p].full_text for p in ids),
            tuple(judgements[best].get(p, 0) > 0 for p in ids),
        )

    texts_before, relevant_before = show(runs[FIRST][best])
    texts_after, relevant_after = show(runs[STUDENT][best])
    return Glimpse(
        query=queries[best].text,
        before=texts_before,
        after=texts_after,
        relevant_before=relevant_before,
        relevant_after=relevant_after,
    )


def _plot(found: Distilled) -> str:
    from dear.evaluate.plot import Bar, bars

    return bars(
        f"{found.collection}: {found.measure}",
        f"{found.queries:,} test queries, best {found.top_k} of BM25 reranked, 95 % intervals",
        [Bar(r.system, r.score, r.interval, strong=r.system == STUDENT) for r in found.rows],
    )


def _trained(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in ("pairs", "seconds")}


def _texts_digest(collection: Collection) -> str:
    """16 hexadecimal digits over every text: another version of a collection is another one."""
    digest = hashlib.sha256()
    for query in collection.queries().values():
        digest.update(f"{query.id}\0{query.text}\0".encode())
    for passage in collection.corpus.values():
        digest.update(f"{passage.id}\0{passage.full_text}\0".encode())
    return digest.hexdigest()[:16]


def _digest(path: Path) -> str:
    """16 hexadecimal digits over names, sizes and contents below `path`, hidden files aside."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file.name.startswith("."):
            continue
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path.parent)}:{content};".encode())
    return digest.hexdigest()[:16]
