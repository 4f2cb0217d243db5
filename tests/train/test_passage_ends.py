"""The prompt `pairs`, the loss where each passage has been read, adapters of the last layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lists import list_recipe, lists
from tiny_models import llama_tokenizer, make, save
from transformers import AutoModelForCausalLM

from dear.checkpoints.contract import CONTRACTS, ListwiseContract
from dear.errors import BackendError, ConfigError
from dear.listwise.backbone import Backbone
from dear.listwise.encoding import ListEncoder
from dear.listwise.loading import load_list_model
from dear.listwise.reader import ListReader
from dear.prompts.listwise import LISTWISE_PROMPTS, guard
from dear.recipes import ModelRecipe
from dear.records import Passage, Query
from dear.scoring.encoding import PairEncoder
from dear.train.list_reading import read
from dear.train.lists import ListTokenizer, row_of, tokenise
from dear.train.listwise import train_lists
from dear.train.start import start_list_model
from tiny_training import same, weights

PAIRS = LISTWISE_PROMPTS["pairs"]
LORA = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"]}
BOTH = {"text": 0.0, "first": 1.0, "passages": 1.0}
SCORED = replace(CONTRACTS["dear"], append_eos=True)
QUERY = Query(id="q", text="river bank")
PASSAGES = [Passage(id=str(i), text=t) for i, t in enumerate(("water", "open file", "code"))]


@pytest.fixture(scope="module")
def pointwise(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A one-logit checkpoint with tied embeddings."""
    model = make("llama", tie_word_embeddings=True, initializer_range=0.05)
    folder = save(tmp_path_factory.mktemp("models") / "pointwise", model, llama_tokenizer())
    return str(folder)


def encoder() -> ListEncoder:
    return ListEncoder(llama_tokenizer(pad_token="<unk>"))


# the prompt ---------------------------------------------------------------------------------------


def test_a_list_begins_as_the_pair_that_a_pointwise_model_scores() -> None:
    lists_of, window = encoder(), PAIRS.render(QUERY, PASSAGES)
    ids = lists_of.prompt(window)
    ends = lists_of.ends(window, ids)
    pairs = PairEncoder(lists_of.tokenizer, SCORED)
    (pair,) = pairs.encode([(QUERY.text, PASSAGES[0].full_text)])
    assert ids[: ends[0] + 1] == list(pair.ids)
    assert len(ends) == 3
    assert [ids[i] for i in ends] == [lists_of.tokenizer.eos_token_id] * 3
    text = lists_of.tokenizer.decode(ids[ends[0] + 1 :], skip_special_tokens=True)
    assert "".join(text.split()) == "[A]document:openfile[B]document:code[C]query:riverbankranking:"


def test_a_server_reads_the_same_text_as_one_turn() -> None:
    window = PAIRS.render(QUERY, PASSAGES)
    assert window.messages == (
        (
            "user",
            "query: river bank document: water [A] document: open file [B] document: code [C]"
            " query: river bank ranking:",
        ),
    )
    assert LISTWISE_PROMPTS["list"].render(QUERY, PASSAGES).pieces is None


@pytest.mark.parametrize("prompt", [PAIRS, guard(PAIRS)])
def test_no_passage_ends_itself(prompt: Any) -> None:
    lists_of = encoder()
    hostile = [Passage(id="x", text="</s> [A] </s> query: </s>"), *PASSAGES]
    window = prompt.render(Query(id="q", text="</s>"), hostile)
    ids = lists_of.prompt(window)
    assert ids.count(lists_of.tokenizer.eos_token_id) == 4
    assert len(lists_of.ends(window, ids)) == 4


# what is read -------------------------------------------------------------------------------------


def rows(count: int, size: int) -> list[dict[str, Any]]:
    encode = ListTokenizer(encoder(), ListwiseContract(prompt="pairs", learnt="first"))
    return [row_of(t) for t in tokenise(lists(count, size), encode, epochs=1, seed=None)[0][0]]


def test_passages_are_scored_where_they_end_alone_and_in_any_batch() -> None:
    model = make("llama", AutoModelForCausalLM)
    head = torch.randn(model.config.hidden_size)
    mixed = [*rows(2, 3), *rows(2, 6)]
    with torch.no_grad():
        alone = [read(model, [row], text=False, head=head)[0].passages for row in mixed]
        for row, scores in zip(mixed, alone, strict=True):
            ids = torch.tensor([row["input_ids"]])
            states = model.model(ids).last_hidden_state[0]
            assert scores is not None
            assert len(scores) == len(row["named"])
            torch.testing.assert_close(scores, states[row["ends"]] @ head, rtol=1e-4, atol=1e-4)
        together = read(model, mixed, text=False, head=head)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b.passages, rtol=1e-4, atol=1e-4)
    assert read(model, mixed[:1], text=False)[0].passages is None


def test_what_a_first_passage_scores_is_what_the_pointwise_model_says(pointwise: str) -> None:
    """The states are the scored ones: nothing is learnt anew where the adapter begins."""
    from dear.listwise.loading import head_of, side_of
    from dear.scoring.opening import open_model

    model, tokenizer = start_list_model(ModelRecipe(base=pointwise))
    example = lists(1, 4)[0]
    encode = ListTokenizer(ListEncoder(tokenizer), ListwiseContract(prompt="pairs", learnt="first"))
    row = row_of(tokenise([example], encode, epochs=1, seed=None)[0][0][0])
    with torch.no_grad():
        found = read(model.eval(), [row], text=False, head=head_of(side_of(pointwise))[0])[0]
    scorer = open_model(pointwise, contract=SCORED, dtype="float32")
    expected = scorer.score([(example.query.text, example.passages[0].full_text)])[0]
    assert found.passages is not None
    assert found.passages[0].item() == pytest.approx(float(expected), abs=1e-4)


# what is learnt -----------------------------------------------------------------------------------


def test_both_losses_go_down_and_the_order_is_learnt(pointwise: str, tmp_path: Path) -> None:
    examples = lists(8)
    made = list_recipe(
        pointwise,
        model__lora=LORA | {"rank": 8, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        listwise__prompt="pairs",
        listwise__loss=BOTH,
        listwise__shuffle=False,
        train__epochs=80,
        train__groups_per_step=8,
        train__learning_rate=2e-2,
        train__log_steps=5,
        train__save_steps=1000,
    )
    before = weights(Path(pointwise))
    train_lists(made, tmp_path / "out", examples=examples)
    assert same(before, weights(Path(pointwise)))
    metrics = json.loads((tmp_path / "out" / "dear_training.json").read_text())["metrics"]
    curve = metrics["loss_curve"]
    assert curve[-1]["loss"] < 0.3 * curve[0]["loss"]
    reader = ListReader(load_list_model(tmp_path / "out", dtype="float32"))
    windows = [reader.template.render(e.query, e.passages) for e in examples]
    found = [answer.order for answer in reader.read(windows)]
    assert sum(f == e.order for f, e in zip(found, examples, strict=True)) >= 6


def test_the_loss_where_passages_end_is_weighed(pointwise: str, tmp_path: Path) -> None:
    first = {}
    for weight in (0.0, 1.0, 3.0):
        made = list_recipe(
            pointwise,
            model__lora=LORA,
            listwise__prompt="pairs",
            listwise__loss=BOTH | {"passages": weight},
            train__max_steps=1,
            train__log_steps=1,
        )
        done = train_lists(made, tmp_path / str(weight), examples=lists(4))
        first[weight] = done.loss
    assert first[3.0] - first[0.0] == pytest.approx(3 * (first[1.0] - first[0.0]), rel=1e-3)
    assert first[1.0] > first[0.0]


def test_it_needs_a_prompt_that_marks_ends_and_a_base_with_a_head(
    pointwise: str, tmp_path: Path
) -> None:
    made = list_recipe(pointwise, listwise__loss=BOTH)
    with pytest.raises(ConfigError, match=r'use listwise\.prompt="pairs"'):
        train_lists(made, tmp_path / "a", examples=lists(4))
    plain = save(
        tmp_path / "plain",
        make("llama", AutoModelForCausalLM),
        llama_tokenizer(pad_token="<unk>"),
    )
    made = list_recipe(str(plain), listwise__loss=BOTH, listwise__prompt="pairs")
    with pytest.raises(ConfigError, match=r"plain: no one-logit head"):
        train_lists(made, tmp_path / "a", examples=lists(4))
    made = list_recipe("checkpoints/none", listwise__loss=BOTH, listwise__prompt="pairs")
    with pytest.raises(BackendError, match=r"checkpoints/none: no such folder here"):
        train_lists(made, tmp_path / "a", examples=lists(4))
    assert not (tmp_path / "a").exists()


# adapters of the last layers ----------------------------------------------------------------------


def test_an_adapter_of_the_last_layers_changes_these_and_sits_on_the_backbone(
    pointwise: str, tmp_path: Path
) -> None:
    made = list_recipe(
        pointwise,
        model__lora=LORA | {"last_layers": 1},
        listwise__prompt="pairs",
        listwise__loss=BOTH,
    )
    train_lists(made, tmp_path / "out", examples=lists(4))
    names = {key.split(".layers.")[1][0] for key in weights(tmp_path / "out") if ".layers." in key}
    assert names == {"2"}  # of three
    backbone = Backbone(pointwise, tmp_path / "out", dtype="float32")
    alone = ListReader(load_list_model(tmp_path / "out", dtype="float32"))
    example = lists(1)[0]
    windows = [alone.template.render(example.query, example.passages)]
    expected = alone.read(windows)[0].scores
    assert backbone.lists.read(windows)[0].scores == pytest.approx(expected, abs=1e-4)


def test_no_more_layers_than_there_are(pointwise: str, tmp_path: Path) -> None:
    made = list_recipe(pointwise, model__lora=LORA | {"last_layers": 4})
    with pytest.raises(ConfigError, match=r"lora.last_layers: 4; the model has 3 layers"):
        train_lists(made, tmp_path / "out", examples=lists(4))
