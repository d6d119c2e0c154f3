"""The optimizer's one pass over memory is torch's unfused AdamW, wherever numbers lie."""

import copy

import pytest
import torch
from torch import Tensor, nn

from weft.training.adamw import BETAS, EPS, AdamW, laid_out_as

RATE = 0.1


def parameters() -> list[nn.Parameter]:
    """One that lies in memory by rows, one by columns, a vector and a number."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 7, dtype=torch.float64, generator=draw)
    values = [rows, rows.t(), rows[0].clone(), rows[0, 0].clone()]
    found = [nn.Parameter(value.clone(memory_format=torch.preserve_format)) for value in values]
    assert [value.is_contiguous() for value in found] == [True, False, True, True]
    return found


def gradient(value: Tensor, step: int) -> Tensor:
    """By rows, whatever the parameter's own layout is."""
    draw = torch.Generator().manual_seed(step)
    return torch.randn(value.shape, dtype=value.dtype, generator=draw)


def test_it_is_the_unfused_one_for_gradients_of_any_layout() -> None:
    ours, theirs = parameters(), parameters()
    decay = {"weight_decay": 0.1}
    ours_by = AdamW([{"params": ours[:2], "lr": RATE, **decay}, {"params": ours[2:], "lr": RATE}])
    reference = torch.optim.AdamW(
        [{"params": theirs[:2], **decay}, {"params": theirs[2:]}], lr=RATE, betas=BETAS, eps=EPS
    )
    for step in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad, other.grad = gradient(own, step), gradient(other, step)
        # One of them has no row in a step.
        ours[2].grad = theirs[2].grad = None if step == 1 else ours[2].grad
        ours_by.step()
        reference.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("at", range(4))
def test_moments_are_laid_out_as_their_parameter(at: int) -> None:
    value = parameters()[at].detach()
    loaded = value.clone(memory_format=torch.contiguous_format)
    found = laid_out_as(value, loaded)
    assert found.stride() == value.stride()
    assert torch.equal(found, loaded)
    assert laid_out_as(value, torch.tensor(3.0)).item() == 3


def test_a_step_that_is_repeated_from_saved_moments_is_the_same() -> None:
    one = parameters()
    optimizer = AdamW([{"params": one, "lr": RATE}])
    for step in range(2):
        for value in one:
            value.grad = gradient(value, step)
        optimizer.step()
    two = copy.deepcopy(one)
    again = AdamW([{"params": two, "lr": RATE}])
    for value, other in zip(one, two, strict=True):
        again.state[other] = {
            key: laid_out_as(other.detach(), moment.clone(memory_format=torch.contiguous_format))
            for key, moment in optimizer.state[value].items()
        }
    for values, own in ((one, optimizer), (two, again)):
        for value in values:
            value.grad = gradient(value, 2)
        own.step()
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
