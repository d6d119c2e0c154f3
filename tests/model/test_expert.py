"""An expert owns all that its task adds to a base, and nothing of the base."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from weft.base.loading import Base, load_base
from weft.config import RecipeSettings, TrainingSettings
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import adapter_parameters
from weft.methods.recipes import resolve
from weft.model.expert import (
    Expert,
    build,
    check_head_settings,
    factors_of,
    train_also_modules,
)
from weft.model.head import Head
from weft.model.model import Model


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_folder("bert")))


def made(base: Base, seed: int = 0, head: Head | None = None, **settings: object) -> Expert:
    recipe = resolve(RecipeSettings.model_validate({"name": "lora", **settings}))
    return build("x", base, recipe, head, seed=seed)


def test_its_trained_parameters_are_adapters_head_and_copies_each_once(bert: Base) -> None:
    head = Head("multiple_choice", bert, 1, seed=0)
    own = made(bert, head=head, targets=["query", "value"], rank=3, train_also=["norms"])
    trained = own.trained()
    assert len({id(value) for value in trained.values()}) == len(trained)
    assert not {id(value) for value in bert.trunk.parameters()} & {id(v) for v in trained.values()}
    adapters = adapter_parameters(bert.trunk, ["query", "value"], 3)
    assert own.adapter_parameters() == adapters
    norms = 5 * 2 * 32
    total = adapters + norms + sum(value.numel() for value in head.state().values())
    assert sum(value.numel() for value in trained.values()) == total


def test_names_of_trained_parameters_do_not_depend_on_what_it_sits_on(bert: Base) -> None:
    names = list(made(bert, train_also=["norms"]).trained())
    model = Model(bert)
    model.add(made(bert, train_also=["norms"]), trainable=True)
    assert list(model.expert("x").trained()) == names


def test_an_expert_is_built_the_same_on_a_base_that_others_live_on(bert: Base) -> None:
    settings = {"targets": "all-linear", "train_also": ["norms", "embeddings", "output.dense"]}
    alone = made(bert, seed=3, **settings)
    resident = made(bert, seed=4, **settings)
    with torch.no_grad():
        for value in resident.trained().values():
            value.add_(1.0)
    model = Model(bert)
    model.add(resident, trainable=True)
    beside = made(bert, seed=3, **settings)
    assert list(beside.adapters) == list(alone.adapters)
    assert list(beside.copies) == list(alone.copies)
    assert [type(part) for part in beside.copies.values()] == [
        type(part) for part in alone.copies.values()
    ]
    first, second = alone.trained(), beside.trained()
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_parts_of_the_base_have_the_same_names_wrapped_and_plain(bert: Base) -> None:
    wanted = ["norms", "embeddings", "attention.self.query"]
    plain = train_also_modules(bert.trunk, wanted)
    model = Model(bert)
    model.add(made(bert, targets="all-linear", train_also=wanted))
    assert train_also_modules(bert.trunk, wanted) == plain
    assert "encoder.layer.1.attention.self.query" in plain


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_trained_weights_are_single_precision_or_double_on_a_double_base(
    dtype: torch.dtype, tiny_folder: Callable[[str], Path]
) -> None:
    base = load_base(str(tiny_folder("bert")), dtype=dtype)
    own = made(base, train_also=["norms"], head=Head("multiple_choice", base, 1, seed=0))
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {value.dtype for value in own.trained().values()} == {wanted}
    assert {value.dtype for value in base.trunk.parameters()} == {dtype}


def test_factors_are_every_adapters_change_wherever_it_lives(bert: Base) -> None:
    own = made(bert, alpha=12, ranks={"query": 2})
    with torch.no_grad():
        for value in own.trained().values():
            value.add_(0.1 * torch.randn_like(value))
    model = Model(bert)
    model.add(own, trainable=True)
    found = factors_of(own, model.trunk)
    assert list(found) == list(own.adapters)
    for name, (A, B) in found.items():
        assert not A.requires_grad or A.is_leaf
        delta = own.adapters[name].delta(frozen_linear(bert.trunk, name).weight)
        torch.testing.assert_close(B @ A, delta, rtol=1e-6, atol=1e-6)


def test_a_recipe_without_adapters_makes_an_expert_with_a_head_alone(bert: Base) -> None:
    head = Head("token_classification", bert, 3, seed=0)
    own = build("x", bert, resolve(RecipeSettings(name="head")), head, seed=0)
    assert (own.adapters, own.copies, own.adapter_parameters()) == ({}, {}, 0)
    assert list(own.trained()) == [f"head.module.{name}" for name in head.trained_names()]


def test_smoothing_is_refused_where_there_are_no_classes(bert: Base) -> None:
    number, classes = (Head("sequence_classification", bert, n, seed=0) for n in (1, 3))
    smooth = TrainingSettings(label_smoothing=0.1)
    with pytest.raises(ValueError, match="a regression has no classes"):
        check_head_settings(number, smooth)
    check_head_settings(classes, smooth)
    check_head_settings(number, TrainingSettings())
    check_head_settings(Head("multiple_choice", bert, 1, seed=0), smooth)
