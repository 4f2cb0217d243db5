"""`dear reason`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dear.artifacts import check_folder, versions
from dear.backends import open_backend
from dear.checkpoints.registry import check_model
from dear.cli.models import (
    BatchOption,
    ContractOption,
    DeviceOption,
    DTypeOption,
    InstructionOption,
    PassageTokensOption,
    RevisionOption,
    opening_options,
)
from dear.cli.output import count, duration, rate, summary
from dear.cli.reason_work import Work
from dear.data.collections import list_collections, open_collection
from dear.data.formats import read_run
from dear.digests import Input, Inputs
from dear.errors import ConfigError, DataError, nearest
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.reason.files import write_set
from dear.reason.select import LEAK_PASSAGES, NOTHING, held_out
from dear.steps.inputs import find_run

if TYPE_CHECKING:
    from dear.backends import Backend
    from dear.data.collections import Collection
    from dear.prompts.listwise import ListwisePrompt
    from dear.reason.sample import Drawn
    from dear.reason.select import HeldOut, Selected
    from dear.records import Judgements, Ranking
    from dear.scoring.opening import PairModel

KEEP_TAU, KEEP_NDCG = 0.3, 0.5
ANSWERS = "answers.jsonl"


def reason(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The reasoning set's folder.")
    ],
    collection: Annotated[
        str | None,
        typer.Argument(metavar="COLLECTION", help="A name of `dear collections`, or a folder."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Candidates: a file, or one of the collection's runs."),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Of the run and the judgements.")
    ] = "train",
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="The order: soft labels of `dear label`; several are summed."
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="W", help="One for each --labels.", show_default="1"),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Scores sentences, and passages where there are no labels."
        ),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(metavar="BACKEND", help="Writes thought and order instead of the teacher."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the LLM's answers are kept.", show_default=f"DIR/{ANSWERS}"
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="Select from DeAR-COT rows, chats or lists instead."
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, metavar="N", help="Lists for each query.")] = 1,
    size: Annotated[str, typer.Option(metavar="N-N", help="Passages in a list.")] = "4-20",
    queries: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N queries, evenly spread.")
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=2, metavar="N", help="Candidates of a query to draw from.")
    ] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the lists.")] = 0,
    prompt: Annotated[
        str, typer.Option(metavar="NAME", help="reasoning, list, rankvicuna or rankgpt.")
    ] = "reasoning",
    max_words: Annotated[
        int | None,
        typer.Option(
            min=5, metavar="N", help="Words of a passage in a prompt.", show_default="the prompt's"
        ),
    ] = None,
    evidence: Annotated[
        int, typer.Option(min=0, metavar="N", help="Quote the best N passages.")
    ] = 3,
    quote_words: Annotated[
        int, typer.Option(min=5, metavar="N", help="Words of a quote, at most.")
    ] = 30,
    keep_tau: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Keep orders with Kendall's tau of T to the teacher.",
            show_default=f"{KEEP_TAU}",
        ),
    ] = None,
    keep_ndcg: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Keep orders with nDCG@10 of N by judgements.",
            show_default=f"{KEEP_NDCG} without a teacher",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="COLLECTION", help="One more whose test split may not leak in."),
    ] = None,
    leak_passages: Annotated[
        str, typer.Option(metavar="WHICH", help="Of test splits: relevant, judged or none.")
    ] = "relevant",
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Look for no test data at all.")
    ] = False,
    contract: ContractOption = None,
    instruction: InstructionOption = None,
    revision: RevisionOption = None,
    max_passage_tokens: PassageTokensOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    batch_tokens: BatchOption = None,
) -> None:
    """Write the reasoning set: lists with thought and order. Goes on where it was stopped."""
    from dear.reason.extractive import Evidence
    from dear.reason.sample import SamplePlan, parse_sizes, sample
    from dear.reason.select import Threshold, select_all

    folders, weights = tuple(labels or ()), tuple(weight or ())
    _check_sources(collection, run, folders, weights, teacher, llm, source, ledger=bool(ledger))
    options = opening_options(
        dtype, device, batch_tokens, contract, instruction, revision, max_passage_tokens
    )
    template = _template(prompt, max_words)
    plan = SamplePlan(
        sizes=parse_sizes(size), per_query=examples, top_k=top_k, queries=queries, seed=seed
    )
    quotes = Evidence(passages=evidence, max_words=quote_words, passage_words=template.max_words)
    threshold = Threshold(
        keep_tau=KEEP_TAU if keep_tau is None else keep_tau,
        keep_ndcg=KEEP_NDCG if keep_ndcg is None and not (folders or teacher) else keep_ndcg,
    )
    backend = None if llm is None else _backend(llm)
    check_folder(output)
    opened = None if collection is None else _open(collection)
    held = _held_out(opened, against or (), leak_passages, allow=allow_leaks)
    work = Work(output, lambda: _model(teacher or "", options))
    drawn: Drawn | None = None
    if source is not None:
        answers = work.read(source, teacher=teacher is not None)
    else:
        assert opened is not None
        judged = opened.has_judgements(split)
        if threshold.keep_ndcg is not None and not judged:
            raise ConfigError(
                f"nothing to check the order with: {opened.name} has no judgements for split "
                f"{split!r}; give --labels or a --teacher"
            )
        judgements = opened.judgements(split) if judged else None
        scores, check = work.labels(folders, weights, opened)
        work.inputs |= _inputs(opened, run or "", split, judgements)
        drawn = sample(
            opened,
            _run(opened, run or "", split),
            plan,
            labels=scores,
            check=check,
            judgements=judgements,
            need_relevant=threshold.keep_ndcg is not None,
            leaking_queries=held.queries,
            leaking_passages=held.passages,
        )
        if not drawn.questions:
            raise DataError(f"not one list could be drawn: {_listed(drawn.skipped)}{_hint(drawn)}")
        if backend is None:
            answers = work.extract(drawn.questions, quotes)
        else:
            answers = work.ask(
                drawn.questions,
                backend,
                template,
                ledger=ledger or output / ANSWERS,
                teacher=teacher is not None,
            )
    selected = select_all(answers, threshold, held)
    report = {
        "collection": None if opened is None else opened.name,
        **_counts(selected, drawn),
        "settings": {
            "run": run,
            "split": split,
            "labels": folders,
            "weights": weights,
            "llm": llm,
            "from": source,
            **asdict(plan),
            "prompt": prompt,
            "max_words": template.max_words,
            "evidence": evidence,
            "quote_words": quote_words,
            **asdict(threshold),
            "leak_passages": "allowed" if allow_leaks else leak_passages,
        },
        "generator": work.generator,
        "inputs": Inputs(work.inputs).to_dict(),
        "held_out": {
            "collections": held.collections,
            "queries": len(held.queries),
            "passages": len(held.passages),
        },
        "versions": versions(),
    }
    write_set(output, selected.examples, template, report)
    for line in _lines(output, selected, drawn, work):
        summary(line)


def _check_sources(
    collection: str | None,
    run: str | None,
    labels: Sequence[str],
    weights: Sequence[float],
    teacher: str | None,
    llm: str | None,
    source: str | None,
    *,
    ledger: bool,
) -> None:
    """ConfigError for what does not go together, before any work."""
    if source is not None:
        given = {"--run": run, "--labels": labels, "--llm": llm}
        wrong = next((name for name, value in given.items() if value), None)
        if wrong is not None:
            raise ConfigError(f"--from reads lists that are there: no {wrong} beside it")
    elif collection is None or run is None:
        missing = "a COLLECTION" if collection is None else "a --run"
        raise ConfigError(f"nothing to draw lists from: give {missing}, or --from FILE")
    elif llm is None and teacher is None:
        why = "to choose the evidence" if labels else "for the order and the evidence"
        raise ConfigError(
            f"no --teacher {why}: give one, such as biencoder:minilm-l6, or an --llm instead"
        )
    if ledger and not llm:
        raise ConfigError("--ledger keeps the answers of an --llm")
    if weights and len(weights) != len(labels):
        raise ConfigError(f"{len(labels)} --labels, {len(weights)} --weight: one for each")
    if teacher is not None:
        check_model(teacher)


def _model(name: str, options: dict[str, Any]) -> PairModel:
    from dear.scoring.opening import open_model

    return open_model(name, **options)


def _template(name: str, max_words: int | None) -> ListwisePrompt:

    if name not in LISTWISE_PROMPTS:
        raise ConfigError(f"--prompt {name!r}{nearest(name, LISTWISE_PROMPTS)}")
    template = LISTWISE_PROMPTS[name]
    if template.ends:
        raise ConfigError(
            f"--prompt {name!r} does not say what to answer: it is for models that are trained on "
            'it (listwise.prompt in a recipe); lists are written with "reasoning" or another'
        )
    return template if max_words is None else replace(template, max_words=max_words)


def _backend(name: str) -> Backend:

    return open_backend(name)


def _open(collection: str) -> Collection:

    return open_collection(collection)


def _run(opened: Collection, run: str, split: str) -> Mapping[str, Ranking]:

    return read_run(find_run(opened, run, split), ties="written")


def _inputs(
    opened: Collection, run: str, split: str, judgements: Judgements | None
) -> dict[str, Input]:
    """What the lists are drawn from."""
    from dear.data.inputs import corpus_input, judgements_input, run_input

    found = {"texts": corpus_input(opened), "run": run_input(find_run(opened, run, split))}
    if judgements is not None:
        found["judgements"] = judgements_input(judgements, f"{opened.name}, {split}")
    return found


def _held_out(
    opened: Collection | None, against: Sequence[str], passages: str, *, allow: bool
) -> HeldOut:
    """The test data of this collection, of every known one that is here, and of `against`."""

    if passages not in LEAK_PASSAGES:
        raise ConfigError(f"--leak-passages {passages!r}{nearest(passages, LEAK_PASSAGES)}")
    if allow:
        if against:
            raise ConfigError("--allow-leaks looks for no test data: no --against beside it")
        return NOTHING
    # the one that is made on the spot takes longer than all the others, and is in none of them
    here = [c.entry.name for c in list_collections() if c.folder is not None]
    others = [open_collection(name) for name in dict.fromkeys([*here, *against])]
    if opened is not None and opened.name not in {c.name for c in others}:
        others.append(opened)
    return held_out(others, passages)


def _counts(selected: Selected, drawn: Drawn | None) -> dict[str, Any]:
    sizes = [len(example.passages) for example in selected.examples]
    counts: dict[str, Any] = {
        "kept": len(sizes),
        "dropped": dict(sorted(selected.dropped.items())),
        "passages_mean": round(sum(sizes) / max(1, len(sizes)), 2),
    }
    if drawn is not None:
        counts["queries_without_list"] = dict(sorted(drawn.skipped.items()))
        counts["candidates"] = drawn.candidates
        counts["candidates_left_out"] = drawn.left_out
    return counts


def _lines(folder: Path, selected: Selected, drawn: Drawn | None, work: Work) -> Iterator[str]:
    if drawn is not None and drawn.skipped:
        skipped = count(drawn.skipped.total(), "query")
        yield f"{skipped} without a list ({_listed(drawn.skipped)}){_hint(drawn)}"
    if drawn is not None and drawn.left_out:
        yield (
            f"{drawn.left_out:,} of {count(drawn.candidates, 'candidate')} left out, because a "
            "test split holds them"
        )
    if selected.dropped:
        yield f"{count(selected.dropped.total(), 'example')} dropped ({_listed(selected.dropped)})"
    yield from work.lines
    kept = len(selected.examples)
    mean = sum(len(e.passages) for e in selected.examples) / kept
    there = selected.answers - work.new
    now = f" in {duration(work.seconds)} ({rate(work.new, work.seconds)})" if work.new else ""
    before = f", {there:,} were there" if work.seconds and there > 0 else ""
    yield f"{folder}: {count(kept, 'example')} of {mean:.1f} passages{now}{before}"


def _listed(reasons: Mapping[Any, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{reason} {number:,}" for reason, number in ordered) or "no query"


def _hint(drawn: Drawn) -> str:
    from dear.reason.sample import LEAKS, NO_LABELS

    queries = drawn.skipped.total() + len({q.query.id for q in drawn.questions})
    if drawn.skipped[LEAKS] * 4 > queries:
        return "; --leak-passages none looks for test queries alone"
    if drawn.skipped[NO_LABELS] * 4 > queries:
        return "; `dear label` makes labels for the run"
    return ""
