"""Experts on their way through a folder."""

import dataclasses

import torch

from weft.base.loading import Base
from weft.config import RecipeSettings, validate
from weft.lowrank.attach import frozen_linear
from weft.methods.adapters import adapters
from weft.methods.recipes import Recipe, resolve
from weft.model.card import Card
from weft.model.expert import Expert, build


def expert_of(name: str, base: Base, **spec: object) -> tuple[Expert, Recipe]:
    """An expert of that variant on the query maps, by no recipe but its own."""
    variant = adapters.load(name)
    plain = resolve(RecipeSettings(name="lora", targets=["query"]))
    settings = validate(variant.spec_type, spec, "test")
    recipe = dataclasses.replace(plain, adapter=variant, spec=settings)
    return build("x", base, recipe, None, seed=1), recipe


def card_of(expert: Expert, base: Base, **values: object) -> Card:
    """The card of an expert on that base; what a test does not name says nothing."""
    return Card(
        **{
            "task": {"name": expert.name},
            "labels": (),
            "head": "",
            "recipe": {},
            "targets": tuple(expert.adapters),
            "base": base.name,
            "source": base.source,
            "revision": None,
            "digest": base.digest,
            **values,
        }
    )


def assert_same_adapters(found: Expert, expert: Expert, base: Base) -> None:
    """On every map the same rank, state and change of the weight, to the last bit."""
    for name, adapter in expert.adapters.items():
        again, W0 = found.adapters[name], frozen_linear(base.trunk, name).weight
        assert again.rank == adapter.rank
        assert again.state_dict().keys() == adapter.state_dict().keys()
        assert all(torch.equal(v, again.state_dict()[n]) for n, v in adapter.state_dict().items())
        assert torch.equal(again.delta(W0), adapter.delta(W0))
