"""LaMDA: its start in the spectrum of W0, what learns, and its exact factors of the same rank."""

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import move
from weft.methods.adapters.lamda import LaMDA, Spec

RANK, ALPHA = 3, 6.0
S = ALPHA / RANK
SHAPES = [(24, 16), (16, 24)]


def weight(out: int, inner: int, seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(out, inner, generator=draw, dtype=torch.float64) / 4


def start(W0: Tensor, **settings: object) -> LaMDA:
    spec = Spec.model_validate({"rank": RANK, "alpha": ALPHA, **settings})
    return LaMDA(W0, spec, torch.Generator().manual_seed(0)).double()


def moved(W0: Tensor, **settings: object) -> LaMDA:
    adapter = start(W0, **settings)
    move(adapter.parameters())
    return adapter


def near(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("where", ["spectral", "lora"])
def test_it_starts_as_a_no_op(shape: tuple[int, int], where: str) -> None:
    W0 = weight(*shape)
    assert not start(W0, start=where).delta(W0).any()
    single = LaMDA(W0.float(), Spec.model_validate({"start": where}), torch.Generator())
    assert not single.delta(W0.float()).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_its_factors_start_as_the_largest_singular_components(shape: tuple[int, int]) -> None:
    W0 = weight(*shape)
    adapter = start(W0)
    U, sigma, Vh = torch.linalg.svd(W0, full_matrices=False)
    nearest = U[:, :RANK] @ torch.diag(sigma[:RANK]) @ Vh[:RANK]
    torch.testing.assert_close(S * adapter.B @ adapter.S @ adapter.A, nearest, rtol=0, atol=1e-12)
    eye = torch.eye(RANK, dtype=torch.float64)
    near(adapter.A @ adapter.A.T, eye)
    near(adapter.B.T @ adapter.B, eye)
    near(adapter.S, torch.diag(sigma[:RANK] / S))


def test_the_other_start_is_loras_with_a_kaiming_core() -> None:
    W0 = weight(24, 16)
    adapter = start(W0, start="lora")
    assert not adapter.B.any()
    assert 0 < adapter.A.abs().max() <= 1 / 16**0.5
    assert 0 < adapter.S.abs().max() <= 1 / RANK**0.5
    trained = moved(W0, start="lora")
    near(trained.delta(W0), S * trained.B @ trained.S @ trained.A)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_exact_factors_keep_the_rank(shape: tuple[int, int]) -> None:
    W0 = weight(*shape)
    first, adapter = start(W0), moved(W0)
    frozen = W0 - S * first.B @ first.S @ first.A
    torch.testing.assert_close(
        W0 + adapter.delta(W0), frozen + S * adapter.B @ adapter.S @ adapter.A, rtol=0, atol=1e-12
    )
    A, B = adapter.factors(W0)
    assert A is adapter.A
    near(B, S * (adapter.B @ adapter.S - first.B @ first.S))
    assert B.shape == (shape[0], RANK)


@pytest.mark.parametrize("where", ["spectral", "lora"])
def test_gradients(where: str) -> None:
    W0, G = weight(24, 16), weight(24, 16, seed=8)
    adapter = moved(W0, start=where)
    on_S, on_B = torch.autograd.grad((adapter.delta(W0) * G).sum(), [adapter.S, adapter.B])
    near(on_S, S * adapter.B.T @ G @ adapter.A.T)
    near(on_B, S * G @ (adapter.S @ adapter.A).T)


@pytest.mark.parametrize("where", ["spectral", "lora"])
def test_what_is_frozen_never_moves(where: str) -> None:
    W0 = weight(24, 16)
    adapter = start(W0, start=where)
    frozen = {name: value.clone() for name, value in adapter.named_buffers()}
    assert set(frozen) == ({"A", "C0"} if where == "spectral" else {"A"})
    assert {name for name, _ in adapter.named_parameters()} == {"S", "B"}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        output = adapter(torch.randn(4, 16, dtype=torch.float64), W0)
        (output - 1).square().sum().backward()
        optimizer.step()
    assert adapter.delta(W0).abs().max() > 0.01
    assert all(torch.equal(value, frozen[name]) for name, value in adapter.named_buffers())


@pytest.mark.parametrize("shape", SHAPES)
def test_it_trains_the_core_and_at_first_the_up_projection(shape: tuple[int, int]) -> None:
    assert LaMDA.parameter_count(*shape, Spec(rank=RANK)) == RANK**2 + RANK * shape[0]
