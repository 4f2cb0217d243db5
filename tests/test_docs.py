"""What the documents say holds: commands, recipes, links, names and files."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dear.recipes import (
    DISTILL,
    HeadsRecipe,
    ListwiseRecipe,
    PairRecipe,
    Recipe,
    load_distill_recipe,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SHELL = {"bash", "sh", "console"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OUR_FILE = re.compile(r"(src|tests|docs|recipes|benchmarks|\.ci)/[\w./-]*|[\w-]+\.toml|Makefile")
DOTTED = re.compile(r"dear(\.\w+)+")
# what a fragment in a document is completed with
PLAIN_RECIPE = {"name": "x", "model": {"base": "x"}, "data": [{"collection": "x"}]}


@dataclass(frozen=True)
class Snippet:
    """A piece of a page. where: page:line, what a failure shows."""

    where: str
    text: str
    page: Path

    def __str__(self) -> str:
        return self.where


def snippets(languages: set[str]) -> list[Snippet]:
    """The fenced blocks in one of these languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start(2)) + 1
                found.append(Snippet(f"{page.relative_to(ROOT)}:{line}", match[2], page))
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    return INLINE.findall(prose(page))


def shell_lines() -> Iterator[tuple[Snippet, list[str]]]:
    """Every command in a shell block, split into words; continued lines are joined."""
    for snippet in snippets(SHELL):
        for line in snippet.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield snippet, words


def commands() -> list[Any]:
    """(where, words after `dear`, whole): whole commands in blocks, mentions in the text."""
    blocks = [
        (str(snippet), tuple(words[1:]), True)
        for snippet, words in shell_lines()
        if words[0] == "dear"
    ]
    mentions = {
        (str(page.relative_to(ROOT)), tuple(shlex.split(code)[1:]), False): None
        for page in PAGES
        for code in inline_code(page)
        if code.startswith("dear ") and "COMMAND" not in code
    }
    found = (*blocks, *mentions)
    return [pytest.param(*one, id=f"{one[0]} dear {' '.join(one[1])}") for one in found]


@cache
def command_line() -> Any:
    import typer

    from dear.cli.main import app

    return typer.main.get_command(app)


def check_command(words: tuple[str, ...], *, whole: bool) -> None:
    """Fails where the command line does not know a command, an option, or a word too many.

    Nothing is run, and no value is looked at: files in the documents need not exist.
    """
    command, path, rest = command_line(), ["dear"], list(words)
    while hasattr(command, "commands"):
        if rest and rest[0].startswith("-"):
            own = {"--help", *(name for option in command.params for name in option.opts)}
            assert rest[0] in own, f"{' '.join(path)} has no option {rest[0]}"
            rest.pop(0)
            continue
        if not rest:
            return
        name = rest.pop(0)
        assert name in command.commands, f"{' '.join(path)} has no command {name!r}"
        command = command.commands[name]
        path.append(name)
    context = command.context_class(command, info_name=path[-1])
    values, left, _order = command.make_parser(context).parse_args(args=rest)
    assert not left, f"{' '.join(path)}: {left} is too many"
    if whole:
        missing = [p.name for p in command.params if p.required and not values.get(p.name)]
        assert not missing, f"{' '.join(path)} needs {missing}"


@pytest.mark.parametrize(("where", "words", "whole"), commands())
def test_a_command_in_the_documents_is_one(where: str, words: tuple[str, ...], whole: bool) -> None:
    check_command(words, whole=whole)
    if words[0] == "train" and whole:
        recipe = next(w for w in words[1:] if not w.startswith("-"))
        # a file is the reader's own; a bare name must ship
        if not recipe.endswith(".toml"):
            load_recipe(recipe)


@pytest.mark.parametrize("words", [("nothing",), ("models", "--nothing"), ("models", "x", "y")])
def test_a_wrong_command_would_be_noticed(words: tuple[str, ...]) -> None:
    # the parser's own exceptions differ between releases of typer
    with pytest.raises(Exception, match=r"no command|[Nn]o such option|too many"):
        check_command(words, whole=True)


def test_every_command_stands_in_the_table_of_the_readme() -> None:
    listed = {code.split()[1] for code in inline_code(ROOT / "README.md") if code[:5] == "dear "}
    hidden = {name for name, command in command_line().commands.items() if command.hidden}
    assert set(command_line().commands) - hidden <= listed


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = {words[1] for _, words in shell_lines() if words[0] == "make"}
    for page in PAGES:
        named |= {code.split()[1] for code in inline_code(page) if code.startswith("make ")}
    assert named
    assert named <= targets


def test_extras_exist() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(config["project"]["optional-dependencies"])
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = re.findall(r"install '(?:\.|dear-rerank)\[([\w,]+)\]'", text)
    assert named
    assert {extra for group in named for extra in group.split(",")} <= extras


def test_what_is_looked_for_in_the_documents_is_found() -> None:
    """Were a pattern wrong, the tests below would look at nothing."""
    links = [target for page in PAGES for target in LINK.findall(prose(page))]
    codes = [code for page in PAGES for code in inline_code(page)]
    assert sum("://" not in target for target in links) > 20
    assert any("#" in target for target in links)
    assert sum(bool(OUR_FILE.fullmatch(code)) and "/" in code for code in codes) > 20
    assert sum(bool(DOTTED.fullmatch(code)) for code in codes) > 5


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    for code in inline_code(page):
        if OUR_FILE.fullmatch(code) and "/" in code:
            assert (ROOT / code).exists(), f"{page.name}: {code}"
        if DOTTED.fullmatch(code):
            assert resolves(code), f"{page.name}: {code}"


def resolves(dotted: str) -> bool:
    """Whether this is a module, or a name in one."""
    module, _, name = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), name)
    return True


@pytest.mark.parametrize("snippet", snippets({"toml"}), ids=str)
def test_recipes_in_the_documents_are_recipes(snippet: Snippet, tmp_path: Path) -> None:
    values = tomllib.loads(snippet.text)
    if "extends" in values:
        (tmp_path / "extending.toml").write_text(snippet.text, encoding="utf-8")
        check_recipe(load_recipe(tmp_path / "extending.toml"))
        return
    if "student" in values:
        (tmp_path / "distill.toml").write_text(snippet.text, encoding="utf-8")
        load_distill_recipe(tmp_path / "distill.toml")
        return
    if "name" not in values:
        values = merged(PLAIN_RECIPE, values)
    check_recipe(parse_recipe(values, where=snippet.where))


def check_recipe(recipe: Recipe) -> None:
    """Fails for losses, prompts and kinds that training would refuse before it starts."""
    from dear.losses import find_loss
    from dear.train.biencoder import contrastive_objective
    from dear.train.listwise import list_contract_of
    from dear.train.pointwise import contract_of
    from dear.train.start import objective_of

    if isinstance(recipe, HeadsRecipe):
        return
    if isinstance(recipe, ListwiseRecipe):
        list_contract_of(recipe)
        find_loss(recipe.listwise.loss.first_loss)
    else:
        objective_of(recipe.loss)
        contract_of(recipe)
    if recipe.kind == "biencoder":
        contrastive_objective(recipe)
    assert recipe.train.groups_per_step % recipe.train.accumulate == 0


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if not n.startswith(DISTILL)])
def test_a_recipe_that_ships_could_be_trained(name: str) -> None:
    from dear.checkpoints.registry import locate
    from dear.data.collections import COLLECTIONS
    from dear.data.groups import NEGATIVES

    recipe = load_recipe(name)
    check_recipe(recipe)
    locate(recipe.model.base)
    if not isinstance(recipe, PairRecipe):
        return
    assert recipe.groups.negatives in NEGATIVES
    for source in recipe.data:
        known = source.collection.startswith("irds:") or source.collection in COLLECTIONS
        assert known or source.rows


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_that_ships_is_documented(name: str) -> None:
    assert name in inline_code(ROOT / "docs" / "training.md")


@pytest.mark.parametrize("name", shipped_recipes())
def test_commands_in_the_comments_of_a_recipe_are_commands(name: str) -> None:
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    comments = "\n".join(re.findall(r"^#(.*)$", text, re.MULTILINE)).replace("\\\n", " ")
    for line in comments.splitlines():
        words = shlex.split(line) if line.startswith("   dear ") else []
        if words:
            check_command(tuple(words[1:]), whole=True)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        there = out.get(key)
        out[key] = merged(there, value) if isinstance(there, dict) else value
    return out


@pytest.mark.parametrize("snippet", snippets({"python"}), ids=str)
def test_python_in_the_documents_uses_names_that_exist(snippet: Snippet) -> None:
    tree = ast.parse(snippet.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert resolves(f"{node.module}.{alias.name}"), alias.name


def recipe_keys() -> set[str]:
    """Every key of every table of a recipe, those of `dear distill` too."""
    import dear.recipes as module

    endings = ("Recipe", "Stage", "Table")
    tables = [kind for name, kind in vars(module).items() if name.endswith(endings)]
    return {field.name for table in tables if is_dataclass(table) for field in fields(table)}


def tables() -> list[Any]:
    from dear.checkpoints.registry import FAMILY
    from dear.data import formats
    from dear.data.groups import NEGATIVES
    from dear.losses import LOSSES
    from dear.prompts.pointwise import PAIR_PROMPTS, ZERO_SHOT_PROMPTS

    options = {option for loss in LOSSES.values() for option in loss.options}
    functions = {
        name for name in formats.__all__ if name.startswith(("read_", "write_")) and name.islower()
    }
    packaged = {model.name for model in FAMILY.values() if model.package}
    kinds = {f"{kind}:NAME" for kind in ("biencoder", *ZERO_SHOT_PROMPTS)}
    return [
        ("training.md", set(LOSSES) | options | set(NEGATIVES) | set(PAIR_PROMPTS)),
        ("training.md", recipe_keys()),
        ("teachers.md", kinds | packaged),
        ("formats.md", functions),
    ]


@pytest.mark.parametrize("which", range(4), ids=("losses", "recipe keys", "kinds", "formats"))
def test_what_can_be_named_is_documented(which: int) -> None:
    page, names = tables()[which]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    missing = {name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)}
    assert not missing


def test_every_module_stands_in_the_layout() -> None:
    import dear

    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layout = next(block for _, block in FENCE.findall(page) if "src/dear/" in block)
    for module in pkgutil.walk_packages(dear.__path__, "dear."):
        last = module.name.rpartition(".")[2]
        wanted = f"{last}/" if module.ispkg else f"{last}.py"
        # the one file that `cli/` is made of for a reader is its folder
        if not module.name.startswith("dear.cli."):
            assert wanted in layout.split(), module.name


def test_the_layout_names_no_file_that_is_gone() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layout = next(block for _, block in FENCE.findall(page) if "src/dear/" in block)
    there = {path.name for path in (ROOT / "src" / "dear").rglob("*.py")}
    assert set(re.findall(r"\b[\w]+\.py\b", layout)) <= there


def test_the_glossary_holds_thirty_terms_in_order_that_the_documents_use() -> None:
    glossary = ROOT / "docs" / "glossary.md"
    terms = re.findall(r"^- \*\*(.+?)\*\*: ", glossary.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) == 30
    assert terms == sorted(set(terms), key=str.lower)
    pages = {ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - {glossary, ROOT / "docs/LOG.md"}
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(pages))
    met = {term for term in terms if re.search(rf"(?i)\b{re.escape(term)}s?\b", text)}
    assert set(terms) - met == set()
