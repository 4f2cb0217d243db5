"""`dear train` and `dear label`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dear.artifacts import check_folder
from dear.checkpoints.registry import check_model
from dear.cli.launching import (
    GpusOption,
    MainAddressOption,
    NodeRankOption,
    NodesOption,
    ProcessesOption,
    launched,
    places_of,
)
from dear.cli.models import (
    BatchOption,
    ContractOption,
    DeviceOption,
    DTypeOption,
    InstructionOption,
    PassageTokensOption,
    RevisionOption,
    opening_options,
)
from dear.cli.output import count, duration, note, rate, summary
from dear.cli.progress import progress
from dear.cli.trained import told_fitted, told_learnt, told_trained
from dear.data.collections import open_collection
from dear.errors import ConfigError
from dear.steps.inputs import read_runs
from dear.steps.progress import OnProgress

if TYPE_CHECKING:
    from dear.label import FirstStage, Labelled
    from dear.recipes import Recipe
    from dear.scoring.opening import PairModel
    from dear.train.pointwise import Step


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a shipped recipe.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The checkpoint's folder.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: train.epochs=2."),
    ] = None,
    gpus: GpusOption = None,
    processes: ProcessesOption = None,
    nodes: NodesOption = 1,
    node_rank: NodeRankOption = 0,
    main_address: MainAddressOption = None,
) -> None:
    """Train a teacher or a student: a recipe to a checkpoint. Goes on where it was stopped."""
    from dear.recipes import load_recipe
    from dear.train.checkpoints import is_finished

    wanted = load_recipe(recipe, changes or ())
    if is_finished(output):
        _finished(wanted, output)
        return
    check_folder(output)
    if launched(
        [
            "train",
            recipe,
            "--output",
            str(output),
            *(w for c in changes or () for w in ("--set", c)),
        ],
        places_of(wanted.kind, gpus, processes, nodes, node_rank, main_address),
    ):
        return
    if wanted.kind == "listwise":
        from dear.train.listwise import train_lists

        with progress("training", "steps") as report:
            learnt = train_lists(wanted, output, progress=_steps(report))
        summary(told_learnt(learnt))
        return
    if wanted.kind == "heads":
        from dear.train.attention_heads import train_heads

        with progress("reading", "lists") as report:
            fitted = train_heads(wanted, output, progress=report)
        summary(told_fitted(fitted))
        return
    from dear.train.pointwise import train as run

    with progress("training", "steps") as report:
        trained = run(wanted, output, progress=_steps(report))
    summary(told_trained(trained))


def _finished(recipe: Recipe, folder: Path) -> None:
    """Nothing is done where the training in the folder is of the same inputs."""
    from dear.train.checkpoints import require_same
    from dear.train.finished import changes_since

    found = changes_since(recipe, folder)
    assert found is not None
    require_same(folder, found)
    summary(f"{folder}: this training is finished already; nothing was done")
    if found.unverified:
        note(f"{folder}: unverified: it does not say of which {', '.join(found.unverified)}")


def _steps(report: OnProgress) -> Callable[[Step], None]:
    before: list[int] = []

    def show(step: Step) -> None:
        if not before:
            before.append(step.done - 1)
        loss = f"loss {step.loss:.4f}" if step.loss == step.loss else ""
        dev = "" if step.ndcg is None else f"dev nDCG@10 {step.ndcg:.4f}"
        report(step.done, step.total, before=before[0], extra=" ".join(filter(None, (loss, dev))))

    return show


def label(
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder.")
    ],
    run: Annotated[
        list[str],
        typer.Option(
            "--run",
            metavar="RUN",
            help="A run's file, or one of the collection's own; may be repeated.",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="MODEL",
            help="A teacher; `first-stage` is the run's own score; several make an ensemble.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The labels' folder.")
    ],
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", metavar="W", help="One for each teacher.", show_default="1"),
    ] = None,
    judged: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Label this split's relevant passages, too."),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Of runs that are given by name.")
    ] = "train",
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Write a teacher's soft labels: a run to a folder. Goes on where it was stopped."""
    from dear.label import label as label_with
    from dear.label import label_with_all

    for name in model:
        check_model(name)
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    if weight and len(weight) != len(model):
        raise ConfigError(f"{count(len(model), 'teacher')}, {count(len(weight), 'weight')}")
    _require_form(output, several=len(model) > 1)
    opened = open_collection(collection)
    runs = read_runs(opened, run, split)
    judgements = opened.judgements(judged) if judged is not None else None
    check_folder(output)

    def first_stage() -> FirstStage:
        from dear.label import FirstStage

        return FirstStage(runs)

    def scoring(name: str) -> PairModel:
        from dear.scoring.opening import open_model

        return open_model(name, **options)

    with progress(model[0], "pairs") as report:
        teachers = _Teachers(model, lambda n: first_stage() if n == "first-stage" else scoring(n))
        shown = _Shown(report, teachers)
        if len(model) == 1:
            done = [
                label_with(
                    opened, runs, teachers[model[0]], output, judged=judgements, progress=shown
                )
            ]
        else:
            done = label_with_all(
                opened,
                runs,
                teachers,
                output,
                weights=weight or (),
                judged=judgements,
                progress=shown,
            )
    for labelled in done:
        summary(_labelled(labelled))


class _Teachers(Mapping[str, "PairModel | FirstStage"]):
    """Teachers that are opened when their turn comes, so that one is in memory at a time."""

    def __init__(self, names: list[str], opened: Callable[[str], PairModel | FirstStage]) -> None:
        self.names = list(dict.fromkeys(names))
        self.opened = opened
        self.current = ""

    def __getitem__(self, name: str) -> PairModel | FirstStage:
        self.current = name
        return self.opened(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _Shown:
    """Progress of one teacher after the other; pairs that had a label count for no rate."""

    def __init__(self, report: OnProgress, teachers: _Teachers) -> None:
        self.report, self.teachers = report, teachers
        self.shown, self.kept = "", 0

    def __call__(self, done: int, total: int) -> None:
        if self.shown != self.teachers.current:
            if self.shown:
                self.report.restart(self.teachers.current)
            self.shown, self.kept = self.teachers.current, done
        self.report(done, total, before=self.kept)


def _require_form(folder: Path, *, several: bool) -> None:
    from dear.data.labels import ENSEMBLE, MANIFEST

    if several and (folder / MANIFEST).exists():
        raise ConfigError(f"{folder} holds one teacher's labels; choose another folder")
    if not several and (folder / ENSEMBLE).exists():
        raise ConfigError(f"{folder} holds several teachers' labels; choose another folder")


def _labelled(done: Labelled) -> str:
    again = ""
    if done.changed:
        again = f", {done.changed:,} of them scored again because their texts changed"
    kept = f", {done.kept:,} kept" if done.kept else ""
    return (
        f"{done.folder}: {count(done.scored, 'pair')} in {duration(done.seconds)} "
        f"({rate(done.scored, done.seconds)}){again}{kept}"
    )
