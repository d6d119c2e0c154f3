"""The faster dropout is dropout."""

import pytest
import torch

from weft.base.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_entries_are_dropped_at_the_rate_and_the_rest_scaled_up(
    rate: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 997, dtype=dtype)
    y = dropout(x, rate)
    kept = y != 0
    # Five standard deviations of a binomial share.
    spread = 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(kept.double().mean().item() - (1 - rate)) < spread
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - rate)), rtol=1e-2, atol=0)


def test_entries_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) != 0).double() - 0.5
    for lag in range(1, 9):
        # Neighbours share a draw of 64 bits; their correlation is still that of chance.
        assert abs((kept[:-lag] * kept[lag:]).mean().item()) < 5 * 0.25 / 400_000**0.5


def test_the_gradient_passes_where_the_value_passed() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 33, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.3)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), y.detach(), rtol=1e-12, atol=0)


def test_it_draws_from_the_global_state_and_is_the_identity_in_eval_mode() -> None:
    x = torch.randn(5, 7)
    module = Dropout(0.5)
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    assert module.eval()(x) is x
