"""Agreement with torch's own losses and with sentence-transformers', and where we part from them.

Their classes want a CrossEncoder; ours here reads the score from the text of the passage.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from loss_cases import Case, Groups, groups
from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder import losses as theirs
from torch import Tensor
from torch.nn import functional as F

ALL = torch.ones(2, 8, dtype=torch.bool)
LN2 = math.log(2)


class Replay(CrossEncoder):
    """A CrossEncoder that scores a passage with the number that the passage spells."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    num_labels = 1
    device = torch.device("cpu")

    def preprocess(self, pairs: list[tuple[str, str]], **_: object) -> dict[str, Tensor]:
        return {"scores": torch.tensor([float(passage) for _, passage in pairs])}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features


MODEL = Replay()


def by_list(loss: torch.nn.Module, batch: Groups, targets: Tensor) -> float:
    """Their loss over ragged lists: one (query, passages) row for each query with a passage."""
    rows = [
        ([str(s) for s in scores[real].tolist()], labels[real])
        for scores, labels, real in zip(batch.scores, targets, batch.mask, strict=True)
        if real.any()
    ]
    queries = ["q"] * len(rows)
    return float(loss([queries, [passages for passages, _ in rows]], [row for _, row in rows]))


def by_pair(loss: torch.nn.Module, batch: Groups, targets: Tensor) -> float:
    passages = [str(score) for score in batch.scores[batch.mask].tolist()]
    return float(loss([["q"] * len(passages), passages], targets[batch.mask]))


def pairs_of(batch: Groups, targets: Tensor) -> int:
    return sum(
        a > b
        for row, real in zip(targets, batch.mask, strict=True)
        for a, b in itertools.permutations(row[real].tolist(), 2)
    )


few = settings(deadline=None, max_examples=30)


# sentence-transformers ----------------------------------------------------------------------------


@few
@given(batch=groups())
def test_bce_is_theirs_on_binary_labels(batch: Groups) -> None:
    assume(batch.mask.any())
    labels = (batch.judgements > 0).float()
    value = by_pair(theirs.BinaryCrossEntropyLoss(MODEL), batch, labels)
    ours = Case("bce")(batch.scores, batch.judgements, batch.mask).item()
    assert ours == pytest.approx(value, rel=1e-4, abs=1e-5)


@few
@given(batch=groups())
def test_mse_is_theirs(batch: Groups) -> None:
    assume(batch.mask.any())
    value = by_pair(theirs.MSELoss(MODEL), batch, batch.teacher)
    ours = Case("mse")(batch.scores, batch.teacher, batch.mask).item()
    assert ours == pytest.approx(value, rel=1e-4, abs=1e-5)


@few
@given(batch=groups(min_passages=2, full=True))
def test_margin_mse_against_the_first_is_theirs(batch: Groups) -> None:
    columns = [[str(score) for score in column] for column in batch.scores.T.tolist()]
    value = float(
        theirs.MarginMSELoss(MODEL)([["q"] * len(columns[0]), *columns], list(batch.teacher))
    )
    first = Case("margin-mse", {"against": "first"})
    ours = first(batch.scores, batch.teacher, batch.mask).item()
    assert ours == pytest.approx(value, rel=1e-4, abs=1e-5)
    if len(columns) == 2:
        both = Case("margin-mse")(batch.scores, batch.teacher, batch.mask).item()
        assert both == pytest.approx(value, rel=1e-4, abs=1e-5)


@few
@given(batch=groups())
def test_listnet_is_theirs_over_lists_of_two_or_more(batch: Groups) -> None:
    batch = batch.map(lambda table: table[batch.mask.sum(dim=1) >= 2])
    assume(len(batch.mask))
    value = by_list(theirs.ListNetLoss(MODEL), batch, batch.teacher)
    ours = Case("listnet")(batch.scores, batch.teacher, batch.mask).item()
    assert ours == pytest.approx(value, rel=1e-4, abs=1e-5)


@few
@given(batch=groups())
def test_ranknet_is_theirs_in_nats(batch: Groups) -> None:
    assume(batch.mask.any())
    nats = theirs.RankNetLoss(MODEL, reduction_log="natural")
    for name, targets in (("ranknet", batch.teacher), ("ranknet-judgements", batch.judgements)):
        ours = Case(name)(batch.scores, targets, batch.mask).item()
        assert ours == pytest.approx(by_list(nats, batch, targets), rel=1e-4, abs=1e-5)
        bits = by_list(theirs.RankNetLoss(MODEL), batch, targets)
        assert ours == pytest.approx(bits * LN2, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        (theirs.NDCGLoss2PPScheme(mu=10.0), {}),
        (theirs.NDCGLoss2PPScheme(mu=4.0), {"mu": 4.0}),
        (theirs.LambdaRankScheme(), {"weighting": "lambdarank"}),
    ],
    ids=["ndcg2++", "ndcg2++ mu=4", "lambdarank"],
)
@few
@given(batch=groups())
def test_lambda_is_theirs_but_for_the_mean(
    scheme: torch.nn.Module, options: dict[str, float], batch: Groups
) -> None:
    # they average over all pairs, we sum over the pairs of a query and average over queries;
    # they break equal scores by position, so here no two are equal
    assume(batch.mask.any())
    untied = batch.scores + torch.arange(batch.scores.shape[1]) * 0.01
    batch = Groups(untied, batch.judgements.clamp(min=0), batch.teacher, batch.mask)
    loss = theirs.LambdaLoss(MODEL, weighting_scheme=scheme, reduction_log="natural")
    total = by_list(loss, batch, batch.judgements) * pairs_of(batch, batch.judgements)
    queries = sum(
        len(set(row[real].tolist())) > 1
        for row, real in zip(batch.judgements, batch.mask, strict=True)
    )
    ours = Case("lambda", options)(batch.scores, batch.judgements, batch.mask).item()
    assert ours * queries == pytest.approx(total, rel=1e-3, abs=1e-4)


def test_lambda_of_equal_scores_differs_from_theirs_by_the_order_of_the_input() -> None:
    # all scores equal, the positive first: by position it already stands at rank 1
    scores, grades = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    real = torch.ones(1, 4, dtype=torch.bool)
    first = Groups(scores, grades, grades, real)
    last = first.map(lambda table: table.flip(1))
    loss = theirs.LambdaLoss(MODEL, weighting_scheme=theirs.LambdaRankScheme())
    assert by_list(loss, first, first.judgements) != by_list(loss, last, last.judgements)
    ours = Case("lambda", {"weighting": "lambdarank"})
    assert ours(scores, grades, real) == ours(scores, grades.flip(1), real) > 0


def test_lambda_at_k_weighs_by_ndcg_at_k_and_theirs_by_the_whole_ndcg() -> None:
    # trading ranks 3 and 1 wins all of 1/D(1) at k = 1; theirs takes 1/D(3) off
    scores, grades = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    batch = Groups(scores, grades, grades, torch.ones(1, 3, dtype=torch.bool))
    at_one = theirs.LambdaLoss(
        MODEL, weighting_scheme=theirs.LambdaRankScheme(), k=1, reduction_log="natural"
    )
    ours = Case("lambda", {"weighting": "lambdarank", "k": 1})(scores, grades, batch.mask).item()
    assert by_list(at_one, batch, grades) == pytest.approx(ours * 0.5, rel=1e-4)


# torch --------------------------------------------------------------------------------------------


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    student, teacher = 3 * torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))
    return student, teacher


def test_ce_is_torch_cross_entropy_for_one_positive(logits: tuple[Tensor, Tensor]) -> None:
    student, _ = logits
    at = torch.tensor([3, 0])
    expected = F.cross_entropy(student, at)
    torch.testing.assert_close(Case("ce")(student, F.one_hot(at, 8), ALL), expected)


def test_ce_is_torch_cross_entropy_with_even_shares(logits: tuple[Tensor, Tensor]) -> None:
    student, _ = logits
    grades = torch.tensor([[3, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1, 1, -1]])
    positive = (grades > 0).float()
    expected = F.cross_entropy(student, positive / positive.sum(dim=1, keepdim=True))
    torch.testing.assert_close(Case("ce")(student, grades, ALL), expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_kl_is_torch_kl_div_batchmean(temperature: float, logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    expected = F.kl_div(
        (student / temperature).log_softmax(dim=1),
        (teacher / temperature).log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )
    ours = Case("kl", {"temperature": temperature})(student, teacher, ALL)
    torch.testing.assert_close(ours, expected)


def test_listnet_is_torch_cross_entropy_with_probabilities(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    expected = F.cross_entropy(student, teacher.softmax(dim=1))
    torch.testing.assert_close(Case("listnet")(student, teacher, ALL), expected)


def test_bce_and_mse_are_torch(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    positive = (teacher > 0).float()
    torch.testing.assert_close(
        Case("bce")(student, teacher, ALL), F.binary_cross_entropy_with_logits(student, positive)
    )
    torch.testing.assert_close(Case("mse")(student, teacher, ALL), F.mse_loss(student, teacher))


def test_soft_ranknet_is_torch_bce_of_margins(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    margins = student[:, :, None] - student[:, None, :]
    wanted = teacher[:, :, None] - teacher[:, None, :]
    better = wanted > 0
    expected = F.binary_cross_entropy_with_logits(
        margins[better], torch.sigmoid(wanted[better] / 3)
    )
    ours = Case("ranknet", {"soft": True, "temperature": 3.0})(student, teacher, ALL)
    torch.testing.assert_close(ours, expected)


def test_hard_ranknet_is_torch_soft_margin(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    better = teacher[:, :, None] > teacher[:, None, :]
    margins = (student[:, :, None] - student[:, None, :])[better]
    expected = F.soft_margin_loss(margins, torch.ones_like(margins))
    torch.testing.assert_close(Case("ranknet")(student, teacher, ALL), expected)
