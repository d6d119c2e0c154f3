"""Adapters where an expert starts them, and anywhere else, as after training."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from weft.config import RecipeSettings, validate
from weft.methods.adapters import adapters
from weft.methods.adapters.contract import Adapter
from weft.methods.recipes import resolve
from weft.model.expert import make_adapters


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal, in double precision; the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def move(values: Iterable[Tensor], by: float = 0.2, seed: int = 3) -> None:
    """Away from where they are, as training moves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in values:
            value.add_(by * torch.randn(value.shape, generator=generator))


def adapters_of(
    name: str,
    weights: Mapping[str, Tensor],
    ranks: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **settings: object,
) -> tuple[dict[str, Adapter], nn.Module | None]:
    """A recipe's adapters on those maps and what they share; without `ranks`, all of the recipe's own."""
    recipe = resolve(RecipeSettings.model_validate({"name": name, **settings}))
    assert recipe.spec is not None
    ranks = ranks or dict.fromkeys(weights, recipe.spec.rank)
    return make_adapters(recipe, weights, ranks, torch.Generator().manual_seed(seed), dtype)


def adapter_of(
    name: str,
    weight: Tensor,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **settings: object,
) -> Adapter:
    """A recipe's adapter on one map."""
    made, _ = adapters_of(name, {"map": weight}, seed=seed, dtype=dtype, **settings)
    return made["map"]


def variant_on(name: str, weight: Tensor, *, seed: int = 0, **spec: object) -> Adapter:
    """A file of the folder on one map, whatever the recipes that use it."""
    variant = adapters.load(name)
    settings = validate(variant.spec_type, spec, "test")
    return variant(weight, settings, torch.Generator().manual_seed(seed)).to(torch.float64)
