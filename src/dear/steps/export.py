"""A one-logit model in another form, with a certificate that it is still that model."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dear.artifacts import check_empty_folder, read_json, whole_files
from dear.bench.machine import describe
from dear.bench.turns import Score, System, in_turns, pairs_of, quality
from dear.checkpoints.files import TRAINING_FILE, model_json
from dear.checkpoints.hardware import cpu_has_bfloat16, cpu_has_tiles
from dear.checkpoints.registry import ENCODER_KINDS, check_model, locate
from dear.digests import Input, Inputs, lines_digest
from dear.errors import ConfigError, MissingExtra
from dear.export.carried import carry_calibration
from dear.export.certificate import (
    CERTIFICATE_FILE,
    THRESHOLDS,
    Certificate,
    read_certificate,
)
from dear.export.evidence import PairedScores
from dear.export.formats import FORMATS, Format
from dear.export.programs import Ours
from dear.export.shipped import PACKAGE, shipped_candidates
from dear.export.usage import UsageText
from dear.notices import say
from dear.records import Candidates, Judgements, every_nth
from dear.scoring.encoding import Pair
from dear.scoring.exported import EXPORT_FILE, is_exported
from dear.scoring.opening import PairModel, kind_of, open_model
from dear.scoring.revisions import revision_named
from dear.scoring.scorer import Scorer
from dear.steps.inputs import judged_candidates, made_of_the_same
from dear.steps.options import ExportOptions
from dear.steps.progress import Watch, unwatched


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSystem:
    """The checkpoint or its export. ndcg: nDCG@10, None where nothing is judged."""

    name: str
    pairs_per_s: float
    ndcg: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What `export` wrote.

    path: the file that describes the export.  unchanged: it was there, made from the same inputs.
    certificate: None for an export of an earlier version, which is left as it is.
    queries: on which the speed of checkpoint and export were compared; 0 where it was not.
    failed: name → why one of them could not be measured.
    """

    path: Path
    unchanged: bool = False
    certificate: Certificate | None = None
    queries: int = 0
    systems: tuple[ComparedSystem, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Texts:
    """What an export is checked on. all: those that int8 may be calibrated on, too."""

    name: str
    candidates: list[Candidates]
    judgements: Judgements | None
    all: list[Candidates] = field(default_factory=list)

    @classmethod
    def of(cls, options: ExportOptions) -> _Texts:
        if options.collection is None:
            candidates, judged = shipped_candidates(options.check_queries)
            name = f"functions of Python's {PACKAGE}"
            return cls(name=name, candidates=candidates, judgements=judged)
        found, judgements = judged_candidates(options.collection, options.run, options.split)
        return cls(
            name=f"{options.collection}, split {options.split}, run {Path(options.run).name}",
            candidates=every_nth(found, options.check_queries),
            judgements=judgements,
            all=found,
        )


def export(options: ExportOptions, *, watch: Watch = unwatched) -> ExportResult:
    """Write the export and its certificate; one that is there, made from the same, is kept.

    ConfigError: a model that is no one-logit checkpoint, an export from other inputs, or one whose
    scores are not the checkpoint's; nothing is written then.
    """
    form = FORMATS[options.format]
    _require(form)
    check_model(options.model)
    _require_form(options)
    there = _described(options.output)
    if there is None:
        check_empty_folder(options.output)  # before texts and weights are read
    texts = _Texts.of(options)
    calibration = []
    if options.picked_dtype == "int8" and form.calibrated:
        calibration = _spread(texts.all, options.pairs)
    inputs = _inputs(options, calibration)
    if there is not None:
        path, made_of = there
        made_of_the_same(path, made_of, inputs)
        return ExportResult(path=path, unchanged=True, certificate=read_certificate(options.output))
    model = open_model(options.model, dtype="float32", device="cpu", **_opening(options))
    say(f"exporting {options.model} as {options.picked_dtype} ({options.format})")
    with whole_files(options.output, last=CERTIFICATE_FILE) as building:
        certificate = _written(options, form, model, building, texts, calibration, inputs)
        certificate.require()
        certificate.save(building)
    if options.picked_dtype == "bfloat16" and not cpu_has_bfloat16():
        say("this processor has no bfloat16: here the export computes in float32, and says so")
    path = options.output / CERTIFICATE_FILE
    if options.collection is None or not options.compare or not is_exported(options.output):
        return ExportResult(path=path, certificate=certificate)
    systems, failed = _compared(options, texts, watch)
    return ExportResult(
        path=path,
        certificate=certificate,
        queries=len(texts.candidates),
        systems=systems,
        failed=failed,
    )


def _require(form: Format) -> None:
    """MissingExtra, before any weights are read."""
    if form.package and importlib.util.find_spec(form.package) is None:
        raise MissingExtra.of(form.package.replace("_", "-"), form.extra)


def _require_form(options: ExportOptions) -> None:
    """ConfigError for a model that has no such form."""
    name = options.model
    if is_exported(name):
        raise ConfigError(f"{name}: is an export; name the checkpoint that it was made of")
    kind, place = kind_of(name)
    if kind is None:
        recipe = model_json(locate(name), TRAINING_FILE).get("recipe", {})
        kind = "biencoder" if recipe.get("kind") == "biencoder" else None
    if kind is None or (kind in ENCODER_KINDS and FORMATS[options.format].reads_apart):
        return
    if kind == "biencoder" and options.format == "sentence-transformers":
        raise ConfigError(
            f"{place}: a bi-encoder needs no export: its folder is already one of "
            "sentence-transformers' SentenceTransformer"
        )
    forms = [form for form, about in FORMATS.items() if about.reads_apart]
    ways = f"; it has the form {forms[0]}" if kind in ENCODER_KINDS else ""
    raise ConfigError(f"{name}: a model read as {kind} has no form {options.format}{ways}")


def _described(folder: Path) -> tuple[Path, Inputs] | None:
    """The file that says what is there, and what it was made from; None for no export."""
    for name in (EXPORT_FILE, CERTIFICATE_FILE):
        if (folder / name).is_file():
            return folder / name, Inputs.from_dict(read_json(folder / name).get("inputs"))
    return None


def _written(
    options: ExportOptions,
    form: Format,
    model: PairModel,
    folder: Path,
    texts: _Texts,
    calibration: Sequence[Pair],
    inputs: Inputs,
) -> Certificate:
    """The export in `folder`, scored beside the model it is made of."""
    pairs = pairs_of(texts.candidates)
    checkpoint = Ours(model)
    original, tokens = checkpoint.score(pairs), checkpoint.read(pairs)
    # a Scorer's model is what a graph is made of
    made_of: Any = model.model if isinstance(model, Scorer) else model
    form.writer(
        made_of, folder, options.picked_dtype, calibration=calibration or pairs, inputs=inputs
    )
    if isinstance(model, Scorer):
        carry_calibration(made_of, folder)
    name = options.output.name
    readme = f"By DeAR: `dear rerank QUERY FILE --model {name}`.\n"
    if isinstance(model, Scorer):
        readme = str(UsageText.of(folder, name))
    (folder / "README.md").write_text(f"# {name}\n\n{readme}", encoding="utf-8")
    program = form.opened(folder)
    evidence = PairedScores(
        candidates=texts.candidates,
        judgements=texts.judgements,
        original=original,
        export=program.score(pairs),
        alike=np.array([a == b for a, b in zip(tokens, program.read(pairs), strict=True)]),
    )
    return Certificate(
        format=options.format,
        dtype=options.picked_dtype,
        program=program.name,
        texts=texts.name,
        thresholds=THRESHOLDS[options.picked_dtype],
        source=options.model,
        source_revision=model.revision,
        revision=revision_named(str(folder)),
        machine=_machine(),
        inputs=inputs.to_dict(),
        **evidence.figures(),
    )


def _machine() -> dict[str, Any]:
    """Versions and processor, with what it multiplies."""
    return {
        **describe("cpu"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": cpu_has_bfloat16(),
        "tiles": cpu_has_tiles(),
    }


def _opening(options: ExportOptions) -> dict[str, Any]:
    return {
        "contract": options.contract,
        "instruction": options.instruction,
        "revision": options.revision,
    }


def _inputs(options: ExportOptions, calibration: list[Pair]) -> Inputs:
    values = {"dtype": options.picked_dtype}
    if options.format != "openvino":  # which was the only one, and named none
        values["format"] = options.format
    values |= {key: value for key, value in _opening(options).items() if value is not None}
    found = {
        "model": Input(revision_named(options.model), options.model),
        "settings": Input.of_values(values),
    }
    if calibration:
        found["texts"] = Input(lines_digest(text for pair in calibration for text in pair))
    return Inputs(found)


def _spread(candidates: list[Candidates], pairs: int) -> list[Pair]:
    """Every n-th pair of all, so that many queries and all ranks are in it."""
    found = pairs_of(candidates)
    # an odd step: candidates come in tens and hundreds
    step = max(1, len(found) // pairs) | 1
    return found[::step][:pairs]


def _compared(
    options: ExportOptions, texts: _Texts, watch: Watch
) -> tuple[tuple[ComparedSystem, ...], dict[str, str]]:
    """The speed of the checkpoint and of its export, in turns, on the same pairs."""

    def system(name: str, where: str, dtype: Literal["auto", "float32"], **how: Any) -> System:
        def load() -> Score:
            return open_model(where, dtype=dtype, device="cpu", **how).score

        return System(name=name, load=load)

    systems = [
        system("checkpoint, float32", options.model, "float32", **_opening(options)),
        system("checkpoint", options.model, "auto", **_opening(options)),
        system("export", str(options.output), "auto"),
    ]
    candidates, judgements = texts.candidates, texts.judgements
    with watch("comparing", "turns") as report:
        timings, failed = in_turns(systems, pairs_of(candidates), rounds=2, progress=report)
    return tuple(
        ComparedSystem(
            name=t.name,
            pairs_per_s=t.pairs_per_s,
            ndcg=None if judgements is None else quality(t.scores, candidates, judgements),
        )
        for t in timings
    ), failed
