"""Every measured number of the documents stands in a results file that its section names.

Measured means a decimal number of three digits or more outside code. What `benchmarks/proof.py`
runs writes the results files (test_proof.py: each has its script).
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# the log records development, whose figures no script gives back
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "LOG.md")]
NUMBER = re.compile(r"(?<![\w.:/])[0-9][0-9,]*\.[0-9]+(?![\w.]*[0-9])")
SCALES = {
    "as it is": 1.0,
    "a share in percent": 100.0,
    "seconds in milliseconds": 1000.0,
    "bytes in MiB": 2**-20,
    "bytes in GiB": 2**-30,
    "MiB in GiB": 2**-10,
    "seconds in minutes": 1 / 60,
    "a count in millions": 1e-6,
}
ELSEWHERE = {
    "README.md 3.11": "the version of Python",
    "README.md 2508.16998": "arXiv's number of the paper",
    "evaluation.md 0.7439": "published, src/dear/evaluate/published.toml",
    "evaluation.md 0.7384": "published, src/dear/evaluate/published.toml",
    "evaluation.md 0.6839": "published, src/dear/evaluate/published.toml",
    "evaluation.md 0.6846": "published, src/dear/evaluate/published.toml",
    "gpu.md 72.5": "published, the model's card",
    "listwise.md 0.6682": "tests/evaluate/test_real_runs.py asserts it",
    "models.md 0.757": "published, Tevatron",
    "msmarco.md 2407.15831": "arXiv's number of a paper",
    "scale.md 0.5625": "4 bits and a shared scale, by definition",
}
"""Numbers that no results file holds, with where they come from."""

PAGES_OF_SCRIPTS = {
    "measures.md": "benchmarks/measure_table.py writes the page",
    "models.md": "the memory of weights is counted from shapes by src/dear/plan/shapes.py",
}


class Claim(NamedTuple):
    page: Path
    line: int
    number: str
    results: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {self.number}"


def claims(page: Path) -> Iterator[Claim]:
    """The numbers of a page with the results files that its section links, else the page."""
    text = page.read_text("utf-8")
    sections = re.split(r"(?m)^(?=##? )", text)
    line = 1
    for section in sections:
        linked = _linked(page, section) or _linked(page, text)
        code = False
        for content in section.splitlines():
            code ^= content.startswith("```")
            prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", content)
            if not code or page.name == "README.md":
                for number in NUMBER.findall(prose):
                    if len(re.sub("[.,]", "", number).lstrip("0")) >= 3:
                        yield Claim(page, line, number, linked)
            line += 1


def _linked(page: Path, text: str) -> tuple[Path, ...]:
    found = re.findall(r"results/([\w/]+\.json)", text)
    return tuple(sorted({RESULTS / name for name in found}))


@cache
def numbers(results: Path) -> list[float]:
    """All numbers of a results file, without their signs, sorted."""

    def flat(value: Any) -> Iterator[float]:
        if isinstance(value, dict):
            for inner in value.values():
                yield from flat(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from flat(inner)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield abs(float(value))

    return sorted(flat(json.loads(results.read_text("utf-8"))))


def stands_in(number: str, results: Path) -> bool:
    """Whether a value of the file, in some unit of SCALES, is written as `number`."""
    plain = number.replace(",", "")
    value, half = float(plain), 0.51 * 10.0 ** -len(plain.partition(".")[2])
    known = numbers(results)
    for scale in SCALES.values():
        at = bisect.bisect_left(known, (value - half) / scale)
        if at < len(known) and known[at] <= (value + half) / scale:
            return True
    return False


def sourceless(page: Path) -> list[Claim]:
    return [
        claim
        for claim in claims(page)
        if f"{page.name} {claim.number}" not in ELSEWHERE
        and not any(stands_in(claim.number, results) for results in claim.results)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_number_stands_in_a_results_file(page: Path) -> None:
    if page.name in PAGES_OF_SCRIPTS:
        script = re.findall(r"(?:benchmarks|src)/[\w/]+\.py", PAGES_OF_SCRIPTS[page.name])[0]
        assert (ROOT / script).is_file()
        return
    assert sourceless(page) == []


def test_no_exception_is_left_over() -> None:
    said = {f"{page.name} {claim.number}" for page in PAGES for claim in claims(page)}
    assert set(ELSEWHERE) - said == set()


def test_a_wrong_number_would_be_noticed() -> None:
    """Numbers of four digits, the last of them wrong: few are by chance in their file."""
    noticed = []
    for claim in claims(ROOT / "docs" / "results.md"):
        digits = re.sub("[.,]", "", claim.number).lstrip("0")
        if len(digits) >= 4 and claim.results and f"results.md {claim.number}" not in ELSEWHERE:
            last = len(claim.number) - 1
            wrong = claim.number[:last] + str((int(claim.number[last]) + 4) % 10)
            noticed.append(not any(stands_in(wrong, results) for results in claim.results))
    assert len(noticed) > 100
    assert sum(noticed) / len(noticed) > 0.8
