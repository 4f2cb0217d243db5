"""One line about what `dear train` has done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dear.cli.output import count, duration, rate

if TYPE_CHECKING:
    from dear.train.attention_heads import FittedHeads
    from dear.train.listwise import TrainedLists
    from dear.train.pointwise import Trained


def told_trained(trained: Trained) -> str:
    dev = "" if trained.best_ndcg is None else f", dev nDCG@10 {trained.best_ndcg:.4f}"
    return (
        f"{trained.folder}: {trained.parameters / 1e6:,.1f}M parameters, "
        f"{count(trained.pairs, 'pair')} in {duration(trained.seconds)} "
        f"({rate(trained.pairs, trained.seconds)}), loss {trained.loss:.4f}{dev}"
    )


def told_learnt(done: TrainedLists) -> str:
    dev = "" if done.best_ndcg is None else f", dev nDCG {done.best_ndcg:.4f}"
    left = f", {done.rejected} of {done.examples + done.rejected} rejected ({done.why})"
    return (
        f"{done.folder}: {done.trained / 1e6:,.1f}M of {done.parameters / 1e6:,.1f}M parameters, "
        f"{count(done.lists, 'list')} in {duration(done.seconds)} "
        f"({done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s){left if done.rejected else ''}, "
        f"loss {done.loss:.4f}{dev}"
    )


def told_fitted(done: FittedHeads) -> str:
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
