"""OLoRA: the QR start, its exact form on the untouched base, and PEFT's own layers."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from weft.adapters.olora import OLoRA
from weft.config import RecipeSettings
from weft.expert import make_adapters
from weft.lowrank.linear import LowRankLinear
from weft.lowrank.route import Route, routed
from weft.recipes import resolve

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
SCALING = ALPHA / RANK
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def draws(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(W0: Tensor, dtype: torch.dtype = torch.float64, **settings: object) -> OLoRA:
    """As an expert starts it on one map."""
    asked = {"name": "olora", "rank": RANK, "alpha": ALPHA, **settings}
    recipe = resolve(RecipeSettings.model_validate(asked))
    assert recipe.spec is not None
    made, _ = make_adapters(
        recipe, {"map": W0}, {"map": recipe.spec.rank}, torch.Generator().manual_seed(0), dtype
    )
    adapter = made["map"]
    assert isinstance(adapter, OLoRA)
    return adapter


def move(adapter: OLoRA, by: float = 0.2) -> None:
    """Away from its start, as after training."""
    with torch.no_grad():
        for number, value in enumerate(adapter.parameters()):
            value.add_(by * draws(*value.shape, seed=3 + number))


def residual(adapter: OLoRA, W0: Tensor) -> Tensor:
    """What the method freezes."""
    return W0 - SCALING * adapter.B0 @ adapter.A0


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT)])
def test_it_starts_from_the_first_columns_of_the_qr_decomposition(shape: tuple[int, int]) -> None:
    W0 = draws(*shape)
    adapter = start(W0)
    A, B = adapter.A.detach(), adapter.B.detach()
    torch.testing.assert_close(B.T @ B, torch.eye(RANK).double(), **NEAR)
    assert torch.equal(A, A.triu())
    assert (A.diagonal() > 0).all()
    # Gram and Schmidt: what the first columns of W0 span, and all of W0's share in it.
    torch.testing.assert_close(B @ A[:, :RANK], W0[:, :RANK], **NEAR)
    torch.testing.assert_close(A, B.T @ W0, **NEAR)
    first = W0[:, 0] / W0[:, 0].norm()
    torch.testing.assert_close(B[:, 0], first, **NEAR)


def test_the_same_weight_starts_the_same_however_its_signs_fall() -> None:
    W0 = draws(OUT, IN)
    signs = torch.where(draws(OUT, seed=1) < 0, -1.0, 1.0).double()
    # Rows flipped: the same R, and Q with the same rows flipped.
    one, two = start(W0), start(signs[:, None] * W0)
    torch.testing.assert_close(two.A, one.A, **NEAR)
    torch.testing.assert_close(two.B, signs[:, None] * one.B, **NEAR)


def test_at_full_rank_and_alpha_the_rest_is_nothing() -> None:
    W0 = draws(OUT, IN)
    adapter = start(W0, rank=IN, alpha=IN)
    torch.testing.assert_close(adapter.B0 @ adapter.A0, W0, **NEAR)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_starts_as_a_no_op_to_the_last_bit(dtype: torch.dtype) -> None:
    W0 = draws(OUT, IN).to(dtype)
    for kept in (torch.promote_types(dtype, torch.float32), torch.bfloat16):
        adapter = start(W0, kept)
        assert not adapter.delta(W0).any()
        assert not adapter(draws(2, 5, IN).to(dtype), W0).any()


def test_both_factors_learn_from_the_first_step() -> None:
    W0, x, G_y = draws(OUT, IN), draws(5, IN, seed=1), draws(5, OUT, seed=2)
    adapter = start(W0)
    G = G_y.T @ x
    (adapter(x, W0) * G_y).sum().backward()
    torch.testing.assert_close(adapter.A.grad, SCALING * adapter.B.detach().T @ G, **NEAR)
    torch.testing.assert_close(adapter.B.grad, SCALING * G @ adapter.A.detach().T, **NEAR)
    assert adapter.A.grad is not None
    assert (adapter.A.grad != 0).all()


def test_its_factors_of_twice_the_rank_stand_on_the_untouched_base() -> None:
    W0 = draws(OUT, IN)
    before = W0.clone()
    adapter = start(W0)
    move(adapter)
    A, B = adapter.factors(W0)
    assert A.shape == (2 * RANK, IN)
    trained = residual(adapter, W0) + SCALING * adapter.B @ adapter.A
    torch.testing.assert_close(W0 + B @ A, trained, **NEAR)
    assert torch.equal(W0, before)


def test_a_small_change_is_exact_beside_a_large_frozen_one() -> None:
    W0 = 1e4 * draws(OUT, IN)
    adapter = start(W0.float(), torch.float32)
    move(adapter, by=1e-3)
    single = adapter.delta(W0.float()).detach()
    double = adapter.double().delta(W0).detach()
    assert (single - double).norm() < 1e-6 * double.norm()


def test_its_start_is_part_of_its_state() -> None:
    W0 = draws(OUT, IN)
    adapter, other = start(W0), start(draws(OUT, IN, seed=1))
    move(adapter)
    assert set(adapter.state_dict()) == {"A", "B", "A0", "B0"}
    other.load_state_dict(adapter.state_dict())
    assert torch.equal(other.delta(W0), adapter.delta(W0))


class Net(nn.Module):
    """Two maps, each with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, OUT)
        self.second = nn.Linear(OUT, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def pefts(net: nn.Module) -> nn.Module:
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["first", "second"],
        init_lora_weights="olora",
    )
    return get_peft_model(copy.deepcopy(net), config)


def woven(net: nn.Module, adapters: dict[str, OLoRA]) -> nn.Module:
    found = copy.deepcopy(net)
    for name, adapter in adapters.items():
        map_ = LowRankLinear(getattr(found, name))
        map_.pool.add("x", adapter)
        setattr(found, name, map_)
    return found


def test_it_starts_where_pefts_does() -> None:
    torch.manual_seed(0)
    net = Net()
    theirs = pefts(net)
    near = {"rtol": 1e-5, "atol": 1e-6}
    for name, linear in net.named_children():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        own = start(linear.weight, torch.float32)
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(own.A.abs(), A.abs(), **near)
        torch.testing.assert_close(own.B.abs(), B.abs(), **near)
        torch.testing.assert_close(own.B @ own.A, B @ A, **near)
        torch.testing.assert_close(residual(own, linear.weight), layer.base_layer.weight, **near)


def test_it_trains_as_pefts_does() -> None:
    torch.manual_seed(0)
    net = Net().requires_grad_(False)
    # PEFT refuses to start in double precision, so that comes after.
    theirs = pefts(net).double()
    net = net.double()
    adapters = {name: start(layer.weight) for name, layer in net.named_children()}
    ours, own, twin = woven(net, adapters), {}, {}
    for name, adapter in adapters.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        own[name] = dict(adapter.named_parameters())
        twin[name] = {
            "A": layer.lora_A["default"].weight,
            "B": layer.lora_B["default"].weight,
        }
        with torch.no_grad():
            layer.base_layer.weight.copy_(residual(adapter, net.get_submodule(name).weight))
            for letter, value in twin[name].items():
                value.copy_(own[name][letter])
    x, target = draws(4, 5, IN, seed=1), draws(4, 5, 8, seed=2)
    optimizers = [
        torch.optim.AdamW([v for part in side.values() for v in part.values()], lr=1e-2)
        for side in (own, twin)
    ]
    for _ in range(10):
        with routed(Route.everywhere("x")):
            got = ours(x)
        expected = theirs(x)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
        for optimizer, y in zip(optimizers, (got, expected), strict=True):
            optimizer.zero_grad()
            (y - target).square().mean().backward()
        for name, part in own.items():
            for letter, value in part.items():
                assert value.grad is not None
                other = twin[name][letter].grad
                torch.testing.assert_close(value.grad, other, rtol=1e-9, atol=1e-12)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(own, twin, rtol=1e-9, atol=1e-9)
