"""Products known from their factors: norms, decompositions, sums, without the dense matrix."""

import pytest
import torch
from torch.testing import assert_close

from weft.lowrank.product import (
    product_rule,
    row_squares,
    stacked,
    thin_svd,
    true_rank,
    truncated,
)

SHAPES = [(3, 7, 9), (9, 7, 12), (20, 7, 9), (1, 1, 1)]
"""Ranks, in and out: below both sides, between them, above both."""


def pair(rank: int, inner: int, out: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, inner, generator=draw, dtype=torch.float64)
    return A, torch.randn(out, rank, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thin_decomposition_is_that_of_the_dense_product(shape: tuple[int, int, int]) -> None:
    A, B = pair(*shape)
    U, S, Vh = thin_svd(A, B)
    k = min(shape)
    assert (U.shape, Vh.shape) == ((shape[2], k), (k, shape[1]))
    assert_close(U.T @ U, torch.eye(k, dtype=torch.float64))
    assert_close(Vh @ Vh.T, torch.eye(k, dtype=torch.float64))
    assert_close(S, torch.linalg.svdvals(B @ A)[:k])
    assert_close(U * S @ Vh, B @ A)
    assert row_squares(A, B).sum().item() == pytest.approx((B @ A).square().sum().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_norms_of_rows_are_those_of_the_dense_product(shape: tuple[int, int, int]) -> None:
    A, B = pair(*shape)
    whole = B @ A
    assert_close(row_squares(A, B), whole.square().sum(1), rtol=1e-12, atol=0)
    assert_close(row_squares(A, B).sum().sqrt(), torch.linalg.norm(whole), rtol=1e-12, atol=0)


def test_what_is_said_of_both_factors_is_one_product() -> None:
    (A, B), (of_A, of_B) = pair(3, 7, 9), pair(3, 7, 9, seed=1)
    left, right = product_rule(2.5, A, B, of_A, of_B)
    assert_close(right @ left, 2.5 * (of_B @ A + B @ of_A))


def test_a_truncation_is_the_nearest_change_and_shares_the_strength() -> None:
    A, B = pair(6, 7, 9)
    down, up = truncated(A, B, 2)
    U, S, Vh = torch.linalg.svd(B @ A)
    assert_close(up @ down, U[:, :2] * S[:2] @ Vh[:2])
    assert_close(down.norm(dim=1), up.norm(dim=0))
    assert_close(down.norm(dim=1), S[:2].sqrt())


def test_a_truncation_has_no_more_ranks_than_there_are() -> None:
    A, B = pair(3, 7, 9)
    both = stacked([(A, B), (A, B), (2 * A, -B)], [0.5, 1.0, 0.25])
    assert len(both[0]) == 9
    down, up = truncated(*both, 9)
    assert len(down) == 3
    assert_close(up @ down, B @ A)
    assert len(truncated(*both, 2)[0]) == 2
    assert len(truncated(A, 0 * B, 9)[0]) == 1


def test_rounding_is_no_rank() -> None:
    S = torch.tensor([1.0, 1e-3, 1e-9])
    assert true_rank(S, (10, 10)) == 2
    assert true_rank(S.double(), (10, 10)) == 3
    assert true_rank(0 * S, (10, 10)) == 0
