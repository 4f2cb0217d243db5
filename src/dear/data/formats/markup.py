"""Documents with markup as plain text: HTML by the standard library, Markdown by markdown-it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "math", "nav", "iframe"})
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt"),
        *("fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "main", "ol", "p"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "pre", "section", "summary", "table", "ul"),
    )
)
_LINES = frozenset({"br", "li", "tr", "option"})
_CELLS = frozenset({"td", "th"})

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_FRONT_MATTER = re.compile(r"---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[^\S\n]*(.+)$", re.MULTILINE)


def html_text(source: str) -> tuple[str, str]:
    """(title, text) of a page: `<title>`, else the first `<h1>`; what a reader sees, a blank line
    between blocks. Scripts, styles and navigation are left out."""
    # behind the last tag there is none: the parser would look for its end again and again
    end = source.rfind(">") + 1
    page = _Page()
    page.feed(source[:end] + source[end:].replace("<", "&lt;"))
    page.close()
    title = _one_line(page.titles.get("title", [])) or _one_line(page.titles.get("h1", []))
    return title, _tidy("".join(page.parts))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.titles: dict[str, list[str]] = {}
        self._hidden: list[str] = []
        self._title = ""
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden.append(tag)
        if tag in ("title", "h1") and tag not in self.titles:
            self._title, self.titles[tag] = tag, []
        self._pre += tag == "pre"
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:  # one that was left open inside ends with it
            del self._hidden[self._hidden.index(tag) :]
        if tag == self._title:
            self._title = ""
        self._pre = max(0, self._pre - (tag == "pre"))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._title:
            self.titles[self._title].append(data)
        if self._title != "title":
            self.parts.append(data if self._pre else re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n\n")
        elif tag in _LINES:
            self.parts.append("\n")
        elif tag in _CELLS:
            self.parts.append(" ")


def markdown_text(source: str) -> tuple[str, str]:
    """(title, text): a first heading, else the front matter's title, else ""; the text without
    marks, links as their texts, code as it is, a blank line between blocks."""
    from markdown_it import MarkdownIt

    front = _FRONT_MATTER.match(source)
    title = _FRONT_TITLE.search(front[1]) if front else None
    tokens = MarkdownIt("commonmark").enable("table").parse(source[front.end() if front else 0 :])
    first = ""
    if len(tokens) > 1 and tokens[0].type == "heading_open":
        first = _tidy(_inline(tokens[1].children or []))
        tokens = tokens[3:]
    text = _tidy("".join(_blocks(tokens)))
    return first or (title[1].strip().strip("\"'") if title else ""), text


_LINE_CLOSES = ("tr_close", "bullet_list_close", "ordered_list_close", "table_close")


def _blocks(tokens: Iterable[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield _inline(token.children or [])
        elif token.type in ("fence", "code_block"):
            yield f"{token.content}\n"
        elif token.type == "html_block":
            yield f"{html_text(token.content)[1]}\n\n"
        elif token.type in ("paragraph_close", "heading_close"):
            # a tight list's paragraphs are hidden
            yield "\n" if token.hidden else "\n\n"
        elif token.type in ("th_close", "td_close"):
            yield " "
        elif token.type in _LINE_CLOSES:
            yield "\n"


def _inline(tokens: Iterable[Token]) -> str:
    parts = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "image":
            parts.append(_inline(token.children or []))
        elif token.type != "html_inline":
            parts.append(token.content)
    return "".join(parts)


def _one_line(parts: Iterable[str]) -> str:
    return " ".join("".join(parts).split())


def _tidy(text: str) -> str:
    """At most one blank line, no blanks at the ends of lines."""
    lines = (_SPACES.sub(" ", line).rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
