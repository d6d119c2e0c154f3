"""Where factors start."""

import math

import pytest
import torch

from weft.lowrank.start import (
    kaiming,
    leading,
    normal,
    svd,
    trailing,
    uniform,
    wide,
    zero_product,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_depend_on_the_generator_alone() -> None:
    like = torch.zeros(1)
    for draw in (
        lambda g: uniform((40, 50), 0.5, g, like),
        lambda g: normal((40, 50), 0.5, g, like),
        lambda g: kaiming((40, 50), g, like),
    ):
        torch.manual_seed(1)
        first = draw(generator(3))
        torch.manual_seed(2)
        assert torch.equal(first, draw(generator(3)))
        assert not torch.equal(first, draw(generator(4)))


def test_draws_have_their_law() -> None:
    like = torch.zeros(1)
    flat = uniform((200, 200), 0.5, generator(), like)
    assert -0.5 <= flat.min() < -0.499 < 0.499 < flat.max() <= 0.5
    assert flat.var().item() == pytest.approx(0.25 / 3, rel=0.03)
    assert normal((200, 200), 0.5, generator(), like).std().item() == pytest.approx(0.5, rel=0.02)
    assert kaiming((30, 400), generator(), like).abs().max() <= 1 / math.sqrt(400)
    torch.manual_seed(0)
    linear = torch.nn.Linear(400, 300, bias=False).weight
    own = kaiming((300, 400), generator(), like)
    assert own.std().item() == pytest.approx(linear.std().item(), rel=0.01)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_the_decomposition_is_the_weight_with_a_sign_of_its_own(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=generator(), dtype=torch.float64)
    U, S, Vh = svd(weight)
    k = min(shape)
    eye = torch.eye(k, dtype=torch.float64)
    torch.testing.assert_close(U * S @ Vh, weight, rtol=0, atol=1e-13)
    torch.testing.assert_close(U.T @ U, eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(Vh @ Vh.T, eye, rtol=0, atol=1e-13)
    assert torch.equal(S, S.sort(descending=True).values)
    assert (U.gather(0, U.abs().argmax(dim=0, keepdim=True)) > 0).all()
    # A flipped pair is put back: the other orthant's decomposition is the same one with the sign in U.
    flipped_U, _, flipped_Vh = svd(-weight)
    torch.testing.assert_close(flipped_U, U, rtol=0, atol=1e-12)
    torch.testing.assert_close(flipped_Vh, -Vh, rtol=0, atol=1e-12)


def test_a_product_of_zero_has_a_drawn_side() -> None:
    weight = torch.randn(6, 4, generator=generator())
    A, B = zero_product(weight, 3, generator(5))
    assert torch.equal(A, kaiming((3, 4), generator(5), weight))
    assert torch.equal(B, torch.zeros(6, 3))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_both_ends_of_a_spectrum_are_the_nearest_of_their_rank_and_what_is_left(
    shape: tuple[int, int],
) -> None:
    weight = torch.randn(shape, generator=generator(), dtype=torch.float64)
    S = torch.linalg.svdvals(weight)
    for rank in (1, 3, 6):
        U, values, Vh = leading(weight, rank)
        torch.testing.assert_close(values, S[:rank], rtol=0, atol=1e-13)
        # Eckart and Young: no matrix of that rank is nearer than the root of what is left of the squares.
        left = torch.linalg.matrix_norm(weight - U * values @ Vh)
        torch.testing.assert_close(left, S[rank:].square().sum().sqrt(), rtol=0, atol=1e-13)
        end_U, end, end_Vh = trailing(weight, 7 - rank)
        torch.testing.assert_close(end, S[rank:], rtol=0, atol=1e-13)
        torch.testing.assert_close(
            U * values @ Vh + end_U * end @ end_Vh, weight, rtol=0, atol=1e-13
        )


def test_half_precision_is_decomposed_in_single_and_nothing_is_drawn_for_counting() -> None:
    weight = torch.randn(6, 4, generator=generator()).to(torch.bfloat16)
    assert wide(weight).dtype == torch.float32
    assert svd(weight)[0].dtype == torch.float32
    assert wide(weight.double()).dtype == torch.float64
    meta = torch.empty(6, 4, device="meta")
    assert [value.shape for value in svd(meta)] == [(6, 4), (4,), (4, 4)]
    before = generator(5)
    state = before.get_state()
    assert kaiming((2, 3), before, meta).device.type == "meta"
    assert torch.equal(before.get_state(), state)
