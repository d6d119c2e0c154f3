"""Measures of representations: what they do not depend on, and planted clouds."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.analysis.drawn import drawn, orthonormal
from weft.analysis.intervals import jackknife, mean_over, median_over
from weft.analysis.measures.alignment import linear_cka, pwcca, svcca
from weft.analysis.measures.geometry import (
    mean_cosine,
    moved,
    participation_ratio,
    principal_axes,
    two_nn,
)

PLAIN = [False, True]


def hsic_of_kernels(K: Tensor, L: Tensor) -> float:
    """Song et al., equation 5, as it stands there."""
    n = len(K)
    K, L = K - torch.diag(K.diag()), L - torch.diag(L.diag())
    one = torch.ones(n, dtype=K.dtype)
    found = (K @ L).trace() + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return ((found - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))).item()


class TestCKA:
    @pytest.mark.parametrize("unbiased", PLAIN)
    def test_does_not_see_rotation_scale_and_origin(self, unbiased: bool) -> None:
        X, Y = drawn(50, 6), drawn(50, 8, seed=1)
        plain = linear_cka(X, Y, unbiased=unbiased)
        turned = 3.7 * X @ orthonormal(6, 6, seed=2) + drawn(6, seed=3)
        assert linear_cka(turned, Y, unbiased=unbiased) == pytest.approx(plain, rel=1e-9)
        assert linear_cka(X, turned, unbiased=unbiased) == pytest.approx(1)

    def test_sees_other_linear_maps(self) -> None:
        X = drawn(50, 6)
        assert linear_cka(X, X @ torch.diag(torch.logspace(0, 2, 6)).double()) < 0.9

    def test_is_its_equation(self) -> None:
        X, Y = drawn(50, 6), drawn(50, 8, seed=1) + 2
        X0, Y0 = X - X.mean(0), Y - Y.mean(0)
        expected = (Y0.T @ X0).norm() ** 2 / ((X0.T @ X0).norm() * (Y0.T @ Y0).norm())
        assert linear_cka(X, Y, unbiased=False) == pytest.approx(expected.item())

    def test_without_bias_is_that_of_the_kernels(self) -> None:
        X, Y = drawn(40, 30), drawn(40, 20, seed=1) + 2
        K, L = X @ X.T, Y @ Y.T
        expected = hsic_of_kernels(K, L) / math.sqrt(hsic_of_kernels(K, K) * hsic_of_kernels(L, L))
        assert linear_cka(X, Y) == pytest.approx(expected)

    def test_few_tokens_of_nothing_in_common_are_near_0_only_without_bias(self) -> None:
        X, Y = drawn(60, 200), drawn(60, 200, seed=1)
        assert linear_cka(X, Y, unbiased=False) > 0.5
        assert abs(linear_cka(X, Y)) < 0.05

    def test_many_tokens_take_the_plain_form(self) -> None:
        X, Y = drawn(100, 10), drawn(100, 10, seed=1)
        assert linear_cka(X, Y) == linear_cka(X, Y, unbiased=False)
        assert linear_cka(X[:99], Y[:99]) == linear_cka(X[:99], Y[:99], unbiased=True)

    def test_too_few_are_refused(self) -> None:
        with pytest.raises(ValueError, match="3 tokens"):
            linear_cka(drawn(3, 2), drawn(3, 2))


class TestSVCCA:
    def test_does_not_see_invertible_maps(self) -> None:
        X, Y = drawn(80, 5), drawn(80, 7, seed=1)
        plain = svcca(X, Y, variance=1.0)
        assert svcca(X @ drawn(5, 5, seed=2) + 4, Y, variance=1.0) == pytest.approx(plain)
        assert svcca(X, X @ drawn(5, 5, seed=2), variance=1.0) == pytest.approx(1)

    def test_is_the_mean_canonical_correlation(self) -> None:
        X, Y = drawn(80, 3), drawn(80, 4, seed=1)
        X0, Y0 = X - X.mean(0), Y - Y.mean(0)
        # Hotelling's equation: squared correlations are eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx.
        C = torch.linalg.solve(X0.T @ X0, X0.T @ Y0) @ torch.linalg.solve(Y0.T @ Y0, Y0.T @ X0)
        expected = torch.linalg.eigvals(C).real.clamp(min=0).sqrt().mean().item()
        assert svcca(X, Y, variance=1.0) == pytest.approx(expected)

    def test_leaves_the_least_components_out(self) -> None:
        X = drawn(80, 5)
        noise = torch.cat([X, 1e-3 * drawn(80, 5, seed=1)], dim=1)
        other = torch.cat([X, 1e-3 * drawn(80, 5, seed=2)], dim=1)
        assert svcca(noise, other) == pytest.approx(1, abs=1e-4)
        assert svcca(noise, other, variance=1.0) < 0.8


class TestPWCCA:
    def test_is_its_equation(self) -> None:
        """Canonical variates from the eigenvectors of Hotelling's equation, without any SVD."""
        X, Y = drawn(80, 4), drawn(80, 3, seed=1)
        X0, Y0 = X - X.mean(0), Y - Y.mean(0)
        C = torch.linalg.solve(X0.T @ X0, X0.T @ Y0) @ torch.linalg.solve(Y0.T @ Y0, Y0.T @ X0)
        values, vectors = torch.linalg.eig(C)
        order = values.real.argsort(descending=True)[:3]
        h = X0 @ vectors.real[:, order]
        h = h / h.norm(dim=0)
        weights = (h.T @ X0).abs().sum(1)
        expected = (weights * values.real[order].sqrt()).sum() / weights.sum()
        assert pwcca(X, Y, variance=1.0) == pytest.approx(expected.item())

    def test_does_not_see_a_linear_map_of_the_other_side(self) -> None:
        X, Y = drawn(80, 5), drawn(80, 7, seed=1)
        turned = pwcca(X, Y @ drawn(7, 7, seed=2) + 4, variance=1.0)
        assert turned == pytest.approx(pwcca(X, Y, variance=1.0))
        assert pwcca(X, X @ drawn(5, 5, seed=3), variance=1.0) == pytest.approx(1)

    def test_a_lost_direction_of_little_weight_counts_little(self) -> None:
        """Half the directions are lost: of those that carry X, or of those that do not."""
        loud, quiet = 10 * drawn(4000, 3), drawn(4000, 3, seed=1)
        X = torch.cat([loud, quiet], dim=1)
        noise = drawn(4000, 3, seed=2)
        kept, lost = (torch.cat([own, noise], dim=1) for own in (loud, quiet))
        plain = svcca(X, kept, variance=1.0)
        assert plain == pytest.approx(svcca(X, lost, variance=1.0), abs=0.02)
        assert pwcca(X, kept, variance=1.0) > plain + 0.3
        assert pwcca(X, lost, variance=1.0) < plain - 0.3


class TestClouds:
    def test_mean_cosine_is_that_of_all_pairs(self) -> None:
        X = drawn(12, 5) + 1
        units = X / X.norm(dim=1, keepdim=True)
        pairs = [(units[i] @ units[j]).item() for i in range(12) for j in range(12) if i != j]
        assert mean_cosine(X) == pytest.approx(np.mean(pairs))
        assert mean_cosine(X[:1].expand(9, 5)) == pytest.approx(1)

    def test_participation_ratio_counts_equal_directions(self) -> None:
        X = torch.cat([torch.eye(6), -torch.eye(6)]).double()
        assert participation_ratio(X @ orthonormal(6, 6)) == pytest.approx(6)
        assert participation_ratio(X[:, :1]) == pytest.approx(1)
        assert math.isnan(participation_ratio(torch.ones(5, 3)))

    @pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
    def test_participation_ratio_is_its_equation(self, shape: tuple[int, int]) -> None:
        X = drawn(*shape) * torch.arange(1, shape[1] + 1)
        eigenvalues = torch.linalg.eigvalsh(torch.cov(X.T))
        expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
        assert participation_ratio(X) == pytest.approx(expected.item())

    @pytest.mark.parametrize("dimensions", [1, 2, 5])
    def test_two_nn_finds_the_dimension_of_a_cloud_that_lies_in_fifty(
        self, dimensions: int
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        cloud = torch.rand(1500, dimensions, generator=generator, dtype=torch.float64)
        found = two_nn(cloud @ orthonormal(50, dimensions).T + 3)
        assert found == pytest.approx(dimensions, rel=0.15)

    def test_two_nn_of_all_ratios_is_the_plain_likelihood(self) -> None:
        X = drawn(30, 3)
        apart = torch.cdist(X, X).sort(dim=1).values
        expected = 30 / (apart[:, 2] / apart[:, 1]).log().sum().item()
        assert two_nn(X, outer=0) == pytest.approx(expected)
        assert two_nn(torch.cat([X, X]), outer=0) == pytest.approx(expected)

    def test_two_points_have_no_dimension(self) -> None:
        with pytest.raises(ValueError, match="2 different points"):
            two_nn(drawn(2, 3).repeat(4, 1))

    def test_displacement_is_its_equations(self) -> None:
        before = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        after = torch.tensor([[6.0, 8.0], [0.0, 2.0]])
        far, turned = moved(before, after)
        torch.testing.assert_close(far, torch.tensor([1.0, math.sqrt(5)]).double())
        torch.testing.assert_close(turned, torch.tensor([1.0, 0.0]).double())

    def test_axes_are_those_of_the_largest_variance(self) -> None:
        Q = orthonormal(7, 2)
        X = drawn(200, 2) * torch.tensor([5.0, 2.0]) @ Q.T + 1
        mean, axes, shares = principal_axes(X)
        torch.testing.assert_close(mean, X.mean(0))
        torch.testing.assert_close(axes @ axes.T, Q @ Q.T)
        assert shares.sum().item() == pytest.approx(1)
        assert shares[0] > shares[1]


class TestIntervals:
    def test_a_mean_over_maps_leaves_out_what_is_no_number(self) -> None:
        found = mean_over([1.0, 2.0, math.nan, 3.0])
        assert found.value == 2
        assert found.low < 2 < found.high
        assert math.isnan(mean_over([math.nan]).value)

    def test_a_median_counts_what_is_infinite(self) -> None:
        assert median_over([1.0, 2.0, math.inf]).value == 2

    def test_the_jackknife_of_a_mean_is_that_of_its_groups(self) -> None:
        values, sentence = drawn(200), torch.arange(200) % 20
        found = jackknife(lambda kept: values[kept].mean().item(), sentence)
        groups = torch.stack([values[sentence % 10 == at].mean() for at in range(10)])
        error = 2.262 * groups.std().item() / math.sqrt(10)
        assert found.value == pytest.approx(values.mean().item())
        assert (found.low, found.high) == (
            pytest.approx(found.value - error),
            pytest.approx(found.value + error),
        )

    def test_few_sentences_have_no_interval(self) -> None:
        found = jackknife(lambda kept: float(kept.sum()), torch.arange(9))
        assert found.value == 9
        assert math.isnan(found.low)

    def test_an_interval_covers_as_often_as_it_says(self) -> None:
        hits = 0
        for seed in range(200):
            values = drawn(100, seed=seed)
            found = jackknife(lambda kept, v=values: v[kept].mean().item(), torch.arange(100))
            hits += found.low <= 0 <= found.high
        # Binomial with 200 trials at 0.95: fewer than 180 come once in a thousand.
        assert hits >= 180
