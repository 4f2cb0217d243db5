"""Listwise training: it learns what it is told to, on the answer alone, and leaves what is read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lists import list_recipe, lists, save_language_model
from tiny_models import CONFIGS, llama_tokenizer, make, save
from transformers import AutoModelForCausalLM

import dear.train.checkpoints
from dear.checkpoints.contract import ListwiseContract
from dear.checkpoints.files import TRAINING_FILE, quiet
from dear.data.formats import write_lists
from dear.errors import BackendError, ConfigError, DataError
from dear.listwise.encoding import ListEncoder
from dear.losses import LOSSES
from dear.recipes import ModelRecipe, Recipe
from dear.train import list_trainer
from dear.train.list_reading import orders, read
from dear.train.list_trainer import ListTrainer
from dear.train.lists import ListTokenizer, ListTokens, row_of, tokenise
from dear.train.listwise import list_quality, train_lists
from dear.train.start import start_list_model
from dear.train.trainer import Step
from kills import die, dies_at, in_a_process
from tiny_training import distance, same, weights

LORA = {"rank": 4, "alpha": 8.0}
FIRST = {"text": 0.0, "first": 1.0}
TEXT = {"text": 1.0, "first": 0.0}
DECODERS = [kind for kind in CONFIGS if kind not in ("bert", "modernbert", "roberta")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_language_model(tmp_path_factory.mktemp("models") / "tiny-lm")


def tokens(count: int, size: int = 4, **contract: Any) -> list[ListTokens]:
    encode = ListTokenizer(
        ListEncoder(llama_tokenizer(pad_token="<unk>")), ListwiseContract(**contract)
    )
    return tokenise(lists(count, size, thought=True), encode, epochs=1, seed=None)[0][0]


# what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("text", [True, False])
def test_a_list_reads_the_same_alone_and_in_any_batch(kind: str, text: bool) -> None:
    model = make(kind, AutoModelForCausalLM)
    rows = [row_of(t) for t in (*tokens(2, 3), *tokens(2, 6, thought=True))]
    with torch.no_grad():
        alone = [read(model, [row], text=text)[0] for row in rows]
        for budget in (None, 1, 400):
            found = read(model, rows, text=text, budget=budget)
            for a, b in zip(alone, found, strict=True):
                torch.testing.assert_close(a.identifiers, b.identifiers, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(a.text, b.text, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("thought", [False, True])
def test_reading_is_what_the_whole_models_logits_say(thought: bool) -> None:
    model = make("llama", AutoModelForCausalLM)
    for row in map(row_of, tokens(3, 5, thought=thought)):
        ids = torch.tensor([row["input_ids"]])
        start = ids.shape[1] - row["answer"]
        with torch.no_grad():
            logits = model(ids).logits[0]
            found = read(model, [row], text=True)[0]
        first = logits[start + row["first"] - 1]
        torch.testing.assert_close(found.identifiers, first[row["named"]], rtol=1e-4, atol=1e-4)
        expected = torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[0, start:])
        torch.testing.assert_close(found.text, expected, rtol=1e-4, atol=1e-4)


def test_labels_of_the_prompt_do_not_count() -> None:
    """The loss moves with each token of the answer, and with a prompt's only as what is read."""
    model = make("llama", AutoModelForCausalLM)
    model.requires_grad_(False)
    row = row_of(tokens(1)[0])
    head = model.get_output_embeddings()
    seen: list[int] = []
    hook = head.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[1]))
    read(model, [row], text=True)
    read(model, [row], text=False)
    hook.remove()
    # logits of the answer's positions alone; of one position where only the first counts
    assert seen == [row["answer"], row["answer"] - row["first"]]
    changed = row | {"input_ids": [*row["input_ids"][:-1], 7]}
    assert read(model, [changed], text=True)[0].text != read(model, [row], text=True)[0].text


def test_the_ranking_loss_moves_the_identifiers_and_no_other_token() -> None:
    model = make("llama", AutoModelForCausalLM)  # its head is not tied
    row = row_of(tokens(1, 5, learnt="first")[0])
    found = read(model, [row], text=False)[0]
    loss = LOSSES["weighted-ranknet"].function(
        found.identifiers[None], torch.tensor([row["targets"]]), torch.ones(1, 5, dtype=torch.bool)
    )
    loss.backward()
    touched = model.get_output_embeddings().weight.grad.abs().sum(-1).nonzero()[:, 0].tolist()
    assert touched == sorted(row["named"])
    read_ids = model.get_input_embeddings().weight.grad.abs().sum(-1).nonzero()[:, 0].tolist()
    assert set(read_ids) <= set(row["input_ids"][: len(row["input_ids"]) - 1])
    assert read_ids


# what is learnt -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [FIRST, {"text": 0.3, "first": 1.0}, FIRST | {"first_loss": "kl", "targets": "scores"}],
    ids=["first", "both", "kl of scores"],
)
def test_eight_lists_are_learnt_by_heart_and_ordered_in_one_pass(
    loss: dict[str, Any], base: str, tmp_path: Path
) -> None:
    examples = lists(8)
    made = list_recipe(
        base,
        listwise__loss=loss,
        listwise__shuffle=False,
        train__epochs=60,
        train__groups_per_step=8,
        train__learning_rate=1e-2,
        train__log_steps=5,
        train__save_steps=1000,
    )
    trained = train_lists(made, tmp_path / "out", examples=examples)
    curve = json.loads((tmp_path / "out" / TRAINING_FILE).read_text())["metrics"]["loss_curve"]
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert (trained.examples, trained.rejected, trained.lists) == (8, 0, 480)
    model, tokenizer = start_list_model(ModelRecipe(base=str(tmp_path / "out")))
    contract = ListwiseContract.load(tmp_path / "out")
    assert contract.learnt == ("first" if loss["text"] == 0 else "both")
    encode = ListTokenizer(ListEncoder(tokenizer), contract)
    found = orders(model.eval(), tokenise(examples, encode, epochs=1, seed=None)[0][0])
    taus = [list_quality(f, e.order)[1] for f, e in zip(found, examples, strict=True)]
    assert sum(taus) / len(taus) > 0.9


def test_an_answer_that_was_learnt_as_text_is_generated(base: str, tmp_path: Path) -> None:
    examples = lists(2, 3, thought=True)
    made = list_recipe(
        base,
        listwise__loss=TEXT,
        listwise__shuffle=False,
        listwise__thought=True,
        train__epochs=150,
        train__groups_per_step=2,
        train__learning_rate=1e-2,
        train__save_steps=1000,
    )
    train_lists(made, tmp_path / "out", examples=examples)
    model, tokenizer = start_list_model(ModelRecipe(base=str(tmp_path / "out")))
    contract = ListwiseContract.load(tmp_path / "out")
    assert (contract.thought, contract.learnt) == (True, "text")
    encode = ListTokenizer(ListEncoder(tokenizer), contract)
    for row in tokenise(examples, encode, epochs=1, seed=None)[0][0]:
        out = model.eval().generate(
            torch.tensor([row.prompt]), max_new_tokens=len(row.answer), do_sample=False
        )
        assert out[0, len(row.prompt) :].tolist() == list(row.answer)


def test_neither_passes_nor_batches_change_what_is_learnt(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of different size and length, and a last step that is not full."""
    examples = [*lists(5, 3), *lists(6, 6, seed=4)]
    found = {}
    for passes in (1, 2, 4):
        made = list_recipe(base, train__accumulate=passes)
        train_lists(made, tmp_path / str(passes), examples=examples)
        found[passes] = weights(tmp_path / str(passes))
    # every list alone
    monkeypatch.setattr(list_trainer, "CPU_LIST_TOKENS", 1)
    train_lists(list_recipe(base), tmp_path / "alone", examples=examples)
    found[0] = weights(tmp_path / "alone")
    for other in (2, 4, 0):
        assert distance(found[1], found[other]) < 1e-4


# what is left -------------------------------------------------------------------------------------


def test_an_adapter_is_left_that_peft_loads_and_the_base_is_as_it_was(
    base: str, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    before = weights(Path(base))
    made = list_recipe(base, model__lora=LORA)
    trained = train_lists(made, tmp_path / "out", examples=lists(8))
    assert 0 < trained.trained < trained.parameters
    folder = tmp_path / "out"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "dear_listwise.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    assert not (folder / "steps").exists()
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    )
    with quiet():
        loaded = AutoPeftModelForCausalLM.from_pretrained(folder)
    inner = {
        k.replace(".base_layer", ""): v for k, v in loaded.get_base_model().state_dict().items()
    }
    assert all(torch.equal(inner[name], weight) for name, weight in before.items())
    assert any(v.abs().max() > 0 for k, v in loaded.state_dict().items() if "lora_B" in k)
    assert same(before, weights(Path(base)))


def test_a_merged_adapter_reads_as_the_live_one(base: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    for merge in (False, True):
        made = list_recipe(base, model__lora=LORA | {"merge": merge})
        train_lists(made, tmp_path / str(merge), examples=lists(8))
    with quiet():
        live = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "False").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "True").eval()
    rows = [row_of(t) for t in tokens(3)]
    with torch.no_grad():
        for a, b in zip(read(live, rows, text=True), read(merged, rows, text=True), strict=True):
            torch.testing.assert_close(a.identifiers, b.identifiers, rtol=1e-3, atol=1e-3)


def test_a_pointwise_checkpoint_is_a_base_where_its_embeddings_are_tied(tmp_path: Path) -> None:
    tied = save(tmp_path / "tied", make("llama", tie_word_embeddings=True), llama_tokenizer())
    model, _ = start_list_model(ModelRecipe(base=str(tied), lora=None))
    assert torch.equal(
        model.get_output_embeddings().weight, weights(tied)["model.embed_tokens.weight"]
    )
    assert model.name_or_path == str(tied)
    loose = save(tmp_path / "loose", make("llama"), llama_tokenizer())
    with pytest.raises(DataError, match=r"the checkpoint lacks 1 weights: lm_head\.weight"):
        start_list_model(ModelRecipe(base=str(loose)))


def test_the_base_of_a_pointwise_adapter_is_taken(base: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    pointwise = make("llama")
    pointwise.name_or_path = base
    with quiet():
        get_peft_model(pointwise, config).save_pretrained(
            tmp_path / "pointwise", save_embedding_layers=False
        )
    model, _ = start_list_model(ModelRecipe(base=str(tmp_path / "pointwise")))
    assert model.name_or_path == base


def test_the_best_weights_on_held_out_lists_are_left(base: str, tmp_path: Path) -> None:
    made = list_recipe(
        base,
        listwise__dev=["held"],
        listwise__loss=FIRST,
        train__epochs=4,
        train__learning_rate=5e-2,
        train__scheduler="constant",
    )
    held = lists(12, seed=7)
    trained = train_lists(made, tmp_path / "out", examples=lists(8), held_out=held)
    metrics = json.loads((tmp_path / "out" / TRAINING_FILE).read_text())["metrics"]
    assert len(metrics["dev_curve"]) == 4
    assert trained.best_ndcg == max(e["eval_ndcg"] for e in metrics["dev_curve"])
    model, tokenizer = start_list_model(ModelRecipe(base=str(tmp_path / "out")))
    encode = ListTokenizer(ListEncoder(tokenizer), ListwiseContract.load(tmp_path / "out"))
    found = orders(model.eval(), tokenise(held, encode, epochs=1, seed=None)[0][0])
    ndcg = [list_quality(f, e.order)[0] for f, e in zip(found, held, strict=True)]
    assert sum(ndcg) / len(ndcg) == pytest.approx(trained.best_ndcg)


def test_quality_of_an_order() -> None:
    assert list_quality((2, 0, 1), (2, 0, 1)) == (1.0, 1.0)
    worst, tau = list_quality((1, 0, 2), (2, 0, 1))
    assert tau == -1.0
    assert worst < list_quality((2, 1, 0), (2, 0, 1))[0] < 1.0


# what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"listwise__loss": {"text": 0.0, "first": 0.0}}, "text or first needs a weight"),
        ({"listwise__loss": {"first_loss": "ranknett"}}, "unknown loss 'ranknett'.*ranknet"),
        ({"listwise__max_tokens": 40}, "8 of 8 examples are rejected"),
        ({"listwise__max_tokens": 9999}, "max_tokens is 9999, the model has 2048 positions"),
        ({"listwise__prompt": "lisst"}, "unknown prompt 'lisst'"),
        ({"model__lora": {"targets": ["nothing"]}}, "lora.targets: the model has no nothing"),
        ({"train__accumulate": 3}, "no multiple of accumulate"),
    ],
)
def test_wrong_recipes_are_refused(
    changes: dict[str, Any], error: str, base: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=error):
        train_lists(list_recipe(base, **changes), tmp_path / "out", examples=lists(8))


def test_scores_are_asked_for_where_the_loss_reads_them(base: str, tmp_path: Path) -> None:
    examples = [dataclasses.replace(e, scores=None) if i % 2 else e for i, e in enumerate(lists(8))]
    made = list_recipe(base, listwise__loss={"targets": "scores"})
    with pytest.raises(DataError, match="4 of 8 examples have none"):
        train_lists(made, tmp_path / "out", examples=examples)


def test_rejections_are_reported(base: str, tmp_path: Path) -> None:
    write_lists(tmp_path / "examples.jsonl", [*lists(6), *lists(2, 9, seed=5)])
    made = list_recipe(base, data=[{"lists": [str(tmp_path)]}])
    trained = train_lists(made, tmp_path / "out")
    assert (trained.examples, trained.rejected, trained.why) == (6, 2, "2 too many passages")
    metrics = json.loads((tmp_path / "out" / TRAINING_FILE).read_text())["metrics"]
    assert metrics["rejected"] == {"too many passages": 2}
    with pytest.raises(ConfigError, match="is finished"):
        train_lists(made, tmp_path / "out")


def test_a_loss_that_is_not_finite_stops(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = ListTrainer._loss_of
    monkeypatch.setattr(ListTrainer, "_loss_of", lambda *a: inner(*a) * float("nan"))
    with pytest.raises(BackendError, match=r"step 1: the loss is nan; lower train\.learning_rate"):
        train_lists(list_recipe(base), tmp_path / "out", examples=lists(8))


# killed -------------------------------------------------------------------------------------------


def job(made: Recipe, folder: Path, kill: str, call: int) -> None:
    """One training process, which dies where `kill` says."""
    torch.set_num_threads(1)
    progress: Callable[[Step], None] | None = None
    if kill == "at a step":
        progress = lambda step: die() if step.done == call else None  # noqa: E731
    elif kill == "before the report":
        checkpoints = dear.train.checkpoints
        checkpoints.write_json = dies_at(call + 1, checkpoints.write_json)  # 1 is the plan
    train_lists(made, folder, examples=lists(11), held_out=lists(3), progress=progress)


def report(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / TRAINING_FILE).read_text())["metrics"]
    return {k: v for k, v in found.items() if k not in ("seconds", "resumed_from_step")}


@pytest.mark.parametrize(
    "changes",
    [
        {"train__save_steps": 2, "model__lora": LORA | {"dropout": 0.1}},
        {"train__save_steps": 3, "train__accumulate": 2, "listwise__loss": FIRST},
    ],
    ids=["adapter with dropout", "full, accumulated"],
)
def test_killed_twice_the_weights_are_the_same(
    changes: dict[str, Any], base: str, tmp_path: Path
) -> None:
    made = list_recipe(base, train__epochs=3, **changes)
    assert in_a_process(job, made, tmp_path / "whole", "never", 0) == 0
    for kill, call in (("at a step", 4), ("at a step", 7), ("before the report", 1)):
        assert in_a_process(job, made, tmp_path / "killed", kill, call) == -9, kill
    assert in_a_process(job, made, tmp_path / "killed", "never", 0) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert report(tmp_path / "whole") == report(tmp_path / "killed")
    metrics = json.loads((tmp_path / "killed" / TRAINING_FILE).read_text())["metrics"]
    assert metrics["resumed_from_step"] > 0
