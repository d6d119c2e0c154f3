"""Measures of weights: what they do not depend on, what they are of things made to have a known answer."""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from tests.analysis.drawn import drawn, orthonormal
from weft.analysis.measures.changes import Change, cosine, drawn_like, inner, interference, together
from weft.analysis.measures.spectra import amplification, effective_rank, energy_rank, stable_rank
from weft.analysis.measures.subspaces import angles, by_chance, chordal, grassmann, similarity


def change_of(seed: int, rank: int = 3, out: int = 20, inner_: int = 30) -> tuple[Change, Tensor]:
    A, B = drawn(rank, inner_, seed=seed), drawn(out, rank, seed=seed + 100)
    return Change.of(A, B), B @ A


def test_a_change_is_its_product_and_forgets_rounding() -> None:
    A, B = drawn(3, 30), drawn(20, 3, seed=1)
    found = Change.of(torch.cat([A, A]), torch.cat([B, B], dim=1))
    assert found.rank == 3
    torch.testing.assert_close(found.U * found.S @ found.Vh, 2 * B @ A)
    A2, B2 = found.pair
    torch.testing.assert_close(B2 @ A2, 2 * B @ A)
    assert Change.of(A, torch.zeros_like(B)).rank == 0


class TestSpectra:
    def test_equal_values_are_as_many_directions(self) -> None:
        S = torch.full((5,), 3.0, dtype=torch.float64)
        assert effective_rank(S) == pytest.approx(5)
        assert stable_rank(S) == pytest.approx(5)
        assert energy_rank(S, 0.9) == 5
        assert energy_rank(S, 0.8) == 4

    def test_one_direction_is_one(self) -> None:
        S = torch.tensor([7.0, 0.0, 0.0], dtype=torch.float64)
        assert (stable_rank(S), effective_rank(S), energy_rank(S)) == (1, 1, 1)

    def test_nothing_is_none(self) -> None:
        for S in (torch.zeros(3), torch.zeros(0)):
            assert (stable_rank(S), effective_rank(S), energy_rank(S)) == (0, 0, 0)

    def test_they_are_the_definitions(self) -> None:
        S = drawn(8).abs().sort(descending=True).values
        values = S.tolist()
        p = [value / sum(values) for value in values]
        assert effective_rank(S) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)))
        squares = [value**2 for value in values]
        assert stable_rank(S) == pytest.approx(sum(squares) / squares[0])
        least = next(k for k in range(1, 9) if sum(squares[:k]) >= 0.9 * sum(squares))
        assert energy_rank(S) == least


class TestAmplification:
    @pytest.mark.parametrize("rank", [1, 4])
    def test_of_a_multiple_of_the_leading_part_is_exactly_that(self, rank: int) -> None:
        weight = drawn(20, 30)
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        change = Change.of(Vh[:rank], 2.5 * U[:, :rank] * S[:rank])
        assert amplification(change, weight) == pytest.approx(2.5, rel=1e-12)

    def test_is_its_equation(self) -> None:
        change, dense = change_of(1)
        weight = drawn(20, 30, seed=9)
        U, _, Vh = torch.linalg.svd(dense)
        inside = (U[:, :3].T @ weight @ Vh[:3].T).norm().item()
        assert amplification(change, weight) == pytest.approx(dense.norm().item() / inside)

    def test_of_nothing_is_nan_and_of_what_the_weight_lacks_infinite(self) -> None:
        change, _ = change_of(1)
        assert amplification(change, torch.zeros(20, 30, dtype=torch.float64)) == math.inf
        none = Change.of(drawn(2, 30), torch.zeros(20, 2, dtype=torch.float64))
        assert math.isnan(amplification(none, drawn(20, 30)))


class TestSubspaces:
    def test_phi_of_itself_is_one_where_the_other_is_not_smaller(self) -> None:
        Q = orthonormal(30, 5)
        found = similarity(Q, Q)
        for i in range(5):
            for j in range(i, 5):
                assert found[i, j].item() == pytest.approx(1)

    def test_phi_is_its_equation(self) -> None:
        one, other = orthonormal(30, 4), orthonormal(30, 6, seed=1)
        found = similarity(one, other)
        for i in range(1, 5):
            for j in range(1, 7):
                expected = (one[:, :i].T @ other[:, :j]).norm() ** 2 / min(i, j)
                torch.testing.assert_close(found[i - 1, j - 1], expected)

    def test_phi_of_whole_spans_does_not_see_how_a_change_is_factored(self) -> None:
        A, B, other = drawn(4, 30), drawn(20, 4, seed=1), orthonormal(30, 4, seed=2)
        Q = drawn(4, 4, seed=3)
        plain, turned = Change.of(A, B), Change.of(Q @ A, drawn(20, 4, seed=4))
        for change in (plain, turned):
            expected = similarity(torch.linalg.qr(A.T)[0], other)[-1, -1]
            torch.testing.assert_close(similarity(change.Vh.T, other)[-1, -1], expected)

    def test_phi_at_the_end_is_the_mean_squared_cosine(self) -> None:
        one, other = orthonormal(30, 4), orthonormal(30, 4, seed=1)
        expected = angles(one, other).cos().square().mean()
        torch.testing.assert_close(similarity(one, other)[-1, -1], expected)

    def test_random_subspaces_are_as_similar_as_chance_says(self) -> None:
        found = [
            similarity(orthonormal(40, 3, seed=at), orthonormal(40, 5, seed=1000 + at))[-1, -1]
            for at in range(400)
        ]
        # 400 draws of a value whose spread is about a third of its mean.
        assert torch.stack(found).mean().item() == pytest.approx(by_chance(3, 5, 40), rel=0.1)

    def test_angles_of_equal_and_orthogonal_spans(self) -> None:
        Q = orthonormal(30, 8)
        turned = Q[:, :4] @ orthonormal(4, 4, seed=1)
        torch.testing.assert_close(
            angles(Q[:, :4], turned), torch.zeros(4, dtype=torch.float64), atol=1e-14, rtol=0
        )
        right = torch.full((4,), math.pi / 2, dtype=torch.float64)
        torch.testing.assert_close(angles(Q[:, :4], Q[:, 4:]), right)

    def test_angles_are_scipy_s(self) -> None:
        one, other = orthonormal(30, 4), orthonormal(30, 6, seed=1)
        near = torch.linalg.qr(one + 1e-9 * drawn(30, 4, seed=2))[0]
        for second in (other, near):
            found = angles(one, second)
            expected = scipy.linalg.subspace_angles(one.numpy(), second.numpy())[::-1].copy()
            torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-15)

    def test_distances_of_planted_angles(self) -> None:
        Q = orthonormal(30, 4)
        planted = torch.tensor([0.3, 1.1], dtype=torch.float64)
        turned = Q[:, :2] * planted.cos() + Q[:, 2:] * planted.sin()
        found = angles(Q[:, :2], turned)
        torch.testing.assert_close(found, planted)
        assert chordal(found) == pytest.approx(math.hypot(math.sin(0.3), math.sin(1.1)))
        assert grassmann(found) == pytest.approx(math.hypot(0.3, 1.1))


class TestPairs:
    def test_inner_product_and_cosine_are_those_of_the_dense_changes(self) -> None:
        (one, dense), (other, matrix) = change_of(1), change_of(2, rank=5)
        exact = (dense * matrix).sum().item()
        assert inner(one, other) == pytest.approx(exact, rel=1e-6)
        expected = exact / (dense.norm() * matrix.norm()).item()
        assert cosine(one, other) == pytest.approx(expected, rel=1e-6)
        assert cosine(one, one) == pytest.approx(1)

    def test_interference_is_the_size_of_the_product(self) -> None:
        (one, dense), (other, matrix) = change_of(1), change_of(2, rank=5)
        expected = (dense @ matrix.T).norm() / (dense.norm() * matrix.norm())
        assert interference(one, other) == pytest.approx(expected.item())

    def test_changes_that_read_orthogonal_inputs_do_not_interfere(self) -> None:
        Q = orthonormal(30, 6)
        one, other = Change.of(Q[:, :3].T, drawn(20, 3)), Change.of(Q[:, 3:].T, drawn(20, 3))
        assert interference(one, other) == pytest.approx(0, abs=1e-12)

    def test_experts_together_are_one_long_vector(self) -> None:
        (a, A), (b, B), (c, C) = (change_of(seed) for seed in (1, 2, 3))
        one, other = {"x": a, "y": b}, {"y": c}
        expected = (B * C).sum() / (math.sqrt(A.norm() ** 2 + B.norm() ** 2) * C.norm())
        assert together(one, other) == pytest.approx(expected.item())

    def test_nothing_has_no_direction(self) -> None:
        one, _ = change_of(1)
        none = Change.of(drawn(2, 30), torch.zeros(20, 2, dtype=torch.float64))
        assert math.isnan(cosine(one, none))
        assert math.isnan(interference(none, one))

    def test_a_drawn_change_has_the_shape_rank_and_norm(self) -> None:
        one, _ = change_of(1)
        found = drawn_like(one, torch.Generator().manual_seed(0))
        again = drawn_like(one, torch.Generator().manual_seed(0))
        assert (found.U.shape, found.S.shape, found.Vh.shape) == (
            one.U.shape,
            one.S.shape,
            one.Vh.shape,
        )
        assert found.norm == pytest.approx(one.norm)
        assert torch.equal(found.U, again.U)
        assert abs(cosine(one, found)) < 0.3
