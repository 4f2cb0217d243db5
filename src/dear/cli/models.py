"""`dear models`, and the options that say how a model computes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, TypeAlias

import typer

from dear.checkpoints.contract import read_contract
from dear.checkpoints.registry import ENCODER_KINDS, FAMILY, place_of
from dear.cli.output import note, print_json, table
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS

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
ContractOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="How MODEL reads a pair: plain, card, dear, rankllama …; or a file that says it.",
        show_default="by its files and name",
    ),
]
InstructionOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What to look for, for models that are told."),
]
RevisionOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="REV", help="Of a hub id: a branch, a tag or a commit."),
]
PassageTokensOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Of a passage, in a zero-shot reading.", show_default="1024"
    ),
]


def opening_options(
    dtype: str,
    device: str,
    batch_tokens: int | None,
    contract: str | None = None,
    instruction: str | None = None,
    revision: str | None = None,
    max_passage_tokens: int | None = None,
) -> dict[str, Any]:
    """Arguments of `open_model` and `Reranker`; ConfigError for a contract that is none, before
    any other work."""
    if contract is not None:
        read_contract(contract)
    return {
        "dtype": dtype,
        "device": device,
        "batch_tokens": batch_tokens,
        "contract": contract,
        "instruction": instruction,
        "revision": revision,
        "max_passage_tokens": max_passage_tokens,
    }


def models(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List the models known by name, and where their weights are on this machine."""

    places = {name: place_of(name) for name in FAMILY}
    # an adapter is of no use without what it sits on
    bases = {m.name: place_of(m.base) if m.form == "LoRA" else None for m in FAMILY.values()}
    if as_json:
        print_json(
            [
                {
                    **asdict(m),
                    "present": places[m.name] is not None,
                    "place": places[m.name],
                    "base_place": bases[m.name],
                }
                for m in FAMILY.values()
            ]
        )
        return
    table(
        ("name", "size", "form", "contract", "what it is", "weights"),
        [
            (
                m.name,
                m.parameters,
                m.form,
                m.contract or "-",
                m.objective,
                _weights(places[m.name], bases[m.name], m.form),
            )
            for m in FAMILY.values()
        ],
        align=("left", "right", "left", "left", "left", "left"),
        wrap=("what it is",),
    )
    kinds = ", ".join(f"{kind}:NAME" for kind in (*ENCODER_KINDS, *ZERO_SHOT_PROMPTS))
    note(f"a folder or a hub id is a model, too; read without training: {kinds}")


def _weights(place: str | None, base: str | None, form: str) -> str:
    if place is None:
        return "hub"
    return f"{place}; base: {base or 'hub'}" if form == "LoRA" else place
