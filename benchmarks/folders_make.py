"""Folders of plain files as people have them; their judgements are kept apart."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from dear.characters import percent_encoded
from dear.data.collections import open_collection
from dear.data.formats import read_document_folder, write_beir
from dear.data.formats.lines import write_lines
from dear.data.held_out import normalised
from dear.errors import ConfigError
from dear.queries.selection import NEAR
from dear.records import Query
from dear.steps.distilled import stable_hash

TEST_QUERIES, TOLD_QUERIES = 300, 50
"""Held out with their judgements; of these, whose texts the folder holds."""

MIN_WORDS = 3
"""A shorter description asks for nothing."""
COMMON = 5
"""Files in whose names a word is that tells little."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """files: path in corpus/ → text.  queries: id → text.  relevant: query id → paths."""

    files: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, list[str]]


def by_hash(ids: Iterable[str]) -> list[str]:
    """The same order every time, which no order of the ids shows in."""
    return sorted(ids, key=lambda i: (stable_hash(i), i))


def write_folder(source: Source, folder: Path, held: Path) -> dict[str, int]:
    """The folder without judgements, and the BEIR-like collection with them; how much is in them.

    The ids of `held` are those that dear gives the folder's files, since it reads them there.
    """
    for place in (folder, held):
        shutil.rmtree(place, ignore_errors=True)
    for path, text in source.files.items():
        file = folder / "corpus" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.strip() + "\n", encoding="utf-8")
    chosen = {str(n): q for n, q in enumerate(by_hash(source.queries)[:TEST_QUERIES], 1)}
    queries = [Query(id=n, text=one_line(source.queries[q])) for n, q in chosen.items()]
    told = queries[:TOLD_QUERIES]  # whose ids are the numbers of their lines
    write_lines(folder / "queries.txt", (query.text for query in told))
    corpus = read_document_folder(folder / "corpus")
    judged = {n: {percent_encoded(p): 1 for p in source.relevant[q]} for n, q in chosen.items()}
    lost = {p for grades in judged.values() for p in grades} - set(corpus)
    assert not lost, lost
    write_beir(held, corpus=corpus.values(), queries=queries, judgements={"test": judged})
    return {"files": len(corpus), "queries": len(queries), "told": len(told)}


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def one_line(text: str) -> str:
    return " ".join(text.split())


# -- real questions ------------------------------------------------------------------------


def questions(data: Path, name: str) -> Source:
    """A collection's passages as files, its test questions as queries.

    A passage that begins with a question that it is judged for loses it.
    """
    collection = open_collection(data / name)
    texts, queries = {p.id: p.text for p in collection.corpus.values()}, collection.queries()
    for split in collection.splits:
        for query_id, grades in collection.judgements(split).items():
            asked = queries[query_id].text.strip()
            for passage_id in grades:
                if texts[passage_id].casefold().startswith(asked.casefold()):
                    texts[passage_id] = texts[passage_id][len(asked) :].strip()
    paths = {i: f"{_subfolder(i)}/{i}.txt" for i, text in texts.items() if text.strip()}
    titles = {i: collection.corpus[i].title for i in paths}
    files = {
        path: f"{titles[i]}\n\n{texts[i]}" if titles[i] else texts[i] for i, path in paths.items()
    }
    relevant = {
        q: [paths[p] for p, grade in grades.items() if grade > 0 and p in paths]
        for q, grades in collection.judgements("test").items()
    }
    asked_for = {q: queries[q].text for q, found in relevant.items() if found}
    return Source(files=files, queries=asked_for, relevant=relevant)


def _subfolder(passage_id: str) -> str:
    """The source of a medquad passage; a thousand answers of insuranceqa to a folder."""
    head, _, rest = passage_id.partition("_")
    return head if rest else f"{int(head[1:]) // 1000:02d}"


# -- known items ---------------------------------------------------------------------------


def known_items(files: dict[str, str], described: Mapping[str, str], wanted: int) -> Source:
    """Descriptions as queries for the files that they are of: the first `wanted` by hash that
    neither the files nor their own words give away, such as a name that few others have.

    described: path → one line that has been taken out of the file.
    """
    repeats = Repeats(files)
    times = Counter(map(normalised, described.values()))
    names = {path: set(normalised(Path(path).stem).split()) for path in files}
    shared = Counter(word for words in names.values() for word in words)
    queries: dict[str, str] = {}
    for path in by_hash(described):
        text, words = described[path], normalised(described[path]).split()
        named = any(shared[word] < COMMON for word in names[path].intersection(words))
        alone = times[normalised(text)] == 1 and not named
        if alone and len(words) >= MIN_WORDS and not repeats.of(text, path):
            queries[path] = text
        if len(queries) == wanted:
            break
    return Source(files=files, queries=queries, relevant={path: [path] for path in queries})


class Repeats:
    """Where files say what a description says."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.words = {path: normalised(text).split() for path, text in files.items()}
        self.holding: dict[str, set[str]] = defaultdict(set)
        for path, words in self.words.items():
            for word in set(words):
                self.holding[word].add(path)

    def of(self, text: str, own: str) -> bool:
        """Whether its own file holds it word for word, or another one most of its words together:
        NEAR of them within a stretch that is by as much longer."""
        words = normalised(text).split()
        if f" {' '.join(words)} " in f" {' '.join(self.words[own])} ":
            return True
        different = set(words)
        need = ceil(NEAR * len(different))
        counts: dict[str, int] = defaultdict(int)
        for word in different:
            for path in self.holding.get(word, ()):
                counts[path] += 1
        stretch = ceil(len(words) / NEAR)
        return any(
            count >= need and path != own and _together(self.words[path], different, need, stretch)
            for path, count in counts.items()
        )


def _together(words: list[str], wanted: set[str], need: int, stretch: int) -> bool:
    """Whether `need` of the wanted words stand within `stretch` words somewhere."""
    inside: dict[str, int] = defaultdict(int)
    for at, word in enumerate(words):
        if word in wanted:
            inside[word] += 1
        gone = words[at - stretch] if at >= stretch else None
        if gone in wanted:
            inside[gone] -= 1
            if not inside[gone]:
                del inside[gone]
        if len(inside) >= need:
            return True
    return False


# -- man pages -----------------------------------------------------------------------------

ALIAS = re.compile(rb"\.so\s")
RENDER = ("groff", "-mandoc", "-tk", "-Tutf8", "-P-cbou", "-rLL=100n", "-rHY=0")
NAME = re.compile(r"\ANAME\n((?:[ \t]+.*\n|\n)+)", re.MULTILINE)
DASH = re.compile(r"\s+(?:-{1,2}|[‐−–—])\s+")


def man_pages(root: Path, most: int) -> Source:
    """The English pages of a `man` tree; queries are their one-line descriptions.

    Descriptions are taken out of every page, so that those of the queries are no exception.
    """
    if shutil.which(RENDER[0]) is None:
        raise ConfigError("man pages are rendered by groff, which is not here: install groff")
    found = {p: p.parent.name for p in root.glob("man[1-9]*/*") if not p.is_symlink()}
    names = {f"{part}/{p.name.removesuffix('.gz')}": p for p, part in found.items()}
    files, described = {}, {}
    for name in by_hash(names):
        page = unpacked(names[name])
        if ALIAS.match(page):  # another name of a page that is there
            continue
        text, description = without_description(rendered(page, root))
        if not text:
            continue
        files[f"{name}.txt"] = text
        if description:
            described[f"{name}.txt"] = description
        if len(files) == most:
            break
    if not files:
        raise ConfigError(f"{root} holds no man pages; name a folder with man1, man2 … in it")
    return known_items(files, described, TEST_QUERIES)


def rendered(page: bytes, root: Path) -> str:
    """A page as plain text, without the lines at its top and bottom."""
    done = subprocess.run(
        [*RENDER, "-I", str(root)],
        input=page,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    lines = done.stdout.decode("utf-8", errors="replace").strip("\n").splitlines()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines[1:-1])).strip("\n") + "\n"


def without_description(text: str) -> tuple[str, str]:
    """A page without what its section NAME says beside the names, and that; "" for none."""
    name = NAME.match(text)
    if name is None:
        return text.strip(), ""
    names, dash, description = _cut(one_line(name[1]))
    if not dash or DASH.search(description):  # several names, each with its own description
        description = ""
    return f"NAME\n       {names}\n\n{text[name.end() :]}".strip(), description.strip(" .")


def _cut(text: str) -> tuple[str, str, str]:
    found = DASH.search(text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


# -- Debian packages -----------------------------------------------------------------------

APT_LISTS = Path("/var/lib/apt/lists")
DESCRIPTION = re.compile(r"Description(?:-en)?: ")


def packages(path: Path | None, most: int) -> Source:
    """Long descriptions of `most` packages, by hash; queries are their synopses.

    path: Debian's Packages or Translation-en, plain or .gz; None for what apt has here. Of packages
    with one long description the first is taken.
    """
    long: dict[str, str] = {}
    short, seen = {}, set()
    stanzas = dict(_stanzas(_translations() if path is None else unpacked(path).decode()))
    for name in by_hash(stanzas):
        synopsis, text = stanzas[name]
        if not text or text in seen:
            continue
        seen.add(text)
        file = f"{name[0]}/{name}.txt"
        long[file], short[file] = text, synopsis
        if len(long) == most:
            break
    if not long:
        raise ConfigError(f"{path} holds no long descriptions; Debian has them in Translation-en")
    return known_items(long, short, TEST_QUERIES)


def _translations() -> str:
    """Of every archive that apt knows, as `apt-get update` left them."""
    found = sorted(APT_LISTS.glob("*_Translation-en*"))
    if not found:
        raise ConfigError(
            "apt has no English descriptions here: `apt-get update -o Acquire::Languages=en` "
            "brings them, or name a file with --packages"
        )
    command = ["/usr/lib/apt/apt-helper", "cat-file", *map(str, found)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()


def _stanzas(listed: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Package name → synopsis and long description."""
    for stanza in listed.split("\n\n"):
        name, synopsis, text, inside = "", "", [], False
        for line in stanza.splitlines():
            if line.startswith(" "):
                text += [("" if line == " ." else line[1:])] if inside else []
            else:
                name = line[9:] if line.startswith("Package: ") else name
                found = DESCRIPTION.match(line)
                inside = found is not None
                synopsis = line[found.end() :] if found else synopsis
        if name:
            yield name, (synopsis, "\n".join(text).strip())
