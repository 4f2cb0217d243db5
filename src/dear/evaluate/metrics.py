"""Retrieval measures over a run: what they are called, and what is averaged.

ir-measures gives names and parameters, dear.evaluate.counting the values. What is not computed
(REFUSED) is refused by name before anything is read.

Every judged query counts. One that the run lacks counts as zero, as trec_eval's `-c` does; one
without a relevant passage is zero too, whatever the run holds, as trec_eval has it.
"""

from __future__ import annotations

import ast
import difflib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dear.errors import ConfigError, DataError
from dear.evaluate.counting import FORMULAS, Counted
from dear.notices import warn
from dear.records import MADE, Judgements, Run

logger = logging.getLogger(__name__)

MEASURES: tuple[str, ...] = (
    *("nDCG@1", "nDCG@5", "nDCG@10"),
    *("MRR@10", "MAP", "R@100", "judged@10"),
)
"""What is reported unless something else is asked for."""

COMPARED = "nDCG@10"
"""By which of these runs are compared."""

# how our tables spell what ir-measures calls otherwise
_SPELLINGS = {"RR": "MRR", "AP": "MAP", "Judged": "judged"}

BY_IR_MEASURES = ("Compat",)
"""Computed by ir-measures itself: its code is right for any ids, and needs them."""

_SUBTOPICS = "it needs judgements of subtopics, which no format read here holds"
_CWL = "it needs cwl_eval's model of a user, which is not part of DeAR"
_SUM = "it is a count to be summed, not a value to be averaged and compared"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("ERR_IA", "nERR_IA", "alpha_DCG", "alpha_nDCG", "NRBP", "nNRBP", "AP_IA", "P_IA"),
        _SUBTOPICS,
    ),
    "StRecall": _SUBTOPICS,
    **dict.fromkeys(("BPM", "SDCG", "INST", "INSQ", "NERR8", "NERR9", "NERR10", "NERR11"), _CWL),
    **dict.fromkeys(("NumQ", "NumRel", "NumRet"), _SUM),
    "infAP": "it needs sampled judgements, whose grade of -1 counts as not relevant here",
}
"""By ir-measures' name: why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A measure under its canonical name (`nDCG@10`, `MAP`), with ir-measures' value for it."""

    name: str
    definition: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One run against one set of judgements.

    means: measure → mean over all judged queries.  per_query: measure → query id → value, the
    same judged queries for every measure.  missing: judged queries for which the run ranks
    nothing; they count as zero in both.  unjudged: number of queries in the run that have no
    judgements; they count nowhere.
    """

    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    missing: tuple[str, ...] = ()
    unjudged: int = 0

    @classmethod
    def of(
        cls,
        per_query: dict[str, dict[str, float]],
        *,
        missing: tuple[str, ...] = (),
        unjudged: int = 0,
    ) -> Evaluation:
        """With the means taken from `per_query`, whose measures hold one query each at least."""
        means = {
            measure: math.fsum(values.values()) / len(values)
            for measure, values in per_query.items()
        }
        return cls(means=means, per_query=per_query, missing=missing, unjudged=unjudged)


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Names, in any case, to measures; the second of two equal ones is dropped.

    Known are the measures of ir-measures with their parameters, as in `P(rel=2)@5`, but for those
    in REFUSED; docs/measures.md lists all. ConfigError: a measure that is refused or unknown
    (the nearest known one is named), a parameter out of range.
    """
    measures = [_parse_measure(name) for name in names]
    return list({measure.name: measure for measure in measures}.values())


def evaluate(
    run: Run,
    judgements: Judgements,
    measures: Iterable[str] = MEASURES,
    *,
    min_grade: int = 1,
) -> Evaluation:
    """Every measure for every judged query.

    min_grade: the lowest grade that counts as relevant in binary measures (MRR, MAP, R, P, …)
    that name none themselves; TREC Deep Learning takes 2. nDCG uses the grades as gains, and
    grades below zero gain nothing.
    Passages count in the order in which the rankings hold them; the scores are not looked at.
    Raises DataError if no query is judged, ConfigError for an unknown measure.
    """
    if min_grade < 1:
        raise ConfigError(f"min_grade is {min_grade}: grades below 1 are never relevant")
    # pytrec_eval crashes the process on grades of -2 and below
    grades = {
        query_id: {passage_id: max(grade, 0) for passage_id, grade in judged.items()}
        for query_id, judged in judgements.items()
        if judged
    }
    if not grades:
        raise DataError("no query is judged: there is nothing to evaluate")
    tell_of_made(grades)
    wanted = parse_measures(measures)
    scored = {q: run[q].passage_ids for q in grades if q in run and len(run[q])}
    unjudged = sum(query_id not in grades for query_id in run)
    if not scored:
        logger.warning("none of the run's %d queries is judged: everything is zero", len(run))
    per_query = {m.name: dict.fromkeys(grades, 0.0) for m in wanted}
    for name, values in _values(wanted, grades, scored, min_grade):
        per_query[name].update(values)
    return Evaluation.of(
        per_query,
        missing=tuple(query_id for query_id in grades if query_id not in scored),
        unjudged=unjudged,
    )


def made_note(query_ids: Iterable[str]) -> str | None:
    """What there is to say of queries that were made from documents: no number over them is an
    evaluation. None where there are none."""
    made = sum(query_id.startswith(MADE) for query_id in query_ids)
    if not made:
        return None
    return (
        f"{made:,} of the queries were made from documents ({MADE}…): they are to train on, "
        "and numbers over them say nothing of real queries"
    )


def tell_of_made(query_ids: Iterable[str]) -> None:
    """`made_note` as a warning."""
    note = made_note(query_ids)
    if note is not None:
        warn(note)


def _values(
    measures: Iterable[Measure],
    grades: Mapping[str, Mapping[str, int]],
    scored: Mapping[str, Sequence[str]],
    min_grade: int,
) -> Iterator[tuple[str, Iterable[tuple[str, float]]]]:
    """(name of a measure, some of its values by query id), for every query in `scored`."""
    if not scored:
        return
    counted = Counted.of(scored, grades)
    for measure in measures:
        definition = _at_grade(measure.definition, min_grade)
        if definition.NAME in FORMULAS:
            found = counted.values(definition).tolist()
            yield measure.name, zip(scored, found, strict=True)
        else:
            yield measure.name, _by_ir_measures(definition, grades, scored)


def _by_ir_measures(
    definition: Any,
    grades: Mapping[str, Mapping[str, int]],
    scored: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, float]]:
    import ir_measures

    # n, n - 1, …, 1: the order evaluated is the order written, whatever breaks ties
    scores = {
        q: dict(zip(ids, map(float, range(len(ids), 0, -1)), strict=True))
        for q, ids in scored.items()
    }
    for metric in ir_measures.iter_calc([definition], grades, scores):
        if metric.query_id in scored:
            yield metric.query_id, float(metric.value)


def _at_grade(definition: Any, min_grade: int) -> Any:
    """The measure with `min_grade` as its relevance level, where it has one and sets none."""
    level = definition.SUPPORTED_PARAMS.get("rel")
    if level is None or level.default != 1 or "rel" in definition.params or min_grade == 1:
        return definition
    return definition(rel=min_grade)


def _parse_measure(name: str) -> Measure:
    """`Base(parameter=value, …)@cutoff`, where all but the base may be left out.

    ir-measures' own parser needs syntax nodes that Python 3.14 has dropped.
    """
    try:
        base, parameters, cutoff = _split_name(name)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"measure {name!r} does not read like nDCG@10 or P(rel=2)@5") from error
    definition = _look_up(base)
    if definition.NAME in REFUSED:
        raise ConfigError(f"measure {name!r} is not computed: {REFUSED[definition.NAME]}")
    at = definition.AT_PARAM
    if cutoff is not None:
        parameters[at] = cutoff
    elif definition.SUPPORTED_PARAMS.get(at) and definition.SUPPORTED_PARAMS[at].required:
        raise ConfigError(f"measure {name!r} needs a {at}, as in {name}@10")
    for key, value in parameters.items():
        known = definition.SUPPORTED_PARAMS.get(key)
        if known is not None and known.dtype is float and type(value) is int:
            parameters[key] = float(value)
    definition = definition(**parameters)
    try:
        definition.validate_params()
    except AssertionError as error:
        raise ConfigError(f"measure {name!r}: {error}") from error
    _check_values(name, definition)
    official: str = definition.NAME
    spelled = repr(definition).replace(official, _SPELLINGS.get(official, official), 1)
    return Measure(name=spelled, definition=definition)


def _check_values(name: str, definition: Any) -> None:
    """ConfigError for a parameter outside of its range; types are ir-measures' to check."""
    parameters = definition.params
    if parameters.get("cutoff", 1) < 1:
        raise ConfigError(f"measure {name!r}: the cutoff must be 1 or more")
    if parameters.get("rel", 1) < 1:
        raise ConfigError(f"measure {name!r}: grades below 1 are never relevant")
    if definition.NAME == "RBP" and "rel" not in parameters:
        raise ConfigError(f"measure {name!r} needs a lowest relevant grade, as in RBP(rel=1)")
    if not 0 < parameters.get("p", 0.5) < 1:
        raise ConfigError(f"measure {name!r}: p must lie between 0 and 1")
    if not 0 <= parameters.get("recall", 0) <= 1:
        raise ConfigError(f"measure {name!r}: the recall must lie between 0 and 1")
    if not 0 <= parameters.get("beta", 1) < math.inf:
        raise ConfigError(f"measure {name!r}: beta must be 0 or more")
    gains = parameters.get("gains", {})
    if not all(isinstance(gain, int) and gain >= 0 for gain in gains.values()):
        raise ConfigError(f"measure {name!r}: gains must be whole numbers, 0 or more")


def _look_up(base: str) -> Any:
    """ir-measures' measure of that name, in any case."""
    from ir_measures.measures import registry

    known: dict[str, str] = {}
    for registered in registry:
        known.setdefault(registered.lower(), registered)
    if base.lower() in known:
        return registry[known[base.lower()]]
    close = difflib.get_close_matches(base.lower(), known, n=1)
    if close:
        raise ConfigError(f"unknown measure {base!r}; did you mean {known[close[0]]!r}?")
    raise ConfigError(
        f"unknown measure {base!r}; known: {', '.join(MEASURES)}; docs/measures.md lists all"
    )


def _split_name(name: str) -> tuple[str, dict[str, Any], Any]:
    """Base, parameters and cutoff (None where there is none); ValueError or SyntaxError."""
    node: ast.expr = ast.parse(name.strip(), mode="eval").body
    cutoff: Any = None
    parameters: dict[str, Any] = {}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        cutoff = ast.literal_eval(node.right)
        node = node.left
    if isinstance(node, ast.Call) and not node.args:
        parameters = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
        node = node.func
    if not isinstance(node, ast.Name):
        raise ValueError("no name")
    return node.id, parameters, cutoff
