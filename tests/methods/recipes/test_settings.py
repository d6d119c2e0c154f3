"""Rank, scale and dropout: what a method has works, what it has not is refused by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.base.loading import Base, load_base
from weft.config import RecipeSettings
from weft.methods.recipes import recipe_file, recipes, resolve
from weft.model.expert import Expert, build

WOVEN = [name for name in recipes.names() if recipe_file(name).trains == "adapters"]
TARGETS = ["query", "value"]


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


def made(name: str, base: Base, **settings: Any) -> Expert:
    recipe = resolve(RecipeSettings.model_validate({"name": name, "targets": TARGETS, **settings}))
    return build("e", base, recipe, None, seed=0)


def has(name: str, setting: str) -> bool:
    """Whether the method's own settings know of it."""
    spec = resolve(RecipeSettings(name=name)).spec
    assert spec is not None
    return setting in type(spec).model_fields


@pytest.mark.parametrize("name", WOVEN)
def test_a_rank_by_role_is_kept_or_refused_by_name(name: str, bert: Base) -> None:
    try:
        expert = made(name, bert, rank=4, ranks={"query": 2})
    except ValueError as error:
        assert str(error).startswith("ranks: ")  # noqa: PT017 - either outcome is right
        assert "share" in str(error)  # noqa: PT017
        return
    for module, adapter in expert.adapters.items():
        assert adapter.rank == (2 if "query" in module else 4)
        weight = bert.trunk.get_submodule(module).get_parameter("weight")
        assert adapter(torch.randn(2, 3, weight.shape[1]), weight).shape == (2, 3, weight.shape[0])


@pytest.mark.parametrize("name", WOVEN)
def test_dropout_reaches_every_adapter(name: str, bert: Base) -> None:
    expert = made(name, bert, rank=4, dropout=0.25)
    assert {adapter.dropout for adapter in expert.adapters.values()} == {0.25}


@pytest.mark.parametrize("name", WOVEN)
def test_alpha_scales_or_is_refused_by_name(name: str, bert: Base) -> None:
    if not has(name, "alpha"):
        with pytest.raises(ValueError, match="no setting named 'alpha'"):
            made(name, bert, rank=4, alpha=4.0)
        return
    assert made(name, bert, rank=4, alpha=4.0).adapters
