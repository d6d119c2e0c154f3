"""KaSA's penalty: the paper's sum, PEFT's value, and the form of the authors' code."""

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import KasaConfig
from torch import Tensor, nn

from weft.config import validate
from weft.methods.adapters.kasa import KaSA, Spec
from weft.methods.penalties.kasa import KaSAPenalty, KaSASettings

RANK = 3
SHAPES = {"up": (24, 16), "down": (12, 24)}


def adapters() -> dict[str, KaSA]:
    """Two, away from their start."""
    draw = torch.Generator().manual_seed(3)
    found = {}
    for name, shape in SHAPES.items():
        adapter = KaSA(torch.randn(shape, generator=draw), Spec(rank=RANK), draw).double()
        with torch.no_grad():
            for value in adapter.parameters():
                value.add_(0.3 * torch.randn(value.shape, generator=draw))
        found[name] = adapter
    return found


def loss(made: dict[str, KaSA], **settings: object) -> Tensor:
    found = KaSAPenalty(KaSASettings.model_validate(settings)).loss(None, None, made)
    assert isinstance(found, Tensor)
    return found


def frobenius(product: Tensor) -> Tensor:
    """Distance from the identity, entry by entry."""
    return (product - torch.eye(len(product), dtype=product.dtype)).square().sum().sqrt()


def gradients(value: Tensor, made: dict[str, KaSA]) -> list[Tensor]:
    return list(torch.autograd.grad(value, [p for a in made.values() for p in a.parameters()]))


def test_it_is_the_papers_sum() -> None:
    made = adapters()
    wanted = sum(
        0.7 * a.d.square().sum() + 0.4 * (frobenius(a.B.T @ a.B) + frobenius(a.A @ a.A.T))
        for a in made.values()
    )
    torch.testing.assert_close(loss(made, beta=0.7, gamma=0.4), wanted, rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    adapter = KaSA(torch.eye(4), Spec(rank=1), torch.Generator())
    with torch.no_grad():
        adapter.d.fill_(3.0)
        adapter.A.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        adapter.B.copy_(torch.tensor([[2.0], [0.0], [0.0], [0.0]]))
    # d^2 = 9; |4 - 1| + |2 - 1| = 4.
    assert loss({"map": adapter}, beta=0.1, gamma=1.0).item() == pytest.approx(0.9 + 4.0)
    # The 4 x 4 products: sqrt(9 + 3) and sqrt(1 + 3).
    full = loss({"map": adapter}, beta=0.0, gamma=1.0, gram="full").item()
    assert full == pytest.approx(12**0.5 + 2.0)


def test_its_value_and_gradients_are_pefts() -> None:
    made = adapters()
    base = nn.ModuleDict({name: nn.Linear(n, m) for name, (m, n) in SHAPES.items()})
    config = LoraConfig(
        r=RANK, target_modules=list(SHAPES), kasa_config=KasaConfig(beta=0.03, gamma=0.2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, config).double()
    twins = []
    with torch.no_grad():
        for name, adapter in made.items():
            layer = model.get_submodule(f"base_model.model.{name}")
            own = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            own.append(layer.lora_diag["default"])
            for mine, value in zip((adapter.A, adapter.B, adapter.d), own, strict=True):
                value.copy_(mine)
            twins += own
    # PEFT computes it in single precision.
    wanted = model.base_model._get_kasa_loss()
    got = loss(made, beta=0.03, gamma=0.2)
    torch.testing.assert_close(got, wanted.double(), rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(got, [p for a in made.values() for p in (a.A, a.B, a.d)])
    expected = torch.autograd.grad(wanted, twins)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_authors_form() -> None:
    made = adapters()
    squares = sum(a.d.square().sum() for a in made.values())
    apart = sum(frobenius(a.A.T @ a.A) + frobenius(a.B @ a.B.T) for a in made.values())
    wanted = (0.7 * squares + 0.4 * apart) / 2
    got = loss(made, beta=0.7, gamma=0.4, gram="full", reduce="mean")
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    found, expected = gradients(got, made), gradients(wanted, made)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_both_products_point_the_same_way_at_different_sizes() -> None:
    made = {"up": adapters()["up"]}
    A = made["up"].A
    (small,) = torch.autograd.grad(frobenius(A @ A.T), [A])
    (large,) = torch.autograd.grad(frobenius(A.T @ A), [A])
    ratio = frobenius(A @ A.T) / frobenius(A.T @ A)
    torch.testing.assert_close(large, ratio * small, rtol=1e-10, atol=1e-12)
    n = A.shape[1]
    torch.testing.assert_close(
        frobenius(A.T @ A).square(), frobenius(A @ A.T).square() + (n - RANK)
    )
    assert ratio < 0.9


def test_at_the_start_its_gradient_is_finite() -> None:
    draw = torch.Generator().manual_seed(0)
    made = {"up": KaSA(torch.randn(24, 16, generator=draw), Spec(rank=RANK), draw)}
    for gram in ("r", "full"):
        on = gradients(loss(made, gram=gram), made)
        assert all(value.isfinite().all() for value in on)


@pytest.mark.parametrize("name", ["gram", "reduce"])
def test_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"recipe: {name}: .*got 'half'"):
        validate(KaSASettings, {name: "half"}, "recipe")
