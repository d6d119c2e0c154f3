"""Uncertainty weights: the published loss at its least in the variances, of losses as they have lately been."""

import pytest
import torch

from weft.methods.balances.uncertainty import ByUncertainty


def test_the_factor_is_that_of_the_published_loss_where_its_variance_is_best() -> None:
    losses = torch.tensor([0.07, 1.4, 3.0], dtype=torch.float64, requires_grad=True)
    s = torch.full((3,), -5.0, dtype=torch.float64)
    for _ in range(60):
        # Newton's steps from below, where they never pass the optimum.
        s = s - (1 - (-s).exp() * losses.detach()) / ((-s).exp() * losses.detach())
    (wanted,) = torch.autograd.grad(((-s).exp() * losses + s).sum(), losses)
    balance = ByUncertainty({str(at): value for at, value in enumerate(losses.tolist())})
    found = [balance.weight(str(at)) for at in range(3)]
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), wanted, rtol=1e-12, atol=0)


def test_the_mean_runs_and_a_task_that_is_absent_keeps_its_own() -> None:
    balance = ByUncertainty({"a": 2.0, "b": 0.5})
    for loss in (1.0, 3.0):
        balance.observe({"a": torch.tensor(loss)})
    assert balance.weight("a") == pytest.approx(
        1 / (0.9 * (0.9 * 2 + 0.1 * 1) + 0.1 * 3), rel=1e-12
    )
    assert balance.weight("b") == 2.0


def test_a_loss_of_nothing_leaves_a_number() -> None:
    balance = ByUncertainty({"a": 1e-9})
    balance.observe({"a": torch.tensor(0.0)})
    assert balance.weight("a") == 1e6
