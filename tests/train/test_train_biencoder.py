"""A bi-encoder teacher: what it minimises, and that its checkpoint is read everywhere alike."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dear.checkpoints.files import TRAINING_FILE
from dear.errors import ConfigError, DataError
from dear.losses import kl
from dear.recipes import LoraRecipe, LossRecipe, Recipe
from dear.scoring.biencoder import BiEncoder
from dear.scoring.opening import open_model
from dear.train.biencoder import SCALE, TextCollator, embed
from dear.train.examples import Example, load_examples
from dear.train.pointwise import train
from tiny_training import collection, recipe, save_bert


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_bert(tmp_path_factory.mktemp("bi") / "bert")


@pytest.fixture
def wanted(base: str) -> Recipe:
    plain = recipe(base, groups__size=3, train__epochs=20)
    return replace(plain, kind="biencoder", loss=LossRecipe(main=("ce",), alpha=0.0))


def examples_for(wanted: Recipe) -> list[Example]:
    return load_examples(
        wanted.data,
        wanted.groups,
        seed=1,
        with_labels=False,
        collections={"tiny": collection()},
    )


def test_training_brings_queries_and_their_passages_together(
    wanted: Recipe, base: str, tmp_path: Path
) -> None:
    examples = examples_for(wanted)
    train(wanted, tmp_path / "bi", examples=examples)

    def margin(model: BiEncoder) -> float:
        right = model.score([(e.query, e.passages[0]) for e in examples])
        wrong = model.score([(e.query, e.passages[1]) for e in examples])
        return float((right - wrong).mean())

    before = margin(BiEncoder(base, dtype="float32"))
    after = margin(BiEncoder(tmp_path / "bi", dtype="float32"))
    assert after > before + 0.1


def test_the_checkpoint_reads_the_same_in_sentence_transformers(
    wanted: Recipe, tmp_path: Path
) -> None:
    train(wanted, tmp_path / "bi", examples=examples_for(wanted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(tmp_path / "bi"), device="cpu")
    texts = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8 w10 w11 w12"]
    ours = BiEncoder(tmp_path / "bi", dtype="float32")
    np.testing.assert_allclose(ours.embed(texts), theirs.encode(texts), atol=1e-5)
    assert (tmp_path / "bi" / TRAINING_FILE).is_file()
    assert ours.max_tokens == wanted.contract.max_passage_tokens


def test_a_folder_that_was_trained_as_one_is_opened_as_one(wanted: Recipe, tmp_path: Path) -> None:
    examples = examples_for(wanted)
    train(wanted, tmp_path / "bi", examples=examples)
    pairs = [(e.query, e.passages[0]) for e in examples]
    plain = open_model(tmp_path / "bi", dtype="float32")
    assert plain.name == f"biencoder:{tmp_path / 'bi'}"
    said = open_model(f"biencoder:{tmp_path / 'bi'}", dtype="float32")
    np.testing.assert_array_equal(plain.score(pairs), said.score(pairs))


def test_the_first_loss_is_that_of_the_formula(wanted: Recipe, base: str, tmp_path: Path) -> None:
    """Cross-entropy of each query's positive against all different passages of the batch."""
    examples = examples_for(wanted)[:4]
    one_step = replace(
        wanted,
        train=replace(
            wanted.train, groups_per_step=4, max_steps=1, learning_rate=1e-9, log_steps=1
        ),
    )
    trained = train(one_step, tmp_path / "bi", examples=examples)
    model = BiEncoder(base, dtype="float32")
    model.max_tokens = wanted.contract.max_passage_tokens
    passages = list(dict.fromkeys(p for e in examples for p in e.passages))
    losses = []
    for example in examples:
        scores = SCALE * np.array(model.score([(example.query, p) for p in passages]))
        relevant = [
            passages.index(p)
            for p, grade in zip(example.passages, example.group.grades, strict=True)
            if grade > 0
        ]
        log_softmax = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
        losses.append(-log_softmax[relevant].mean())
    assert trained.loss == pytest.approx(float(np.mean(losses)), abs=1e-4)


def test_embeddings_do_not_depend_on_the_budget(base: str) -> None:
    model = BiEncoder(base, dtype="float32").model
    collator = TextCollator(BiEncoder(base).tokenizer, 16)
    ids, mask = collator._encode(["w1", "w2 w3 w4 w5", "w6 w7"])
    with torch.inference_mode():
        whole, cut = embed(model, ids, mask, None), embed(model, ids, mask, 4)
    torch.testing.assert_close(whole, cut, atol=1e-6, rtol=0)


def labelled(examples: list[Example]) -> list[Example]:
    """With a teacher that likes the last passage of each group best."""
    return [
        replace(e, group=replace(e.group, teacher=tuple(float(i) for i in range(len(e.passages)))))
        for e in examples
    ]


def test_a_students_loss_is_that_of_the_batch_and_of_its_own_passages(
    wanted: Recipe, base: str, tmp_path: Path
) -> None:
    examples = labelled(examples_for(wanted)[:4])
    one_step = replace(
        wanted,
        train=replace(
            wanted.train, groups_per_step=4, max_steps=1, learning_rate=1e-9, log_steps=1
        ),
    )
    loss = {
        alpha: train(
            replace(one_step, loss=LossRecipe(main=main, alpha=alpha, temperature=2.0)),
            tmp_path / str(alpha),
            examples=examples,
        ).loss
        for main, alpha in ((("ce",), 0.0), ((), 1.0), (("ce",), 0.25))
    }
    model = BiEncoder(base, dtype="float32")
    model.max_tokens = wanted.contract.max_passage_tokens
    expected = 0.0
    for example in examples:
        scores = torch.tensor(model.score([(example.query, p) for p in example.passages]))
        targets = torch.tensor([example.group.teacher])
        expected += 4 * float(kl(SCALE * scores[None], targets, targets >= 0, temperature=2.0)) / 4
    assert loss[1.0] == pytest.approx(expected, abs=1e-4)
    assert loss[0.25] == pytest.approx(0.75 * loss[0.0] + 0.25 * loss[1.0], abs=1e-4)


def test_a_student_of_fewer_layers_learns_the_teachers_order(
    wanted: Recipe, tmp_path: Path
) -> None:
    examples = labelled(examples_for(wanted))
    student = replace(
        wanted,
        model=replace(wanted.model, layers=(0,)),
        loss=LossRecipe(main=(), alpha=1.0, temperature=1.0),
    )
    train(student, tmp_path / "student", examples=examples)
    model = BiEncoder(tmp_path / "student", dtype="float32")
    assert model.model.config.num_hidden_layers == 1
    best = model.score([(e.query, e.passages[-1]) for e in examples])
    worst = model.score([(e.query, e.passages[0]) for e in examples])
    assert (best > worst).mean() > 0.8


def test_what_a_biencoder_cannot_do_is_refused(wanted: Recipe, tmp_path: Path) -> None:
    examples = examples_for(wanted)
    with pytest.raises(DataError, match="teacher"):
        train(replace(wanted, loss=LossRecipe()), tmp_path / "a", examples=examples)
    with pytest.raises(ConfigError, match="ce"):
        train(
            replace(wanted, loss=LossRecipe(main=("lambda",), alpha=0.0)),
            tmp_path / "b",
            examples=examples,
        )
    wrapped = replace(wanted, model=replace(wanted.model, lora=LoraRecipe()))
    with pytest.raises(ConfigError, match="lora"):
        train(wrapped, tmp_path / "c", examples=examples)
