"""TinyLoRA is PEFT's, given the same tensors, and its equation, in float64."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftModel, TinyLoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.methods.adapters.oracle import assert_ten_steps_agree, layer_of
from tests.methods.adapters.starts import adapters_of
from weft.base.loading import load_base
from weft.config import RecipeSettings
from weft.methods.adapters.contract import Adapter
from weft.methods.adapters.tinylora import Spec, Ties, TinyLoRA
from weft.methods.recipes import resolve
from weft.model.expert import Expert, build, factors_of
from weft.storage.tensors import native_adapters, native_metadata, native_state

WIDTH, MAPS, RANK, U = 12, 5, 3, 6
NAMES = tuple(f"map{place}" for place in range(MAPS))
TYINGS = {0.0: [0, 1, 2, 3, 4], 0.5: [0, 0, 1, 1, 1], 1.0: [0, 0, 0, 0, 0]}
NEAR = {"rtol": 1e-11, "atol": 1e-12}


class Net(nn.Module):
    """Five maps, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(7)
        for place, name in enumerate(NAMES):
            map_ = nn.Linear(WIDTH, WIDTH + place % 2, dtype=torch.float64)
            shape = (WIDTH + (place + 1) % 2, WIDTH + place % 2)
            map_.weight = nn.Parameter(torch.randn(shape, generator=draw).double() / 4, False)
            map_.bias = nn.Parameter(torch.randn(shape[0], generator=draw).double(), False)
            self.add_module(name, map_)

    def forward(self, x: Tensor) -> Tensor:
        for map_ in self.children():
            x = map_(x).tanh()
        return x


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: net.get_submodule(name).get_parameter("weight") for name in NAMES}


def ours(net: nn.Module, **settings: object) -> tuple[dict[str, Adapter], nn.Module | None]:
    return adapters_of("tinylora", weights(net), seed=1, **{"rank": RANK, "u": U} | settings)


def tiny(adapter: Adapter) -> TinyLoRA:
    assert isinstance(adapter, TinyLoRA)
    return adapter


def states(net: nn.Module, adapters: Mapping[str, Adapter], x: Tensor) -> Tensor:
    for name, adapter in adapters.items():
        map_ = net.get_submodule(name)
        x = (map_(x) + adapter(x, map_.get_parameter("weight"))).tanh()
    return x


def theirs(adapters: Mapping[str, Adapter], tying: float) -> tuple[PeftModel, list[nn.Parameter]]:
    """PEFT's model with the same A, B and v, and its vectors; P is its own."""
    config = TinyLoraConfig(
        r=RANK, u=U, weight_tying=tying, target_modules=list(NAMES), init_weights="uniform"
    )
    model = get_peft_model(Net(), config)
    with torch.no_grad():
        for name, adapter in adapters.items():
            own, layer = tiny(adapter), layer_of(model, name)
            layer.tinylora_A["default"].copy_(own.A)
            layer.tinylora_B["default"].copy_(own.B)
            layer.tinylora_v["default"][str(own.group)].copy_(own.vector())
    vectors = dict(model.base_model.tinylora_v["default"].items())
    return model, [vectors[key] for key in sorted(vectors)]


def vectors(adapters: Mapping[str, Adapter]) -> list[Tensor]:
    """Every v once, in the order of its first map."""
    return list({id(v): v for v in (tiny(own).vector() for own in adapters.values())}.values())


@pytest.mark.parametrize("tying", TYINGS)
def test_groups_projections_states_gradients_and_training_equal_pefts(tying: float) -> None:
    net = Net()
    adapters, _ = ours(net, weight_tying=tying, init_v="uniform", init_v_bound=0.5)
    model, their_vectors = theirs(adapters, tying)
    own_vectors = vectors(adapters)
    assert [tiny(adapter).group for adapter in adapters.values()] == TYINGS[tying]
    assert len(own_vectors) == len(their_vectors) == TYINGS[tying][-1] + 1
    for name, adapter in adapters.items():
        layer = layer_of(model, name)
        assert torch.equal(layer.tinylora_P["default"].double(), tiny(adapter).P)
        torch.testing.assert_close(
            adapter.delta(weights(net)[name]), layer.get_delta_weight("default"), **NEAR
        )
    x = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(2)).double()
    target = torch.linspace(-1, 1, 7 * (WIDTH + 1)).double().view(7, WIDTH + 1)
    assert_ten_steps_agree(
        lambda x: states(net, adapters, x),
        model,
        {str(group): value for group, value in enumerate(own_vectors)},
        {str(group): value for group, value in enumerate(their_vectors)},
        (x, target),
        rate=0.05,
        outputs=NEAR,
        gradients={"rtol": 1e-11, "atol": 1e-14},
    )
    assert (states(net, adapters, x) - net(x)).abs().max() > 0.01


def test_the_frozen_factors_are_pefts_up_to_the_signs_of_singular_vectors() -> None:
    net = Net()
    adapters, _ = ours(net)
    model = get_peft_model(Net(), TinyLoraConfig(r=RANK, u=U, target_modules=list(NAMES)))
    for name, adapter in adapters.items():
        own, layer = tiny(adapter), layer_of(model, name)
        product = layer.tinylora_B["default"] @ layer.tinylora_A["default"]
        # PEFT decomposes in single precision.
        torch.testing.assert_close(own.B @ own.A, product.double(), rtol=1e-5, atol=1e-5)
        U_, S, Vh = torch.linalg.svd(weights(net)[name], full_matrices=False)
        nearest = (U_[:, :RANK] * S[:RANK]) @ Vh[:RANK]
        torch.testing.assert_close(own.B @ own.A, nearest, **NEAR)
        torch.testing.assert_close(own.A @ own.A.T, S[:RANK].diag(), **NEAR)
        torch.testing.assert_close(own.B.T @ own.B, S[:RANK].diag(), **NEAR)


def test_the_change_is_the_equation_and_so_is_its_gradient() -> None:
    net = Net()
    adapters, _ = ours(net, init_v="uniform")
    G = torch.linspace(-1, 1, WIDTH * (WIDTH + 1)).double()
    for name, adapter in adapters.items():
        own, W0 = tiny(adapter), weights(net)[name]
        middle = sum(own.vector()[i] * own.P[i] for i in range(U))
        torch.testing.assert_close(own.delta(W0), own.B @ middle @ own.A, **NEAR)
        slope = G[: W0.numel()].view(W0.shape)
        (gradient,) = torch.autograd.grad((own.delta(W0) * slope).sum(), own.vector())
        inner = own.B.T @ slope @ own.A.T
        wanted = torch.stack([(own.P[i] * inner).sum() for i in range(U)])
        torch.testing.assert_close(gradient, wanted, **NEAR)


def test_it_starts_as_a_no_op_or_uniform_within_its_bound() -> None:
    net = Net()
    adapters, _ = ours(net)
    assert not any(own.delta(weights(net)[name]).any() for name, own in adapters.items())
    for tying in (0.0, 1.0):
        drawn, _ = ours(net, weight_tying=tying, u=400, init_v="uniform", init_v_bound=0.3)
        (first, *_) = vectors(drawn)
        assert first.abs().max() <= 0.3
        # Uniform: the deviation is bound / sqrt(3), known to 2.2 % by 400 draws.
        assert first.std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(("tying", "count"), [(0.0, 5 * U), (0.5, 2 * U), (1.0, U)])
def test_untied_vectors_are_the_adapters_and_tied_ones_the_experts(
    tying: float, count: int
) -> None:
    adapters, shared = ours(Net(), weight_tying=tying)
    assert isinstance(shared, Ties)
    expert = Expert("x", adapters, None, shared=shared)
    trained = expert.trained()
    assert sum(value.numel() for value in trained.values()) == expert.adapter_parameters() == count
    assert all(name.startswith("shared.") == bool(tying) for name in trained)
    own = TinyLoRA.parameter_count(40, 30, Spec(u=U, weight_tying=tying))
    assert own == (0 if tying else U)


def test_projections_come_from_their_own_seed_and_differ_by_map() -> None:
    net = Net()
    first, _ = ours(net)
    again, _ = ours(net)
    other, _ = ours(net, projection_seed=43)
    P = [tiny(own).P for own in first.values()]
    assert all(torch.equal(a, tiny(b).P) for a, b in zip(P, again.values(), strict=True))
    assert not any(torch.equal(a, b) for i, a in enumerate(P) for b in P[:i])
    assert not torch.equal(P[0], tiny(other["map0"]).P)
    assert set(first["map0"].state_dict()) == {"A", "B", "P", "v"}


def test_tied_vectors_come_back_to_their_maps(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(str(tiny_folder("bert")), dtype=torch.float64)
    settings = {"targets": ["query", "value", "ffn_in"], "ranks": {"value": 3}, "u": U}
    recipe = resolve(RecipeSettings(name="tinylora", weight_tying=0.7, **settings))
    expert = build("x", base, recipe, None, seed=1)
    assert [tiny(own).group for own in expert.adapters.values()] == [0, 0, 0, 1, 1, 1]
    with torch.no_grad():
        for seed, value in enumerate(expert.trained().values()):
            value.add_(torch.randn(U, generator=torch.Generator().manual_seed(seed)))
    save_file(native_state(expert), tmp_path / "native.safetensors", native_metadata(expert))
    factors = factors_of(expert, base.trunk)
    found, _ = native_adapters(tmp_path / "native.safetensors", factors, base, recipe)
    for name, adapter in expert.adapters.items():
        weight = base.trunk.get_submodule(name).get_parameter("weight")
        assert torch.equal(found[name].delta(weight), adapter.delta(weight))
