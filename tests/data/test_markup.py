"""HTML and Markdown as a reader sees them."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from dear.data.formats import read_document_folder
from dear.data.formats.markup import html_text, markdown_text
from dear.errors import DataError

PAGE = """<!DOCTYPE html><html><head><title>Refunds &amp; returns</title>
<style>p { color: red }</style><script>if (a < b) alert("no")</script></head>
<body><nav><a href="/">Home</a></nav><h1>Refunds</h1>
<p>We send   your <b>money</b> back&nbsp;within
ten days.<br>Always.</p><ul><li>by card<li>by cheque</ul>
<table><tr><td>a</td><td>b</td></tr></table><pre>x =  1
y = 2</pre><!-- a note --><p>1 < 2</body></html>"""


def test_html() -> None:
    title, text = html_text(PAGE)
    assert title == "Refunds & returns"
    blocks = text.split("\n\n")
    assert blocks[0] == "Refunds"
    assert blocks[1].replace("\xa0", " ") == "We send your money back within ten days.\nAlways."
    assert [line.strip() for line in blocks[2].splitlines()] == ["by card", "by cheque"]
    assert "x = 1\ny = 2" in text
    assert text.endswith("1 < 2")
    for hidden in ("color", "alert", "Home", "a note"):
        assert hidden not in text
    assert html_text("<h1>Only <i>this</i></h1>text")[0] == "Only this"
    assert html_text("plain text") == ("", "plain text")
    assert html_text("") == ("", "")


MARKDOWN = """# Refunds *and* returns

We send your **money** back, see [the terms](http://terms) and `refund()`.
Always.

## When

* by card
* by cheque

```python
x = 1
```

| a | b |
|---|---|
| 1 | 2 |

<div>kept</div>

![a picture](x.png) 2 * 3 * 4
"""


def test_markdown() -> None:
    title, text = markdown_text(MARKDOWN)
    assert title == "Refunds and returns"
    assert text.split("\n\n") == [
        "We send your money back, see the terms and refund().\nAlways.",
        "When",
        "by card\nby cheque",
        "x = 1",
        "a b\n1 2",
        "kept",
        "a picture 2 * 3 * 4",
    ]
    front = '---\ntitle: "Refunds"\ndate: 2024\n---\nText.'
    assert markdown_text(front) == ("Refunds", "Text.")
    assert markdown_text("") == ("", "")


@pytest.mark.parametrize("piece", ["<a ", '<a b="', "<!--", "</a ", "<a/", "&#x", "<script>"])
@pytest.mark.parametrize("read", [html_text, markdown_text])
def test_markup_without_an_end_takes_linear_time(read: object, piece: str) -> None:
    started = time.perf_counter()
    read(piece * 20_000)  # type: ignore[operator]
    assert time.perf_counter() - started < 5


def test_a_folder_of_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "page.HTML").write_text(PAGE, "utf-8")
    (tmp_path / "old.htm").write_bytes(
        '<meta charset="iso-8859-1"><title>Café</title><p>Crème'.encode("latin-1")
    )
    (tmp_path / "sub" / "notes.markdown").write_text("Some _notes_.", "utf-8")
    (tmp_path / "plain.txt").write_text("no *markup* <b>here</b>", "utf-8")
    for name in ("a.pdf", "b.pdf", "sub/c.png", "LICENSE", ".hidden.doc"):
        (tmp_path / name).write_bytes(b"\xff")
    with caplog.at_level(logging.INFO, logger="dear.notices"):
        found = read_document_folder(tmp_path)
    assert {i: p.title for i, p in found.items()} == {
        "old.htm": "Café",
        "page.HTML": "Refunds & returns",
        "plain.txt": "plain",
        "sub/notes.markdown": "notes",
    }
    assert found["old.htm"].text == "Crème"
    assert found["sub/notes.markdown"].text == "Some notes."
    assert found["plain.txt"].text == "no *markup* <b>here</b>"
    (said,) = caplog.messages
    assert "4 files are not read, such as LICENSE (.pdf 2, no ending 1, .png 1)" in said


def test_a_page_in_no_encoding_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_bytes(b"<p>fine\n\xff")
    with pytest.raises(DataError, match=r"bad\.html:2: not UTF-8"):
        read_document_folder(tmp_path)
