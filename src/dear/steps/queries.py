"""Queries made from a collection's documents: a collection to train on, marked as made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dear import backends
from dear.artifacts import check_output, versions, write_json
from dear.backends import Backend, check_backend, open_backend
from dear.backends.ledger import Usage
from dear.checkpoints.registry import check_model
from dear.data.collections import Collection, open_collection
from dear.data.folders import DOCUMENTS_FILE
from dear.data.formats import write_beir_qrels, write_corpus, write_documents
from dear.data.formats.lines import write_lines
from dear.data.formats.rows import json_line
from dear.data.held_out import PRESENT, held_out_queries
from dear.data.inputs import corpus_input, queries_input
from dear.digests import Input, Inputs
from dear.errors import ConfigError, DataError
from dear.prompts.queries import GENERAL_SHOTS, Shot, query_prompt, read_query
from dear.queries.rule import check_kinds, is_query, rule_queries
from dear.queries.selection import DropReason, MadeQuery, found_back, put_first, without_repeats
from dear.records import MADE, MADE_SPLIT, Passage, Query, Ranking, every_nth
from dear.retrieve.bm25 import options_for
from dear.retrieve.bm25 import retrieve as search
from dear.scoring.opening import PairModel, open_model
from dear.scoring.revisions import scoring_inputs
from dear.steps.answers import Answers
from dear.steps.copying import check_made_folder, copy_questions, require_texts
from dear.steps.options import QueriesOptions
from dear.steps.progress import Watch, unwatched

_NOTE = f"qrels/{MADE_SPLIT}.json"
_FILE_ENDINGS = (".jsonl", ".jsonl.gz")
_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class QueriesMade:
    """What `make_queries` wrote.

    made: all that were made, before the selection.  unreadable: answers of a language model that
    held no query.  usage: of the language model, where it says.
    """

    output: Path
    passages: int
    made: int
    unreadable: int
    kept: list[MadeQuery]
    dropped: Counter[DropReason]
    usage: Usage | None = None
    ledger: Path | None = None


def make_queries(options: QueriesOptions, *, watch: Watch = unwatched) -> QueriesMade:
    """Make queries from passages, keep those that lead back to them, and write a collection with
    them in its split `made`, or the queries alone into a .jsonl file.

    ConfigError, DataError: options and collection, before anything is made; DataError where no
    query is kept. BackendError: what a model or server raises.
    """
    _check_output(options)
    return make_queries_of(open_collection(options.collection), options, watch=watch)


def make_queries_of(
    collection: Collection, options: QueriesOptions, *, watch: Watch = unwatched
) -> QueriesMade:
    """`make_queries` of an opened collection, into a folder that nothing else is in."""
    kinds = tuple(filter(None, options.kinds.split(",")))
    check_kinds(kinds)
    require_texts(collection)
    shots = GENERAL_SHOTS if options.examples is None else _own_shots(collection, options)
    passages = [p for p in collection.corpus.values() if p.text.strip() or p.title.strip()]
    if options.passages is not None:
        passages = every_nth(passages, options.passages)
    inputs = {"corpus": corpus_input(collection)}
    answers = _answers(options)
    if answers is None:
        made, unreadable = _by_rule(passages, kinds, options), 0
    else:
        made, unreadable = _by_model(passages, shots, answers, options, watch)
    found = QueriesMade(
        output=options.output,
        passages=len(passages),
        made=len(made),
        unreadable=unreadable,
        kept=[],
        dropped=Counter(),
        usage=None if answers is None else answers.usage,
        ledger=None if answers is None else answers.ledger,
    )
    shown = [shot.query for shot in shots] if answers is not None else []
    found.kept.extend(_selected(collection, made, shown, options, found.dropped, inputs, watch))
    if not found.kept:
        raise DataError(f"{collection.name}: no query is left: {_why(found)}")
    note = _note(collection, options, found, shots, inputs)
    if _is_file(options.output):
        write_lines(options.output, map(_made_line, found.kept))
    else:
        _write_collection(collection, options.output, found.kept, note)
    return found


def _is_file(output: Path) -> bool:
    return output.name.endswith(_FILE_ENDINGS)


def _check_output(options: QueriesOptions) -> None:
    if _is_file(options.output):
        check_output(options.output)
    else:
        check_made_folder(options.output, _NOTE, options.collection)


def _why(found: QueriesMade) -> str:
    reasons = dict(found.dropped) | ({"no query": found.unreadable} if found.unreadable else {})
    listed = ", ".join(f"{reason} {number:,}" for reason, number in reasons.items())
    return listed or f"none could be made from {found.passages:,} passages"


def _by_rule(
    passages: Sequence[Passage], kinds: Sequence[str], options: QueriesOptions
) -> list[MadeQuery]:
    drawn = (
        (passage, kind, text)
        for passage in passages
        for kind, text in rule_queries(passage, kinds, count=options.per_passage, seed=options.seed)
    )
    return [
        MadeQuery(
            query=Query(id=f"{MADE}rule:{number}", text=text),
            passage_id=passage.id,
            made="rule",
            kind=kind,
        )
        for number, (passage, kind, text) in enumerate(drawn, 1)
    ]


def _answers(options: QueriesOptions) -> Answers | None:
    """The language model with its ledger."""
    if options.llm is None:
        return None
    ledger = options.ledger
    if ledger is None:
        output = options.output
        name = "answers.jsonl"
        ledger = output.with_name(f"{output.name}.{name}") if _is_file(output) else output / name
    kind, where = check_backend(options.llm)
    if kind == "local":
        name, reading = backends.local.split_reading(where)
        if reading not in (None, "text"):
            raise ConfigError(f"--llm {options.llm}: #{reading} orders passages; write #text")
        backend: Backend = backends.local.open_local(name, reading="text", answer_tokens=48)
    else:
        backend = open_backend(options.llm)
    return Answers.of(backend, ledger, output=None)


def _by_model(
    passages: Sequence[Passage],
    shots: Sequence[Shot],
    answers: Answers,
    options: QueriesOptions,
    watch: Watch,
) -> tuple[list[MadeQuery], int]:
    """The queries, and how many answers held none."""
    made: list[MadeQuery] = []
    with answers.opened() as backend, watch("asking", "passages") as report:
        for start in range(0, len(passages), _BATCH):
            batch = passages[start : start + _BATCH]
            prompts = [query_prompt(p, shots, max_words=options.max_words) for p in batch]
            completions = backend.generate(prompts)
            for passage, completion in zip(batch, completions, strict=True):
                text = read_query(completion.text, cut=completion.finish == "length")
                if text is not None and is_query(text):
                    query = Query(id=f"{MADE}llm:{len(made) + 1}", text=text)
                    made.append(
                        MadeQuery(query=query, passage_id=passage.id, made="llm", kind=backend.name)
                    )
            report(start + len(batch), len(passages))
    return made, len(passages) - len(made)


def _own_shots(collection: Collection, options: QueriesOptions) -> list[Shot]:
    """Judged pairs of a split as examples. ConfigError for test, DataError where nothing is
    relevant."""
    split = options.examples or ""
    judgements = collection.judgements(split)
    queries = collection.queries(split)
    pairs = [
        Shot(collection.corpus[passage_id].full_text, queries[query_id].text)
        for query_id, grades in judgements.items()
        if query_id in queries
        for passage_id, grade in list(grades.items())
        if grade >= collection.min_grade and passage_id in collection.corpus
    ]
    if not pairs:
        raise DataError(f"{collection.name}: no passage is relevant in split {split!r}")
    return every_nth(pairs, options.shots)


def _selected(
    collection: Collection,
    made: Sequence[MadeQuery],
    shown: Sequence[str],
    options: QueriesOptions,
    dropped: Counter[DropReason],
    inputs: dict[str, Input],
    watch: Watch,
) -> list[MadeQuery]:
    """What is kept; why the others are not goes to `dropped`, what was looked at to `inputs`.

    shown: queries that a language model was shown, and may have written down again."""
    own = own_queries(collection)
    inputs["queries"] = queries_input(collection, own)
    others = held_out_queries(tuple(dict.fromkeys((PRESENT, *options.against))))
    texts = [*(query.text for query in own.values()), *others, *shown]
    kept = without_repeats(made, texts, dropped)
    run = _round_trip(collection, kept, options.top_k, watch)
    kept = found_back(kept, run, collection.documents, dropped)
    if options.teacher is None or not kept:
        return kept
    teacher = _teacher(options)
    inputs |= scoring_inputs(teacher)
    with watch("scoring", "pairs") as report:
        return put_first(
            kept,
            run,
            collection.corpus,
            teacher,
            options.margin,
            collection.documents,
            dropped,
            report,
        )


def _teacher(options: QueriesOptions) -> PairModel:
    assert options.teacher is not None
    check_model(options.teacher)
    given = {k: v for k, v in options.model_options.to_dict().items() if v is not None}
    return open_model(options.teacher, **given)


def _round_trip(
    collection: Collection, made: Sequence[MadeQuery], top_k: int, watch: Watch
) -> Mapping[str, Ranking]:
    if not made:
        return {}
    queries = {one.query.id: one.query for one in made}
    with watch("searching", "queries") as report:
        return search(
            collection.corpus,
            queries,
            top_k=top_k,
            options=options_for(collection.name),
            progress=report,
        )


def own_queries(collection: Collection) -> dict[str, Query]:
    """The collection's queries, but for those that an earlier call made; none where it has no
    file of them."""
    try:
        queries = collection.queries()
    except DataError:
        if collection.splits:  # they are broken or missing, not just not there
            raise
        return {}
    return {i: query for i, query in queries.items() if not i.startswith(MADE)}


def _write_collection(
    collection: Collection, output: Path, made: Sequence[MadeQuery], note: Mapping[str, Any]
) -> None:
    """Corpus, queries and judgements of the collection, and the made ones as split `made`."""
    write_corpus(output / "corpus.jsonl", collection.corpus.values())
    if collection.documents is not None:
        write_documents(output / DOCUMENTS_FILE, collection.documents)
    copy_questions(collection, output, queries=False)
    own = own_queries(collection)

    def lines() -> Iterator[str]:
        yield from (json_line({"_id": q.id, "text": q.text}) for q in own.values())
        yield from map(_made_line, made)

    write_lines(output / "queries.jsonl", lines())
    grades = {one.query.id: {one.passage_id: 1} for one in made}
    write_beir_qrels(output / "qrels" / f"{MADE_SPLIT}.tsv", grades)
    write_json(output / _NOTE, note)


def _made_line(one: MadeQuery) -> str:
    metadata = {"made": one.made, "kind": one.kind, "passage": one.passage_id}
    return json_line({"_id": one.query.id, "text": one.query.text, "metadata": metadata})


def _note(
    collection: Collection,
    options: QueriesOptions,
    found: QueriesMade,
    shots: Sequence[Shot],
    inputs: Mapping[str, Input],
) -> dict[str, Any]:
    """That the judgements were made, from what and how."""
    settings = asdict(options)
    for name in ("collection", "output", "ledger", "model_options"):
        del settings[name]
    by_model = options.llm is not None
    return {
        "format": "dear-made/1",
        "made": "llm" if by_model else "rule",
        "about": "queries and judgements made from documents: to train on, not to evaluate on",
        "collection": collection.name,
        "passages": found.passages,
        "queries": len(found.kept),
        "dropped": dict(found.dropped),
        "unreadable": found.unreadable,
        "settings": settings,
        "shots": [asdict(shot) for shot in shots] if by_model else [],
        "usage": None if found.usage is None else found.usage.to_dict(),
        "inputs": Inputs(dict(inputs)).to_dict(),
        "versions": versions(),
    }
