"""Weaving wraps the maps an expert adapts, and taking it off leaves the trunk as it was."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.base.loading import load_base
from weft.lowrank.attach import (
    attach,
    canonical,
    detach,
    force_path,
    frozen_linear,
    module_at,
    original,
    replace,
    unwrap,
    wrapped,
)
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.pool import Factors
from weft.lowrank.replaced import Replaced
from weft.lowrank.roles import resolve
from weft.lowrank.route import Route, routed


@pytest.fixture
def trunk(model_type: str, tiny_folder: Callable[[str], Path]) -> PreTrainedModel:
    return load_base(str(tiny_folder(model_type))).trunk


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> PreTrainedModel:
    return load_base(str(tiny_folder("bert"))).trunk


def weave(trunk: nn.Module, expert: str, targets: str | list[str], rank: int = 2) -> list[str]:
    """Random factors on `targets`; the names of the maps."""
    names = resolve(trunk, targets)
    shapes = {name: frozen_linear(trunk, name).weight.shape for name in names}
    terms = {
        name: Factors(torch.randn(rank, inner) / 4, torch.randn(out, rank) / 4)
        for name, (out, inner) in shapes.items()
    }
    attach(trunk, expert, terms)
    return names


def norms(trunk: nn.Module) -> list[str]:
    return [
        canonical(name) for name, module in trunk.named_modules() if "Norm" in type(module).__name__
    ]


def changed(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for value in twin.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return twin


def anatomy(trunk: nn.Module) -> list[tuple[str, type, int]]:
    """Every module's name, class and identity."""
    return [(name, type(module), id(module)) for name, module in trunk.named_modules()]


def states(trunk: nn.Module, route: Route | None) -> Tensor:
    ids = torch.arange(5, 17).view(2, 6)
    with torch.inference_mode(), routed(route):
        return trunk(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def test_unwrapping_restores_every_module_of_the_trunk(trunk: PreTrainedModel) -> None:
    torch.manual_seed(0)
    before, weights = anatomy(trunk), {k: v.clone() for k, v in trunk.state_dict().items()}
    plain = states(trunk, None)
    weave(trunk, "a", "all-linear")
    weave(trunk, "b", "query")
    replace(trunk, "b", {name: changed(module_at(trunk, name)) for name in norms(trunk)})
    assert anatomy(trunk) != before
    assert not torch.allclose(states(trunk, Route.by_sequence(["a", "b"])), plain, atol=1e-3)
    detach(trunk, "a")
    detach(trunk, "b")
    assert torch.equal(states(trunk, Route.everywhere("a", "b")), plain)
    assert unwrap(trunk) is trunk
    assert anatomy(trunk) == before
    assert list(trunk.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in trunk.state_dict().items())
    assert torch.equal(states(trunk, Route.everywhere("a")), plain)


def test_only_the_targets_are_wrapped_once_and_found_by_their_plain_names(
    trunk: PreTrainedModel,
) -> None:
    names = weave(trunk, "a", ["query", "ffn_out"])
    linears = [id(frozen_linear(trunk, name)) for name in names]
    assert weave(trunk, "b", "ffn_out") != names
    assert [name for name, _ in wrapped(trunk)] == names
    assert [id(frozen_linear(trunk, name)) for name in names] == linears
    assert resolve(trunk, ["query", "ffn_out"]) == names
    pools = {name: set(module.pool.terms) for name, module in wrapped(trunk)}
    assert {frozenset(found) for found in pools.values()} == {
        frozenset({"a"}),
        frozenset({"a", "b"}),
    }


def test_detaching_one_expert_leaves_the_others_outputs(bert: PreTrainedModel) -> None:
    torch.manual_seed(0)
    weave(bert, "a", "all-linear")
    expected = states(bert, Route.everywhere("a"))
    weave(bert, "b", ["query", "value"], rank=3)
    assert torch.equal(states(bert, Route.everywhere("a")), expected)
    detach(bert, "b")
    assert torch.equal(states(bert, Route.everywhere("a")), expected)


def test_adapters_and_private_copies_of_one_map_add_up_in_either_order(
    bert: PreTrainedModel,
) -> None:
    name = "encoder.layer.1.intermediate.dense"
    twin = changed(frozen_linear(bert, name))
    out, inner = twin.weight.shape
    term = Factors(torch.randn(2, inner), torch.randn(out, 2))
    found = []
    for steps in ("copy first", "adapter first"):
        trunk = copy.deepcopy(bert)
        before = anatomy(trunk)
        if steps == "copy first":
            replace(trunk, "b", {name: twin})
        attach(trunk, "a", {name: term})
        if steps == "adapter first":
            replace(trunk, "b", {name: twin})
        assert isinstance(module_at(trunk, name), LowRankLinear)
        assert original(trunk, name) is frozen_linear(trunk, name)
        x = torch.randn(3, 4, inner)
        with torch.inference_mode(), routed(Route.by_sequence(["a", "b", ("a", "b")])):
            got = module_at(trunk, name)(x)
        base, change = frozen_linear(trunk, name), x @ (term.B @ term.A).T
        expected = torch.stack([base(x[0]) + change[0], twin(x[1]), twin(x[2]) + change[2]])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
        found.append(anatomy(unwrap(trunk)) == before)
    assert found == [True, True]


def test_wrapping_keeps_the_trunks_mode(bert: PreTrainedModel) -> None:
    for training in (True, False):
        trunk = copy.deepcopy(bert).train(training)
        weave(trunk, "a", "query")
        replace(trunk, "a", {"embeddings.LayerNorm": changed(trunk.embeddings.LayerNorm)})
        modes = {m.training for m in trunk.modules() if isinstance(m, (LowRankLinear, Replaced))}
        assert modes == {training}


def test_a_module_that_is_no_linear_map_is_refused_and_nothing_is_woven(
    bert: PreTrainedModel,
) -> None:
    before = anatomy(bert)
    query = "encoder.layer.0.attention.self.query"
    term = Factors(torch.randn(2, 32), torch.randn(32, 2))
    with pytest.raises(TypeError, match=r"embeddings\.LayerNorm is a LayerNorm"):
        attach(bert, "a", {query: term, "embeddings.LayerNorm": term})
    assert anatomy(bert) == before


def test_a_forced_path_reaches_every_map(bert: PreTrainedModel) -> None:
    weave(bert, "a", "all-linear")
    for path in ("dense", "segments", None):
        force_path(bert, path)
        assert {module.pool.path for _, module in wrapped(bert)} == {path}
