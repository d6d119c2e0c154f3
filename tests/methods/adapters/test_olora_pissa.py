"""What OLoRA and PiSSA have in common: a start within the weight that the form takes back, by itself and by PEFT."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.methods.adapters.oracle import (
    LORA,
    Net,
    assert_ten_steps_agree,
    layer_of,
    parameters_of,
    twins_of,
    woven,
)
from tests.methods.adapters.starts import adapter_of, draw, move
from weft.methods.adapters.contract import Adapter

OUT, IN, RANK, ALPHA = 24, 16, 3, 7.5
SCALING = ALPHA / RANK
NEAR = {"rtol": 1e-12, "atol": 1e-12}
STARTS = [
    ("olora", {}),
    ("pissa", {}),
    ("pissa", {"iterations": 0}),
    ("pissa", {"iterations": 2}),
]


@pytest.fixture(params=["olora", "pissa"])
def name(request: pytest.FixtureRequest) -> str:
    """Each method in turn."""
    return request.param


def start(name: str, W0: Tensor, dtype: torch.dtype = torch.float64, **settings: object) -> Adapter:
    return adapter_of(name, W0, dtype=dtype, rank=RANK, alpha=ALPHA, **settings)


def residual(adapter: Adapter, W0: Tensor) -> Tensor:
    """What the method freezes."""
    return W0 - SCALING * adapter.B0 @ adapter.A0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("method", "settings"), STARTS)
def test_it_starts_as_a_no_op_to_the_last_bit(
    method: str, settings: dict[str, int], dtype: torch.dtype
) -> None:
    W0 = draw(OUT, IN).to(dtype)
    for kept in (torch.promote_types(dtype, torch.float32), torch.bfloat16):
        adapter = start(method, W0, kept, **settings)
        assert not adapter.delta(W0).any()
        assert not adapter(draw(2, 5, IN).to(dtype), W0).any()


def test_both_factors_learn_from_the_first_step(name: str) -> None:
    W0, x, G_y = draw(OUT, IN), draw(5, IN, seed=1), draw(5, OUT, seed=2)
    adapter = start(name, W0)
    G = G_y.T @ x
    (adapter(x, W0) * G_y).sum().backward()
    torch.testing.assert_close(adapter.A.grad, SCALING * adapter.B.detach().T @ G, **NEAR)
    torch.testing.assert_close(adapter.B.grad, SCALING * G @ adapter.A.detach().T, **NEAR)
    assert adapter.A.grad is not None
    assert (adapter.A.grad != 0).all()


def test_its_factors_of_twice_the_rank_stand_on_the_untouched_base(name: str) -> None:
    W0 = draw(OUT, IN)
    before = W0.clone()
    adapter = start(name, W0)
    move(adapter.parameters())
    A, B = adapter.factors(W0)
    assert A.shape == (2 * RANK, IN)
    trained = residual(adapter, W0) + SCALING * adapter.B @ adapter.A
    torch.testing.assert_close(W0 + B @ A, trained, **NEAR)
    assert torch.equal(W0, before)


@pytest.mark.parametrize("large", ["weight", "principal part"])
def test_a_small_change_is_exact_beside_a_large_frozen_one(name: str, large: str) -> None:
    W0 = draw(OUT, IN)
    if large == "weight":
        W0 *= 1e4
    else:
        W0 += 1e4 * draw(OUT, 1, seed=1) @ draw(1, IN, seed=2)
    adapter = start(name, W0.float(), torch.float32)
    move(adapter.parameters(), by=1e-3)
    single = adapter.delta(W0.float()).detach()
    double = adapter.double().delta(W0).detach()
    assert (single - double).norm() < 1e-6 * double.norm()


def pefts(name: str, net: Net) -> nn.Module:
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(net.weights()), init_lora_weights=name
    )
    return get_peft_model(net, config)


def test_it_starts_where_pefts_does(name: str) -> None:
    theirs = pefts(name, Net())
    near = {"rtol": 1e-5, "atol": 1e-6}
    for module, W0 in Net().weights().items():
        layer = layer_of(theirs, module)
        own = start(name, W0, torch.float32)
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(own.A.abs(), A.abs(), **near)
        torch.testing.assert_close(own.B.abs(), B.abs(), **near)
        torch.testing.assert_close(own.B @ own.A, B @ A, **near)
        torch.testing.assert_close(residual(own, W0), layer.base_layer.weight, **near)


def test_it_trains_as_pefts_does(name: str) -> None:
    # PEFT refuses to start in double precision, so that comes after.
    theirs = pefts(name, Net()).double()
    net = Net().double()
    adapters = {module: start(name, W0) for module, W0 in net.weights().items()}
    twins = twins_of(theirs, adapters, LORA)
    with torch.no_grad():
        for module, W0 in net.weights().items():
            layer_of(theirs, module).base_layer.weight.copy_(residual(adapters[module], W0))
    batch = draw(4, 5, IN, seed=1), draw(4, 5, 8, seed=2)
    assert_ten_steps_agree(woven(net, adapters), theirs, parameters_of(adapters), twins, batch)
