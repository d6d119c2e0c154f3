"""Scores by order: a resample is its rows written out, through scipy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from weft.tasks.ranks import best_threshold, mean_defined, roc_auc, spearman

ROWS = 12
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, levels: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Two columns with ties, and how often each of four resamples draws each row."""
    generator = np.random.default_rng(seed)
    x, y = generator.integers(levels, size=(2, ROWS)).astype(float)
    counts = np.stack(
        [np.bincount(generator.integers(ROWS, size=ROWS), minlength=ROWS) for _ in range(4)]
    )
    return generator, x, y, counts.astype(float)


@settings(deadline=None)
@given(seed=seeds, levels=st.integers(1, 30))
def test_spearman_is_scipy_s_on_the_rows_drawn(seed: int, levels: int) -> None:
    _, x, y, counts = drawn(seed, levels)
    found = spearman(x, y, counts)
    for own, row in zip(found, counts.astype(int), strict=True):
        a, b = np.repeat(x, row), np.repeat(y, row)
        constant = np.ptp(a) == 0 or np.ptp(b) == 0
        expected = np.nan if constant else spearmanr(a, b).statistic
        np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(seed=seeds, levels=st.integers(1, 30))
def test_the_area_under_the_curve_is_scikit_learn_s_on_the_rows_drawn(
    seed: int, levels: int
) -> None:
    generator, x, _, counts = drawn(seed, levels)
    positive = generator.random(ROWS) < 0.4
    found = roc_auc(x, positive, counts)
    for own, row in zip(found, counts.astype(int), strict=True):
        right = np.repeat(positive, row)
        one = right.all() or not right.any()
        expected = np.nan if one else roc_auc_score(right, np.repeat(x, row))
        np.testing.assert_allclose(own, expected, rtol=1e-12, atol=1e-12)


def test_a_mean_leaves_out_what_is_no_number() -> None:
    found = mean_defined(np.array([[1.0, np.nan, 0.5], [np.nan, np.nan, np.nan]]))
    np.testing.assert_array_equal(found, [0.75, np.nan])


@settings(deadline=None)
@given(seed=seeds, levels=st.integers(1, 30))
def test_the_best_threshold_is_the_best_of_all_that_can_be_tried(seed: int, levels: int) -> None:
    generator, odds, _, counts = drawn(seed, levels)
    without = (generator.random(ROWS) < 0.5).astype(float)
    answering = np.round(generator.random(ROWS), 3)
    value, threshold = best_threshold(odds, without, answering, counts)

    def mean(at: float, row: np.ndarray) -> float:
        return float(np.average(np.where(odds > at, without, answering), weights=row))

    for own, at, row in zip(value, threshold, counts, strict=True):
        best = max(mean(tried, row) for tried in [-1.0, *odds])
        assert own == pytest.approx(best, abs=1e-12)
        assert mean(at, row) == pytest.approx(best, abs=1e-12)


def test_where_refusing_all_is_best_the_threshold_lies_below_all() -> None:
    once = np.ones((1, 2))
    one, zero = np.ones(2), np.zeros(2)
    for odds in (np.array([-3.0, 2.0]), np.array([1.0, 2.0])):
        value, threshold = best_threshold(odds, one, zero, once)
        assert value == [1.0]
        assert threshold[0] < odds.min()
    assert threshold == [0.0]
