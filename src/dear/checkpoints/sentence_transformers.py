"""What sentence-transformers wrote beside a model's weights: its files read, none of its code.

modules.json                        the modules in their order, each with a folder for its settings
config_sentence_transformers.json   model_type, prompts, similarity, activation (from version 4 on)
sentence_bert_config.json           length and task of the transformer
config.json                         older cross-encoders: the activation
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.checkpoints.files import model_file, model_json
from dear.checkpoints.registry import Source
from dear.checkpoints.screening import json_list
from dear.errors import DataError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"

TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Old versions named the file after the architecture."""

_OLD_ACTIVATION = "sbert_ce_default_activation_function"


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """One line of modules.json. kind: the class without its package. path: "" for the root."""

    kind: str
    path: str

    def file(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


def modules_of(source: Source) -> list[ModuleEntry]:
    """The modules in their order; [] without a modules.json. DataError for one that is broken."""
    path = model_file(source, MODULES)
    if path is None:
        return []
    modules = json_list(path)
    if not all(isinstance(m, dict) for m in modules):
        raise DataError.at(path, None, "not a list of JSON objects")
    entries = [
        ModuleEntry(str(m.get("type", "")).rsplit(".", 1)[-1], str(m.get("path", "")))
        for m in modules
    ]
    for entry in entries:
        if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
            raise DataError.at(path, None, f"{entry.path!r} is no folder in this one")
    return entries


def transformer_entry(source: Source) -> ModuleEntry:
    """The transformer among the modules; that of the root where nothing is said."""
    found = (entry for entry in modules_of(source) if entry.kind == "Transformer")
    return next(found, ModuleEntry("Transformer", ""))


def settings_of(source: Source) -> dict[str, Any]:
    return model_json(source, SETTINGS)


def stored_prompt(source: Source, *names: str) -> str:
    """The first of these prompts that is stored with the model; "" where none is."""
    stored = settings_of(source).get("prompts")
    known: dict[str, str] = stored if isinstance(stored, dict) else {}
    return next((known[name] for name in names if known.get(name)), "")


def transformer_settings(source: Source, entry: ModuleEntry | None = None) -> dict[str, Any]:
    """Length and task of the transformer; {} where nothing is stored."""
    entry = entry or ModuleEntry("Transformer", "")
    found = (model_json(source, entry.file(name)) for name in TRANSFORMER_FILES)
    return next((values for values in found if values), {})


def takes_messages(source: Source) -> bool:
    """True where the library turns texts into messages of the tokenizer's chat template."""
    formats = transformer_settings(source, transformer_entry(source)).get("modality_config")
    return isinstance(formats, dict) and "message" in formats


def transformer_source(source: Source, entry: ModuleEntry) -> Source:
    """Where the transformer's weights are: old versions had them in a folder of their own."""
    folder = source.folder
    if not entry.path or folder is None:
        return source
    return Source(str(folder / entry.path), known_as=source.known_as)


def cross_encoder_evidence(source: Source) -> str:
    """The file that says this is sentence-transformers' cross-encoder; "" where none does."""
    if settings_of(source).get("model_type") == "CrossEncoder":
        return SETTINGS
    config = model_json(source, "config.json")
    if "sentence_transformers" in config or _OLD_ACTIVATION in config:
        return "config.json"
    return "README.md" if "cross-encoder" in _card_tags(source) else ""


def activation_of(source: Source) -> str | None:
    """The module of torch.nn that CrossEncoder.predict applies to this model's logits.

    None where nothing is stored, and for a class that is not torch's: CrossEncoder does not run
    it either.
    """
    config = model_json(source, "config.json")
    nested = config.get("sentence_transformers")
    stored = (
        settings_of(source).get("activation_fn"),
        nested.get("activation_fn") if isinstance(nested, dict) else None,
        config.get(_OLD_ACTIVATION),
    )
    found = next((str(path) for path in stored if path), "")
    package, _, name = found.rpartition(".")
    return name if package.split(".")[0] == "torch" else None


def default_prompt(source: Source) -> str:
    """What goes before the query of every pair unless somebody says else."""
    settings = settings_of(source)
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    found = prompts.get(name) if isinstance(prompts, dict) and name else None
    return found if isinstance(found, str) else ""


def _card_tags(source: Source) -> set[str]:
    """The tags of a model card: the lines `- tag` of its front matter."""
    path = model_file(source, "README.md")
    if path is None:
        return set()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return set()
    tags: set[str] = set()
    for line in lines[1:]:
        if line.strip() == "---":
            return tags
        if line.lstrip().startswith("- "):
            tags.add(line.strip()[2:].strip().strip("\"'"))
    return set()
