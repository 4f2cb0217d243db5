"""DeAR: turn a big, slow LLM reranker into a small, fast one.

from dear import Reranker

Reranker("runs/pydocs/student").rank("open a file", ["def open(…)", "def close(…)"])
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from dear.errors import DearError
from dear.records import Candidates, Judgements, Passage, Query, Ranking, Run

if TYPE_CHECKING:
    from dear.data.collections import Collection, open_collection
    from dear.rank.opening import open_ranker
    from dear.rank.ranker import Ranker
    from dear.rank.reranker import Reranker

__version__ = "0.1.0"

# other libraries' reports about who uses them, code in data sets, conversions by a server: nobody
# has agreed to any of it
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_TRUST_REMOTE_CODE": "0",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}.items():
    os.environ.setdefault(_name, _value)

# peft and accelerate import it where it is installed, and it tells which kernels it does without
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = [
    "Candidates",
    "Collection",
    "DearError",
    "Judgements",
    "Passage",
    "Query",
    "Ranker",
    "Ranking",
    "Reranker",
    "Run",
    "__version__",
    "open_collection",
    "open_ranker",
]

# importing dear must cost nothing: these are looked up when they are first used
_LAZY = {
    "Ranker": "dear.rank.ranker",
    "Reranker": "dear.rank.reranker",
    "Collection": "dear.data.collections",
    "open_collection": "dear.data.collections",
    "open_ranker": "dear.rank.opening",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dear' has no attribute {name!r}")
