"""LoRA-XS is its equation, between the singular vectors of the weight, in float64."""

import pytest
import torch
from torch import Tensor

from tests.methods.adapters.starts import draw
from weft.methods.adapters.lora_xs import LoRAXS, Spec

OUT, IN, RANK = 20, 14, 4
NEAR = {"rtol": 1e-12, "atol": 1e-12}


def start(W0: Tensor, **settings: float) -> LoRAXS:
    spec = Spec.model_validate({"rank": RANK, "alpha": 6.0, **settings})
    return LoRAXS(W0, spec, torch.Generator().manual_seed(1)).to(W0.dtype)


def moved(W0: Tensor) -> LoRAXS:
    adapter = start(W0)
    with torch.no_grad():
        adapter.R.copy_(draw(RANK, RANK, seed=3))
    return adapter


def test_the_factors_are_the_leading_singular_triplets_of_the_weight() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    U, S, Vh = torch.linalg.svd(W0, full_matrices=False)
    torch.testing.assert_close(adapter.B.T @ adapter.B, torch.eye(RANK).double(), **NEAR)
    torch.testing.assert_close(adapter.A @ adapter.A.T, S[:RANK].square().diag(), **NEAR)
    nearest = (U[:, :RANK] * S[:RANK]) @ Vh[:RANK]
    torch.testing.assert_close(adapter.B @ adapter.A, nearest, **NEAR)


def test_output_and_gradient_are_the_equations() -> None:
    W0, x, G = draw(OUT, IN), draw(3, IN, seed=4), draw(OUT, IN, seed=5)
    adapter = moved(W0)
    scale = 6.0 / RANK
    change = scale * adapter.B @ adapter.R @ adapter.A
    torch.testing.assert_close(adapter(x, W0), x @ change.T, **NEAR)
    torch.testing.assert_close(adapter.delta(W0), change, **NEAR)
    (gradient,) = torch.autograd.grad((adapter.delta(W0) * G).sum(), adapter.R)
    torch.testing.assert_close(gradient, scale * adapter.B.T @ G @ adapter.A.T, **NEAR)


def test_it_starts_a_hundred_thousandth_away_from_the_base() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0, rank=IN)
    size = torch.linalg.matrix_norm(adapter.delta(W0), 2) / torch.linalg.matrix_norm(W0, 2)
    # A Gaussian k x k matrix has a norm of about 2 sqrt(k) deviations.
    assert 0 < size < 6.0 / IN * 1e-5 * (2 * IN**0.5 + 4)
    # 196 draws know their deviation to 5 %; five of those are a quarter.
    assert adapter.R.std().item() == pytest.approx(1e-5, rel=0.25)
    assert not start(W0, init_std=0.0).delta(W0).any()


@pytest.mark.parametrize("shape", [(OUT, IN), (9, 31)])
def test_it_trains_rank_squared_numbers_on_a_map_of_any_size(shape: tuple[int, int]) -> None:
    assert LoRAXS.parameter_count(*shape, Spec(rank=RANK)) == RANK**2
    assert [name for name, _ in start(draw(*shape)).named_parameters()] == ["R"]


def test_training_leaves_the_frozen_factors_as_they_are() -> None:
    W0 = draw(OUT, IN)
    adapter = start(W0)
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        (adapter(draw(5, IN, seed=9), W0) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = adapter.state_dict()
    assert torch.equal(after["A"], before["A"])
    assert torch.equal(after["B"], before["B"])
    assert not torch.equal(after["R"], before["R"])


def test_its_saved_state_holds_the_factors_that_it_was_trained_between() -> None:
    W0 = draw(OUT, IN)
    adapter = moved(W0)
    # Another machine may find the singular vectors with other signs.
    twin = start(W0)
    twin.A[0].neg_()
    twin.B[:, 0].neg_()
    twin.load_state_dict(adapter.state_dict())
    assert set(adapter.state_dict()) == {"A", "B", "R"}
    assert torch.equal(twin.delta(W0), adapter.delta(W0))
