"""Recipes: what to train, on what, how. TOML in, frozen dataclasses out, unknown keys refused."""

from dear.recipes.distilling import DistillRecipe, StudentStage, TeacherStage, TestStage
from dear.recipes.listwise import HeadsRecipe, ListLossRecipe, ListwiseRecipe
from dear.recipes.reading import (
    DISTILL,
    load_distill_recipe,
    load_recipe,
    parse_recipe,
    recipes_folder,
    shipped_recipes,
)
from dear.recipes.training import (
    ContractRecipe,
    DataRecipe,
    DevRecipe,
    GroupsRecipe,
    LoraRecipe,
    LossRecipe,
    ModelRecipe,
    ParallelRecipe,
    Recipe,
    TermRecipe,
    TrainRecipe,
)

__all__ = [
    "DISTILL",
    "ContractRecipe",
    "DataRecipe",
    "DevRecipe",
    "DistillRecipe",
    "GroupsRecipe",
    "HeadsRecipe",
    "ListLossRecipe",
    "ListwiseRecipe",
    "LoraRecipe",
    "LossRecipe",
    "ModelRecipe",
    "ParallelRecipe",
    "Recipe",
    "StudentStage",
    "TeacherStage",
    "TermRecipe",
    "TestStage",
    "TrainRecipe",
    "load_distill_recipe",
    "load_recipe",
    "parse_recipe",
    "recipes_folder",
    "shipped_recipes",
]
