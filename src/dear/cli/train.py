"""`dear train`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import typer

from dear.cli.loading import steps
from dear.cli.options import expanded
from dear.cli.output import count, duration, note, quiet, rate, summary
from dear.cli.progress import progress
from dear.steps.options import LaunchOptions, TrainOptions

if TYPE_CHECKING:
    from dear.train.attention_heads import FittedHeads
    from dear.train.listwise import TrainedLists
    from dear.train.pointwise import Trained


@expanded
def train(options: TrainOptions, launching: LaunchOptions) -> None:
    """Train a teacher or a student: a recipe to a checkpoint. Goes on where it was stopped."""
    status = steps.train.train_in_processes(options, launching, flags=_flags())
    if status is not None:
        if status:
            raise typer.Exit(status)
        return
    if int(os.environ.get("RANK", "0")):
        quiet.set(True)  # the first process speaks for all
    result = steps.train.train(options, watch=progress)
    if result.trained is not None:
        summary(_line(result.trained))
        return
    summary(f"{options.output}: this training is finished already; nothing was done")
    if result.unverified:
        names = ", ".join(result.unverified)
        note(f"{options.output}: unverified: it does not say of which {names}")


def _flags() -> list[str]:
    flags = ["--quiet"] if quiet.get() else []
    return [*flags, "--debug"] if logging.getLogger("dear").level == logging.DEBUG else flags


def _line(done: Trained | TrainedLists | FittedHeads) -> str:
    if isinstance(done, steps.train.FittedHeads):
        return _heads_line(done)
    if isinstance(done, steps.train.TrainedLists):
        return _lists_line(done)
    dev = "" if done.best_ndcg is None else f", dev nDCG@10 {done.best_ndcg:.4f}"
    return (
        f"{done.folder}: {done.parameters / 1e6:,.1f}M parameters, "
        f"{count(done.pairs, 'pair')} in {duration(done.seconds)} "
        f"({rate(done.pairs, done.seconds)}), loss {done.loss:.4f}{dev}"
    )


def _lists_line(done: TrainedLists) -> str:
    dev = "" if done.best_ndcg is None else f", dev nDCG {done.best_ndcg:.4f}"
    left = f", {done.rejected} of {done.examples + done.rejected} rejected ({done.why})"
    return (
        f"{done.folder}: {done.trained / 1e6:,.1f}M of {done.parameters / 1e6:,.1f}M parameters, "
        f"{count(done.lists, 'list')} in {duration(done.seconds)} "
        f"({done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s){left if done.rejected else ''}, "
        f"loss {done.loss:.4f}{dev}"
    )


def _heads_line(done: FittedHeads) -> str:
    layers, heads = done.shape
    dev = (
        ""
        if done.ndcg is None
        else f", dev nDCG {done.ndcg:.4f}, tau {done.tau:.3f} "
        f"(all heads alike: {done.plain_ndcg:.4f}, {done.plain_tau:.3f})"
    )
    left = f", {done.rejected} longer ones left out" if done.rejected else ""
    return (
        f"{done.folder}: {layers * heads} heads in {layers} layers weighted on "
        f"{count(done.lists, 'list')} in {duration(done.seconds)}{left}{dev}"
    )
