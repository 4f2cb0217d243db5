"""A model's folder with its card, as others find it on the hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dear.artifacts import check_empty_folder, read_json, whole_files, write_json
from dear.checkpoints.contract import CONTRACT_FILE
from dear.checkpoints.files import TOKENIZER_PATTERNS, TRAINING_FILE
from dear.checkpoints.sentence_transformers import MODULES, SETTINGS
from dear.errors import BackendError, ConfigError, DataError, excerpt
from dear.evaluate.calibration import CALIBRATION_FILE
from dear.export.card import Facts, model_card, shown
from dear.export.certificate import CERTIFICATE_FILE, read_certificate
from dear.export.score_template import SCORE_TEMPLATE
from dear.export.usage import UsageText
from dear.notices import say
from dear.scoring.engines.openvino import GRAPH, WEIGHTS
from dear.scoring.exported import EXPORT_FILE
from dear.scoring.revisions import revision_named
from dear.steps.distilled import RESULTS, STUDENT
from dear.steps.options import PushOptions

CARD = "README.md"

PUBLISHED = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER_PATTERNS,
    MODULES,
    SETTINGS,
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    CONTRACT_FILE,
    CALIBRATION_FILE,
    CERTIFICATE_FILE,
    EXPORT_FILE,
    GRAPH,
    WEIGHTS,
    "*.onnx",
    SCORE_TEMPLATE,
    "LICENSE*",
)
"""Patterns of the files that are published; nothing else is."""

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

OURS = (CALIBRATION_FILE, CERTIFICATE_FILE, EXPORT_FILE)
"""Files of ours that name what they were made from, which may be a path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PushResult:
    """files: published, the card first.  left_out: the folder's other files.
    url: of the repository; None where nothing was uploaded, and `folder` holds all of it."""

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    folder: Path | None
    url: str | None


def push(options: PushOptions) -> PushResult:
    """Put a model's files and its card together, and upload them unless it is a dry run.

    ConfigError: an adapter, files that are not those of the certificate, a path of this machine or
    a token in what would be published.  BackendError: the hub did not take it.
    """
    files = _published(options.folder)
    card = model_card(_facts(options))
    output = options.output or options.folder.with_name(f"{options.folder.name}-published")
    check_empty_folder(output)
    with whole_files(output, last=CARD) as building:
        for name, path in files.items():
            place = building / name
            place.parent.mkdir(exist_ok=True)
            if name in OURS:
                write_json(place, _without_places(read_json(path)))
            else:
                shutil.copyfile(path, place)
        (building / CARD).write_text(card, encoding="utf-8")
        _require_public(building, options.folder)
    url = None
    if not options.dry_run:
        assert options.repo is not None  # checked by the options
        url = _upload(output, options.repo, private=options.private)
        if options.output is None:
            shutil.rmtree(output)
    everything = {str(p.relative_to(options.folder)) for p in _files(options.folder)}
    return PushResult(
        files=(CARD, *files),
        left_out=tuple(sorted(everything - files.keys() - {CARD})),
        folder=output if output.exists() else None,
        url=url,
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _published(folder: Path) -> dict[str, Path]:
    """Name in the repository → file. ConfigError: an adapter, or no weights."""
    if not folder.is_dir():
        raise DataError.at(folder, None, "no such folder")
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{folder}: an adapter, which others cannot open without its base; merge it first: "
            f"dear export {folder} --format safetensors --output DIR"
        )
    found = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        listed = any(fnmatchcase(name, pattern) for pattern in PUBLISHED)
        if listed and (name == WEIGHTS or path.suffix not in PICKLES):
            found[name] = path
    if not any(name.endswith((".safetensors", ".onnx")) or name == WEIGHTS for name in found):
        raise ConfigError(f"{folder}: no weights in it (safetensors, or an export)")
    return found


def _facts(options: PushOptions) -> Facts:
    folder = options.folder
    name = options.repo or folder.resolve().name
    certificate = read_certificate(folder)
    if certificate is not None and certificate.revision != revision_named(str(folder)):
        raise ConfigError(
            f"{folder}: its files are not those of {CERTIFICATE_FILE}; export it again"
        )
    source = certificate.source if certificate is not None else str(folder)
    recipe = _recipe(Path(source))
    if recipe.get("kind") == "biencoder":
        usage: UsageText | str = _embedding(name)
    else:
        usage = UsageText.of(folder, name)
    results = options.results or _beside(Path(source))
    return Facts(
        name=name,
        folder=folder,
        usage=usage,
        certificate=certificate,
        source=source,
        recipe=recipe,
        results=None if results is None else _results(results),
        system=STUDENT,
        license=options.license,
        languages=options.language,
    )


def _recipe(source: Path) -> Mapping[str, Any]:
    path = source / TRAINING_FILE
    return dict(read_json(path).get("recipe", {})) if path.is_file() else {}


def _beside(source: Path) -> Path | None:
    """The results of the distillation whose student this is."""
    path = source.resolve().parent / RESULTS
    return path if source.name == STUDENT and path.is_file() else None


def _results(path: Path) -> Mapping[str, Any]:
    found = read_json(path)
    if not found.keys() >= {"measure", "queries", "collection", "top_k", "rows"}:
        raise DataError.at(path, None, "is not what `dear distill` writes")
    return found


def _embedding(name: str) -> str:
    return (
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{name}")\n'
        "scores = model.similarity(model.encode([query]), model.encode(passages))[0]\n```\n\n"
        f'In DeAR: `Reranker("biencoder:{name}")`, or `--method dense` to retrieve.'
    )


def _without_places(value: Any) -> Any:
    """A JSON value whose paths of this machine are their last part."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    is_place = (
        isinstance(value, str) and "/" in value and (Path(value).exists() or value[0] in "/~.")
    )
    return shown(value) if is_place else value


def _require_public(folder: Path, source: Path) -> None:
    """ConfigError for a text that names a place of this machine, or holds the user's token."""
    from huggingface_hub import get_token

    places = {str(Path.home()), str(Path.cwd()), str(source.resolve().parent)} - {"/"}
    secrets = {token} if (token := get_token()) else set()
    for path in _files(folder):
        if path.suffix not in (".json", ".md", ".jinja") or path.name == "tokenizer.json":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if any(secret in text for secret in secrets):
            raise ConfigError(f"{path.name}: would publish your token for the hub")
        found = next((place for place in sorted(places) if f"{place}/" in text), None)
        if found is not None:
            raise ConfigError(
                f"{path.name}: would publish a path of this machine ({excerpt(found)})"
            )


def _upload(folder: Path, repo: str, *, private: bool) -> str:
    from huggingface_hub import HfApi

    say(f"uploading to {repo}")
    try:
        api = HfApi(library_name="dear-rerank")
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=str(url.repo_id), folder_path=folder, commit_message="A model with its card"
        )
    except Exception as error:  # of the hub's library, or of any below it
        lines = str(error).strip().splitlines()
        raise BackendError(
            f"{repo}: not uploaded: {lines[0] if lines else type(error).__name__}; all of it is in "
            f"{folder}"
        ) from error
    return str(url)
