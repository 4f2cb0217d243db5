"""The list of queries: rankings side by side, what moved, what is relevant, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dear.evaluate.study import Entry
from dear.records import Ranking
from dear.report.markup import Html, tag
from dear.report.parts import ReportPart
from dear.report.rows import signed

DEPTH = 10
"""Places of a ranking that are shown."""

_LABEL, _THOUGHT = 56, 1500


class Browser:
    """What is shown of one collection."""

    def __init__(
        self, part: ReportPart, name: str, query_ids: Sequence[str], *, text_chars: int
    ) -> None:
        """name: starts the ids.  text_chars: characters of a passage, at most."""
        self.part, self.name, self.query_ids = part, name, query_ids
        self.text_chars = text_chars
        self.rerankers = part.rerankers
        self.differences = [part.study.differences(entry) for entry in self.rerankers]

    def html(self) -> Html:
        """Controls, hidden until the script shows them, and a <details> for each query."""
        queries = [self._query(number, q) for number, q in enumerate(self._by_harm())]
        return tag(
            "div",
            self._controls(),
            tag("div", *queries, class_="queries"),
            class_="browser",
        )

    def _by_harm(self) -> list[str]:
        """Most hurt first, by the mean of the rerankers' differences."""
        if not self.rerankers:
            return list(self.query_ids)
        return sorted(self.query_ids, key=lambda q: (sum(d[q] for d in self.differences), q))

    def _controls(self) -> Html:
        name, entries = self.name, self.rerankers
        runs = [tag("option", e.name, value=str(i)) for i, e in enumerate(entries)]
        orders = [
            tag("option", text, value=value)
            for value, text in (("hurt", "most hurt first"), ("helped", "most helped first"))
        ]
        kept = [
            tag("option", text, value=value)
            for value, text in (
                ("all", "all"),
                ("lost", "that lose"),
                ("gained", "that gain"),
                ("same", "that stay"),
            )
        ]
        chosen = [
            _field("Run", tag("select", *runs, id=f"{name}-run")),
            _field("Order", tag("select", *orders, id=f"{name}-order")),
            _field("Queries", tag("select", *kept, id=f"{name}-kept")),
        ]
        search = tag("input", type="search", id=f"{name}-find", autocomplete="off")
        return tag(
            "div",
            *(chosen if entries else ()),
            _field("Find", search),
            tag("output", "", id=f"{name}-count", aria_live="polite"),
            class_="controls",
            hidden=True,
        )

    def _query(self, number: int, query_id: str) -> Html:
        name = f"{self.name}q{number}"
        part, study = self.part, self.part.study
        text = part.queries.get(query_id) or query_id
        shown = [e for e in study.entries if query_id in e.source.run]
        numbers = {
            p: i
            for i, p in enumerate(
                dict.fromkeys(p for e in shown for p in e.source.run[query_id].passage_ids[:DEPTH])
            )
        }
        values = [found[query_id] for found in self.differences]
        grades = study.judgements[query_id]
        chips = [
            tag(
                "span",
                f"{_arrow(d)} {e.name} {signed(d, 3)}",
                class_=f"chip {_side(d)}",
                data_run=str(i),
            )
            for i, (e, d) in enumerate(zip(self.rerankers, values, strict=True))
        ]
        relevant = sum(g >= study.min_grade for g in grades.values())
        lists = [self._list(e, query_id, name, numbers, grades) for e in study.entries]
        return tag(
            "details",
            tag("summary", tag("span", text, class_="asked"), tag("span", *chips, class_="chips")),
            tag("p", f"Query {query_id}; {relevant} relevant.", class_="small"),
            tag("div", *lists, class_="lists", role="region", aria_label="Rankings", tabindex="0"),
            *self._thoughts(query_id),
            self._texts(name, numbers, grades),
            class_="query",
            data_d=" ".join(f"{d:.6g}" for d in values),
            data_q=f"{query_id} {text}".lower(),
        )

    def _list(
        self,
        entry: Entry,
        query_id: str,
        name: str,
        numbers: Mapping[str, int],
        grades: Mapping[str, int],
    ) -> Html:
        ranking = entry.source.run.get(query_id)
        value = entry.evaluation.per_query[self.part.measure][query_id]
        before = entry.source.first_stage
        earlier = None if before is None else self.part.study.entry(before).source.run.get(query_id)
        which = None if before is None else str(self.rerankers.index(entry))
        head = tag("h4", tag("b", entry.name), f" {self.part.measure} {value:.3f}")
        if ranking is None or not len(ranking):
            return tag("section", head, tag("p", "ranks nothing"), class_="ranked", data_run=which)
        places = {} if earlier is None else _places(earlier)
        later = {} if before is not None else self._later(entry, query_id)
        items = [
            tag(
                "li",
                tag("a", self._label(p), href=f"#{name}p{numbers[p]}"),
                self._grade(grades.get(p)),
                *(() if earlier is None else (_moved(places.get(p), place),)),
                *(_went(where.get(p), place, which) for which, where in later.items()),
                class_="rel" if self._is_relevant(grades.get(p)) else None,
            )
            for place, p in enumerate(ranking.passage_ids[:DEPTH], 1)
        ]
        return tag("section", head, tag("ol", *items), class_="ranked", data_run=which)

    def _label(self, passage_id: str) -> str:
        passage = self.part.passages.get(passage_id)
        if passage is None:
            return passage_id
        return _cut(passage.title or passage.text, _LABEL) or passage_id

    def _grade(self, grade: int | None) -> Html:
        if grade is None:
            return tag("small", "not judged")
        return tag("small", f"{'★ ' if self._is_relevant(grade) else ''}grade {grade}")

    def _is_relevant(self, grade: int | None) -> bool:
        return grade is not None and grade >= self.part.study.min_grade

    def _later(self, first: Entry, query_id: str) -> dict[str, dict[str, int]]:
        """Number of a reranker of this first stage → passage id → its place there."""
        return {
            str(number): _places(entry.source.run[query_id])
            for number, entry in enumerate(self.rerankers)
            if entry.source.first_stage == first.name and query_id in entry.source.run
        }

    def _thoughts(self, query_id: str) -> list[Html]:
        return [
            tag(
                "details",
                tag("summary", f"What {entry.name} wrote before it ranked"),
                *(tag("p", _cut(text, _THOUGHT)) for text in texts),
                class_="thought",
            )
            for entry in self.part.study.entries
            if (texts := self.part.thoughts.get(entry.name, {}).get(query_id))
        ]

    def _texts(self, name: str, numbers: Mapping[str, int], grades: Mapping[str, int]) -> Html:
        rows = [
            tag(
                "div",
                tag(
                    "dt",
                    tag("b", passage.title if passage else ""),
                    " ",
                    tag("code", p),
                    " ",
                    self._grade(grades.get(p)),
                ),
                tag("dd", _cut(passage.text, self.text_chars) if passage else "no text at hand"),
                id=f"{name}p{number}",
            )
            for p, number in numbers.items()
            for passage in (self.part.passages.get(p),)
        ]
        many = f"The {len(numbers)} passages" if len(numbers) != 1 else "The passage"
        return tag("details", tag("summary", many), tag("dl", *rows), class_="texts")


def _passages_shown(part: ReportPart, query_ids: Sequence[str]) -> set[str]:
    """The ids of all passages that the list of these queries holds."""
    return {
        p
        for entry in part.study.entries
        for q in query_ids
        if q in entry.source.run
        for p in entry.source.run[q].passage_ids[:DEPTH]
    }


def _field(name: str, control: Html) -> Html:
    return tag("label", tag("span", name), control)


def _places(ranking: Ranking) -> dict[str, int]:
    return {p: place for place, p in enumerate(ranking.passage_ids, 1)}


def _moved(before: int | None, now: int) -> Html:
    """How a passage came to its place."""
    if before is None:
        return tag("i", "new")
    if before == now:
        return tag("i", "=")
    arrow, side = ("▲", "up") if before > now else ("▼", "down")
    return tag("i", f"{arrow} {abs(before - now)}", class_=side)


def _went(after: int | None, now: int, run: str) -> Html:
    """Where a passage of the first stage is afterwards."""
    if after is None:
        return tag("i", "→ gone", class_="down", data_run=run)
    side = "up" if after < now else "down" if after > now else None
    return tag("i", f"→ {after}", class_=side, data_run=run)


def _arrow(difference: float) -> str:
    return "▲" if difference > 0 else "▼" if difference < 0 else "="


def _side(difference: float) -> str:
    return "gain" if difference > 0 else "loss" if difference < 0 else "same"


def _cut(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"
