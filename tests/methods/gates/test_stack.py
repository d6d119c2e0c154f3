"""Stacked factors: trained ones with their scales apart, frozen ones with them inside."""

import pytest
import torch

from weft.lowrank.start import kaiming
from weft.methods.gates.stack import Part, Stack


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("trained", [True, False])
def test_a_stack_is_its_experts_one_under_the_other(trained: bool) -> None:
    parts = [Part(drawn(2, 5), drawn(4, 2), 0.5), None, Part(drawn(3, 5, seed=1), drawn(4, 3), 3.0)]
    stack = Stack.of(parts, trained=trained)
    assert stack.ranks == (2, 0, 3)
    wanted = torch.cat([0.5 * parts[0].B, 3.0 * parts[2].B], dim=1)  # type: ignore[union-attr]
    A, B = stack.factors()
    assert torch.equal(A, torch.cat([parts[0].A, parts[2].A]))  # type: ignore[union-attr]
    torch.testing.assert_close(B, wanted)
    h = drawn(7, 5, seed=2)
    torch.testing.assert_close(stack.up(h), h @ wanted.T)
    assert all(value.requires_grad == trained for value in stack.parameters())
    # What learns is the experts' own B, as each would have it alone.
    own = torch.cat([parts[0].B, parts[2].B], dim=1)  # type: ignore[union-attr]
    assert torch.equal(stack.B, own if trained else B)
    with pytest.raises(ValueError, match="no expert has an adapter"):
        Stack.of([None, None], trained=trained)


def test_new_experts_start_as_lora_does_each_with_its_own_scale() -> None:
    W0 = drawn(4, 5)
    stack = Stack.new(W0, 3, 2, 16.0, torch.Generator().manual_seed(7))
    assert stack.ranks == (2, 2, 2)
    assert torch.equal(stack.A, kaiming((6, 5), torch.Generator().manual_seed(7), W0))
    assert torch.equal(stack.B, torch.zeros(4, 6))
    assert torch.equal(stack.scale, torch.full((6,), 8.0))
    with torch.no_grad():
        stack.B.normal_(generator=torch.Generator().manual_seed(1))
    h = drawn(3, 6).float()
    torch.testing.assert_close(stack.up(h), 16.0 / 2 * (h @ stack.B.T))
