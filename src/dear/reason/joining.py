"""Sets of the shards of one job, joined: what one process would have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dear.artifacts import read_json
from dear.backends import Price
from dear.data.formats import read_lists
from dear.data.shards import Shard, Share
from dear.digests import Input, Inputs
from dear.errors import ConfigError, DataError
from dear.notices import warn
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt
from dear.reason.files import EXAMPLES, FORMAT, REPORT
from dear.reason.select import AskedAbout, Selected, asked_about
from dear.records import ListExample

SUMMED = ("kept", "candidates", "candidates_left_out")
TALLIED = ("dropped", "queries_without_list")
"""Of a report."""
COUNTED = ("prompt_tokens", "completion_tokens")
"""Of a report's generator; its cost follows from them."""

_PLACES = ("run", "labels")
"""Settings that name files, whose digests are compared instead."""


@dataclass(frozen=True, slots=True)
class Part:
    """A finished set."""

    folder: Path
    report: dict[str, Any]
    share: Share

    @classmethod
    def read(cls, folder: Path) -> Part:
        """ConfigError: no set, not finished, or of a job that was not cut."""
        if not (folder / REPORT).is_file():
            raise ConfigError(f"{folder}: no {REPORT}: no shard, or one that is not finished")
        report = read_json(folder / REPORT)
        if report.get("format") != FORMAT:
            raise DataError.at(folder / REPORT, None, f"is no report of {FORMAT}")
        if report.get("share") is None:
            raise ConfigError(f"{folder}: is no shard of a job: it was made without --shard")
        try:
            found = cls(folder, report, Share.of_dict(report["share"]))
            found._require_complete()
        except (KeyError, TypeError, ValueError, AttributeError):
            problem = "is damaged; run the shard's command again"
            raise DataError.at(folder / REPORT, None, problem) from None
        return found

    def _require_complete(self) -> None:
        """KeyError, TypeError, ValueError, AttributeError: `join` needs more than there is."""
        report, generator = self.report, self.report["generator"]
        numbers = [report[name] for name in SUMMED]
        numbers += [n for name in TALLIED for n in report[name].values()]
        numbers += [generator[name] for name in COUNTED if name in generator]
        if generator.get("price") is not None:
            Price(**generator["price"]).cost(*numbers[-2:])
        found = _prompt(report["settings"]), report["versions"].items(), *numbers
        if any(type(n) is not int for n in numbers) or not self.job.complete:
            raise TypeError(found)

    @property
    def job(self) -> Inputs:
        """Equal for the shards of one job."""
        report = self.report
        settings = {k: v for k, v in report["settings"].items() if k not in _PLACES}
        generator = {k: v for k, v in report["generator"].items() if k not in (*COUNTED, "cost")}
        values = {"settings": settings, "generator": generator, "held out": report["held_out"]}
        return Inputs.from_dict(report["inputs"]) | {
            **self.share.inputs.by_kind,
            **{kind: Input.of_values(one, kind) for kind, one in values.items()},
        }

    def examples(self) -> Iterator[ListExample]:
        """DataError: not those that the report counts, or another shard's."""
        path, owns, count = self.folder / EXAMPLES, self.share.owner(), 0
        for example in read_lists(path) if self.report["kept"] else ():
            count += 1
            if not owns(example.query.id):
                problem = f"query {example.query.id!r} is of another shard than {self.share}"
                raise DataError.at(path, count, problem)
            yield example
        if count != self.report["kept"]:
            problem = f"holds {count:,} examples, {REPORT} counts {self.report['kept']:,}"
            raise DataError.at(path, None, f"{problem}; run the shard's command again")


def join(folder: Path) -> tuple[Selected, ListwisePrompt, dict[str, Any]]:
    """What the shards in `folder` are together: examples, the prompt that they are asked with, and
    the report.

    ConfigError: a shard is missing, not finished, there twice, or of another job. DataError: one
    is damaged.
    """
    if not folder.is_dir():
        raise ConfigError(f"--join {folder}: no such folder")
    folders = [f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    if not folders:
        raise ConfigError(f"--join {folder}: holds no folders of shards")
    parts = [Part.read(one) for one in folders]
    _require_whole(folder, parts)
    parts.sort(key=lambda part: part.share.shards)
    dropped: Counter[Any] = Counter()
    examples: list[ListExample] = []
    seen: set[AskedAbout] = set()
    for part in parts:
        dropped.update(part.report["dropped"])
        for example in part.examples():
            if (key := asked_about(example)) in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(key)
                examples.append(example)
    selected = Selected(examples, dropped)
    return selected, _prompt(parts[0].report["settings"]), _report(parts, selected)


def _prompt(settings: Mapping[str, Any]) -> ListwisePrompt:
    return replace(LISTWISE_PROMPTS[settings["prompt"]], max_words=settings["max_words"])


def _require_whole(folder: Path, parts: Sequence[Part]) -> None:
    """ConfigError where these are not all shards of one job, each once."""
    first, seen = parts[0], dict[int, Path]()
    for part in parts:
        changes = str(first.job.changes(part.job))
        of, leaves = part.share.of, part.share.leaves
        if not changes and (of, leaves) != (first.share.of, first.share.leaves):
            changes = f"of {first.share.of} shards there, of {of} now"
        if changes:
            raise ConfigError(f"{part.folder}: is of another job than {first.folder} ({changes})")
        for shard in part.share.shards:
            if shard in seen:
                raise ConfigError(f"{part.folder}: shard {shard} is in {seen[shard]}, too")
            seen[shard] = part.folder
        if part.report["versions"] != first.report["versions"]:
            warn(f"{part.folder}: made by other versions than {first.folder} ({REPORT} has them)")
    if lacking := sorted(set(range(first.share.of)) - seen.keys()):
        more = f"; {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ConfigError(
            f"--join {folder}: shard {lacking[0]} of {first.share.of} is missing{more}"
        )


def counts(selected: Selected) -> dict[str, Any]:
    """For a report."""
    sizes = [len(example.passages) for example in selected.examples]
    return {
        "kept": len(sizes),
        "dropped": dict(sorted(selected.dropped.items())),
        "passages_mean": round(sum(sizes) / max(1, len(sizes)), 2),
    }


def _report(parts: Sequence[Part], selected: Selected) -> dict[str, Any]:
    reports = [part.report for part in parts]
    skipped: Counter[str] = Counter()
    for report in reports:
        skipped.update(report["queries_without_list"])
    generator = dict(reports[0]["generator"])
    for name in COUNTED:
        if name in generator:
            generator[name] = sum(report["generator"][name] for report in reports)
    if (price := generator.get("price")) is not None:
        generator["cost"] = Price(**price).cost(*(generator[name] for name in COUNTED))
    first, *others = (part.share for part in parts)
    return {
        **reports[0],
        **{name: sum(report[name] for report in reports) for name in SUMMED},
        **counts(selected),
        "queries_without_list": dict(sorted(skipped.items())),
        "share": first.joined(others).to_dict(),
        "generator": generator,
    }


def require_own(folder: Path, shard: str | None) -> None:
    """ConfigError where `folder` holds the finished set of another shard, which would be lost."""
    if not (folder / REPORT).is_file():
        return
    note = read_json(folder / REPORT).get("share")
    there = None if note is None else Part.read(folder).share
    mine = Shard(0, 1) if shard is None else Shard.parse(shard)
    held = ((0,), 1) if there is None else (there.shards, there.of)
    if held != ((mine.index,), mine.of):
        raise ConfigError(f"{folder} holds {there or 'a whole set'}; choose another folder")
