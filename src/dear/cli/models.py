"""`dear models`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dear.checkpoints.present import public_models
from dear.checkpoints.registry import ENCODER_KINDS, FAMILY, place_of
from dear.cli.output import note, print_json, table
from dear.errors import DataError
from dear.export.certificate import CERTIFICATE_FILE, read_certificate
from dear.prompts.pointwise import ZERO_SHOT_PROMPTS


def models(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="The certificate of this one.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List the models known by name and where they are, or show what an export is worth."""
    if folder is not None:
        _certificate(folder, as_json=as_json)
        return
    places = {name: place_of(name) for name in FAMILY}
    # an adapter is of no use without what it sits on
    bases = {m.name: place_of(m.base) if m.form == "LoRA" else None for m in FAMILY.values()}
    public = public_models()
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
            + [asdict(m) | {"spec": m.spec, "present": True} for m in public]
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
    if public:
        print()
        table(
            ("public, on this machine", "size", "what it is", "weights"),
            [(m.spec, f"{m.parameters / 1e6:,.1f}M", m.kind, m.place) for m in public],
            align=("left", "right", "left", "left"),
        )
    kinds = ", ".join(f"{kind}:NAME" for kind in (*ENCODER_KINDS, *ZERO_SHOT_PROMPTS))
    note(f"a folder or a hub id is a model, too; read without training: {kinds}")


def _certificate(folder: Path, *, as_json: bool) -> None:
    """DataError: there is none."""
    found = read_certificate(folder)
    if found is None:
        raise DataError.at(folder, None, f"no {CERTIFICATE_FILE}: `dear export` writes one")
    if as_json:
        print_json(asdict(found))
        return
    table(("certificate", ""), list(found.rows.items()), align=("left", "left"), wrap=("",))


def _weights(place: str | None, base: str | None, form: str) -> str:
    if place is None:
        return "hub"
    return f"{place}; base: {base or 'hub'}" if form == "LoRA" else place
