"""A model card: front matter that the hub reads, and what a person wants to know of a reranker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dear.artifacts import read_json
from dear.checkpoints.contract_resolution import summary_of
from dear.checkpoints.files import TRAINING_FILE
from dear.checkpoints.registry import FAMILY
from dear.checkpoints.sentence_transformers import MODULES
from dear.data.catalogue import find_entry
from dear.export.certificate import Certificate
from dear.export.usage import UsageText
from dear.scoring.exported import EXPORT_FILE, is_exported

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_NO_FOLDER = re.compile(r"(?![~./\\])[^\\]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a model that is shown to others.

    usage: of its folder; text alone for a bi-encoder, which has no contract of pairs.
    recipe: what it was trained by; {} for one that was not trained here.
    results: what `dear distill` measured; None where it did not.
    system: the row of `results` that is this model.
    license, languages: as the user has them; the hub's identifiers.
    """

    name: str
    folder: Path
    usage: UsageText | str
    certificate: Certificate | None = None
    source: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None
    system: str = ""
    license: str | None = None
    languages: Sequence[str] = ()

    @property
    def is_biencoder(self) -> bool:
        return isinstance(self.usage, str)

    @property
    def base(self) -> str | None:
        """The hub id of the weights that the training started from; None where it has none."""
        return hub_base(self.source)

    @property
    def collections(self) -> list[str]:
        """What it was trained on, by name."""
        found = (str(data.get("collection") or data.get("rows")) for data in self._data)
        return list(dict.fromkeys(shown(name) for name in found if name))

    @property
    def _data(self) -> Sequence[Mapping[str, Any]]:
        return self.recipe.get("data") or ()


def model_card(facts: Facts) -> str:
    """The README.md of a model's repository."""
    from huggingface_hub import ModelCardData

    entries = [find_entry(name) for name in facts.collections]
    data = ModelCardData(
        language=list(facts.languages) or None,
        license=facts.license,
        library_name=_library(facts.folder),
        pipeline_tag="sentence-similarity" if facts.is_biencoder else "text-ranking",
        tags=["sentence-transformers", "retrieval"]
        if facts.is_biencoder
        else ["cross-encoder", "reranker"],
        base_model=facts.base,
        datasets=[entry.hub for entry in entries if entry is not None and entry.hub] or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(_sections(facts)) + "\n"


def _library(folder: Path) -> str:
    if is_exported(folder):
        return str(read_json(folder / EXPORT_FILE).get("format", "openvino"))
    return "sentence-transformers" if (folder / MODULES).is_file() else "transformers"


def hub_base(name: str) -> str | None:
    """The hub id that a model goes back to, through the trainings on this machine."""
    if not name:
        return None
    family = FAMILY.get(name)
    if family is not None:
        return family.hub or None
    path = Path(name) / TRAINING_FILE
    if path.is_file():
        base = str(read_json(path).get("recipe", {}).get("model", {}).get("base", ""))
        return hub_base(base) if base != name else None
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def shown(name: str) -> str:
    """A name as others may see it: of a path, the last part."""
    is_path = not _NO_FOLDER.fullmatch(name) or name.count("/") > 1 or Path(name).exists()
    return Path(name).name if is_path else name


def without_paths(value: Any) -> Any:
    """A JSON value with every text in it as `shown`, what says nothing left out."""
    if isinstance(value, Mapping):
        kept = {key: without_paths(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, "", [], {})}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    return shown(value) if isinstance(value, str) and "/" in value else value


def _sections(facts: Facts) -> Iterator[str]:
    yield f"# {facts.name}\n\n{_what(facts)}"
    yield f"## Use\n\n{str(facts.usage).strip()}"
    if facts.results is not None:
        yield f"## Evaluation\n\n{_evaluation(facts.results, facts.system)}"
    if isinstance(facts.usage, UsageText):
        yield f"## How it reads a pair\n\n{_contract(facts.usage)}"
    if facts.recipe:
        recipe = json.dumps(without_paths(facts.recipe), indent=2, ensure_ascii=False)
        yield f"## Training\n\nThe recipe, as DeAR has it:\n\n```json\n{recipe}\n```"
    if facts.collections:
        yield f"## Data\n\n{_licences(facts.collections)}"
    yield f"## Limits\n\n{_limits(facts)}"
    if facts.certificate is not None:
        yield f"## Certificate\n\n{_certified(facts.certificate)}"


def _what(facts: Facts) -> str:
    kind = "A bi-encoder: it embeds queries and passages"
    if not facts.is_biencoder:
        kind = "A reranker: it scores how well a passage answers a query"
    made = f", trained from {facts.base}" if facts.base and facts.recipe else ""
    return f"{kind}{made}. Made with DeAR (`pip install dear-rerank`)."


def _evaluation(results: Mapping[str, Any], system: str) -> str:
    measure = results["measure"]
    head = (
        f"{measure} on {results['queries']} queries of {shown(results['collection'])}, which "
        f"nothing was trained on; {results['top_k']} candidates of each are ranked.\n\n"
        f"| system | {measure} | 95 % interval | against the first stage | p |\n"
        "|---|---:|---:|---:|---:|\n"
    )
    rows = []
    for row in results["rows"]:
        low, high = row["interval"] or (None, None)
        name = shown(row["name"])
        rows.append(
            f"| {f'**{name}**' if row['system'] == system else name} | {row['score']:.4f} | "
            f"{'' if low is None else f'{low:.4f} – {high:.4f}'} | "
            f"{'' if row['difference'] is None else format(row['difference'], '+.4f')} | "
            f"{'' if row['p'] is None else format(row['p'], '.4f')} |"
        )
    return f"{head}{chr(10).join(rows)}\n\np: paired randomisation test, Holm-corrected."


def _contract(usage: UsageText) -> str:
    contract = usage.contract
    lines = [f"- {summary_of(contract)}"]
    if any(usage.placed):
        query, passage = usage.placed
        lines.append(
            f"- The tokenizer places `{query}` before the query and `{passage}` before the passage."
        )
    if contract.template:
        lines.append(f"- Template: `{json.dumps(contract.template, ensure_ascii=False)}`")
    if contract.truncation == "separate":
        lines.append("- Query and passage are cut apart, each at its own limit.")
    else:
        lines.append("- The longer text is cut first.")
    if contract.append_eos:
        lines.append("- An end-of-sequence token follows the passage.")
    lines.append(f"- Weights: {usage.config.get('dtype', contract.dtype)}; scores are logits.")
    return "\n".join(lines)


def _licences(names: Sequence[str]) -> str:
    rows = []
    for name in names:
        entry = find_entry(name)
        said = "not in DeAR's catalogue" if entry is None else entry.licence
        rows.append(f"| {name} | {said} |")
    return "| trained on | licence of the data |\n|---|---|\n" + "\n".join(rows)


def _limits(facts: Facts) -> str:
    lines = []
    if isinstance(facts.usage, UsageText):
        lines.append(f"- Pairs longer than {facts.usage.longest} tokens are cut.")
        lines.append(
            "- Scores compare passages of one query. They are no probabilities unless a map "
            "(calibration.json) is beside the weights."
        )
    if facts.results is None:
        lines.append("- No evaluation is published with it.")
    lines.append("- A passage may be written to please a reranker: do not let scores alone decide.")
    return "\n".join(lines)


def _certified(certificate: Certificate) -> str:
    machine = certificate.machine
    return (
        f"The {certificate.format} form in {certificate.dtype} beside the checkpoint in float32, "
        f"computed by {certificate.program} on {shown(certificate.texts)} "
        f"({machine.get('processor', 'processor not named')}): {certificate.figures}. "
        "All figures and versions are in `dear_certificate.json`."
    )
