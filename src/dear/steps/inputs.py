"""What steps read: runs by file or by name, with their texts, and what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import overload

from dear.data.collections import Collection, open_collection
from dear.data.formats import count_lines, read_run
from dear.data.inputs import judgements_input, run_input, texts_input
from dear.data.remote import fetched, is_url
from dear.data.shards import Shard, Share
from dear.digests import Input, Inputs, lines_digest
from dear.errors import ConfigError, DataError
from dear.records import Candidates, Judgements, Query, Ranking, Run, count_pairs, gather
from dear.steps.options import TOP_K

_ENDINGS = (".gz", ".trec", ".run", ".txt")


def find_run(collection: Collection, run: str, split: str) -> Path:
    """The file that `run` names: its path, its URL, or one of the collection's own runs of that
    split."""
    if is_url(run):
        return fetched(run)
    path = Path(run)
    if path.exists():
        return path
    own = collection.runs(split)
    if run in own:
        return own[run]
    there = f"its runs of split {split!r}: {', '.join(own)}" if own else f"it has none ({split!r})"
    raise DataError(
        f"no run {run!r}: no such file, and no run of {collection.name} ({there}); "
        "`dear retrieve` makes one"
    )


def read_runs(
    collection: Collection, runs: Sequence[str], split: str, share: Share | None = None
) -> list[Run]:
    """The runs that these names or files are; the queries of `share` alone where there is one."""
    keep = None if share is None else share.owner()
    found: list[Run] = []
    for run in runs:
        if _is_made(collection, run):
            whole = collection.run(run, split)
            found.append({q: r for q, r in whole.items() if keep is None or keep(q)})
        else:
            found.append(read_run(find_run(collection, run, split), ties="written", keep=keep))
    return found


def share_of(
    collection: Collection,
    runs: Sequence[str],
    split: str,
    shard: str | None,
    judged: Judgements | None = None,
) -> Share | None:
    """What shard `I/N` has of the work on these runs; None where nothing is cut."""
    if shard is None:
        return None
    digests, lines = [], 0
    for run in runs:
        if _is_made(collection, run):
            made = collection.run(run, split)
            digests.append(run_input(made).digest)
            lines += count_pairs(made)
        else:
            path = find_run(collection, run, split)
            digests.append(run_input(path).digest)
            lines += count_lines(path)
    inputs = {"run": Input(lines_digest(digests)), "texts": texts_input(collection)}
    if judged is not None:
        inputs["judgements"] = judgements_input(judged, collection.name)
    return Share.plan(Shard.parse(shard), lines, Inputs(inputs))


def _is_made(collection: Collection, run: str) -> bool:
    return not Path(run).exists() and collection.makes_run(run)


def judged_candidates(
    collection: str, run: str, split: str
) -> tuple[list[Candidates], Judgements | None]:
    """The best 100 of each judged query of a run (of all, where nothing is judged), with the
    judgements."""

    opened = open_collection(collection)
    found = read_run(find_run(opened, run, split), ties="written")
    judgements = opened.judgements(split) if opened.has_judgements(split) else None
    asked = [q for q in found if judgements is None or q in judgements] or list(found)
    queries, corpus = opened.queries(), opened.corpus
    return [gather(found[q].top(TOP_K), queries, corpus) for q in asked], judgements


class Gathered(Sequence[Candidates]):
    """The queries and passages of rankings, whose texts are read each time that they are asked for:
    in memory are those of one query.

    DataError: an id that has no text.
    """

    def __init__(self, collection: Collection, rankings: Iterable[Ranking]) -> None:
        self._rankings = list(rankings)
        self._queries, self._corpus = collection.queries(), collection.corpus
        for one in self._rankings:
            if one.query_id not in self._queries or not all(
                passage_id in self._corpus for passage_id in one.passage_ids
            ):
                gather(one, self._queries, self._corpus)

    @overload
    def __getitem__(self, index: int) -> Candidates: ...
    @overload
    def __getitem__(self, index: slice) -> list[Candidates]: ...
    def __getitem__(self, index: int | slice) -> Candidates | list[Candidates]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return gather(self._rankings[index], self._queries, self._corpus)

    def __len__(self) -> int:
        return len(self._rankings)


def gathered(collection: Collection, run: Run) -> Gathered:
    """The run's queries and passages with their texts."""
    return Gathered(collection, run.values())


def made_of_the_same(path: Path, there: Inputs, now: Inputs) -> None:
    """Nothing is done where what is there was made from the same. ConfigError: from something
    else."""
    found = there.changes(now)
    if found:
        raise ConfigError(
            f"{path} was made from other inputs ({found}); remove it to make it anew, or write "
            "elsewhere with --output"
        )
    if found.unverified:
        raise ConfigError(
            f"{path} is there already, and does not say what it was made from; remove it to "
            "make it anew"
        )


def named_runs(collection: Collection, given: Sequence[str], split: str) -> dict[str, Path]:
    """The name to show → the file of each `RUN` or `NAME=RUN`; the file's own name where none is
    given. A file named twice counts once.

    ConfigError: a name twice, or none before the `=`.
    """
    found: dict[Path, tuple[str, Path]] = {}
    for text in given:
        name, run = _name_and_run(text)
        path = find_run(collection, run, split)
        before, _ = found.get(path.resolve(), ("", path))
        found[path.resolve()] = name or before, path
    paths = [path for _, path in found.values()]
    own = run_names(paths, own_run_names(collection, split)) if paths else []
    names = [name or file for (name, _), file in zip(found.values(), own, strict=True)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two runs are called {twice!r}; NAME={given[0]} names one")
    return dict(zip(names, paths, strict=True))


def _name_and_run(given: str) -> tuple[str, str]:
    """`NAME=RUN` or `RUN`; the name is "" where there is none."""
    if "=" not in given or Path(given).exists() or is_url(given):
        return "", given
    name, _, run = given.partition("=")
    if not name.strip() or not run:
        raise ConfigError(f"run {given!r}: expected NAME=RUN")
    return name.strip(), run


def run_names(paths: Sequence[Path], own: Mapping[Path, str]) -> list[str]:
    """A short name for each file, all different: the file's, with folders where it must be.

    own: resolved path → name, for the collection's own runs.
    """
    names = [own.get(path.resolve()) or _short_name(path, 1) for path in paths]
    for depth in range(2, max(len(path.resolve().parts) for path in paths)):
        if len(set(names)) == len(names):
            return names
        names = [
            _short_name(path, depth) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _short_name(path: Path, depth: int) -> str:
    name = path.name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    parents = path.resolve().parent.parts[1:]
    return "/".join((*parents[len(parents) - depth + 1 :], name or path.name))


def own_run_names(collection: Collection, split: str) -> dict[Path, str]:
    """Resolved path → name of the collection's own runs of a split."""
    return {path.resolve(): name for name, path in collection.runs(split).items()}


def queries_if_readable(collection: Collection) -> tuple[Mapping[str, Query], str | None]:
    """The queries; without them where they cannot be read, and the reason as a note."""
    try:
        return collection.queries(), None
    except DataError as error:
        return {}, f"queries are shown without their texts: {error}"
