"""Small studies with every kind of trouble in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dear.evaluate.published import PublishedRow
from dear.evaluate.study import RunSource, Study, study
from dear.records import Passage, Ranking, Run
from dear.report import Cost, Curve, Reliability, Report, ReportPart

EVIL = (
    "</script></style><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&|_$%\\"
)
"""Text that breaks out of HTML, Markdown and LaTeX where it is not escaped."""

PASSAGES = {
    f"d{i}": Passage(
        id=f"d{i}", text=f"Passage {i}. " + "Long words follow. " * 60, title=f"Title {i}"
    )
    for i in range(40)
} | {"evil": Passage(id="evil", text=EVIL, title=EVIL)}
DEPTH = 20


def ranked(query: str, ids: list[str]) -> Ranking:
    scores = tuple(float(len(ids) - i) for i in range(len(ids)))
    return Ranking(query_id=query, passage_ids=tuple(ids), scores=scores)


def queries(count: int) -> list[str]:
    return [f"q{n}" for n in range(count)]


def judgements(count: int) -> dict[str, dict[str, int]]:
    """One relevant passage (grade 2), one that is nearly (1), one that is not (0)."""
    return {
        q: {f"d{n % 20}": 2, f"d{(n + 1) % 20}": 1, "evil": 0} for n, q in enumerate(queries(count))
    }


def run(count: int, shift: int, *, depth: int = DEPTH, flaw: int = 7) -> Run:
    """The relevant passage `shift` places down; at the end of every `flaw`th query."""
    made = {}
    for n, q in enumerate(queries(count)):
        relevant = f"d{n % 20}"
        others = ["evil", *(f"d{(n + i) % 20}" for i in range(1, depth - 1))]
        place = depth if n % flaw == flaw - 1 else shift
        made[q] = ranked(q, [*others[:place], relevant, *others[place:]])
    return made


def small_study(count: int = 30, name: str = "animals", **options: object) -> Study:
    """A first stage, one that gains but for some queries, one that loses, one not to compare."""
    sources = [
        RunSource(name="first", run=run(count, 5, flaw=10**9)),
        RunSource(name="helps", run=run(count, 0), first_stage="first"),
        RunSource(name="hurts", run=run(count, 12, flaw=10**9), first_stage="first"),
        RunSource(name="other <b>", run=_elsewhere(count), first_stage="first"),
    ]
    return study(name, "test", judgements(count), sources, min_grade=2, **options)  # type: ignore[arg-type]


def _elsewhere(count: int) -> Run:
    return {
        q: ranked(q, [f"d{20 + (n + i) % 20}" for i in range(10)])
        for n, q in enumerate(queries(count))
    }


def small_part(count: int = 30, name: str = "animals") -> ReportPart:
    made = small_study(count, name)
    return ReportPart(
        study=made,
        queries={q: f"what about {q}" for q in made.query_ids} | {"q0": EVIL},
        passages=PASSAGES,
        costs={
            "helps": Cost(seconds=12.0, pairs=600, parameters=22_000_000),
            "hurts": Cost(seconds=1.5, pairs=600, joules=80),
        },
        thoughts={"helps": {"q0": [f"First {EVIL}", "then"]}},
        reliability=[
            Reliability(name="helps, platt", bins=((0.1, 0.2, 50), (0.8, 0.7, 9)), ece=0.11)
        ],
        published=[
            PublishedRow(
                system="RankOther",
                collection=name,
                measure="nDCG@10",
                value=0.9123,
                first_stage="BM25",
                depth=100,
                source="Somebody 2025",
                kind="published",
            )
        ],
    )


def small_report(count: int = 30, collections: int = 2) -> Report:
    parts = [small_part(count, name) for name in ("animals", "plants", "stones")[:collections]]
    curve = Curve(name="student", loss=((10, 1.0), (20, 0.5)), dev=((20, 0.7),))
    return Report(
        parts=parts,
        title=f"A report {EVIL}",
        curves=[curve],
        command="dear report out.html --study 'x y.toml'",
        versions={"dear-rerank": "0.1"},
    )


def with_file(part: ReportPart, path: Path) -> ReportPart:
    """The first run comes from this file."""
    first, *others = part.study.entries
    moved = replace(first, source=replace(first.source, path=path))
    return replace(part, study=replace(part.study, entries=(moved, *others)))
