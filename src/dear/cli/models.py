"""`dear models`, and the options that say how a model computes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, TypeAlias

import typer

from dear.cli.output import note, print_json, table

DTypeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="TYPE",
        help="auto, float32, bfloat16 or float16; int8 or int4 for weights that would not fit.",
        show_default=False,
    ),
]
DeviceOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, cpu, cuda, cuda:1 or mps; several, with commas between, share the work; "
        "sharded: one model over all GPUs.",
        show_default=False,
    ),
]
BatchOption: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Padded tokens in a batch.", show_default="by device"),
]


def models(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List the models known by name."""
    from dear.models.family import FAMILY, is_present
    from dear.prompts.pointwise import ZERO_SHOT_PROMPTS

    if as_json:
        print_json([{**asdict(m), "present": is_present(m)} for m in FAMILY.values()])
        return
    table(
        ("name", "size", "form", "what it is", "weights"),
        [
            (m.name, m.parameters, m.form, m.objective, "here" if is_present(m) else "hub")
            for m in FAMILY.values()
        ],
        align=("left", "right", "left", "left", "left"),
        wrap=("what it is",),
    )
    kinds = ", ".join(f"{kind}:NAME" for kind in ("biencoder", *ZERO_SHOT_PROMPTS))
    note(f"a folder or a hub id is a model, too; read without training: {kinds}")
