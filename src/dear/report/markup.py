"""HTML that cannot be injected into: whatever is no `Html` is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dear.report.charts import plain

_EMPTY = {"input", "meta", "br"}


class Html(str):
    """Markup of ours, to be written as it is."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | bool | None) -> Html:
    """An element. Children that are no Html are escaped, attribute values always are.

    class_ and for_ lose the underscore, others become dashes: data_run → data-run. True is an
    attribute without a value; False and None leave it out.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}{'' if value is True else f'={_quoted(str(value))}'}"
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _EMPTY:
        return Html(f"<{name}{said}>")
    return Html(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: str) -> Html:
    """One after the other."""
    return Html("".join(c if isinstance(c, Html) else escaped(c) for c in children))


def escaped(text: str) -> Html:
    return Html(html.escape(plain(text), quote=False))


def _quoted(text: str) -> str:
    return f'"{html.escape(plain(text))}"'


def table(
    caption: str, headers: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = ""
) -> Html:
    """A table in a box of its own that scrolls, also by keyboard; the first cell names its row."""
    head = tag("tr", *(tag("th", h, scope="col") for h in headers))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    return scrolling(
        tag(
            "table",
            tag("caption", caption),
            tag("thead", head),
            tag("tbody", *body),
            class_=class_ or None,
        ),
        caption,
    )


def scrolling(inner: Html, name: str) -> Html:
    """A box that scrolls sideways, reachable by keyboard."""
    return tag("div", inner, class_="scroll", role="region", aria_label=name, tabindex="0")
