"""Formats: files ↔ records, as `read_x` / `write_x` pairs.

Readers go line by line and name the file and the line of every fault in a DataError. Files may be
plain or gzip, with LF or CRLF, with a byte order mark, with blank lines. Writers are atomic: a
file is whole, or the earlier one is kept. `docs/formats.md` shows every layout.
"""

from dear.data.formats.beir import (
    BeirFiles,
    beir_files,
    iter_corpus,
    read_corpus,
    read_queries,
    write_beir,
    write_corpus,
    write_queries,
)
from dear.data.formats.lines import Source
from dear.data.formats.plain import (
    read_corpus_tsv,
    read_corpus_txt,
    read_document_folder,
    read_documents,
    read_passages,
    read_queries_tsv,
    read_queries_txt,
    write_documents,
)
from dear.data.formats.rank_llm import read_rank_llm, write_rank_llm
from dear.data.formats.rankgpt import read_rankgpt, write_rankgpt
from dear.data.formats.reasoning import (
    CotExample,
    Message,
    read_chat,
    read_cot,
    read_lists,
    write_chat,
    write_cot,
    write_lists,
)
from dear.data.formats.tevatron import (
    read_tevatron,
    read_tevatron_corpus,
    read_tevatron_ids,
    read_tevatron_rerank,
    write_tevatron,
    write_tevatron_corpus,
    write_tevatron_ids,
    write_tevatron_rerank,
    write_tevatron_scored,
)
from dear.data.formats.training import (
    TrainingIds,
    TrainingRow,
    read_flag,
    resolve,
    text_id,
    write_flag,
)
from dear.data.formats.trec import (
    count_lines,
    read_qrels,
    read_run,
    read_tevatron_result,
    strictly_falling,
    write_beir_qrels,
    write_qrels,
    write_run,
    write_tevatron_result,
)

__all__ = [
    "BeirFiles",
    "CotExample",
    "Message",
    "Source",
    "TrainingIds",
    "TrainingRow",
    "beir_files",
    "count_lines",
    "iter_corpus",
    "read_chat",
    "read_corpus",
    "read_corpus_tsv",
    "read_corpus_txt",
    "read_cot",
    "read_document_folder",
    "read_documents",
    "read_flag",
    "read_lists",
    "read_passages",
    "read_qrels",
    "read_queries",
    "read_queries_tsv",
    "read_queries_txt",
    "read_rank_llm",
    "read_rankgpt",
    "read_run",
    "read_tevatron",
    "read_tevatron_corpus",
    "read_tevatron_ids",
    "read_tevatron_rerank",
    "read_tevatron_result",
    "resolve",
    "strictly_falling",
    "text_id",
    "write_beir",
    "write_beir_qrels",
    "write_chat",
    "write_corpus",
    "write_cot",
    "write_documents",
    "write_flag",
    "write_lists",
    "write_qrels",
    "write_queries",
    "write_rank_llm",
    "write_rankgpt",
    "write_run",
    "write_tevatron",
    "write_tevatron_corpus",
    "write_tevatron_ids",
    "write_tevatron_rerank",
    "write_tevatron_result",
    "write_tevatron_scored",
]
