"""The first line of a table that names its columns, whatever it calls them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_IDS = frozenset(
    {
        *("id", "queryid", "qid", "corpusid", "docid", "documentid", "docno", "did", "pid"),
        *("passageid", "topic", "topicid", "questionid", "number", "qno", "query"),
    }
)
_TEXTS = frozenset(
    {
        *("text", "contents", "content", "segment", "passage", "body", "documenttext", "query"),
        *("querytext", "question", "title", "description", "passagetext", "doctext", "document"),
    }
)
# of judgements, and what ends a line of a run
_GRADES = frozenset(
    {
        *("score", "rel", "relevance", "grade", "label", "judgement", "judgment"),
        *("qrel", "tag", "run", "runid", "runname"),
    }
)


def is_header(cells: Sequence[str]) -> bool:
    """Whether these are names of columns: an id first, a text, grade or tag last."""
    names = [re.sub(r"[\W_]+", "", cell.lower()) for cell in (cells[0], cells[-1])]
    return len(cells) > 1 and names[0] in _IDS and names[1] in _TEXTS | _GRADES
