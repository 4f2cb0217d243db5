"""What a distillation searches with, and the runs that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dear.checkpoints.registry import check_model
from dear.data.collections import Collection
from dear.digests import Input
from dear.recipes import DistillRecipe
from dear.records import Query, Ranking, limit_run
from dear.retrieve.bm25 import options_for
from dear.retrieve.hybrid import Hybrid
from dear.retrieve.table import WITH_MODEL, RetrieverSpec, Setting, open_retriever
from dear.scoring.revisions import revision_named
from dear.steps.progress import Watch

BM25 = RetrieverSpec(kind="bm25")
DENSE, HYBRID = "dense", "hybrid"


def first_stage_for(recipe: DistillRecipe, passages: int) -> RetrieverSpec:
    """BM25, or a hybrid of it and a bi-encoder's embeddings where a corpus of so many passages is
    to be embedded. ConfigError for an unknown model."""
    weight = recipe.teacher.first_stage
    if not recipe.dense or not weight or passages > recipe.dense_passages:
        return BM25
    check_model(f"{WITH_MODEL[DENSE]}:{recipe.dense}")
    dense = RetrieverSpec(kind=DENSE, model=recipe.dense)
    return RetrieverSpec(kind=HYBRID, parts=(BM25, dense), weights=(weight, 1.0))


def hybrid_teaches(recipe: DistillRecipe, first_stage: RetrieverSpec) -> bool:
    """Whether the scores of the zero-shot teacher are in those of a hybrid already."""
    models = [f"{WITH_MODEL[part.kind]}:{part.model}" for part in first_stage.parts if part.model]
    return recipe.teacher.zero_shot in models


def inputs_of_search(spec: RetrieverSpec, collection: Collection, top_k: int) -> dict[str, Input]:
    """What a run of `search_with` depends on, beside texts."""
    values: dict[str, Any] = asdict(options_for(collection.name)) | {"top_k": top_k}
    found = {"bm25": Input.of_values(values)}
    for part in spec.parts:
        if part.model:
            name = f"{WITH_MODEL[part.kind]}:{part.model}"
            found[part.kind] = Input(revision_named(name), name)
    return found


def search_with(
    spec: RetrieverSpec,
    collection: Collection,
    queries: Mapping[str, Query],
    top_k: int,
    watch: Watch,
) -> tuple[dict[str, Ranking], dict[str, dict[str, Ranking]]]:
    """The best `top_k` passages of each query, and the same of each part of a hybrid, by kind."""
    setting = Setting(
        corpus=collection.corpus,
        bm25=options_for(collection.name),
        watch=lambda name: watch(f"encoding for {name}", "passages"),
    )
    retriever = open_retriever(spec, setting)
    with watch("searching", "queries") as report:
        if not isinstance(retriever, Hybrid):
            return retriever.search(queries, top_k, progress=report), {}
        runs = retriever.search_parts(queries, top_k, progress=report)
    parts = {one.kind: limit_run(runs[one.name], top_k=top_k) for one in spec.parts}
    return retriever.fused(queries, runs, top_k), parts
