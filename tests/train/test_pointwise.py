"""Training: what it learns from, what it leaves, and that nothing is left to chance."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_batches import example
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

import dear.scoring.opening
import dear.train.pointwise
import dear.train.start
import dear.train.trainer
from dear.data.collections import Collection
from dear.errors import BackendError, ConfigError, DataError
from dear.evaluate.metrics import evaluate
from dear.recipes import Recipe
from dear.records import Ranking
from dear.scoring.loading import load_scoring_model
from dear.scoring.scorer import Scorer
from dear.train.pointwise import Step, Trained, train
from dear.train.trainer import GroupTrainer
from tiny_training import distance, pairs_of, recipe, same, weights, write_labels

DEV = {"collection": "tiny", "queries": 6, "top_k": 12}


@pytest.fixture
def run(tiny: Collection, tmp_path: Path) -> Any:
    """Train a recipe into a folder of its own and return that folder."""

    def run(made: Recipe, name: str = "out", **options: Any) -> Path:
        train(made, tmp_path / name, collections={"tiny": tiny}, **options)
        return tmp_path / name

    return run


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dear_training.json").read_text())["metrics"]  # type: ignore[no-any-return]


def score(folder: Path, tiny: Collection) -> torch.Tensor:
    model = load_scoring_model(folder, dtype="float32", device="cpu")
    return torch.from_numpy(Scorer(model).score(pairs_of(tiny)))


class Spy:
    """Keeps the trainer, to score with its model as training left it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trainers: list[GroupTrainer] = []
        inner = GroupTrainer.__init__

        def init(trainer: GroupTrainer, **options: Any) -> None:
            self.trainers.append(trainer)
            inner(trainer, **options)

        monkeypatch.setattr(GroupTrainer, "__init__", init)


@pytest.mark.parametrize("base", ["bert", "llama"])
def test_it_learns_and_the_folder_is_a_reranker(
    base: str, tiny: Collection, labels: str, run: Any, request: pytest.FixtureRequest
) -> None:
    folder = run(recipe(request.getfixturevalue(base), labels, train__epochs=8))
    curve = report(folder)["loss_curve"]
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    model = load_scoring_model(folder, dtype="float32", device="cpu")
    assert model.contract.max_query_tokens == 8
    assert model.contract.max_passage_tokens == 24
    assert model.contract.truncation == "separate"
    assert model.contract.pooling == ("model" if base == "bert" else "mask")
    assert not (folder / "steps").exists()


def test_the_teacher_is_not_run_in_training(
    bert: str, labels: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published fault 2. The labels' teacher does not even exist."""

    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("a model was opened in training")

    monkeypatch.setattr(dear.scoring.opening, "open_model", refuse)
    loaded = []
    inner = dear.train.start.load_weights

    def load(source: Any, **options: Any) -> Any:
        loaded.append(source.path)
        return inner(source, **options)

    monkeypatch.setattr(dear.train.start, "load_weights", load)
    run(recipe(bert, labels))
    assert loaded == [bert]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"model__dropout": 0.2},
        {"model__lora": {"rank": 2, "targets": ["query"], "dropout": 0.1}},
    ],
    ids=["plain", "dropout", "lora"],
)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    bert: str, labels: str, run: Any, extra: dict[str, Any]
) -> None:
    one = run(recipe(bert, labels, **extra), "one")
    torch.manual_seed(99)  # whatever the caller did before
    two = run(recipe(bert, labels, **extra), "two")
    other = run(recipe(bert, labels, train__seed=43, **extra), "other")
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))
    assert report(one)["loss_curve"] == report(two)["loss_curve"]


@pytest.mark.parametrize("main", ["ce", "ranknet", "mse"])
def test_accumulation_changes_nothing(
    bert: str, labels: str, run: Any, main: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a short last batch, nor with groups that have more valid pairs than others."""
    inner = dear.train.pointwise.training_arguments

    def with_sgd(*args: Any) -> TrainingArguments:
        # Adam makes whole steps of rounding errors where a gradient is 0 (the bias of the keys)
        arguments = inner(*args)
        arguments.optim = OptimizerNames.SGD
        return arguments

    monkeypatch.setattr(dear.train.pointwise, "training_arguments", with_sgd)
    examples = [example(2 + i % 5, i, ties=i % 2 == 0) for i in range(11)]
    found = []
    backwards = 0
    inner_step = Trainer.training_step

    def counted(*args: Any) -> torch.Tensor:
        nonlocal backwards
        backwards += 1
        return inner_step(*args)

    monkeypatch.setattr(Trainer, "training_step", counted)
    # the last is cut by its tokens: one group is held at a time
    for accumulate, held in ((1, 4096), (2, 4096), (4, 4096), (1, 1)):
        monkeypatch.setattr(dear.train.trainer, "CPU_TRAIN_TOKENS", held)
        made = recipe(
            bert,
            labels,
            loss={"main": [main], "alpha": 0.3},
            train__accumulate=accumulate,
            train__learning_rate=3e-2,
        )
        backwards = 0
        folder = run(made, f"{accumulate}-{held}", examples=examples)
        epochs = made.train.epochs
        assert backwards == epochs * (len(examples) if held == 1 else -(-11 // (4 // accumulate)))
        found.append((weights(folder), report(folder)["loss_curve"]))
    start = weights(run(recipe(bert, labels, train__learning_rate=1e-12), "start"))
    for other, curve in found[1:]:
        assert distance(found[0][0], other) < 1e-6
        assert [e["loss"] for e in curve] == pytest.approx([e["loss"] for e in found[0][1]])
    assert distance(found[0][0], start) > 1e-3


def test_groups_per_step_must_divide(bert: str, run: Any) -> None:
    with pytest.raises(ConfigError, match="4 is no multiple of accumulate 3"):
        run(recipe(bert, train__accumulate=3))


def test_terms_replace_the_default_objective(bert: str, labels: str, run: Any) -> None:
    dear = run(recipe(bert, labels, loss={"main": ["ce"], "alpha": 0.25, "temperature": 2.0}), "a")
    terms = [
        {"name": "ce", "weight": 0.75},
        {"name": "kl", "weight": 1.0, "options": {"temperature": 2.0}},
    ]
    written = run(recipe(bert, labels, loss={"terms": terms}), "b")
    assert same(weights(dear), weights(written))
    other = run(
        recipe(bert, labels, loss={"terms": [{"name": "lambda", "options": {"k": 2}}]}), "c"
    )
    assert not same(weights(dear), weights(other))


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        ({"main": ["cross"]}, "unknown loss 'cross'"),
        ({"terms": [{"name": "ce", "options": {"k": 1}}]}, "unknown option 'k'"),
        ({"main": [], "alpha": 0.0}, "needs a loss with a weight above 0"),
    ],
)
def test_a_wrong_loss_is_named(bert: str, run: Any, loss: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run(recipe(bert, loss=loss))


def test_a_missing_label_is_an_error_with_the_count(
    bert: str, tiny: Collection, run: Any, tmp_path: Path
) -> None:
    folder = write_labels(tmp_path / "l", tiny, leave_out=2)
    with pytest.raises(DataError, match=r"^[12] of \d+ pairs"):
        run(recipe(bert, folder))


def test_examples_without_what_the_loss_reads_are_refused(bert: str, labels: str, run: Any) -> None:
    plain = [example(3, i) for i in range(4)]
    blind = [replace(e, group=replace(e.group, teacher=None)) for e in plain[:3]] + plain[3:]
    with pytest.raises(DataError, match="3 of 4 groups have none"):
        run(recipe(bert, labels), examples=blind)
    unjudged = [replace(e, group=replace(e.group, grades=(0, 0, 0))) for e in plain]
    with pytest.raises(ConfigError, match="no group has a relevant passage"):
        run(recipe(bert, labels), examples=unjudged)
    with pytest.raises(DataError, match="nothing to train on"):
        run(recipe(bert, labels), examples=[])
    run(recipe(bert, labels, loss={"main": [], "alpha": 1.0}), examples=unjudged)


def test_a_cut_model_has_fewer_layers_and_scores(
    bert: str, labels: str, run: Any, tiny: Collection
) -> None:
    folder = run(recipe(bert, labels, model__layers=[1]))
    names = {n.split(".")[3] for n in weights(folder) if ".layer." in n}
    assert names == {"0"}
    assert score(folder, tiny).std() > 1e-3
    with pytest.raises(ConfigError, match="layers"):
        run(recipe(bert, labels, model__layers=[2]), "b")


@pytest.mark.parametrize(("dropout", "expected"), [(0.3, 0.3), (0.0, 0.0), (None, 0.1)])
def test_dropout_is_overridden_or_left(
    bert: str, run: Any, dropout: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    folder = run(
        recipe(
            bert,
            model={"base": bert, "dropout": dropout}
            if dropout is not None
            else {"base": bert, "dropout": None},
        )
    )
    (trainer,) = spy.trainers
    rates = {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {expected}
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == expected


def test_a_decoders_attention_dropout_is_overridden(
    llama: str, labels: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    made = recipe(llama, labels, model__dropout=0.25)
    run(made)
    rates = {
        m.attention_dropout
        for m in spy.trainers[0].model.modules()
        if hasattr(m, "attention_dropout")
    }
    assert rates == {0.25}


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_an_adapter_scores_as_the_model_in_training_did(
    base: str,
    merge: bool,
    labels: str,
    run: Any,
    tiny: Collection,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets = ["query", "value"] if base == "bert" else ["q_proj", "up_proj"]
    lora = {"rank": 2, "alpha": 4.5, "targets": targets, "merge": merge}
    seen: list[torch.Tensor] = []
    inner = GroupTrainer.train

    def spied(trainer: GroupTrainer, **options: Any) -> Any:
        result = inner(trainer, **options)
        trainer.model.eval()
        model = load_like(trainer)
        seen.append(torch.from_numpy(model.score(pairs_of(tiny))))
        return result

    monkeypatch.setattr(GroupTrainer, "train", spied)
    path = request.getfixturevalue(base)
    folder = run(recipe(path, labels, model={"base": path, "lora": lora}, train__epochs=4))
    assert torch.allclose(score(folder, tiny), seen[0], atol=1e-5)
    assert seen[0].std() > 1e-2
    assert (folder / "adapter_config.json").exists() != merge
    saved = weights(folder)
    if merge:
        assert not any("lora" in name for name in saved)
    else:
        head = "classifier" if base == "bert" else "score"
        assert any(name.endswith(f"{head}.weight") for name in saved)
        assert sum(w.numel() for w in saved.values()) < 2000
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == path


def load_like(trainer: GroupTrainer) -> Scorer:
    from dear.scoring.loading import ScoringModel

    return Scorer(
        ScoringModel(
            model=trainer.model,
            tokenizer=trainer.scoring.tokenizer,
            contract=trainer.scoring.contract,
            name="in training",
            revision="",
            device=torch.device("cpu"),
        )
    )


def test_an_adapter_trains_itself_and_the_head_alone(
    llama: str, labels: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    run(recipe(llama, labels, model={"base": llama, "lora": {"rank": 2}}))
    trainable = {n for n, p in spy.trainers[0].model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or ".score." in name for name in trainable)
    assert any(".score." in name for name in trainable)


def test_lora_on_what_is_not_there_is_an_error(bert: str, labels: str, run: Any) -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets: the model has no q_proj, zz"):
        run(recipe(bert, labels, model__lora={"targets": ["zz", "query", "q_proj"]}))
    with pytest.raises(ConfigError, match=r"set model\.lora\.merge=true"):
        run(recipe(bert, labels, model__lora={"targets": ["query"]}, model__layers=[0]))
    # a wrong recipe leaves nothing that the right one would trip over
    run(recipe(bert, labels))


def test_dev_chooses_the_checkpoint_and_patience_stops(
    bert: str, labels: str, run: Any, tiny: Collection
) -> None:
    made = recipe(
        bert,
        labels,
        dev=DEV,
        train__epochs=30,
        train__eval_steps=2,
        train__patience=3,
        train__scheduler="constant",
        train__learning_rate=3e-2,
    )
    folder = run(made)
    found = report(folder)
    curve = found["dev_curve"]
    values = [entry["eval_ndcg"] for entry in curve]
    best = values.index(max(values))
    assert found["best_dev_ndcg@10"] == max(values)
    assert found["best_step"] == curve[best]["step"]
    assert len(values) == best + 1 + 3
    assert found["steps"] == curve[-1]["step"] < 150
    assert [entry["step"] for entry in curve] == list(range(2, curve[-1]["step"] + 1, 2))
    assert dev_ndcg(folder, tiny) == pytest.approx(max(values))


def dev_ndcg(folder: Path, tiny: Collection) -> float:
    scores = score(folder, tiny).tolist()
    run, judgements = tiny.run("bm25", "dev"), tiny.judgements("dev")
    ranked, first = {}, 0
    for query_id, ranking in run.items():
        mine = scores[first : first + len(ranking)]
        first += len(ranking)
        ranked[query_id] = Ranking.sorted(query_id, ranking.passage_ids, mine)
    return evaluate(ranked, judgements, ["nDCG@10"]).means["nDCG@10"]


def test_without_eval_steps_dev_is_measured_once_an_epoch(bert: str, run: Any) -> None:
    found = report(run(recipe(bert, dev=DEV, train__epochs=2.5)))
    assert [entry["step"] for entry in found["dev_curve"]] == [5, 10, 13]
    assert found["steps"] == 13


def test_measuring_dev_does_not_change_what_is_learnt(bert: str, labels: str, run: Any) -> None:
    """Not with dropout, and not where it is measured between any two steps."""
    made = recipe(bert, labels, model__dropout=0.1, train__log_steps=1, train__save_steps=10)
    dev = recipe(bert, dev=DEV).dev
    plain = report(run(made, "plain"))
    often = replace(made, dev=dev, train=replace(made.train, eval_steps=1))
    watched = report(run(often, "watched"))
    assert [entry["step"] for entry in watched["dev_curve"]] == list(range(1, 11))
    assert [entry["step"] for entry in plain["loss_curve"]] == list(range(1, 11))
    assert watched["loss_curve"] == plain["loss_curve"]


def test_the_curves_and_versions_are_kept(bert: str, labels: str, run: Any) -> None:
    made = recipe(bert, labels, train__log_steps=3)
    folder = run(made)
    whole = json.loads((folder / "dear_training.json").read_text())
    assert whole["recipe"] == json.loads(json.dumps(made.to_dict()))
    assert set(whole["versions"]) >= {"python", "torch", "transformers", "dear-rerank"}
    found = whole["metrics"]
    assert [entry["step"] for entry in found["loss_curve"]] == [3, 5, 6, 9, 10]
    assert all(math.isfinite(entry["loss"]) for entry in found["loss_curve"])
    assert found["steps"] == 10
    assert found["groups"] == 18
    assert found["pairs"] == 18 * 6 * 2


def test_the_mean_loss_weighs_every_step_once(
    bert: str, labels: str, run: Any, tiny: Collection, tmp_path: Path
) -> None:
    often = train(
        recipe(bert, labels, train__log_steps=1), tmp_path / "a", collections={"tiny": tiny}
    )
    seldom = train(
        recipe(bert, labels, train__log_steps=4), tmp_path / "b", collections={"tiny": tiny}
    )
    each = [entry["loss"] for entry in report(tmp_path / "a")["loss_curve"]]
    assert len(each) == 10
    assert often.loss == pytest.approx(sum(each) / 10)
    assert seldom.loss == pytest.approx(often.loss, rel=1e-5)


def test_max_steps_replaces_the_epochs(bert: str, run: Any) -> None:
    assert report(run(recipe(bert, train__max_steps=3), "few"))["steps"] == 3
    assert report(run(recipe(bert, train__max_steps=12), "many"))["steps"] == 12


def test_progress_counts_the_steps(bert: str, run: Any) -> None:
    steps: list[Step] = []
    run(recipe(bert, dev=DEV), progress=steps.append)
    assert [(s.done, s.total) for s in steps] == [(n, 10) for n in range(1, 11)]
    assert math.isfinite(steps[-1].loss)
    assert steps[-1].ndcg is not None


def test_the_head_has_a_learning_rate_of_its_own(
    bert: str, labels: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    start = weights(run(recipe(bert, labels, train__learning_rate=1e-12), "start"))
    made = recipe(bert, labels, train__learning_rate=1e-12, train__head_learning_rate=1e-2)
    head_only = weights(run(made, "head"))
    moved = {name for name in start if not torch.allclose(start[name], head_only[name], atol=1e-6)}
    assert moved == {"classifier.weight", "classifier.bias"}
    optimizer = spy.trainers[-1].optimizer
    groups = optimizer.param_groups
    assert sum(len(g["params"]) for g in groups) == len(list(spy.trainers[-1].model.parameters()))
    equal = recipe(bert, labels, train__head_learning_rate=1e-2)
    assert same(
        weights(run(equal, "equal")), weights(run(recipe(bert, labels), "none"))
    )  # one rate written twice is one rate


@pytest.mark.parametrize("base", ["bert", "llama"])
def test_gradient_checkpointing_changes_nothing(
    base: str,
    labels: str,
    run: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = request.getfixturevalue(base)
    spy = Spy(monkeypatch)
    plain = run(recipe(path, labels), "plain")
    saving = run(recipe(path, labels, train__gradient_checkpointing=True), "saving")
    # what is recomputed is computed whole
    assert [trainer.alone for trainer in spy.trainers] == [True, False]
    # a bias of keys moves no attention and one of the head no ranking: their gradient is nothing
    # but rounding, which Adam makes as large as any
    idle = ("key.bias", "classifier.bias")
    first, second = (
        {name: w for name, w in weights(folder).items() if not name.endswith(idle)}
        for folder in (plain, saving)
    )
    assert distance(first, second) < 1e-5


def test_gradient_checkpointing_with_an_adapter(llama: str, labels: str, run: Any) -> None:
    lora = {"rank": 2, "targets": ["q_proj"]}
    plain = run(recipe(llama, labels, model={"base": llama, "lora": lora}), "plain")
    made = recipe(
        llama, labels, model={"base": llama, "lora": lora}, train__gradient_checkpointing=True
    )
    saving = run(made, "saving")
    assert distance(weights(plain), weights(saving)) < 1e-5
    adapters = [w for name, w in weights(saving).items() if "lora_B" in name]
    assert min(w.abs().max() for w in adapters) > 1e-4  # they did learn


def test_tensorboard_gets_the_curves(bert: str, run: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(recipe(bert, dev=DEV, train__report_to="tensorboard"))
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert {"train/loss", "eval/ndcg"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("eval/ndcg")] == [5, 10]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"train__scheduler": "zigzag"}, "zigzag"),
        ({"train__report_to": "paper"}, "paper"),
        ({"contract__max_passage_tokens": 900}, "320 positions"),
        ({"contract__prompt": "dare"}, "did you mean 'dear'"),
    ],
)
def test_what_the_trainer_does_not_know_is_one_line(
    bert: str, run: Any, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        run(recipe(bert, **change))
    assert "\n" not in str(caught.value)


def test_a_model_with_several_outputs_is_no_start(run: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from tiny_training import tokenizer

    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=3
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "three")
    tokenizer().save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigError, match="3 outputs"):
        run(recipe(str(tmp_path / "three")))


@pytest.mark.parametrize(
    ("teacher", "loss"), [((math.nan, 0.0, 1.0), "nan"), ((3e38, -3e38, 1.0), "inf")]
)
def test_a_loss_that_is_not_finite_is_one_error_and_keeps_the_last_whole_checkpoint(
    teacher: tuple[float, ...], loss: str, bert: str, labels: str, run: Any, tmp_path: Path
) -> None:
    examples = [example(3, i) for i in range(40)]
    bad = replace(examples[0].group, teacher=teacher)
    examples[0] = replace(examples[0], group=bad)
    made = recipe(bert, labels, loss={"main": ["mse"]}, train__epochs=1, train__save_steps=1)
    with pytest.raises(BackendError, match=rf"step \d+: the loss is {loss}; lower") as caught:
        run(made, examples=examples)
    failed = int(str(caught.value).split()[1].rstrip(":"))
    kept = sorted(p.name for p in (tmp_path / "out" / "steps").glob("checkpoint-*"))
    assert kept == ([f"checkpoint-{failed - 1}"] if failed > 1 else [])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    bad: float, bert: str, labels: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = GroupTrainer.training_step

    def step(trainer: GroupTrainer, *args: Any, **options: Any) -> Any:
        loss = inner(trainer, *args, **options)
        if trainer.state.global_step == 3:
            next(p for p in trainer.model.parameters() if p.grad is not None).grad[0] = bad
        return loss

    monkeypatch.setattr(GroupTrainer, "training_step", step)
    with pytest.raises(BackendError, match="step 4: the gradient is"):
        run(recipe(bert, labels, train__save_steps=1))
    kept = tmp_path / "out" / "steps" / "checkpoint-3"
    assert (kept / "WHOLE").exists()
    assert all(torch.isfinite(w).all() for w in weights(kept).values())
    monkeypatch.undo()
    run(recipe(bert, labels, train__save_steps=1))  # goes on from there


def test_training_prints_nothing_and_warns_of_nothing(
    bert: str, labels: str, tmp_path: Path
) -> None:
    """In a fresh process, where no test runner has silenced anything."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from tiny_training import collection, recipe
from dear.train.pointwise import train
lora = dict(model__lora=dict(rank=2, targets=["query"]))
for name, extra in (("a", {{}}), ("b", lora)):
    made = recipe({bert!r}, {labels!r}, dev=dict(collection="tiny", queries=6),
                  train__report_to="tensorboard", train__gradient_checkpointing=True, **extra)
    train(made, Path({str(tmp_path)!r}) / name, collections=dict(tiny=collection()))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning:transformers", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_the_outcome_says_what_was_done(
    bert: str, tiny: Collection, tmp_path: Path, labels: str
) -> None:
    done = train(recipe(bert, labels), tmp_path / "x", collections={"tiny": tiny})
    assert isinstance(done, Trained)
    assert done.folder == tmp_path / "x"
    assert done.pairs == 216
    assert done.best_ndcg is None
    assert done.parameters == sum(w.numel() for w in weights(tmp_path / "x").values())
