"""The whole way: retrieve, teach, label, distil, rank, evaluate; each stage once.

Everything is below one folder. A stage that ended leaves a note in `stages/` with what it was made
from and what it made; a later run of the same distillation takes it over as long as both are
unchanged, and does it again otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dear.artifacts import atomic_path, check_folder, read_json, versions, write_json
from dear.checkpoints.files import TRAINING_FILE
from dear.checkpoints.hardware import cpu_has_bfloat16, pick_device, usable_cores
from dear.data.collections import Collection, open_collection
from dear.data.documents import document_run, passage_judgements
from dear.data.formats import read_run, write_run
from dear.data.inputs import (
    corpus_input,
    judgements_input,
    pairs_input,
    queries_input,
    run_input,
)
from dear.data.label_texts import LabelCheck
from dear.data.labels import MANIFEST, labels_input, read_labels, read_stamp
from dear.data.origins import write_origin
from dear.digests import Input, Inputs
from dear.errors import DataError, DearError
from dear.label import FirstStage, label_with_all, stamp_of
from dear.plan.cpu import training_minutes
from dear.rank.fusion import fuse_runs
from dear.rank.reranker import Reranker
from dear.recipes import (
    CORES_WITH,
    CORES_WITHOUT,
    LONG,
    SHORT,
    UNJUDGED,
    BiencoderRecipe,
    DataRecipe,
    DistillRecipe,
    LossRecipe,
    PairRecipe,
    PointwiseRecipe,
    fitting_recipe,
    load_distill_recipe,
)
from dear.records import Judgements, Query, Run, count_pairs, gather
from dear.scoring.opening import PairModel, open_model
from dear.scoring.revisions import base_inputs, checkpoint_digest, revision_named, scoring_inputs
from dear.steps.cuts import FEW_CUT, longer_than, tokens_of_a_pair
from dear.steps.distilled import (
    CONTROL,
    FIRST,
    FUSED,
    MEASURE,
    NO_LABELS,
    PLOT,
    RESULTS,
    STUDENT,
    STUDENT_FUSED,
    TEACHER,
    ZERO_SHOT,
    ZERO_SHOT_FUSED,
    Distilled,
    JudgedSystems,
    Untrained,
    agreement_rows,
    example_query,
    plot,
)
from dear.steps.first_stages import (
    BM25,
    DENSE,
    HYBRID,
    first_stage_for,
    hybrid_teaches,
    inputs_of_search,
    search_with,
)
from dear.steps.options import AUTO_RECIPE, STRONGEST, DistillOptions, QueriesOptions
from dear.steps.progress import Watch, unwatched
from dear.steps.queries import make_queries_of, own_queries
from dear.steps.query_splits import (
    FEW_JUDGED,
    QuerySplit,
    has_few_queries,
    judged_to_train_on,
    sample,
    split_queries,
)
from dear.steps.recommendation import recommend_by_agreement, recommend_judged
from dear.steps.stages import Stages, file_digest_of
from dear.steps.systems import Systems, trained_model
from dear.steps.teachers import Choices
from dear.train.checkpoints import forget_others, is_finished
from dear.train.examples import Example, draw_groups, examples_of
from dear.train.inputs import inputs_of
from dear.train.pointwise import exact_inputs, train

_STUDENTS = (STUDENT, STUDENT_FUSED)

MADE_FROM = 2
"""Passages that a query is tried to be made from, for each one wanted: many are not kept."""


def distill_with(
    options: DistillOptions,
    *,
    watch: Watch = unwatched,
    note: Callable[[str], None] | None = None,
    first: Callable[[Untrained], None] | None = None,
) -> Distilled:
    """`distill` for a collection and a recipe that are named."""
    say = note or _silent
    collection = open_collection(options.collection)
    recipe = load_distill_recipe(_recipe_name(options, collection, say), options.changes)
    recipe = _taught_by(recipe, options)
    folder = options.output or Path("runs") / collection.name
    check_folder(folder)
    say(f"{collection.name} → {folder}")
    return distill(collection, recipe, folder, watch=watch, note=note, first=first)


def _recipe_name(
    options: DistillOptions, collection: Collection, note: Callable[[str], None]
) -> str:
    if options.recipe not in (None, AUTO_RECIPE):
        return str(options.recipe)
    judged = judged_to_train_on(collection)
    if not judged or (judged < FEW_JUDGED and options.recipe is None):
        number = f"{judged} queries are" if judged else "no query is"
        note(f"recipe {UNJUDGED}: {number} judged to train on; {FEW_JUDGED} or more teach a model")
        return UNJUDGED
    return LONG if options.recipe is None else _recipe_for_this_machine(note)


def _taught_by(recipe: DistillRecipe, options: DistillOptions) -> DistillRecipe:
    """The recipe with the teacher that is asked for, if any."""
    teacher = recipe.teacher
    if options.teacher_minutes is not None:
        teacher = replace(teacher, minutes=options.teacher_minutes)
    if options.teacher == STRONGEST:
        teacher = replace(teacher, strongest=True)
    elif options.teacher is not None:
        teacher = replace(teacher, zero_shot=options.teacher, model=None, strongest=False)
    return replace(recipe, teacher=teacher)


def _recipe_for_this_machine(note: Callable[[str], None]) -> str:
    cores, bfloat16 = usable_cores(), cpu_has_bfloat16()
    gpu = pick_device("auto").type != "cpu"
    name = fitting_recipe(cores, bfloat16=bfloat16, gpu=gpu)
    number = "1 core" if cores == 1 else f"{cores} cores"
    has = "a GPU" if gpu else f"{number} {'with' if bfloat16 else 'without'} bfloat16"
    rule = f"{LONG} is for a GPU, or {CORES_WITH} cores with bfloat16, or {CORES_WITHOUT} without"
    note(f"recipe {name}: this machine has {has} ({rule}; else {SHORT})")
    return name


def distill(
    collection: Collection,
    recipe: DistillRecipe,
    folder: Path,
    *,
    watch: Watch = unwatched,
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
    made = _Distillation(collection, recipe, folder, watch, note or _silent)
    return made.run(first or _silent)


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
        self.asked = collection
        self.collection = collection
        self.recipe = recipe
        self.folder = folder
        self.watch = watch
        self.note = note
        self.stages = Stages(folder, note)
        self._corpus: Input | None = None
        self._others: dict[str, str] = {}

    def run(self, first: Callable[[Untrained], None]) -> Distilled:
        self.stages.claim({"collection": self.collection.name, "recipe": self.recipe.to_dict()})
        self.first_stage = first_stage_for(self.recipe, len(self.collection.corpus))
        makes_queries = self.recipe.made_queries and has_few_queries(self.collection)
        if makes_queries and (self._trains_student() or not own_queries(self.collection)):
            self.collection = self._with_made_queries(self.recipe.made_queries)
        split = split_queries(
            self.collection,
            self.recipe.test.queries,
            self.recipe.made_queries,
            trains=self._trains_student(),
        )
        self._tell_of_queries(split)
        test_run = self._retrieve("test", split.test, self.recipe.test.top_k)
        choices = Choices(
            self.stages, self.collection, test_run, minutes=self.recipe.teacher.minutes
        )
        if self.recipe.teacher.strongest:
            self._with_strongest_teacher(choices, split, test_run)
        # what was made from a passage says too little of others to train a teacher on
        judged = split.train_judgements is not None and not split.made
        trains_teacher = judged and self.recipe.teacher.model is not None
        runs: dict[str, Run] = {FIRST: self._run_of("test", BM25.kind)}
        untrained = None
        if not trains_teacher or split.test_judgements is not None:
            runs |= self._rank_zero_shot(test_run, is_teacher=not trains_teacher)
        if split.test_judgements is not None:
            runs |= self._rank_others(choices, test_run)
        self._systems = Systems(
            asked=self.asked,
            recipe=self.recipe,
            folder=self.folder,
            first_stage=self.first_stage,
            trains_teacher=trains_teacher,
            others=self._others,
        )
        if split.test_judgements is not None:
            untrained = self._untrained(split.test_judgements, runs)
            first(untrained)
        if not self._trains_student():
            return self._report(split, untrained, runs)
        runs |= self._trained(split, test_run, runs, trains_teacher=trains_teacher)
        return self._report(split, untrained, runs)

    def _trained(
        self, split: QuerySplit, test_run: Run, runs: Mapping[str, Run], *, trains_teacher: bool
    ) -> dict[str, Run]:
        """Teacher, labels, student and control, and how each ranks the test queries."""
        train_run = self._retrieve("train", split.train, self.recipe.depth)
        documents = self.collection.documents
        if documents is not None and split.train_judgements is not None:
            judged_passages = passage_judgements(split.train_judgements, train_run, documents)
            split = replace(split, train_judgements=judged_passages)
        self._tell_of_cuts(train_run)
        teacher = self._teacher(split) if trains_teacher else self._untrained_teacher()
        labels = self._labels(split, train_run, teacher)
        self._student("student", split, labels)
        has_control = self.recipe.control and split.train_judgements is not None and not split.made
        if has_control:
            self._student(NO_LABELS, split, None)
        found: dict[str, Run] = {}
        if TEACHER not in runs:
            assert teacher is not None
            ranked = self._rank("teacher", test_run, teacher)
            found[TEACHER] = self._with_first_stage(ranked, test_run)
        found[STUDENT] = self._rank("student", test_run, self._trained_model("student"))
        if self.recipe.teacher.first_stage:
            found[STUDENT_FUSED] = self._with_first_stage(found[STUDENT], test_run)
        if has_control:
            found[CONTROL] = self._rank(NO_LABELS, test_run, self._trained_model(NO_LABELS))
        return found

    def _trains_student(self) -> bool:
        """Whether there is something to learn: judgements, or a teacher that is not the hybrid
        itself, which nothing undercuts."""
        judged = judged_to_train_on(self.collection) >= FEW_JUDGED
        if judged or self.recipe.teacher.strongest or self.recipe.student.of_first_stage:
            return True
        return not hybrid_teaches(self.recipe, self.first_stage)

    def _tell_of_queries(self, split: QuerySplit) -> None:
        taught = "made" if split.made else "judged" if split.train_judgements else "not judged"
        training = f"{len(split.train):,} training queries ({taught}), " if split.train else ""
        self.note(
            f"{training}{len(split.test):,} test queries "
            f"({'judged' if split.test_judgements else 'not judged'}), "
            f"{len(self.collection.corpus):,} passages"
        )

    def _tell_of_cuts(self, run: Run) -> None:
        """What share of the training queries' candidates the student does not read whole."""
        student = self.recipe.student
        ids = dict.fromkeys(p for ranking in run.values() for p in ranking.passage_ids)
        limit = student.contract.max_passage_tokens
        share = longer_than(self.collection.corpus, list(ids), student.model.base, limit)
        if share >= FEW_CUT:
            self.note(
                f"the student reads {limit} tokens of a passage, and {share:.0%} of the passages "
                "are longer; --set student.contract.max_passage_tokens=N reads more, `dear split` "
                "makes shorter ones"
            )

    # -- stages ----------------------------------------------------------------------------

    def _with_made_queries(self, count: int) -> Collection:
        """The collection with queries that are made from its documents, in a folder of its own."""
        path = self.folder / "made"
        options = QueriesOptions(
            collection=self.collection.name, output=path, passages=MADE_FROM * count
        )
        settings = {"rule": MADE_FROM, "passages": MADE_FROM * count, "top_k": options.top_k}
        inputs = {
            "corpus": corpus_input(self.collection),
            "queries": queries_input(self.collection, own_queries(self.collection)),
            "settings": Input.of_values(settings),
        }

        def work() -> dict[str, Any]:
            shutil.rmtree(path, ignore_errors=True)
            found = make_queries_of(self.collection, options, watch=self.watch)
            return {"passages": found.passages, "queries": len(found.kept)}

        self.stages.run("make queries", inputs, work, path / "queries.jsonl", file_digest_of)
        return Collection.from_folder(path, name=self.collection.name)

    def _retrieve(self, part: str, queries: Mapping[str, Query], top_k: int) -> Run:
        """The first stage's run; those of a hybrid's parts are beside it."""
        path, spec = self._run_path(part), self.first_stage
        paths = {one.kind: self._run_path(f"{part}.{one.kind}") for one in spec.parts}
        inputs = self._texts(queries) | inputs_of_search(spec, self.collection, top_k)

        def work() -> dict[str, Any]:
            run, parts = search_with(spec, self.collection, queries, top_k, self.watch)
            for kind, found in {**parts, spec.kind: run}.items():
                where = paths.get(kind, path)
                write_run(where, found, kind)
                about = {"model": None, "retriever": kind, "top_k": top_k}
                _write_note(where, self.collection, part, about, inputs)
            return {}

        if path.is_file() and not set(read_run(path)) <= set(queries):
            self.note(f"retrieve {part}: other queries are asked now")
            path.unlink()
        elif not all(one.is_file() for one in paths.values()):
            path.unlink(missing_ok=True)
        self.stages.run(f"retrieve {part}", inputs, work, path, file_digest_of)
        return read_run(path)

    def _teacher(self, split: QuerySplit) -> str:
        """The name of the teacher, which is trained here."""
        stage = self.recipe.teacher
        assert stage.model is not None
        recipe = BiencoderRecipe(
            name=f"{self.recipe.name}-teacher",
            model=stage.model,
            contract=stage.contract,
            groups=stage.groups,
            loss=LossRecipe(main=("ce",), alpha=0.0),
            train=stage.train,
            data=(DataRecipe(collection=self.collection.name),),
        )
        self._train("teacher", recipe, split, stage.queries, labels=None)
        return f"biencoder:{self.folder / 'teacher'}"

    def _untrained_teacher(self) -> str | None:
        """The model that is read as it comes; None where a hybrid has its scores already."""
        teaches = hybrid_teaches(self.recipe, self.first_stage)
        return None if teaches else self.recipe.teacher.zero_shot

    def _labels(self, split: QuerySplit, run: Run, teacher: str | None) -> Path:
        """Soft labels of the training queries' candidates. teacher: None for the first stage's own
        scores."""
        path = self.folder / "labels"
        weight = self.recipe.teacher.first_stage
        wanted = {q: run[q] for q in sample(run, self.recipe.student.queries)}
        inputs = {
            **self._texts({q: split.train[q] for q in wanted}),
            **self._judged_by(split),
            "run": run_input(self._run_path("train"), "first-stage/train.trec"),
        }
        if teacher is not None:
            inputs["teacher"] = Input(revision_named(teacher), self._named(teacher))

        def work() -> dict[str, Any]:
            teachers: dict[str, PairModel | FirstStage] = {}
            if teacher is not None:
                teachers["teacher"] = open_model(teacher)
            if weight:
                teachers["first-stage"] = FirstStage([wanted])
            self._drop_labels_of_others(path, teachers)
            with self.watch("labelling", "pairs") as report:
                done = label_with_all(
                    self.collection,
                    [wanted],
                    teachers,
                    path,
                    weights=(1.0, weight) if len(teachers) > 1 else (1.0,),
                    judged=split.train_judgements,
                    progress=report,
                )
            if done[0].changed:
                self.note(
                    f"label: {done[0].changed:,} pairs scored again because their texts changed, "
                    f"{done[0].kept:,} kept"
                )
            return {"pairs": done[0].scored + done[0].kept}

        self.stages.run("label", inputs, work, path, lambda p: labels_input(p).digest)
        return path

    def _drop_labels_of_others(
        self, path: Path, teachers: Mapping[str, PairModel | FirstStage]
    ) -> None:
        """Stores of another teacher, or of another run: nothing in them is of use here."""

        for name, teacher in teachers.items():
            store = path / name
            if not (store / MANIFEST).is_file():
                continue
            found = read_stamp(store).inputs.changes(stamp_of(self.collection.name, teacher).inputs)
            if found:
                self.note(f"label: all labels of {store.name} are made again ({found})")
                shutil.rmtree(store)

    def _student(self, name: str, split: QuerySplit, labels: Path | None) -> None:
        """The student, or, without labels, the same student trained on judgements alone."""
        stage = self.recipe.student
        loss, model = stage.loss, stage.model
        if self._starts_from_teacher():
            model = replace(model, base=str(self.folder / "teacher"))
        if labels is None:
            loss = LossRecipe(main=("ce",), alpha=0.0)
        elif split.train_judgements is None or split.made:
            # a sentence's own passage is right for its words, which BM25 knows already
            loss = LossRecipe(main=(), alpha=1.0, temperature=stage.loss.temperature)
        kind = BiencoderRecipe if stage.kind == "biencoder" else PointwiseRecipe
        recipe = kind(
            name=f"{self.recipe.name}-{name}",
            model=model,
            contract=stage.contract,
            groups=stage.groups,
            loss=loss,
            train=stage.train,
            data=(DataRecipe(collection=self.collection.name),),
        )
        self._train(name, recipe, split, stage.queries, labels)

    def _trained_model(self, name: str) -> str:
        return trained_model(self.recipe, self.folder / name)

    def _starts_from_teacher(self) -> bool:
        """Whether student and control start there: both do, so that they differ in labels alone."""
        return self.recipe.student.from_teacher and (self.folder / "teacher").is_dir()

    def _train(
        self,
        name: str,
        recipe: PairRecipe,
        split: QuerySplit,
        queries_limit: int | None,
        labels: Path | None,
    ) -> None:

        path = self.folder / name
        data = {
            **self._texts(split.train),
            **self._judged_by(split),
            "run": run_input(self._run_path("train"), "first-stage/train.trec"),
        }
        if labels is not None:
            data["labels"] = Input(labels_input(labels).digest, "labels")
        # what is in the base counts, not where it lies: the folder may be moved
        values = recipe.to_dict() | {"model": asdict(recipe.model) | {"base": ""}}
        base = {
            kind: Input(one.digest, self._named(one.name))
            for kind, one in base_inputs(recipe.model.base).items()
        }
        inputs = {"recipe": Input.of_values(values), **base, **data}

        def work() -> dict[str, Any]:

            run = read_run(self._run_path("train"))
            queries, corpus = self.collection.queries(), self.collection.corpus
            check = None
            if labels is not None:
                scores = read_labels(labels).scaled(self.recipe.teacher.scale)
                check = LabelCheck(scores, [str(labels)], self.collection.name)
            groups = draw_groups(
                {q: run[q] for q in sample(run, queries_limit)},
                recipe.groups,
                judgements=split.train_judgements,
                labels=None if check is None else check.over_collection(queries, corpus),
                corpus=corpus,
                seed=recipe.train.seed,
            )
            if check is not None:
                check.require()
            if not groups:
                raise DataError(
                    f"{self.collection.name}: BM25 finds fewer than two candidates for every "
                    "training query; the collection is too small to learn from"
                )
            examples = examples_of(groups, queries, corpus)
            made_of = inputs_of(recipe, data, exact_inputs(examples, None))
            forget_others(path, made_of)
            if is_finished(path):  # of the same examples, or killed before the stage's note
                self.note(f"train {name}: what it has learnt from has not changed, kept")
                return _trained(read_json(path / TRAINING_FILE)["metrics"])
            self._tell_of_time(name, recipe, examples)
            with self.watch(f"training, {name}", "steps") as report:
                train(
                    recipe,
                    path,
                    examples=examples,
                    inputs=data,
                    progress=lambda s: report(s.done, s.total),
                )
            return _trained(read_json(path / TRAINING_FILE)["metrics"])

        self.stages.run(f"train {name}", inputs, work, path, checkpoint_digest)

    def _tell_of_time(self, name: str, recipe: PairRecipe, examples: Sequence[Example]) -> None:
        """How long a training will take, where a processor does it."""
        if pick_device("auto").type != "cpu":
            return
        minutes = training_minutes(
            recipe, len(examples), mean_tokens=tokens_of_a_pair(recipe, examples)
        )
        about = f"{minutes:.0f} min" if minutes >= 1 else "a minute or less"
        self.note(
            f"train {name}: {len(examples):,} groups of up to {recipe.groups.size} passages, "
            f"reckoned to take {about} on this machine"
        )

    def _rank_zero_shot(self, run: Run, *, is_teacher: bool) -> dict[str, Run]:
        """The zero-shot model's runs over `run`: alone, and with the first stage's score.

        is_teacher: none is trained, so that the last of them is the teacher's.
        """
        found: dict[str, Run] = {}
        if self.first_stage.parts:
            found = {DENSE: self._run_of("test", DENSE), HYBRID: run}
        if not hybrid_teaches(self.recipe, self.first_stage):
            name = "teacher" if is_teacher else ZERO_SHOT
            found[ZERO_SHOT] = self._rank(name, run, self.recipe.teacher.zero_shot)
            if self.recipe.teacher.first_stage:
                found[ZERO_SHOT_FUSED] = self._with_first_stage(found[ZERO_SHOT], run)
        if is_teacher:
            found[TEACHER] = found.popitem()[1]
        return found

    def _with_strongest_teacher(self, choices: Choices, split: QuerySplit, run: Run) -> None:
        """The strongest model here as the teacher, where one labels in time."""
        queries = len(sample(split.train, self.recipe.student.queries))
        depth = min(self.recipe.depth, len(self.collection.corpus))
        model = choices.teacher(queries * depth + count_pairs(run))
        teacher = replace(self.recipe.teacher, strongest=False)  # from here on it is decided
        if model is not None:
            teacher = replace(teacher, zero_shot=model, model=None)
        self.recipe = replace(self.recipe, teacher=teacher)

    def _rank_others(self, choices: Choices, run: Run) -> dict[str, Run]:
        """Runs of public rerankers on this machine over `run`: alone, and with the first stage's
        score. A model that fails is named, and not in them."""
        found: dict[str, Run] = {}
        for model in choices.others(self.recipe.others, but=self.recipe.teacher.zero_shot):
            system = f"other-{model.replace('/', '--')}"
            try:
                found[system] = self._rank(system, run, model)
            except DearError as error:
                self.note(f"{model} is not measured: {error}")
                continue
            self._others[system] = model
            if self.recipe.teacher.first_stage:
                found[system + FUSED] = self._with_first_stage(found[system], run)
        return found

    def _with_first_stage(self, ranked: Run, run: Run) -> Run:
        """A teacher's run as the student knows it: with the first stage's score, if so declared."""

        weight = self.recipe.teacher.first_stage
        return fuse_runs(ranked, run, weight) if weight else ranked

    def _rank(self, name: str, run: Run, model: str) -> Run:
        """The candidates of `run` ordered by `model`. name: of the stage and of the file."""
        path = self.folder / "ranked" / f"{name}.trec"
        queries = self.collection.queries()
        trained = self.folder / name
        own = trained.is_dir() and model == self._trained_model(name)
        digest = checkpoint_digest(trained) if own else revision_named(model)
        inputs = {
            **self._texts({q: queries[q] for q in run}),
            "run": run_input(self._run_path("test"), "first-stage/test.trec"),
            "model": Input(digest, self._named(model)),
        }

        def work() -> dict[str, Any]:
            reranker = Reranker(model)
            queries, corpus = self.collection.queries(), self.collection.corpus
            candidates = [gather(ranking, queries, corpus) for ranking in run.values()]
            started = time.perf_counter()
            with self.watch(f"ranking, {name}", "pairs") as report:
                ranked = {
                    r.query_id: r for r in reranker.rank_candidates(candidates, progress=report)
                }
            seconds = time.perf_counter() - started
            write_run(path, ranked, name)
            pairs = count_pairs(ranked)
            first = self._run_path("test")
            made_of = scoring_inputs(reranker.model) | {
                "texts": pairs_input(candidates, self.collection.name),
                "run": run_input(first),
            }
            by = {
                "model": reranker.name,
                "revision": reranker.model.revision,
                "top_k": self.recipe.test.top_k,
                "pairs": pairs,
                "seconds": round(seconds, 3),
            }
            _write_note(path, self.collection, "test", by, made_of, first_stage=first)
            return {
                "pairs_per_s": round(pairs / seconds, 1),
                "parameters": reranker.model.parameters,
            }

        self.stages.run(f"rank {name}", inputs, work, path, file_digest_of)
        return read_run(path)

    # -- the end ---------------------------------------------------------------------------

    def _untrained(self, judgements: Judgements, runs: Mapping[str, Run]) -> Untrained:
        return Untrained(
            collection=self.collection.name,
            queries=len(runs[FIRST]),
            top_k=self.recipe.test.top_k,
            measure=MEASURE,
            zero_shot=self.recipe.teacher.zero_shot,
            rows=tuple(self._judged(judgements, self._judged_runs(runs)).rows()),
        )

    def _report(
        self, split: QuerySplit, untrained: Untrained | None, runs: Mapping[str, Run]
    ) -> Distilled:
        steps = self.stages.note_of("train student").get("steps")
        worth = example = None
        if split.test_judgements is not None:
            judged_runs = self._judged_runs(runs)
            systems = self._judged(split.test_judgements, judged_runs)
            rows, worth = systems.rows(), systems.labels_worth(self._start())
            if judged_runs is runs:  # documents have no texts here
                example = example_query(self.collection, split.test_judgements, runs)
            measure = MEASURE
            recommended = recommend_judged(
                rows,
                systems.against,
                self._systems.commands(runs),
                students=_STUDENTS,
                student_steps=steps,
            )
        else:
            rows = agreement_rows(runs, self.stages, self._systems.names())
            measure = "agreement with the teacher (Kendall's tau)"
            recommended = recommend_by_agreement(
                rows,
                self._systems.commands(runs),
                teacher=TEACHER,
                students=_STUDENTS,
                student_steps=steps,
            )
        found = Distilled(
            folder=self.folder,
            collection=self.collection.name,
            queries=len(runs[FIRST]),
            top_k=self.recipe.test.top_k,
            measure=measure,
            untrained=untrained,
            rows=tuple(rows),
            labels_worth=worth,
            recommendation=recommended,
            glimpse=example,
            stage_seconds=dict(self.stages.seconds),
        )
        values = asdict(found) | {
            "folder": self.folder.name,
            "recipe": self.recipe.name,
            "versions": versions(),
        }
        values["inputs"] = Inputs(self._measured_with(split)).to_dict()
        write_json(self.folder / RESULTS, json.loads(json.dumps(values)))
        if split.test_judgements is not None:
            with atomic_path(self.folder / PLOT) as path:
                path.write_text(plot(found), encoding="utf-8")
        return found

    def _judged(self, judgements: Judgements, runs: Mapping[str, Run]) -> JudgedSystems:
        return JudgedSystems(judgements, runs, self.stages, self._systems.names())

    def _judged_runs(self, runs: Mapping[str, Run]) -> Mapping[str, Run]:
        """Of documents, where the collection is of their passages."""
        documents = self.collection.documents
        if documents is None:
            return runs
        return {name: document_run(run, documents) for name, run in runs.items()}

    def _start(self) -> str:
        """The weights that student and control start from."""
        return TEACHER if self._starts_from_teacher() else self.recipe.student.model.base

    # -- bookkeeping -----------------------------------------------------------------------

    def _texts(self, queries: Mapping[str, Query]) -> dict[str, Input]:
        if self._corpus is None:
            self._corpus = corpus_input(self.collection)
        return {"corpus": self._corpus, "queries": queries_input(self.collection, queries)}

    def _judged_by(self, split: QuerySplit) -> dict[str, Input]:
        if split.train_judgements is None:
            return {}
        name = f"{self.collection.name}, train"
        return {"judgements": judgements_input(split.train_judgements, name)}

    def _measured_with(self, split: QuerySplit) -> dict[str, Input]:
        if split.test_judgements is None:
            return self._texts(split.test)
        name = f"{self.collection.name}, test"
        judged = judgements_input(split.test_judgements, name)
        return {**self._texts(split.test), "judgements": judged}

    def _run_of(self, part: str, kind: str) -> Run:
        """The run of a part of the first stage, or its own where it has none."""
        has_parts = bool(self.first_stage.parts)
        return read_run(self._run_path(f"{part}.{kind}" if has_parts else part))

    def _run_path(self, part: str) -> Path:
        return self.folder / "first-stage" / f"{part}.trec"

    def _named(self, model: str) -> str:
        """Without the folder of this distillation, which may be moved."""
        return model.replace(f"{self.folder}{os.sep}", "")


def _write_note(
    run: Path,
    collection: Collection,
    part: str,
    values: Mapping[str, Any],
    inputs: Mapping[str, Input],
    first_stage: Path | None = None,
) -> None:
    """The note beside a run of a distillation, as `dear retrieve` and `dear rank` write theirs."""
    about = {**values, "collection": collection.name, "split": part}
    write_origin(run, about, first_stage=first_stage, inputs=Inputs(inputs))


def _trained(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in ("pairs", "seconds", "steps") if key in metrics}
