"""`dear calibrate`: where hopeless candidates may leave a model early."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dear.cli.models import BatchOption, DeviceOption, DTypeOption
from dear.cli.output import summary
from dear.cli.progress import progress
from dear.cli.runs import RunOption, SplitOption, candidates_of, check_folder
from dear.errors import ConfigError


def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint: a folder, hub id or name.")
    ],
    collection: Annotated[
        str, typer.Option(metavar="COLLECTION", help="Queries like those that will be ranked.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The early exit's folder.")
    ],
    run: RunOption = "bm25",
    split: SplitOption = "dev",
    queries: Annotated[int, typer.Option(min=2, metavar="N", help="Queries to look at.")] = 60,
    top_k: Annotated[
        int, typer.Option(min=1, metavar="N", help="The part of the ranking that is kept.")
    ] = 10,
    keep: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the full model's top that must stay.")
    ] = 0.99,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Fit an early exit for top-k rankings, and say what it keeps and what it saves."""
    from dear.cli.train import check_model
    from dear.models.engines.early import EarlyExit
    from dear.models.loading import ScoringModel
    from dear.models.opening import open_model
    from dear.models.scorer import Scorer
    from dear.rank.early import calibrate as fit
    from dear.records import every_nth

    check_model(model)
    if (output / "early_exit.json").exists():
        raise ConfigError(f"{output}: holds an early exit already; remove the folder to repeat it")
    candidates, _ = candidates_of(collection, run, split)
    picked = every_nth(candidates, queries)
    check_folder(output)
    scorer = open_model(model, dtype=dtype, device=device, batch_tokens=batch_tokens)  # type: ignore[arg-type]
    if not isinstance(scorer, Scorer) or not isinstance(scorer.model, ScoringModel):
        raise ConfigError(f"{model}: only a one-logit checkpoint can leave early")
    encode = scorer.encoder.encode
    lists = [encode([(c.query.text, p.full_text) for p in c.passages]) for c in picked]
    with progress("calibrating", "pairs") as report:
        found: EarlyExit = fit(
            scorer.model,
            lists,
            top_k=top_k,
            keep=keep,
            batch_tokens=scorer.batch_tokens,
            progress=report,
        )
    found.save(output)
    summary(
        f"{output}: candidates leave after layer {found.layer} of {found.layers}; on "
        f"{found.queries} queries {found.recall:.1%} of the full top {top_k} stayed, and "
        f"{found.share:.0%} of the layers were computed"
    )
