"""A collection of documents to one of their passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from dear.artifacts import versions, write_json
from dear.checkpoints.registry import FAMILY, is_present, locate
from dear.checkpoints.threads import tokenize
from dear.checkpoints.tokenizer import load_tokenizer
from dear.data.collections import Collection, open_collection
from dear.data.folders import DOCUMENTS_FILE
from dear.data.formats import write_corpus, write_documents
from dear.data.inputs import corpus_input
from dear.data.splitting import (
    SplitSize,
    bounded_starts,
    safe_mark,
    split_document,
    word_starts,
)
from dear.digests import Input, Inputs, text_digest
from dear.records import Passage
from dear.steps.copying import check_made_folder, copy_questions, require_texts
from dear.steps.options import SplitOptions
from dear.steps.progress import OnProgress, Watch, unwatched

_NOTE = "split.json"
_DEFAULT = "minilm-l6"
_BATCH = 64

_Reader = Callable[[Sequence[str]], list[list[int]]]
"""Texts → where each one's tokens begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splitted:
    """What `split` wrote.

    divided: documents of more than one passage.  measured_by: the model, or "words".
    """

    output: Path
    documents: int
    passages: int
    divided: int
    measured_by: str


def split(options: SplitOptions, *, watch: Watch = unwatched) -> Splitted:
    """Write a collection whose corpus is the passages of another one's documents.

    Queries, judgements and answers are copied; judgements stay those of documents, which count for
    their best passage (`aggregate` of `rank` and `evaluate`). ConfigError: options, a folder that
    holds another collection. DataError: documents.
    """
    overlap = options.tokens // 6 if options.overlap is None else options.overlap
    size = SplitSize(size=options.tokens, overlap=overlap)
    check_made_folder(options.output, _NOTE, options.collection)
    collection = open_collection(options.collection)
    require_texts(collection)
    measured_by, read, inputs = _reader(options.model)
    mark = safe_mark(collection.corpus)
    documents: dict[str, str] = {}
    copy_questions(collection, options.output)
    with watch("splitting", "documents") as report:
        passages = _passages(collection, read, size, mark, documents, report)
        write_corpus(options.output / "corpus.jsonl", passages)
    write_documents(options.output / DOCUMENTS_FILE, documents)
    counts: dict[str, int] = {}
    for document in documents.values():
        counts[document] = counts.get(document, 0) + 1
    found = Splitted(
        output=options.output,
        documents=len(counts),
        passages=len(documents),
        divided=sum(n > 1 for n in counts.values()),
        measured_by=measured_by,
    )
    note = {
        "format": "dear-split/1",
        "collection": collection.name,
        "model": measured_by,
        **asdict(size),
        "mark": mark,
        "documents": found.documents,
        "passages": found.passages,
        "inputs": Inputs(inputs | {"corpus": corpus_input(collection)}).to_dict(),
        "versions": versions(),
    }
    write_json(options.output / _NOTE, note)
    return found


def _passages(
    collection: Collection,
    read: _Reader,
    size: SplitSize,
    mark: str,
    documents: dict[str, str],
    report: OnProgress,
) -> Iterator[Passage]:
    """All passages in order; whose they are goes to `documents`."""
    done, corpus = 0, collection.corpus
    documents_left = iter(corpus.values())
    while batch := list(islice(documents_left, _BATCH)):
        texts = read([text for document in batch for text in (document.title, document.text)])
        for i, document in enumerate(batch):
            title, starts = texts[2 * i], texts[2 * i + 1]
            for passage in split_document(document, starts, len(title), size, mark):
                documents[passage.id] = document.id
                yield passage
        done += len(batch)
        report(done, len(corpus))


def _reader(model: str | None) -> tuple[str, _Reader, dict[str, Input]]:
    """What counts tokens: its name, itself, and what it depends on. Where no model is named, the
    one whose weights come as a package, else words."""
    if model is None:
        model = _DEFAULT if is_present(FAMILY[_DEFAULT]) else "words"
    if model == "words":
        return model, lambda texts: [word_starts(text) for text in texts], {}
    tokenizer = load_tokenizer(locate(model))
    inputs = {"tokenizer": Input(text_digest(tokenizer.backend_tokenizer.to_str()), model)}
    return model, partial(_token_starts, tokenizer), inputs


def _token_starts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    read = tokenize(
        tokenizer,
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [bounded_starts(spans) for spans in read["offset_mapping"]]
