"""A model in the form that scores fastest here: which that is, exports made once and kept."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dear.artifacts import cache_folder, slug, versions
from dear.backends import BACKENDS
from dear.checkpoints.adapters import adapter_config
from dear.checkpoints.files import model_json
from dear.checkpoints.processor import ProcessorKind, processor_kind
from dear.checkpoints.registry import BUILT_IN, locate
from dear.digests import file_digest, lines_digest
from dear.errors import BackendError, ConfigError, DataError, MissingExtra
from dear.evaluate.calibration import CALIBRATION_FILE
from dear.export.formats import FORMATS
from dear.lazy import attribute
from dear.locks import lock
from dear.notices import say, warn
from dear.scoring.exported import RUNTIMES, exported_runtime, is_exported
from dear.scoring.opening import kind_of
from dear.scoring.revisions import revision_named
from dear.steps.options import ExportOptions, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Form:
    """An export to a runtime in a dtype, and from how many pairs it pays to make one for them."""

    runtime: str
    dtype: str
    pays_from: int


FASTEST: dict[ProcessorKind, tuple[Form, ...]] = {
    "amx": (Form("openvino", "bfloat16", 20_000),),
    "avx512-vnni": (Form("openvino", "float32", 5_000), Form("onnx", "float32", 5_000)),
    "avx512": (Form("openvino", "float32", 5_000), Form("onnx", "float32", 5_000)),
    "avx2-vnni": (Form("onnx", "float32", 5_000), Form("openvino", "float32", 5_000)),
    "avx2": (Form("onnx", "float32", 5_000), Form("openvino", "float32", 5_000)),
}
"""Of cross-encoders, the fastest that loses nothing first, by benchmarks/runtimes.py: 8 bits cost
nDCG. One that is not installed or that a model does not have gives way to the next, and the last to
PyTorch."""

ENCODERS = ("bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
"""Kinds of models (`model_type`) that FASTEST was measured for, or that compute the same way."""

_HEAD = "ForSequenceClassification"
_REFUSED = "refused.txt"
_MAKERS = ("dear-rerank", "torch", "transformers", "onnx", "onnxruntime", "openvino")
"""Packages whose versions an export may depend on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What is to be opened: a name or folder, and how."""

    model: str
    options: ModelOptions


def prepared(
    model: str,
    *,
    runtime: str = "auto",
    options: ModelOptions | None = None,
    pairs: int | None = None,
) -> Chosen:
    """The form of a model that is to be opened in its place; an export is made once and kept below
    `cache_folder("exports")`.

        Reranker(prepared("runs/student").model)

    runtime: "torch": the model itself; "openvino" or "onnx": its export, in the format's first
        dtype or in that of `options`; "auto": by FASTEST for a cross-encoder on a CPU.
    pairs: that are to be scored; None: more than can be said, as a server's.

    ConfigError: a runtime that is none, or that the model has no form for; MissingExtra. Auto falls
    back to the model itself, and says so where an export was refused.
    """
    options = options or ModelOptions()
    own = Chosen(model=model, options=options)
    if is_exported(model):
        there = exported_runtime(model)
        if runtime not in ("auto", there):
            raise ConfigError(f"{model}: an export for {there}; --runtime {runtime} is not for it")
        return own
    if runtime == "torch":
        return own
    if runtime in RUNTIMES:
        if _is_no_checkpoint(model):
            raise ConfigError(f"--runtime {runtime} is for a checkpoint, which {model} is not")
        asked = options.dtype if options.dtype != "auto" else FORMATS[runtime].dtypes[0]
        return _exported(model, Form(runtime, asked, 0), options)
    if runtime != "auto":
        raise ConfigError(f"--runtime {runtime}: auto, torch, {' or '.join(RUNTIMES)}")
    for form in _candidates(model, options, pairs):
        try:
            return _exported(model, form, options)
        except (ConfigError, BackendError, DataError, MissingExtra, OSError) as error:
            warn(f"{model}: not scored by {form.runtime} in {form.dtype}: {error}")
    return own


def _candidates(model: str, options: ModelOptions, pairs: int | None) -> Iterator[Form]:
    """Forms that auto tries, in turn."""
    if options.dtype not in ("auto", "float32", "bfloat16"):  # weights that would not fit
        return
    if not _is_cross_encoder(model, options) or not _on_cpu(options.device):
        return
    for form in FASTEST.get(processor_kind(), ()):
        if pairs is not None and pairs < form.pays_from:
            continue
        if options.dtype not in ("auto", form.dtype):
            if options.dtype not in FORMATS[form.runtime].dtypes:
                continue
            form = replace(form, dtype=options.dtype)
        if _installed(form.runtime):
            yield form


def _is_cross_encoder(model: str, options: ModelOptions) -> bool:
    """A one-logit encoder in a folder or the hub's cache, without an adapter."""
    if _is_no_checkpoint(model):
        return False
    if options.max_passage_tokens is not None or kind_of(model)[0] is not None:
        return False
    source = locate(model, revision=options.revision)
    if adapter_config(source) is not None:
        return False
    config = model_json(source, "config.json")
    one_logit = any(name.endswith(_HEAD) for name in config.get("architectures") or ())
    return one_logit and config.get("model_type") in ENCODERS


def _is_no_checkpoint(model: str) -> bool:
    """The ranker in the box, a table of rankers, a listwise backend."""
    listwise = model.partition(":")[0] in BACKENDS and not Path(model).exists()
    return model == BUILT_IN or model.endswith(".toml") or listwise


def _on_cpu(device: str) -> bool:
    """Whether a device is, or would be, the processor; False where nobody says without PyTorch."""
    if device != "auto" or importlib.util.find_spec("torch") is None:
        return device == "cpu"
    return str(attribute("dear.checkpoints.hardware:pick_device")(device)) == "cpu"


@cache
def _installed(runtime: str) -> bool:
    """Whether exports for it can be written and run; a line says so once where they cannot."""
    form = FORMATS[runtime]
    if importlib.util.find_spec(form.package) is not None:
        return True
    missing = MissingExtra.of(form.package, form.extra)
    say(f"{runtime} scores cross-encoders faster on this processor: {missing}")
    return False


def _exported(model: str, form: Form, options: ModelOptions) -> Chosen:
    """The kept export, made where there is none. Raises what `dear export` raises."""
    if form.runtime == "openvino" and form.dtype == "int8":
        raise ConfigError(
            "int8 for OpenVINO needs pairs to set its ranges by: `dear export MODEL --output DIR "
            "--dtype int8 --collection COLLECTION` writes it; then name DIR"
        )
    folder = cache_folder("exports") / f"{slug(Path(model).name)}-{_key(model, form, options)}"
    with _alone(folder):
        refused = folder.with_name(f"{folder.name}.{_REFUSED}")
        if refused.is_file():
            raise ConfigError(refused.read_text(encoding="utf-8"))
        try:
            attribute("dear.steps.export:export")(
                ExportOptions(
                    model=model,
                    output=folder,
                    format=form.runtime,
                    dtype=form.dtype,
                    contract=options.contract,
                    instruction=options.instruction,
                    revision=options.revision,
                )
            )
        except (BackendError, ConfigError) as error:
            refused.write_text(str(error), encoding="utf-8")
            raise
    say(f"{model}: scored by {form.runtime} in {form.dtype}, by the export in {folder}")
    opened = ModelOptions(device=options.device, batch_tokens=options.batch_tokens)
    return Chosen(model=str(folder), options=opened)


def _key(model: str, form: Form, options: ModelOptions) -> str:
    """All that an export depends on, and what its numbers were compiled for."""
    contract = options.contract
    if contract is not None and Path(contract).is_file():
        contract = file_digest(Path(contract))
    calibration = Path(model) / CALIBRATION_FILE  # which travels along
    parts = [
        *(revision_named(model), str(options.revision), str(contract), str(options.instruction)),
        file_digest(calibration) if calibration.is_file() else "",
        *(form.runtime, form.dtype, processor_kind()),
        *(f"{name} {version}" for name, version in versions(_MAKERS).items()),
    ]
    return lines_digest(parts)[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process makes an export, the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        lock(file.fileno(), wait=True)
        yield
