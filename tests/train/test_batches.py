"""Groups in a batch: nothing mixes, nothing depends on who else is there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dear.checkpoints.contract import DEAR
from dear.checkpoints.heads import pooled_logits
from dear.checkpoints.registry import locate
from dear.data.groups import Group
from dear.losses import LOSSES, Objective, Term
from dear.scoring.encoding import PairEncoder
from dear.scoring.engines.one_position import reads_one
from dear.scoring.loading import load_weights
from dear.train.batches import GroupCollator, flat_logits, group_losses, split_batch
from dear.train.examples import Example
from dear.train.trainer import Scoring
from tiny_training import WORDS

Model = tuple[Any, GroupCollator]


def model_of(folder: str) -> Model:
    torch.manual_seed(11)
    model, tokenizer, _ = load_weights(locate(folder), dtype="float32")
    return model.eval(), GroupCollator(PairEncoder(tokenizer, DEAR), tokenizer.pad_token_id)


@pytest.fixture(scope="module", params=["bert", "llama"])
def built(request: pytest.FixtureRequest) -> Model:
    return model_of(request.getfixturevalue(request.param))


def example(size: int, seed: int, *, ties: bool = False) -> Example:
    """A group of texts of very different length; teacher scores with ties if asked."""
    dice = random.Random(seed)
    texts = tuple(" ".join(dice.choices(WORDS, k=dice.randint(1, 30))) for _ in range(size))
    teacher = tuple(float(dice.randint(0, 2)) if ties else dice.uniform(-3, 3) for _ in texts)
    group = Group(
        query_id=f"q{seed}",
        passage_ids=tuple(f"p{i}" for i in range(size)),
        grades=(1, *(dice.randint(0, 1) for _ in range(size - 2)), 0),
        teacher=teacher,
    )
    return Example(group, " ".join(dice.choices(WORDS, k=3)), texts)


def test_a_batch_holds_each_group_whole(built: Model) -> None:
    _, collator = built
    examples = [example(3, 1), example(5, 2), example(2, 3)]
    batch = collator(examples)
    assert batch["input_ids"].shape[0] == 10
    assert batch["present"].sum(dim=1).tolist() == [3, 5, 2]
    assert batch["rows"][batch["present"]].tolist() == list(range(10))
    for b, one in enumerate(examples):
        n = len(one.passages)
        assert batch["teacher"][b, :n].tolist() == pytest.approx(one.group.teacher)
        assert batch["grades"][b, :n].tolist() == list(one.group.grades)
        alone = collator([one])
        for place in range(n):
            row, own = batch["rows"][b, place], alone["rows"][0, place]
            real = batch["attention_mask"][row].bool()
            assert torch.equal(
                batch["input_ids"][row][real],
                alone["input_ids"][own][alone["attention_mask"][own].bool()],
            )


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(2, 6), min_size=1, max_size=4), budget=st.integers(1, 400))
def test_logits_do_not_depend_on_the_token_budget(
    built: Model, sizes: Sequence[int], budget: int
) -> None:
    model, collator = built
    batch = collator([example(n, i) for i, n in enumerate(sizes)])
    with torch.inference_mode():
        at_once = flat_logits(model, batch, None)
        in_parts = flat_logits(model, batch, budget)
    assert at_once.shape == (sum(sizes),)
    assert at_once.dtype == torch.float32
    assert torch.allclose(at_once, in_parts, atol=1e-5)
    if len(at_once) > 3:
        assert at_once.std() > 1e-3  # equal scores would agree in any order


def test_the_last_layer_left_to_one_token_has_the_gradient_of_the_whole(built: Model) -> None:
    model, collator = built
    scoring = Scoring(collator.tokenizer, DEAR).of(model, torch.device("cpu"))
    assert reads_one(scoring)
    batch = collator([example(4, 1), example(3, 2)])
    found = []
    for alone in (False, True):
        model.zero_grad()
        logits = flat_logits(model, batch, 100, alone=alone)
        logits.square().sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((logits.detach(), grads))
    (whole, expected), (cut, grads) = found
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-4, rtol=1e-3, msg=name)


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(2, 6), min_size=1, max_size=5), budget=st.integers(1, 400))
def test_a_batch_is_cut_between_groups(built: Model, sizes: Sequence[int], budget: int) -> None:
    model, collator = built
    batch = collator([example(n, i) for i, n in enumerate(sizes)])
    parts = split_batch(batch, budget)
    tokens = [int(part["attention_mask"].sum()) for part in parts]
    assert sum(tokens) == batch["attention_mask"].sum()
    assert all(n <= budget or len(p["rows"]) == 1 for n, p in zip(tokens, parts, strict=True))
    # no two neighbours would have gone together
    firsts = [int(p["attention_mask"][: p["present"][0].sum()].sum()) for p in parts]
    assert all(n + first > budget for n, first in zip(tokens, firsts[1:], strict=False))
    objective = Objective((Term("kl"), Term("ranknet")))
    with torch.inference_mode():
        whole = group_losses(objective, flat_logits(model, batch, None), batch)
        each = [group_losses(objective, flat_logits(model, p, None), p) for p in parts]
    assert torch.allclose(whole, torch.cat(each), atol=1e-4)


def objectives() -> list[Objective]:
    single = [Objective((Term(name),)) for name in LOSSES]
    soft = Objective((Term("ranknet", 1.0, {"soft": True, "temperature": 2.0}),))
    first = Objective((Term("margin-mse", 1.0, {"against": "first"}),))
    return [*single, soft, first, Objective.dear(("ce", "ranknet"), 0.3, 2.0)]


def name_of(objective: Objective) -> str:
    return "+".join(t.loss + "".join(map(str, t.options.values())) for t in objective.terms)


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]


@pytest.mark.parametrize("objective", objectives(), ids=name_of)
def test_groups_of_different_size_give_the_gradients_of_one_by_one(
    built: Model, objective: Objective
) -> None:
    """Published fault 5: a short batch was regrouped, and queries mixed."""
    model, collator = built
    examples = [example(6, 1), example(2, 2), example(4, 3, ties=True), example(3, 4)]
    batch = collator(examples)
    each = group_losses(objective, flat_logits(model, batch, None), batch)
    together = gradients(model, each.mean())
    alone = []
    for one in examples:
        batch = collator([one])
        logits = pooled_logits(
            model, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
        )
        loss, _ = objective(
            logits[None],
            torch.tensor([one.group.grades], dtype=torch.float32),
            torch.tensor([one.group.teacher]),
            torch.ones(1, len(one.passages), dtype=torch.bool),
        )
        alone.append((loss, gradients(model, loss)))
    assert each.tolist() == pytest.approx([loss.item() for loss, _ in alone], rel=1e-4, abs=1e-6)
    for place, gradient in enumerate(together):
        mean = torch.stack([g[place] for _, g in alone]).mean(0)
        assert torch.allclose(gradient, mean, rtol=1e-3, atol=1e-5 * (1 + mean.abs().max()))
    assert max(g.abs().max() for g in together) > 1e-4


def test_a_group_that_no_loss_can_use_adds_nothing_but_counts(built: Model) -> None:
    model, collator = built
    usable = example(4, 1)
    useless = example(3, 2)
    useless = Example(
        Group(
            query_id="q2",
            passage_ids=useless.group.passage_ids,
            grades=(0, 0, 0),
            teacher=useless.group.teacher,
        ),
        useless.query,
        useless.passages,
    )
    batch = collator([usable, useless])
    each = group_losses(Objective((Term("ce"),)), flat_logits(model, batch, None), batch)
    assert each[0] > 0
    assert each[1] == 0
    assert torch.isfinite(torch.stack([g.sum() for g in gradients(model, each.mean())])).all()


def test_texts_are_encoded_by_the_contract(built: Model) -> None:
    _, collator = built
    batch = collator([example(2, 5)])
    encoder = collator.encoder
    expected = encoder.encode([(example(2, 5).query, p) for p in example(2, 5).passages])
    for row, one in enumerate(expected):
        real = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][real].tolist() == one.ids
        assert batch["token_type_ids"][row][real].tolist() == one.types
