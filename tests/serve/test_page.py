"""The page of `dear serve` in a real Chromium, before a real server with real models."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import headless
import pytest
from command_line import write_reranker
from running_server import running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(headless.missing()), reason=headless.missing()),
]

TAB, ENTER = "\ue004", "\ue007"
SIGMOID = "scale: sigmoid, sigmoid of the logit"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_reranker(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def two(tiny: str) -> Iterator[str]:
    """Documents are read in passages of forty words."""
    models = ("minilm=biencoder:minilm-l6", f"tiny={tiny}")
    with running(models=models, chunk_words=40) as server:
        yield server.url


@pytest.fixture(scope="module")
def locked(tiny: str) -> Iterator[str]:
    with running(models=(f"tiny={tiny}",), api_key=("sesame",)) as server:
        yield server.url


@pytest.fixture(scope="module")
def window() -> Iterator[headless.Browser]:
    with headless.opened() as found:
        yield found


@pytest.fixture
def page(window: headless.Browser, two: str) -> headless.Browser:
    return opened(window, two)


def opened(window: headless.Browser, url: str) -> headless.Browser:
    window.prefers("light")
    window.size(1200, 900)
    window.open(url)
    window.log()
    window.run("localStorage.clear(); sessionStorage.clear()")
    window.open(url)
    until(window, "return document.getElementById('model').options.length || !error.hidden")
    return window


def until(page: headless.Browser, script: str) -> None:
    for _ in range(600):
        if page.run(script):
            return
        time.sleep(0.05)
    raise AssertionError(f"not within 30 s: {script}")


def put(page: headless.Browser, **values: str) -> None:
    """Values of the fields with these ids, as if typed."""
    page.run(
        "for (const [id, value] of Object.entries(arguments[0])) {"
        "  const field = document.getElementById(id); field.value = value;"
        "  field.dispatchEvent(new Event('input', {bubbles: true}));"
        "}",
        values,
    )


def rank(page: headless.Browser) -> None:
    page.click("#go")
    settled(page)


def settled(page: headless.Browser) -> None:
    until(page, "return document.getElementById('lists').getAttribute('aria-busy') === 'false'")


def texts(page: headless.Browser, selector: str) -> list[str]:
    found: list[str] = page.run(
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter((e) => e.checkVisibility()).map((e) => e.textContent)",
        selector,
    )
    return found


def error(page: headless.Browser) -> str:
    return " ".join(texts(page, "#error"))


def test_the_example_is_ranked_at_one_press(page: headless.Browser) -> None:
    assert page.log() == []
    assert texts(page, "#found") == ["10 documents: one per line"]
    rank(page)
    assert error(page) == ""
    assert texts(page, "h2") == ["minilm"]
    assert len(texts(page, "li")) == 10
    assert texts(page, ".text")[0].startswith("Rayleigh scattering")
    assert texts(page, "li:first-child .move") == ["↑9"]
    assert texts(page, "li:first-child .facts")[0].startswith("was 10")
    assert "scale: cosine, (1 + cosine) / 2" in texts(page, ".scale")
    assert "10 documents scored" in texts(page, ".cost")[0]
    assert " ms" in texts(page, ".cost")[0]
    assert texts(page, "#said") == ["minilm puts document 10 first."]
    assert page.run("return said.getAttribute('aria-live')") == "polite"
    scores = [float(text) for text in texts(page, ".score")]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    widths = page.run("return [...document.querySelectorAll('.bar i')].map((e) => e.style.width)")
    assert [float(w.rstrip("%")) for w in widths] == pytest.approx([100 * s for s in scores], abs=1)


def test_every_move_leads_from_the_old_place_to_the_new_one(page: headless.Browser) -> None:
    rank(page)
    signs = {"↑": 1, "↓": -1, "=": 0}
    moves, before = texts(page, ".move"), texts(page, ".facts span:first-child")
    assert len(moves) == 10
    for place, (move, was) in enumerate(zip(moves, before, strict=True), 1):
        assert was == f"was {place + signs[move[0]] * int(move[1:] or 0)}"


def test_two_models_stand_side_by_side(page: headless.Browser) -> None:
    put(page, other="tiny")
    rank(page)
    assert texts(page, "h2") == ["minilm", "tiny"]
    assert texts(page, ".scale") == ["scale: cosine, (1 + cosine) / 2", SIGMOID]
    assert len(texts(page, "li")) == 20
    assert "τ = " in texts(page, "#said")[0]
    left, right = page.run(
        "return [...document.querySelectorAll('section')].map((e) => e.getBoundingClientRect())"
        ".map((r) => [r.left, r.right, r.top])"
    )
    assert left[1] < right[0]
    assert left[2] == right[2]


def test_the_passage_that_counted_is_marked_and_a_long_text_opens(page: headless.Browser) -> None:
    filler = "Stones lie in the field and nobody moves them at all. " * 8
    put(page, query="What do whales eat?", documents=filler + "Whales eat krill. " + filler)
    rank(page)
    assert "Whales eat krill" in texts(page, "mark")[0]
    shown = texts(page, ".text")[0]
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert "best passage: " in texts(page, ".facts")[0]
    page.click(".facts button")
    assert texts(page, ".text")[0].strip() == (filler + "Whales eat krill. " + filler).strip()
    assert "Whales eat krill" in texts(page, "mark")[0]
    page.click(".facts button")
    assert texts(page, ".text")[0] == shown


@pytest.mark.parametrize(
    ("given", "how"),
    [
        ("a\nb\n\n", "2 documents: one per line"),
        ("a\nb\n \nc\n", "2 documents: separated by blank lines"),
        ('["a", {"text": "b", "title": "c"}]', "2 documents: a JSON array"),
        ('{"text": "a"}\n\n{"text": "b"}\n', "2 documents: JSON Lines"),
        ("[1] a footnote\n{b}", "2 documents: one per line"),
        ('{"text": "a"}\n{"body": "b"}', "line 2: neither a text nor an object with “text”"),
        ('{"text": "a"}\n{"text"', "line 2: no JSON"),
        ('["a", 7]', "item 2: neither"),
    ],
)
def test_how_documents_are_told_apart_is_found_and_said(
    page: headless.Browser, given: str, how: str
) -> None:
    put(page, documents=given)
    assert texts(page, "#found")[0].startswith(how)


def test_a_file_is_dropped_or_chosen(page: headless.Browser, tmp_path: Path) -> None:
    page.run(
        "const held = new DataTransfer(); held.items.add(new File([arguments[0]], 'a.jsonl'));"
        "documents.dispatchEvent(new DragEvent('drop', "
        "  {dataTransfer: held, bubbles: true, cancelable: true}))",
        json.dumps({"title": "Sea", "text": "Whales eat krill."}),
    )
    until(page, "return found.textContent === '1 document: JSON Lines'")
    rank(page)
    assert texts(page, ".title") == ["Sea"]
    choose(page, tmp_path / "b.txt", b"Grass is green.\nWhales eat krill.\nRain falls.")
    until(page, "return found.textContent === '3 documents: one per line'")
    choose(page, tmp_path / "c.txt", b"\xff\xfe\xff")
    until(page, "return !error.hidden")
    assert error(page) == "c.txt: no UTF-8 text"
    assert texts(page, "#found") == ["3 documents: one per line"]


def choose(page: headless.Browser, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    field = page.devtools("Runtime.evaluate", expression="document.getElementById('file')")
    page.devtools("DOM.setFileInputFiles", files=[str(path)], objectId=field["result"]["objectId"])


def test_a_partial_answer_says_so(page: headless.Browser) -> None:
    put(page, deadline="0.000001")
    rank(page)
    assert texts(page, "#said")[0].startswith("Partial: ")
    assert texts(page, ".warning")[0].startswith("the deadline came first: 0 of 10")
    assert texts(page, ".cost")[0].endswith("0 of 10 documents scored")
    assert texts(page, ".score") == []
    assert texts(page, "li .soft") == ["not scored"] * 10


def test_only_the_best_are_shown_where_so_many_are_asked_for(page: headless.Browser) -> None:
    put(page, top="3")
    rank(page)
    assert len(texts(page, "li")) == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"query": "  "}, "The query is empty."),
        ({"documents": "\n\n"}, "There are no documents."),
        ({"documents": '{"text": '}, "line 1: no JSON"),
        ({"top": "0"}, "top_n: Input should be greater than or equal to 1"),
        ({"other": "tiny", "top": "-1"}, "minilm: top_n: "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    page: headless.Browser, values: dict[str, str], said: str
) -> None:
    rank(page)
    put(page, **values)
    rank(page)
    assert error(page).startswith(said)
    assert "\n" not in error(page)
    assert page.run("return error.getAttribute('role')") == "alert"
    # the order before is still there
    assert len(texts(page, "li")) == 10


def test_a_key_is_asked_for_and_kept_for_the_tab(window: headless.Browser, locked: str) -> None:
    page = opened(window, locked)
    assert error(page) == "The server asks for an API key."
    assert page.run("return document.activeElement.id") == "key"
    put(page, key="guess")
    rank(page)
    assert error(page) == "The server does not know this API key."
    put(page, key="sesame")
    rank(page)
    assert error(page) == ""
    assert len(texts(page, "li")) == 10
    assert texts(page, "#locked") == []
    assert page.run("return JSON.stringify(localStorage)") == "{}"
    page.open(locked)
    until(page, "return document.getElementById('model').options.length")
    assert error(page) == ""
    page.run("sessionStorage.clear()")


def test_what_is_cut_is_marked(window: headless.Browser, locked: str) -> None:
    page = opened(window, locked)
    put(page, key="sesame", documents="krill\n" + "whales eat krill " * 400)
    rank(page)
    assert texts(page, ".cut") == ["✂ cut"]
    assert texts(page, ".warning") == ["1 of 2 documents are longer than the model reads"]


def test_a_server_that_is_gone_is_said_to_be(window: headless.Browser, tiny: str) -> None:
    with running(models=(f"tiny={tiny}",)) as server:
        page = opened(window, server.url)
        assert texts(page, "#other") == []
    rank(page)
    assert error(page).startswith("The server is gone: nothing answers at 127.0.0.1:")


def test_documents_are_text_and_nothing_else(page: headless.Browser, two: str) -> None:
    attacks = [
        "<script>window.owned = 1</script>",
        "<img src=x onerror='window.owned = 2'>",
        "<svg onload='window.owned = 3'></svg><a href='javascript:owned = 4'>x</a>",
        "<link rel=stylesheet href='https://elsewhere.example/x.css'>",
    ]
    titled = [{"text": text, "title": text} for text in attacks]
    put(page, query=attacks[0], documents=json.dumps(titled), other="tiny")
    rank(page)
    assert sorted(texts(page, "section:first-child .text")) == sorted(attacks)
    assert sorted(texts(page, "section:last-child .title")) == sorted(attacks)
    elements = "return document.querySelectorAll('main :is(script, img, svg, a, link)').length"
    assert page.run(elements) == 0
    assert page.run("return window.owned") is None
    asked = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert {name.split("?")[0] for name in asked} == {f"{two}/info", f"{two}/dear/rerank"}
    assert page.log() == []


def test_nothing_may_be_loaded_from_elsewhere(page: headless.Browser) -> None:
    page.run(
        "fetch('https://elsewhere.example/').catch(() => { window.refused = true });"
        "document.body.append(Object.assign(new Image(), {src: 'https://elsewhere.example/a.png'}))"
    )
    until(page, "return window.refused")
    said = " ".join(page.log())
    assert "connect-src 'self'" in said
    assert "img-src data:" in said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: headless.Browser, scheme: str) -> None:
    page.prefers(scheme)
    put(page, other="tiny", deadline="0.000001")
    page.run("document.querySelector('details').open = true")
    rank(page)
    assert page.run(headless.CONTRASTS) == []
    put(page, deadline="", documents="whales eat krill and more " * 40 + "\nkrill")
    rank(page)
    page.run("document.querySelector('li').dispatchEvent(new Event('mouseover', {bubbles: true}))")
    assert len(texts(page, "li.same")) == 2
    assert page.run(headless.CONTRASTS) == []
    put(page, query="")
    rank(page)
    assert page.run(headless.CONTRASTS) == []


def test_the_button_goes_against_the_system_and_is_remembered(
    page: headless.Browser, two: str
) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.prefers("dark")
    dark = page.run(colour)
    assert light != dark
    page.click("#theme")
    assert page.run(colour) == light
    page.open(two)
    assert page.run(colour) == light
    page.click("#theme")
    assert page.run(colour) == dark
    assert page.run("return theme.ariaPressed") == "true"


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_reaches_out_of_the_window(page: headless.Browser, width: int) -> None:
    page.size(width, 800, phone=width < 600)
    put(page, other="tiny", documents="w" * 500 + "\n" + "whales eat krill and " * 40)
    page.run("document.querySelector('details').open = true")
    rank(page)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(headless.OUTSIDE) == []
    # what was asked for is seen
    assert -1 < page.run("return said.getBoundingClientRect().top") < 800


def test_the_keyboard_does_it_all(page: headless.Browser) -> None:
    reached = []
    for _ in range(9):
        page.press(TAB)
        reached.append(page.run("return document.activeElement.id || 'limits'"))
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
    order = ["theme", "query", "choose", "example", "documents", "model", "other", "limits", "go"]
    assert reached == order
    page.press(ENTER)
    settled(page)
    assert len(texts(page, "li")) == 10
    put(page, documents="whales\nkrill")
    page.run("documents.focus()")
    page.devtools(
        "Input.dispatchKeyEvent", type="keyDown", key="Enter", modifiers=2, windowsVirtualKeyCode=13
    )
    settled(page)
    assert len(texts(page, "li")) == 2


def test_rows_move_unless_the_system_asks_for_less_motion(page: headless.Browser) -> None:
    page.run(
        "window.moves = 0; const own = Element.prototype.animate;"
        "Element.prototype.animate = function (...all) { moves++; return own.apply(this, all) }"
    )
    rank(page)
    assert page.run("return moves") == 0
    page.devtools("Emulation.setEmulatedMedia", features=[])
    rank(page)
    assert page.run("return moves") == 10


def test_what_is_under_way_can_be_stopped(page: headless.Browser) -> None:
    put(page, documents="\n".join(f"{n} whales eat krill in the cold sea" for n in range(900)))
    page.click("#go")
    assert texts(page, "#go") == ["Stop"]
    page.click("#go")
    settled(page)
    assert texts(page, "#go") == ["Rank"]
    assert texts(page, "li") == []
    assert error(page) == ""
