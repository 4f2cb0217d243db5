"""What a newcomer adds: one file and one entry in a table, nothing else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dear import Candidates, Passage, Query, Reranker, open_ranker
from dear.backends import BACKENDS, open_backend
from dear.errors import ConfigError
from dear.losses import Objective, Term
from dear.losses.table import LOSSES, Loss
from dear.rank.opening import RANKERS, RankerSpec
from dear.retrieve.bm25 import DEFAULTS
from dear.retrieve.table import RETRIEVERS, RetrieverSpec, Setting, open_retriever

MODULE = "added_by_a_newcomer"

LOSS = """
from torch import Tensor


def squared_gap(scores: Tensor, targets: Tensor, mask: Tensor, *, margin: float = 1.0) -> Tensor:
    gaps = (scores.float() - margin * targets.float()).masked_fill(~mask, 0.0)
    return gaps.square().sum() / mask.sum().clamp(min=1)
"""

RANKER = """
from dear.rank.opening import Parts, RankerSpec
from dear.rank.ranker import reordered


class Shortest:
    name = "shortest"

    def rank_candidates(self, candidates, *, top_k=None, progress=None, deadline=None, cancel=None):
        for one in candidates:
            lengths = [len(p.text) for p in one.passages]
            order = sorted(range(len(lengths)), key=lengths.__getitem__)
            found = reordered(one, order, [-lengths[i] for i in order])
            yield found if top_k is None else found.top(top_k)


def shortest(spec: RankerSpec, parts: Parts) -> Shortest:
    return Shortest()
"""

BACKEND = """
from dear.backends import Completion


class Backwards:
    name = "backwards"

    def generate(self, prompts, on_answer=None):
        return [Completion(text=self.order(len(p.passages))) for p in prompts]

    def order(self, count):
        return " > ".join(f"[{i}]" for i in range(count, 0, -1))


def open_backwards(kind, where):
    return Backwards()
"""

RETRIEVER = """
from dear.records import Ranking


class Longest:
    name, inputs, values = "longest", {}, {}

    def __init__(self, corpus):
        self.lengths = {i: len(passage.text) for i, passage in corpus.items()}

    def search(self, queries, top_k=100, *, progress=None):
        lengths = self.lengths
        return {
            q: Ranking.sorted(q, lengths.keys(), lengths.values()).top(top_k) for q in queries
        }


def open_longest(spec, setting):
    return Longest(setting.corpus)
"""


@pytest.fixture
def added(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The newcomer's one file, as a module."""
    path = tmp_path / f"{MODULE}.py"
    path.write_text(request.param)
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[MODULE]


def candidates() -> Candidates:
    texts = ("a long text about otters", "otters", "an otter")
    return Candidates(
        query=Query(id="q", text="otter"),
        passages=tuple(Passage(id=str(i), text=t) for i, t in enumerate(texts)),
        scores=(3.0, 2.0, 1.0),
    )


@pytest.mark.parametrize("added", [LOSS], indirect=True)
def test_a_loss(added: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Loss("squared-gap", added.squared_gap, "teacher", "nobody yet")
    monkeypatch.setitem(LOSSES, "squared-gap", entry)
    objective = Objective((Term("squared-gap", options={"margin": 2.0}),))
    mask = torch.ones(1, 2, dtype=torch.bool)
    total, parts = objective(torch.tensor([[1.0, 2.0]]), None, torch.tensor([[1.0, 1.0]]), mask)
    assert total.item() == parts["squared-gap"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("added", [RANKER], indirect=True)
def test_a_ranker(added: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no kind of ranker 'shortest'"):
        RankerSpec(kind="shortest")
    monkeypatch.setitem(RANKERS, "shortest", added.shortest)
    (found,) = open_ranker({"kind": "shortest"}).rank_candidates([candidates()])
    assert found.passage_ids == ("1", "2", "0")
    ranking = Reranker({"kind": "shortest"}).rank("otter", ["otters swim", "otter"], top_k=1)
    assert [row["text"] for row in ranking.to_list()] == ["otter"]


@pytest.mark.parametrize("added", [BACKEND], indirect=True)
def test_a_backend(added: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "backwards", f"{MODULE}:open_backwards")
    assert open_backend("backwards:any").name == "backwards"
    (found,) = open_ranker("backwards:any").rank_candidates([candidates()])
    assert found.passage_ids == ("2", "1", "0")


@pytest.mark.parametrize("added", [RETRIEVER], indirect=True)
def test_a_retriever(added: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no retriever 'longest'"):
        RetrieverSpec.of("longest")
    monkeypatch.setitem(RETRIEVERS, "longest", f"{MODULE}:open_longest")
    corpus = {passage.id: passage for passage in candidates().passages}
    setting = Setting(corpus=corpus, bm25=DEFAULTS)
    for spec in (RetrieverSpec.of("longest"), RetrieverSpec.of("hybrid", "bm25,longest")):
        run = open_retriever(spec, setting).search({"q": candidates().query}, 2)
        assert run["q"].passage_ids[0] == ("0" if spec.kind == "longest" else "2")
