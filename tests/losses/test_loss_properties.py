"""What must hold for every loss, or for every loss of a kind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st
from loss_cases import (
    CASES,
    EIGHTH,
    POINTWISE,
    Case,
    Groups,
    for_all,
    groups,
    units,
    value_and_gradient,
)
from torch import Tensor

from dear.errors import ConfigError
from dear.losses import LOSSES

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
relative_losses = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in POINTWISE], ids=str
)
GARBAGE = (math.nan, math.inf, -math.inf, 1e30)


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


# padding ------------------------------------------------------------------------------------------


@every_loss
@for_all(batch=groups(), garbage=st.sampled_from(GARBAGE), other=st.sampled_from(GARBAGE))
def test_padding_touches_neither_value_nor_gradient(
    case: Case, batch: Groups, garbage: float, other: float
) -> None:
    targets, mask = batch.targets(case), batch.mask
    value, gradient = value_and_gradient(case, batch.scores, targets, mask)
    dirty_value, dirty_gradient = value_and_gradient(
        case,
        batch.scores.masked_fill(~mask, garbage),
        targets.masked_fill(~mask, other),
        mask,
    )
    assert torch.equal(dirty_value, value)
    assert torch.equal(dirty_gradient, gradient)
    assert not gradient[~mask].any()
    assert gradient.isfinite().all()


@every_loss
@for_all(batch=groups(full=True), extra=st.integers(1, 4))
def test_a_wider_batch_changes_nothing(case: Case, batch: Groups, extra: int) -> None:
    targets, mask = batch.targets(case), batch.mask
    value, gradient = value_and_gradient(case, batch.scores, targets, mask)

    def widen(table: Tensor) -> Tensor:
        return torch.nn.functional.pad(table, (0, extra))

    wide_value, wide_gradient = value_and_gradient(
        case, widen(batch.scores), widen(targets), widen(mask)
    )
    same(wide_value, value)
    same(wide_gradient, widen(gradient))


# units --------------------------------------------------------------------------------------------


@every_loss
@for_all(batch=groups())
def test_a_batch_is_the_mean_over_the_units_of_its_queries(case: Case, batch: Groups) -> None:
    targets = batch.targets(case)
    total = torch.zeros(())
    for scores, row, mask in zip(batch.scores, targets, batch.mask, strict=True):
        alone = case(scores[None], row[None], mask[None])
        total += alone * units(case, row[None], mask[None])
    count = units(case, targets, batch.mask)
    same(case(batch.scores, targets, batch.mask) * count, total)


@every_loss
@for_all(batch=groups())
def test_without_a_valid_unit_the_loss_is_zero_with_a_graph(case: Case, batch: Groups) -> None:
    nothing = torch.zeros_like(batch.mask)
    value, gradient = value_and_gradient(case, batch.scores, batch.targets(case), nothing)
    assert value == 0
    assert not gradient.any()


@relative_losses
@for_all(batch=groups(full=True))
def test_one_passage_alone_teaches_nothing(case: Case, batch: Groups) -> None:
    first = batch.map(lambda table: table[:, :1])
    value, gradient = value_and_gradient(case, first.scores, first.targets(case), first.mask)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", ["ce", "ranknet-judgements", "lambda", "ranknet"])
@for_all(batch=groups(min_passages=2), level=st.integers(-1, 3))
def test_equal_targets_teach_no_order(name: str, batch: Groups, level: int) -> None:
    alike = torch.full_like(batch.scores, float(level))
    value, gradient = value_and_gradient(Case(name), batch.scores, alike, batch.mask)
    assert value == 0
    assert not gradient.any()


@every_loss
@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_an_empty_batch_is_zero(case: Case, shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, requires_grad=True)
    value = case(empty, torch.zeros(shape), torch.ones(shape, dtype=torch.bool))
    value.backward()
    assert value == 0


@every_loss
def test_equal_scores_have_a_finite_loss_that_still_teaches(case: Case) -> None:
    targets = torch.tensor([[2.0, 0.0, 1.0]])
    value, gradient = value_and_gradient(
        case, torch.zeros(1, 3), targets, torch.ones(1, 3, dtype=torch.bool)
    )
    assert 0 < value < 100
    assert gradient[0, 0] < 0


# invariance ---------------------------------------------------------------------------------------


@relative_losses
@for_all(batch=groups(), shift=st.integers(-800, 800))
def test_a_constant_added_to_all_scores_of_a_query_changes_nothing(
    case: Case, batch: Groups, shift: int
) -> None:
    targets = batch.targets(case)
    shifts = EIGHTH * shift * torch.arange(1, len(targets) + 1)[:, None]
    value, gradient = value_and_gradient(case, batch.scores, targets, batch.mask)
    moved_value, moved_gradient = value_and_gradient(
        case, batch.scores + shifts, targets, batch.mask
    )
    torch.testing.assert_close(moved_value, value, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(moved_gradient, gradient, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        gradient.sum(dim=1), torch.zeros(len(targets)), rtol=0, atol=1e-3
    )  # the same said in another way: no step along the constant


@pytest.mark.parametrize("name", sorted(POINTWISE))
def test_pointwise_losses_do_see_a_constant(name: str) -> None:
    scores, targets = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    value = Case(name)(scores, targets, mask)
    assert abs(Case(name)(scores + 3, targets, mask) - value) > 0.5


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in {"ranknet", "weighted-ranknet", "margin-mse", "listnet", "kl"}],
    ids=str,
)
@for_all(batch=groups(), shift=st.integers(-800, 800))
def test_a_constant_added_to_the_teacher_changes_nothing(
    case: Case, batch: Groups, shift: int
) -> None:
    value = case(batch.scores, batch.teacher, batch.mask)
    moved = case(batch.scores, batch.teacher + shift * EIGHTH, batch.mask)
    torch.testing.assert_close(moved, value, rtol=1e-4, atol=1e-3)


@every_loss
@for_all(batch=groups(), data=st.data())
def test_the_order_of_the_passages_does_not_matter(
    case: Case, batch: Groups, data: st.DataObject
) -> None:
    width = batch.scores.shape[1]
    pinned = 1 if case.options.get("against") == "first" else 0  # there position 0 is the positive
    order = list(range(pinned)) + data.draw(st.permutations(range(pinned, width)))
    value, gradient = value_and_gradient(case, batch.scores, batch.targets(case), batch.mask)
    mixed = batch.map(lambda table: table[:, order])
    mixed_value, mixed_gradient = value_and_gradient(
        case, mixed.scores, mixed.targets(case), mixed.mask
    )
    same(mixed_value, value)
    same(mixed_gradient, gradient[:, order])


def test_margin_mse_against_the_first_depends_on_who_is_first() -> None:
    scores, teacher = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[3.0, 0.0, 1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    first = Case("margin-mse", {"against": "first"})
    assert first(scores, teacher, mask) != first(scores.flip(1), teacher.flip(1), mask)
    assert Case("margin-mse")(scores, teacher, mask) == Case("margin-mse")(
        scores.flip(1), teacher.flip(1), mask
    )


@every_loss
@for_all(batch=groups(), data=st.data())
def test_the_order_of_the_queries_does_not_matter(
    case: Case, batch: Groups, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(batch.scores))))
    mixed = batch.map(lambda table: table[order])
    same(
        case(mixed.scores, mixed.targets(case), mixed.mask),
        case(batch.scores, batch.targets(case), batch.mask),
    )


# scale --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ranknet", "weighted-ranknet"])
@for_all(batch=groups(), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_hard_ranknet_reads_only_the_order_of_the_teacher(
    name: str, batch: Groups, factor: float
) -> None:
    ranknet = Case(name)
    value = ranknet(batch.scores, batch.teacher, batch.mask)
    stretched = ranknet(batch.scores, (batch.teacher * factor).exp(), batch.mask)
    assert torch.equal(stretched, value)


@pytest.mark.parametrize("name", ["mse", "margin-mse"])
@for_all(batch=groups(), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_squared_losses_scale_with_the_square(name: str, batch: Groups, factor: float) -> None:
    value = Case(name)(batch.scores, batch.teacher, batch.mask)
    scaled = Case(name)(batch.scores * factor, batch.teacher * factor, batch.mask)
    same(scaled, value * factor**2)


@for_all(batch=groups(), temperature=st.sampled_from([0.25, 2.0, 8.0]))
def test_a_temperature_divides_both_sides_of_kl(batch: Groups, temperature: float) -> None:
    warm = Case("kl", {"temperature": temperature})
    same(
        warm(batch.scores * temperature, batch.teacher * temperature, batch.mask),
        Case("kl")(batch.scores, batch.teacher, batch.mask),
    )


@pytest.mark.parametrize("name", ["ce", "bce", "ranknet-judgements", "lambda"])
def test_a_right_order_gains_from_scale_and_a_wrong_one_loses(name: str) -> None:
    scores, grades = torch.tensor([[1.0, -1.0, -2.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert Case(name)(3 * scores, grades, mask) < Case(name)(scores, grades, mask)
    assert Case(name)(-3 * scores, grades, mask) > Case(name)(-scores, grades, mask)


# direction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.name in {"ce", "bce", "ranknet-judgements", "lambda"}]
    + [Case("ranknet")],
    ids=str,
)
@for_all(batch=groups(min_passages=2))
def test_losses_on_order_never_push_a_best_passage_down(case: Case, batch: Groups) -> None:
    targets = batch.targets(case)
    _, gradient = value_and_gradient(case, batch.scores, targets, batch.mask)
    for pull, row, real in zip(gradient, targets, batch.mask, strict=True):
        if case.name != "ce" and real.any() and row[real].max() > 0 >= row[real].min():
            assert (pull[real][row[real] == row[real].max()] <= 0).all()
            assert (pull[real][row[real] == row[real].min()] >= 0).all()
        # among several positives, cross-entropy does level out those that stand too high
        if case.name == "ce" and (row[real] > 0).sum() == 1:
            assert (pull[real][row[real] > 0] <= 0).all()
            assert (pull[real][row[real] <= 0] >= 0).all()


@every_loss
@for_all(batch=groups(min_passages=2, full=True), data=st.data())
def test_raising_the_better_passage_lowers_the_loss(
    case: Case, batch: Groups, data: st.DataObject
) -> None:
    width = batch.scores.shape[1]
    targets = batch.targets(case).clone()
    targets[:, 0], targets[:, 1:] = 9.0, targets[:, 1:].clamp(max=0.0)
    # half a logit apart: a smaller step changes no rank, at which the value of "lambda" may jump
    places = data.draw(st.permutations(range(width)))
    level = 0.5 * torch.tensor(places).expand_as(batch.scores).float()
    step = torch.zeros_like(level)
    step[:, 0] = 0.25
    assert case(level + step, targets, batch.mask) < case(level, targets, batch.mask)
    assert case(level - step, targets, batch.mask) > case(level, targets, batch.mask)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in {"margin-mse", "mse", "listnet", "kl"}], ids=str
)
@for_all(batch=groups())
def test_imitation_is_best_at_the_teacher_itself(case: Case, batch: Groups) -> None:
    best, gradient = value_and_gradient(case, batch.teacher, batch.teacher, batch.mask)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)
    assert best <= case(batch.scores, batch.teacher, batch.mask) + 1e-5
    if case.name != "listnet":  # whose smallest value is the entropy of the teacher
        assert abs(best) < 1e-5


@for_all(batch=groups(), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_soft_ranknet_is_best_at_the_margins_of_the_teacher(
    batch: Groups, temperature: float
) -> None:
    soft = Case("ranknet", {"soft": True, "temperature": temperature})
    _, gradient = value_and_gradient(soft, batch.teacher / temperature, batch.teacher, batch.mask)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


# numbers ------------------------------------------------------------------------------------------


@every_loss
@for_all(
    batch=groups(),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float64, torch.float32]),
)
def test_the_arithmetic_is_float32_whatever_comes_in(
    case: Case, dtype: torch.dtype, batch: Groups
) -> None:
    scores, targets = (batch.scores / 3).to(dtype), (batch.targets(case) / 3).to(dtype)
    value, gradient = value_and_gradient(case, scores, targets, batch.mask)
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert gradient.dtype == dtype
    exact, exact_gradient = value_and_gradient(case, scores.float(), targets.float(), batch.mask)
    assert torch.equal(value, exact)
    assert torch.equal(gradient, exact_gradient.to(dtype))


@every_loss
def test_autocast_does_not_lower_the_precision(case: Case) -> None:
    random = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(2, 3, 8, generator=random)
    mask = torch.ones(3, 8, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = case(scores, targets, mask)
    assert torch.equal(cast, case(scores, targets, mask))


@every_loss
@for_all(batch=groups(), scale=st.sampled_from([1e3, 1e4]))
def test_extreme_scores_stay_finite(case: Case, batch: Groups, scale: float) -> None:
    scores = batch.scores.sign() * scale
    for extreme in (scores, -scores):
        value, gradient = value_and_gradient(case, extreme, batch.targets(case), batch.mask)
        assert value.isfinite()
        assert gradient.isfinite().all()
        if case.reads == "teacher":
            value, gradient = value_and_gradient(case, batch.scores, extreme, batch.mask)
            assert value.isfinite()
            assert gradient.isfinite().all()


@every_loss
def test_a_confident_mistake_keeps_its_gradient(case: Case) -> None:
    scores, targets = torch.tensor([[-1e4, 1e4]]), torch.tensor([[1.0, 0.0]])
    value, gradient = value_and_gradient(case, scores, targets, torch.ones(1, 2, dtype=torch.bool))
    assert value > 1e3
    assert gradient[0, 0] < -0.1
    assert gradient[0, 1] > 0.1


@every_loss
def test_no_gradient_reaches_the_targets(case: Case) -> None:
    scores = torch.tensor([[0.5, -0.5]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0]], requires_grad=True)
    case(scores, targets, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert scores.grad is not None
    assert targets.grad is None


@every_loss
@pytest.mark.parametrize(
    "targets", [[math.nan, 0, 0], [1, math.nan, 0], [1, 0, math.nan], [1, math.nan], [math.nan, 0]]
)
def test_a_missing_target_shows_as_nan(case: Case, targets: list[float]) -> None:
    row = torch.tensor([targets])
    assert case(torch.zeros_like(row), row, torch.ones_like(row, dtype=torch.bool)).isnan()


@every_loss
def test_a_score_of_nan_shows_as_nan(case: Case) -> None:
    scores, targets = torch.tensor([[math.nan, -0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert case(scores, targets, torch.ones(1, 3, dtype=torch.bool)).isnan()


# arguments ----------------------------------------------------------------------------------------


@every_loss
def test_shapes_that_would_broadcast_are_refused(case: Case) -> None:
    table, mask = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"\(B, N\), got \(2, 2\), \(2, 1\) and \(2, 2\)"):
        case(table, table[:, :1], mask)
    with pytest.raises(ConfigError, match=r"\(B, N\)"):
        case(table[:, 0], table[:, 0], mask[:, 0])
    with pytest.raises(ConfigError, match=r"mask must be bool"):
        case(table, table, mask.float())


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("kl", {"temperature": 0.0}, "temperature must be a number above 0, got 0.0"),
        ("kl", {"temperature": math.inf}, "temperature must be a number above 0, got inf"),
        ("kl", {"temperature": True}, "temperature must be a number above 0, got True"),
        ("ranknet", {"temperature": -1.0}, "temperature must be a number above 0, got -1.0"),
        ("ranknet", {"soft": 1}, "soft must be true or false, got 1"),
        ("margin-mse", {"against": "frist"}, "unknown against 'frist'; did you mean 'first'?"),
        ("lambda", {"weighting": "ndcg2+"}, "unknown weighting 'ndcg2+'; did you mean 'ndcg2++'?"),
        ("lambda", {"k": 0}, "k must be a whole number from 1 on, got 0"),
        ("lambda", {"k": 2.5}, "k must be a whole number from 1 on, got 2.5"),
        ("lambda", {"mu": "high"}, "mu must be a number above 0, got 'high'"),
    ],
)
def test_an_option_out_of_range_is_named(
    name: str, options: dict[str, float], problem: str
) -> None:
    table = torch.zeros(1, 2)
    with pytest.raises(ConfigError) as raised:
        LOSSES[name].function(table, table, table.bool(), **options)
    assert str(raised.value) == problem


def test_the_table_names_every_loss_once_and_the_cases_cover_it() -> None:
    assert all(name == loss.name for name, loss in LOSSES.items())
    assert len({loss.function for loss in LOSSES.values()}) == len(LOSSES)
    assert {case.name for case in CASES} == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_docstrings_tell_options_unit_and_emptiness(name: str) -> None:
    text = " ".join(str(LOSSES[name].function.__doc__).split())
    assert [option for option in LOSSES[name].options if f"{option}:" not in text] == []
    assert "the mean over" in text
    assert "0 where there is none" in text
