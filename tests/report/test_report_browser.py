"""The page in a real Chromium: with and without scripts, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headless
import pytest
from report_cases import small_report, small_study

from dear.report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(headless.missing()), reason=headless.missing()),
]

TAB, ENTER = "\ue004", "\ue007"


@pytest.fixture(scope="module")
def window() -> Iterator[headless.Browser]:
    with headless.opened() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, small_report())
    return path


@pytest.fixture
def page(window: headless.Browser, file: Path) -> headless.Browser:
    window.scripts(True)
    window.prefers("light")
    window.size(1280, 900)
    window.open(file)
    window.run(
        "try { localStorage.clear() } catch {} delete document.documentElement.dataset.theme"
    )
    window.open(file)
    assert window.log() == []
    return window


def shown(page: headless.Browser) -> list[str]:
    """The queries of the first collection, as they are listed now."""
    found: list[str] = page.run(
        "return [...document.querySelector('.browser').querySelectorAll('.query')]"
        ".filter((q) => !q.hidden).map((q) => q.dataset.q.split(' ')[0])"
    )
    return found


def choose(page: headless.Browser, name: str, value: str) -> None:
    page.run(
        "const c = document.getElementById(arguments[0]); c.value = arguments[1];"
        "c.dispatchEvent(new Event(c.type === 'search' ? 'input' : 'change'))",
        name,
        value,
    )


def test_it_opens_without_an_error_a_request_or_a_foreign_script(page: headless.Browser) -> None:
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    assert page.run("return document.title").startswith("A report </script>")
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert page.run("return document.querySelectorAll('script').length") == 1


def test_a_script_that_got_in_would_not_run(page: headless.Browser) -> None:
    page.run(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1';"
        "document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        " '<img src=x onerror=\"window.owned = 2\">')"
    )
    assert page.run("return window.owned") is None
    page.log()


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_reaches_out_of_the_window(page: headless.Browser, width: int) -> None:
    page.size(width, 800, phone=width < 600)
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(headless.OUTSIDE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: headless.Browser, scheme: str) -> None:
    page.prefers(scheme)
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    assert page.run(headless.CONTRASTS) == []


def test_the_button_goes_against_the_system_and_is_remembered(
    page: headless.Browser, file: Path
) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.prefers("dark")
    dark = page.run(colour)
    assert light != dark
    page.click("#theme")
    assert page.run(colour) == light
    assert page.run("return document.getElementById('theme').ariaPressed") == "false"
    page.open(file)
    assert page.run(colour) == light
    page.click("#theme")
    assert page.run(colour) == dark
    assert page.run("return document.getElementById('theme').ariaPressed") == "true"


def test_queries_are_sorted_filtered_and_found(page: headless.Browser) -> None:
    study = small_study()
    helps = study.differences(study.entry("helps"))
    assert len(shown(page)) == 30
    found = [helps[q] for q in shown(page)]
    assert found == sorted(found)
    choose(page, "c0-order", "helped")
    found = [helps[q] for q in shown(page)]
    assert found == sorted(found, reverse=True)
    choose(page, "c0-kept", "lost")
    assert set(shown(page)) == {q for q, d in helps.items() if d < 0}
    choose(page, "c0-kept", "all")
    choose(page, "c0-find", "ABOUT q12")
    assert shown(page) == ["q12"]
    assert page.run("return document.getElementById('c0-count').textContent") == "1 of 30 shown"
    choose(page, "c0-find", "")
    choose(page, "c0-run", "1")
    hurts = study.differences(study.entry("hurts"))
    found = [hurts[q] for q in shown(page)]
    assert found == sorted(found, reverse=True)


def names(page: headless.Browser) -> Any:
    return page.run(
        "return [...document.querySelector('.query').querySelectorAll('section')]"
        ".filter((s) => s.checkVisibility()).map((s) => s.querySelector('b').textContent)"
    )


def test_a_query_opens_to_before_and_after_and_a_passage_to_its_text(
    page: headless.Browser,
) -> None:
    page.click(".query summary")
    assert names(page) == ["first", "helps"]
    choose(page, "c0-run", "1")
    page.run("document.querySelector('.query').open = true")
    assert names(page) == ["first", "hurts"]
    page.click(".query .ranked li:nth-child(2) a")
    text = page.run("return document.querySelector('.query .ranked li:nth-child(2) p').textContent")
    assert text.startswith("Passage ")
    page.click(".query .ranked li:nth-child(2) a")
    assert page.run("return document.querySelector('.query .ranked li:nth-child(2) p')") is None


def test_the_keyboard_reaches_the_results_and_shows_where_it_is(page: headless.Browser) -> None:
    page.press(TAB)
    assert page.run("return document.activeElement.className") == "skip"
    assert page.run("return document.activeElement.getBoundingClientRect().left") >= 0
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press(ENTER)
    assert page.run("return location.hash") == "#results"


def test_without_scripts_everything_can_be_read(page: headless.Browser, file: Path) -> None:
    page.scripts(False)
    page.open(file)
    seen = "return document.querySelector(arguments[0]).checkVisibility()"
    assert page.run(seen, "#c0-find") is False
    assert page.run(seen, "#theme") is False
    page.click(".query summary")
    assert len(names(page)) == 4
    page.click(".query .ranked li:nth-child(2) a")
    assert page.run("return document.querySelector(':target dd').checkVisibility()") is True
