"""The two ways through gated experts: all of them, and those that are selected."""

import pytest
import torch
from torch import Tensor

from tests.methods.gates.example import RANKS, A, B, X
from weft.methods.gates.apply import cheaper, dense, grouped
from weft.methods.gates.gate import Gate, GateSpec, gate


@pytest.mark.parametrize("leading", [(7,), (2, 5), (2, 3, 4), (1,)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_dense_and_grouped_agree_in_values_and_gradients(leading: tuple[int, ...], k: int) -> None:
    draw = torch.Generator().manual_seed(len(leading) + k)
    ranks = (1, 3, 2, 5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()

    values = [drawn(*leading, 6), drawn(sum(ranks), 6), drawn(4, sum(ranks)), drawn(*leading, 4)]
    x, down, up, logits = values
    found = gate(logits, GateSpec(select="top_k", k=k, normalise="renormalise"))
    wanted = dense(x, down, up, found.gates, ranks)
    got = grouped(x, down, up, found, ranks)
    torch.testing.assert_close(got, wanted)
    weights = torch.randn(wanted.shape, generator=draw, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((wanted * weights).sum(), values, retain_graph=True),
        torch.autograd.grad((got * weights).sum(), values),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    by_hand = sum(
        found.gates[..., at : at + 1] * (x @ a.T @ b.T)
        for at, (a, b) in enumerate(zip(down.split(ranks), up.split(ranks, dim=1), strict=True))
    )
    torch.testing.assert_close(wanted, by_hand)


def test_tokens_that_select_nobody_get_nothing() -> None:
    none = torch.zeros(2, 3, dtype=torch.float64)
    assert not grouped(X, A, B, Gate(none, none, none.bool()), RANKS).any()


def test_both_ways_serve_a_half_precision_input_in_the_factors_own() -> None:
    x, down, up = X.bfloat16(), A.float(), B.float()
    found = gate(X.float() @ down[:3].T, GateSpec(select="top_k", k=2))
    wanted = dense(x.float(), down, up, found.gates, RANKS)
    for got in (dense(x, down, up, found.gates, RANKS), grouped(x, down, up, found, RANKS)):
        torch.testing.assert_close(got.float(), wanted, rtol=2**-7, atol=2**-7)


def test_few_of_many_are_grouped() -> None:
    assert cheaper([8] * 4, 2) == "dense"
    assert cheaper([8] * 128, 2) == "grouped"
    assert cheaper([8] * 128, None) == "dense"
