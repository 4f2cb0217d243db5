"""The collection that every Python installation already holds.

Find a function by what its docstring says: the query is the first paragraph of the docstring,
the passage is the same function's code without it. The functions are those of the running
interpreter's standard library, read from source and never imported, so that there is nothing to
download and nothing to license. Made anew each time, in a few seconds; the same interpreter
version gives the same collection.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import dropwhile
from pathlib import Path
from typing import TypeAlias

from dear.data.collection import Collection
from dear.errors import DataError
from dear.records import Judgements, Passage, Query

logger = logging.getLogger(__name__)

NAME = "pydocs"
SPLITS = ("train", "dev", "test")
MIN_QUERY_WORDS = 4  # shorter docstrings ("Return self.") name no function in particular

# where the standard library keeps its own tests, demos and other people's packages
_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "turtledemo"}
)
# what an administrator or a packager may add to the folder
_SKIPPED_MODULES = frozenset({"sitecustomize", "usercustomize"})

_FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True, slots=True)
class PydocsParts:
    """What a Collection is made of.

    corpus: passage id → code. queries: query id → docstring's first paragraph; a query bears the
    id of the first function that it describes. judgements: split → query id → passage id → 1.
    """

    corpus: Mapping[str, Passage]
    queries: Mapping[str, Query]
    judgements: Mapping[str, Judgements]


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentedFunction:
    """One function of one source file, taken apart.

    name: its qualified name in the module, such as `Random.shuffle`.
    summary: the docstring's first paragraph on one line. code: the source without the docstring.
    """

    module: str
    name: str
    summary: str
    code: str


def open_pydocs() -> Collection:
    """The pydocs collection, all splits; read when something of it is asked for. DataError, then,
    where the library comes without source."""
    parts = cache(build_pydocs)
    return Collection(
        NAME,
        corpus=lambda: parts().corpus,
        queries=lambda: parts().queries,
        qrels={split: partial(_judgements, parts, split) for split in SPLITS},
    )


def _judgements(parts: Callable[[], PydocsParts], split: str) -> dict[str, dict[str, int]]:
    return {query: dict(grades) for query, grades in parts().judgements[split].items()}


def build_pydocs(stdlib: Path | str | None = None) -> PydocsParts:
    """Read every documented function below `stdlib` (default: the running interpreter's).

    All functions are in one corpus. A query belongs to the split of its first function's module,
    so that no module's own queries are in two splits. Functions that share a docstring are all
    relevant to it; of functions that share their code to the letter, only the first is kept.
    DataError if there are no documented functions, as in a zipped or compiled-only installation.
    """
    root = Path(sysconfig.get_paths()["stdlib"] if stdlib is None else stdlib)
    corpus: dict[str, Passage] = {}
    queries: dict[str, Query] = {}
    judgements: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    first_bearer: dict[str, tuple[str, str]] = {}  # summary → (query id, split)
    for function in _unique_code(read_functions(root)):
        passage_id = _free_id(f"{function.module}:{function.name}", corpus)
        corpus[passage_id] = Passage(id=passage_id, text=function.code)
        query_id, split = first_bearer.setdefault(
            function.summary, (passage_id, split_of(function.module))
        )
        queries.setdefault(query_id, Query(id=query_id, text=function.summary))
        judgements[split].setdefault(query_id, {})[passage_id] = 1
    if not corpus:
        raise DataError.at(
            root,
            None,
            "no documented Python source; use an installation that has the library as .py files",
        )
    logger.info("pydocs: %d functions, %d queries from %s", len(corpus), len(queries), root)
    return PydocsParts(corpus=corpus, queries=queries, judgements=judgements)


def split_of(module: str) -> str:
    """train, dev or test (70, 10 and 20 of 100 modules) by a hash that is the same everywhere."""
    digest = hashlib.sha256(f"{NAME}{module}".encode()).digest()
    percentile = int.from_bytes(digest[:8], "big") % 100
    if percentile < 70:
        return "train"
    return "dev" if percentile < 80 else "test"


def read_functions(root: Path) -> Iterator[DocumentedFunction]:
    """Documented functions below `root`: modules by name, functions in the order of the source."""
    for module, path in sorted(_source_files(root)):
        source = _read_source(path)
        if source is not None:
            yield from functions_of(source, module)


def functions_of(source: str, module: str) -> Iterator[DocumentedFunction]:
    r"""The functions and methods in `source` that have a docstring and a body; lines end in \n.

    Left out: functions inside functions (their code is in the outer one), first paragraphs below
    MIN_QUERY_WORDS words, bodies that only hold `pass` or `...`, source that does not parse.
    """
    try:
        # other people's invalid escapes are not our caller's warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as problem:
        logger.debug("pydocs: %s left out: %s", module, problem)
        return
    lines = source.split("\n")  # not splitlines: form feeds end no line for `ast`
    for name, node in _definitions(tree.body, ""):
        summary = first_paragraph(ast.get_docstring(node) or "")
        if len(summary.split()) >= MIN_QUERY_WORDS and _does_something(node):
            code = _code_without_docstring(node, lines)
            yield DocumentedFunction(module=module, name=name, summary=summary, code=code)


def first_paragraph(docstring: str) -> str:
    """Up to the first blank line, every run of whitespace one space."""
    paragraph: list[str] = []
    for line in docstring.strip().split("\n"):
        if not line.strip():
            break
        paragraph.extend(line.split())
    return " ".join(paragraph)


def _source_files(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted module name, path) of the library's own modules, in no order."""
    for folder, subfolders, names in os.walk(root):
        # a folder that is no identifier is no package: config-3.12-x86_64-linux-gnu, lib-dynload
        subfolders[:] = [s for s in subfolders if s.isidentifier() and s not in _SKIPPED_FOLDERS]
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py" and path.stem not in _SKIPPED_MODULES:
                parts = path.relative_to(root).with_suffix("").parts
                package = ".".join(parts[:-1])
                yield package if package and path.stem == "__init__" else ".".join(parts), path


def _read_source(path: Path) -> str | None:
    try:
        with tokenize.open(path) as file:  # heeds the coding line, makes every line end \n
            return file.read()
    except (SyntaxError, UnicodeDecodeError, OSError) as problem:
        logger.debug("pydocs: %s left out: %s", path, problem)
        return None


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _FunctionNode]]:
    """Functions of a module or class body, also below its `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        else:
            for block in _blocks(node):
                yield from _definitions(block, prefix)


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The statement lists inside a compound statement, in the order of the source."""
    yield getattr(node, "body", [])
    for clause in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
        yield clause.body
    yield getattr(node, "orelse", [])
    yield getattr(node, "finalbody", [])


def _does_something(node: _FunctionNode) -> bool:
    return any(not _is_placeholder(statement) for statement in node.body[1:])


def _is_placeholder(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is ...
    )


def _code_without_docstring(node: _FunctionNode, lines: list[str]) -> str:
    """Decorators to last line, moved to the left margin; the text of long strings moves with it."""
    docstring = node.body[0]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    start, end = docstring.lineno, docstring.end_lineno or docstring.lineno
    # `ast` counts columns in UTF-8 bytes
    before = lines[start - 1].encode()[: docstring.col_offset].decode()
    after = lines[end - 1].encode()[docstring.end_col_offset :].decode().lstrip(" \t;")
    head = lines[first - 1 : start - 1]
    if before.strip() or after:  # def f(): "docstring"; return 1
        head.append(before + after)
    body = dropwhile(lambda line: not line.strip(), lines[end : node.end_lineno])
    margin = lines[first - 1][: node.col_offset]
    return "\n".join(line.removeprefix(margin).rstrip() for line in (*head, *body))


def _unique_code(functions: Iterable[DocumentedFunction]) -> Iterator[DocumentedFunction]:
    seen: set[str] = set()
    for function in functions:
        if function.code not in seen:
            seen.add(function.code)
            yield function


def _free_id(wanted: str, taken: Mapping[str, Passage]) -> str:
    """`wanted`, or `wanted#2`, `wanted#3`: setters and platform variants share their name."""
    candidate, count = wanted, 1
    while candidate in taken:
        count += 1
        candidate = f"{wanted}#{count}"
    return candidate
