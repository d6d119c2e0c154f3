"""A trunk gets places for what experts weave in, and is the trunk it was: the places hold nothing."""

import copy
import threading
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from weft.base.loading import load_base
from weft.lowrank.attach import (
    attach,
    canonical,
    frozen_linear,
    module_at,
    original,
    wrapped,
)
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.pool import Factors
from weft.lowrank.replaced import Replaced
from weft.lowrank.roles import resolve
from weft.lowrank.route import Route, routed
from weft.lowrank.woven import Woven


@pytest.fixture
def trunk(model_type: str, tiny_folder: Callable[[str], Path]) -> PreTrainedModel:
    return load_base(str(tiny_folder(model_type))).trunk


@pytest.fixture
def bert(tiny_folder: Callable[[str], Path]) -> PreTrainedModel:
    return load_base(str(tiny_folder("bert"))).trunk


def on(trunk: nn.Module, targets: str | list[str], rank: int = 2) -> Woven:
    """Random factors on `targets`."""
    shapes = {name: frozen_linear(trunk, name).weight.shape for name in resolve(trunk, targets)}
    terms = {
        name: Factors(torch.randn(rank, inner) / 4, torch.randn(out, rank) / 4)
        for name, (out, inner) in shapes.items()
    }
    return Woven(terms)


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


def states(
    trunk: nn.Module, route: Route | None, woven: Mapping[str, Woven] | None = None
) -> Tensor:
    ids = torch.arange(5, 17).view(2, 6)
    with torch.inference_mode(), routed(route, woven):
        return trunk(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def test_places_change_no_bit_of_the_base_and_keep_its_own_modules(trunk: PreTrainedModel) -> None:
    torch.manual_seed(0)
    own = {name: module for name, module in trunk.named_modules() if not list(module.children())}
    weights, plain = {k: v.clone() for k, v in trunk.state_dict().items()}, states(trunk, None)
    woven = {"a": on(trunk, "all-linear"), "b": on(trunk, "query")}
    twins = {name: changed(original(trunk, name)) for name in norms(trunk)}
    woven["b"] = Woven(woven["b"].terms, twins)
    for one in woven.values():
        attach(trunk, one)
    assert not torch.allclose(states(trunk, Route.by_sequence(["a", "b"]), woven), plain, atol=1e-3)
    nothing = {"a": Woven(), "b": Woven()}
    for route in (None, Route.everywhere("a", "b"), Route.by_sequence(["a", "b"])):
        assert torch.equal(states(trunk, route, nothing), plain)
    assert {name: original(trunk, name) for name in own} == own
    held = {canonical(name): value for name, value in trunk.state_dict().items()}
    assert list(held) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in held.items())


def test_only_the_targets_are_wrapped_once_and_found_by_their_plain_names(
    trunk: PreTrainedModel,
) -> None:
    names = resolve(trunk, ["query", "ffn_out"])
    linears = [id(frozen_linear(trunk, name)) for name in names]
    for targets in (["query", "ffn_out"], ["ffn_out"]):
        attach(trunk, on(trunk, targets))
        assert [name for name, _ in wrapped(trunk)] == names
        assert [module.name for _, module in wrapped(trunk)] == names
        assert [id(frozen_linear(trunk, name)) for name in names] == linears
        assert resolve(trunk, ["query", "ffn_out"]) == names
    places = anatomy(trunk)
    attach(trunk, on(trunk, "query"))
    assert anatomy(trunk) == places


def test_adapters_and_private_copies_of_one_map_add_up_in_either_order(
    bert: PreTrainedModel,
) -> None:
    name = "encoder.layer.1.intermediate.dense"
    twin = changed(frozen_linear(bert, name))
    out, inner = twin.weight.shape
    term = Factors(torch.randn(2, inner), torch.randn(out, 2))
    woven = {"a": Woven({name: term}), "b": Woven(copies={name: twin})}
    for order in (["a", "b"], ["b", "a"]):
        trunk = copy.deepcopy(bert)
        for expert in order:
            attach(trunk, woven[expert])
        assert isinstance(module_at(trunk, name), LowRankLinear)
        assert original(trunk, name) is frozen_linear(trunk, name)
        x, rows = torch.randn(3, 4, inner), ["a", "b", ("a", "b")]
        with torch.inference_mode(), routed(Route.by_sequence(rows), woven):
            got = module_at(trunk, name)(x)
        base, change = frozen_linear(trunk, name), x @ (term.B @ term.A).T
        expected = torch.stack([base(x[0]) + change[0], twin(x[1]), twin(x[2]) + change[2]])
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_wrapping_keeps_the_trunks_mode(bert: PreTrainedModel) -> None:
    for training in (True, False):
        trunk = copy.deepcopy(bert).train(training)
        name = "embeddings.LayerNorm"
        attach(trunk, Woven(on(trunk, "query").terms, {name: changed(original(trunk, name))}))
        modes = {m.training for m in trunk.modules() if isinstance(m, (LowRankLinear, Replaced))}
        assert modes == {training}


def test_a_module_that_is_no_linear_map_is_refused_and_nothing_is_woven(
    bert: PreTrainedModel,
) -> None:
    before = anatomy(bert)
    query = "encoder.layer.0.attention.self.query"
    term = Factors(torch.randn(2, 32), torch.randn(32, 2))
    with pytest.raises(TypeError, match=r"embeddings\.LayerNorm is a LayerNorm"):
        attach(bert, Woven({query: term, "embeddings.LayerNorm": term}))
    assert anatomy(bert) == before


def test_places_may_be_made_while_other_threads_compute(trunk: PreTrainedModel) -> None:
    torch.manual_seed(0)
    woven = {"a": on(trunk, "query")}
    attach(trunk, woven["a"])
    wanted, done, wrong = states(trunk, Route.everywhere("a"), woven), threading.Event(), []

    def compute() -> None:
        while not done.is_set():
            wrong.append(not torch.equal(states(trunk, Route.everywhere("a"), woven), wanted))

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    kinds = cycle([lambda name: on(trunk, [name]), lambda name: Woven(copies={name: nn.Module()})])
    for name in [*resolve(trunk, "all-linear"), *norms(trunk), *resolve(trunk, "all-linear")]:
        module = original(trunk, name)
        make = (
            next(kinds)
            if isinstance(module, nn.Linear)
            else lambda name: Woven(copies={name: nn.Module()})
        )
        attach(trunk, make(name))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong
    assert not any(wrong)
