"""What a user would pick instead, as it comes, on the same checkpoint and the same texts.

Each peer is handed the texts that our prompt makes of a pair, so all of them score the same words.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dear.bench.turns import Score, System
from dear.checkpoints.contract import ScoringContract
from dear.checkpoints.files import require_harmless
from dear.checkpoints.registry import locate
from dear.errors import ConfigError
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.scoring.encoding import Pair

PUBLISHED_TOKENS, PUBLISHED_BATCH = 228, 64
"""32 query and 196 passage tokens, 64 pairs a batch."""


@dataclass(frozen=True, kw_only=True)
class _Peer:
    """package: what must be installed.  build: (folder, tokens at most, device) → score."""

    package: str
    build: Callable[[str, int, str], Score]


def _published(folder: str, _tokens: int, device: str) -> Score:
    """The DeAR paper's way: float32, every pair filled up to 228 tokens, 64 pairs a batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, trust_remote_code=False
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    model.to(device).eval()

    def score(pairs: Sequence[Pair]) -> Any:
        found = []
        for at in range(0, len(pairs), PUBLISHED_BATCH):
            queries, passages = zip(*pairs[at : at + PUBLISHED_BATCH], strict=True)
            batch = tokenizer(
                list(queries),
                list(passages),
                truncation=True,
                padding="max_length",
                max_length=PUBLISHED_TOKENS,
                return_tensors="pt",
            )
            with torch.no_grad():
                found.append(model(**batch.to(device)).logits[:, 0].float().cpu())
        return torch.cat(found).numpy()

    return score


def _cross_encoder(dtype: str | None) -> Callable[[str, int, str], Score]:
    def build(folder: str, tokens: int, device: str) -> Score:
        from sentence_transformers import CrossEncoder

        options = {} if dtype is None else {"dtype": getattr(torch, dtype)}
        model = CrossEncoder(
            folder,
            num_labels=1,
            max_length=tokens,
            device=device,
            model_kwargs=options,
            activation_fn=torch.nn.Identity(),
            trust_remote_code=False,
            local_files_only=True,  # it would ask the hub whether it knows the folder
        )
        if model.tokenizer.pad_token is None:
            model.tokenizer.pad_token = model.tokenizer.eos_token
        model.model.config.pad_token_id = model.tokenizer.pad_token_id
        return lambda pairs: model.predict(list(pairs), show_progress_bar=False)

    return build


def _flag_embedding(folder: str, tokens: int, device: str) -> Score:
    from FlagEmbedding import FlagReranker

    model = FlagReranker(
        folder, use_fp16=False, devices=[device], max_length=tokens, trust_remote_code=False
    )
    return lambda pairs: np.asarray(model.compute_score([list(p) for p in pairs]))


def _rerankers(folder: str, tokens: int, device: str) -> Score:
    from rerankers import Reranker

    model = Reranker(folder, model_type="cross-encoder", device=device, verbose=0)
    if model is None:
        raise RuntimeError("the rerankers package gives no model for this folder")
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    model.model.config.pad_token_id = model.tokenizer.pad_token_id
    model.tokenizer.model_max_length = tokens

    def score(pairs: Sequence[Pair]) -> Any:
        found = np.empty(len(pairs), dtype=np.float32)
        rows: dict[str, list[int]] = {}
        for i, (query, _) in enumerate(pairs):
            rows.setdefault(query, []).append(i)
        for query, mine in rows.items():
            ranked = model.rank(query=query, docs=[pairs[i][1] for i in mine])
            for result in ranked.results:
                found[mine[result.document.doc_id]] = result.score
        return found

    return score


PEERS: dict[str, _Peer] = {
    "published DeAR way (float32, 228 tokens)": _Peer(package="transformers", build=_published),
    "sentence-transformers": _Peer(package="sentence_transformers", build=_cross_encoder(None)),
    "sentence-transformers, bfloat16": _Peer(
        package="sentence_transformers", build=_cross_encoder("bfloat16")
    ),
    "FlagEmbedding": _Peer(package="FlagEmbedding", build=_flag_embedding),
    "rerankers": _Peer(package="rerankers", build=_rerankers),
}


def _require_no_own_code(folder: Path) -> None:
    """ConfigError for a folder with code of its own: not every package asks before it runs it."""
    source = locate(folder)
    require_harmless(source)
    files = [p.name for p in folder.glob("*.json") if p.is_file() and "auto_map" in p.read_text()]
    if files or any(folder.glob("*.py")):
        raise ConfigError(f"{folder}: it brings code of its own, which no peer is to run")


def installed() -> dict[str, _Peer]:
    """The peers whose package is there."""
    return {n: p for n, p in PEERS.items() if importlib.util.find_spec(p.package) is not None}


def as_system(
    name: str, peer: _Peer, folder: str, contract: ScoringContract, device: str
) -> System:
    """A peer on a checkpoint of ours."""
    prompt = PAIR_PROMPTS[contract.prompt]

    def load() -> Score:
        _require_no_own_code(Path(folder))
        score = peer.build(folder, contract.longest, device)
        prefix = contract.query_prefix
        return lambda pairs: score([prompt.render(prefix + q, p) for q, p in pairs])

    return System(name=name, load=load)
