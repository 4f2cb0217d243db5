from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

from dear.errors import ConfigError
from dear.losses import LOSSES, Objective, Term, kl, lambda_loss, ranknet, softmax_cross_entropy

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    """Scores, judgements, teacher, mask of two queries by eight passages."""
    scores, teacher = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))
    judgements = torch.zeros(2, 8)
    judgements[:, 2] = 1
    mask = torch.arange(8) < torch.tensor([[8], [6]])
    return scores, judgements, teacher, mask


def test_dear_is_the_published_sum(batch: Batch) -> None:
    scores, judgements, teacher, mask = batch
    total, parts = Objective.dear()(*batch)
    ce = softmax_cross_entropy(scores, judgements, mask)
    distance = kl(scores, teacher, mask, temperature=2.0)
    torch.testing.assert_close(total, 0.9 * ce + 0.1 * 4 * distance)
    assert parts == {"ce": ce, "kl": distance}


def test_dear_takes_several_main_losses(batch: Batch) -> None:
    scores, judgements, teacher, mask = batch
    total, parts = Objective.dear(("ce", "ranknet"), alpha=0.3, temperature=3.0)(*batch)
    main = softmax_cross_entropy(scores, judgements, mask) + ranknet(scores, teacher, mask)
    torch.testing.assert_close(
        total, 0.7 * main + 0.3 * 9 * kl(scores, teacher, mask, temperature=3.0)
    )
    assert list(parts) == ["ce", "ranknet", "kl"]
    assert Objective.dear("ranknet") == Objective.dear(("ranknet",))


def test_terms_carry_their_weights_and_options(batch: Batch) -> None:
    scores, judgements, _, mask = batch
    total, parts = Objective((Term("lambda", 2.5, {"k": 3, "weighting": "lambdarank"}),))(*batch)
    value = lambda_loss(scores, judgements, mask, k=3, weighting="lambdarank")
    assert parts == {"lambda": value}
    torch.testing.assert_close(total, 2.5 * value)


def test_the_total_has_a_graph_and_the_parts_have_none(batch: Batch) -> None:
    scores, *rest = batch
    leaf = scores.clone().requires_grad_()
    total, parts = Objective.dear(("ce", "ranknet"))(leaf, *rest)
    assert total.dtype == torch.float32
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    assert leaf.grad is not None
    assert leaf.grad[batch[3]].all()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_reads_the_targets_that_it_says(name: str, batch: Batch) -> None:
    scores, judgements, teacher, mask = batch
    objective = Objective((Term(name),))
    graded = LOSSES[name].targets == "judgements"
    assert objective.needs_judgements is graded
    assert objective.needs_teacher is not graded
    given = judgements if graded else teacher
    total, _ = objective(scores, judgements if graded else None, None if graded else teacher, mask)
    assert total == LOSSES[name].function(scores, given, mask)
    missing = "judgements" if graded else "teacher"
    with pytest.raises(ConfigError, match=f"'{name}' reads {missing}, and none were given"):
        objective(scores, None if graded else judgements, teacher if graded else None, mask)


def test_alpha_at_its_ends_asks_for_one_kind_of_targets(batch: Batch) -> None:
    scores, judgements, teacher, mask = batch
    plain = Objective.dear(alpha=0.0)
    assert (plain.needs_judgements, plain.needs_teacher) == (True, False)
    torch.testing.assert_close(
        plain(scores, judgements, None, mask)[0], softmax_cross_entropy(scores, judgements, mask)
    )
    distilled = Objective.dear(alpha=1.0, temperature=1.0)
    assert (distilled.needs_judgements, distilled.needs_teacher) == (False, True)
    torch.testing.assert_close(distilled(scores, None, teacher, mask)[0], kl(scores, teacher, mask))


def test_a_term_of_weight_zero_is_not_computed(batch: Batch) -> None:
    scores, judgements, teacher, mask = batch
    objective = Objective((Term("ce"), Term("mse", 0.0)))
    total, parts = objective(scores, judgements, teacher * math.nan, mask)
    assert total.isfinite()
    assert list(parts) == ["ce"]


@pytest.mark.parametrize("name", LOSSES)
def test_a_missing_label_is_seen_in_the_total(name: str, batch: Batch) -> None:
    scores, judgements, teacher, mask = batch
    judgements[0, 5] = teacher[0, 5] = math.nan
    total, parts = Objective((Term(name),))(scores, judgements, teacher, mask)
    assert total.isnan()
    assert parts[name].isnan()


def test_t_squared_keeps_the_pull_of_the_teacher_at_any_temperature(batch: Batch) -> None:
    # for large T: T² · dKL/ds -> ((s - mean s) - (t - mean t)) / N (Hinton et al. 2015)
    scores, _, teacher, _ = batch
    mask = torch.ones_like(scores, dtype=torch.bool)
    leaf = scores.clone().requires_grad_()
    total, _ = Objective.dear(alpha=1.0, temperature=100.0)(leaf, None, teacher, mask)
    total.backward()
    gap = (scores - scores.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, gap / 8 / 2, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Term("rank-net"), "unknown loss 'rank-net'; did you mean 'ranknet'?"),
        (lambda: Objective.dear(("cee",)), "unknown loss 'cee'; did you mean 'ce'?"),
        (
            lambda: Term("kl", 1.0, {"temprature": 2.0}),
            "loss 'kl': unknown option 'temprature'; did you mean 'temperature'?",
        ),
        (lambda: Term("ce", 1.0, {"k": 2}), "loss 'ce': unknown option 'k'; it has none"),
        (
            lambda: Term("lambda", 1.0, {"cutoff": 2}),
            "loss 'lambda': unknown option 'cutoff'; known: k, mu, weighting",
        ),
        (
            lambda: Term("kl", 1.0, {"temperature": -2.0}),
            "loss 'kl': temperature must be a number above 0, got -2.0",
        ),
        (
            lambda: Term("ranknet", 1.0, {"soft": "yes"}),
            "loss 'ranknet': soft must be true or false, got 'yes'",
        ),
        (
            lambda: Objective.dear(temperature=0.0),
            "loss 'kl': temperature must be a number above 0, got 0.0",
        ),
        (lambda: Term("ce", -0.1), "loss 'ce': weight must be a number, 0 or more; got -0.1"),
        (lambda: Term("ce", math.nan), "loss 'ce': weight must be a number, 0 or more; got nan"),
        (lambda: Term("ce", math.inf), "loss 'ce': weight must be a number, 0 or more; got inf"),
        (lambda: Objective.dear(alpha=1.5), "alpha must be a number, between 0 and 1; got 1.5"),
        (lambda: Objective.dear(alpha=-0.5), "alpha must be a number, between 0 and 1; got -0.5"),
        (
            lambda: Objective((Term("ce"), Term("ce"))),
            "loss 'ce' is named twice; add up the weights",
        ),
        (lambda: Objective.dear(("kl",)), "loss 'kl' is named twice; add up the weights"),
        (lambda: Objective(()), "an objective needs a loss with a weight above 0"),
        (lambda: Objective((Term("ce", 0.0),)), "an objective needs a loss with a weight above 0"),
        (lambda: Objective.dear((), alpha=0.0), "an objective needs a loss with a weight above 0"),
    ],
)
def test_a_wrong_objective_is_refused_when_it_is_made(make: object, problem: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError) as raised:
        make()
    assert str(raised.value) == problem


def test_objectives_are_values() -> None:
    one, other = Objective.dear(), Objective.dear()
    assert one == other
    assert hash(one) == hash(other)
    assert one != Objective.dear(temperature=3.0)
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


def test_a_term_keeps_its_own_options() -> None:
    options: dict[str, float | str | bool] = {"temperature": 2.0}
    term = Term("kl", 1.0, options)
    options["temperature"] = -1.0
    assert term.options == {"temperature": 2.0}
