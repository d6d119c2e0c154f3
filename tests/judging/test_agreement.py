"""Agreement between two tracks: its laws, and libraries and formulas as oracles."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from weft.judging import agreement as agree
from weft.judging.agreement import Flag
from weft.tasks.scoring import Score


def columns(rows: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of a metric, verdicts that follow it somewhat, and differences of length."""
    generator = np.random.default_rng(seed)
    length = generator.normal(size=rows)
    a = generator.normal(size=rows) + 0.5 * length
    j = np.sign(np.round(a + length + generator.normal(size=rows)))
    return a, j, length


def test_perfect_agreement_is_one_by_every_measure() -> None:
    a, _, _ = columns()
    j = np.sign(a)
    ways = agree.verdicts(a, 0), agree.verdicts(j, 0)
    assert agree.kappa(*ways) == 1
    assert agree.kendall(a, 3 * a) == pytest.approx(1)
    assert agree.spearman(a, a**3) == pytest.approx(1)
    assert agree.partial_spearman(a, a**3, columns()[2]) == pytest.approx(1)
    signs = agree.sign_agreement(a, j)
    assert signs is not None
    assert signs.value == 1
    assert signs.low < 1


def test_independent_verdicts_have_a_kappa_near_zero() -> None:
    generator = np.random.default_rng(0)
    rows = 4000
    one, other = generator.integers(-1, 2, size=(2, rows))
    assert abs(agree.kappa(one, other)) < 3 / math.sqrt(rows)


@pytest.mark.parametrize("seed", range(3))
def test_systems_that_change_places_leave_agreement_as_it_is(seed: int) -> None:
    a, j, length = columns(seed=seed)
    assert agree.kendall(-a, -j) == pytest.approx(agree.kendall(a, j), abs=1e-14)
    assert agree.spearman(-a, -j) == pytest.approx(agree.spearman(a, j), abs=1e-14)
    assert agree.sign_agreement(-a, -j) == agree.sign_agreement(a, j)
    here, there = (
        agree.kappa(agree.verdicts(sign * a, 0.3), agree.verdicts(sign * j, 0)) for sign in (1, -1)
    )
    assert here == pytest.approx(there, abs=1e-14)
    partial = agree.partial_spearman(a, j, length)
    assert agree.partial_spearman(-a, -j, -length) == pytest.approx(partial, abs=1e-12)
    counts = (int((j > 0).sum()), int((j < 0).sum()))
    assert agree.sign_test(*counts) == agree.sign_test(*reversed(counts))


def test_a_constant_judge_has_kappa_zero_and_no_correlation() -> None:
    a, _, length = columns()
    for value in (-1.0, 0.0, 1.0):
        j = np.full(len(a), value)
        assert agree.kappa(agree.verdicts(a, 0), agree.verdicts(j, 0)) == 0
        assert agree.kappa(agree.verdicts(j, 0), agree.verdicts(j, 0)) == 0
        assert math.isnan(agree.kendall(a, j))
        assert agree.drawn(agree.spearman, a, j) is None
        assert agree.drawn(agree.partial_spearman, a, j, length) is None
    assert agree.sign_agreement(a, np.zeros(len(a))) is None


def test_kappa_is_scikit_learn_s() -> None:
    for seed in range(5):
        a, j, _ = columns(seed=seed)
        one, other = agree.verdicts(a, 0.4), agree.verdicts(j, 0)
        wanted = sklearn.metrics.cohen_kappa_score(one, other, labels=[-1, 0, 1])
        assert agree.kappa(one, other) == pytest.approx(wanted, abs=1e-14)


def test_a_margin_makes_ties_of_small_differences() -> None:
    found = agree.verdicts(np.array([-0.2, -0.1, 0.0, 0.1, 0.11]), 0.1)
    assert found.tolist() == [-1, 0, 0, 0, 1]


def test_tau_b_is_its_formula_with_ties() -> None:
    a, j, _ = columns(rows=30)
    pairs = list(itertools.combinations(range(30), 2))
    signs = np.array([[np.sign(a[p] - a[q]), np.sign(j[p] - j[q])] for p, q in pairs])
    both = signs.prod(1).sum()
    untied = [np.count_nonzero(signs[:, side]) for side in (0, 1)]
    assert agree.kendall(a, j) == pytest.approx(both / math.sqrt(untied[0] * untied[1]), abs=1e-14)


def test_spearman_is_scipy_s() -> None:
    a, j, _ = columns()
    assert agree.spearman(a, j) == pytest.approx(scipy.stats.spearmanr(a, j).statistic, abs=1e-14)


def test_a_partial_correlation_is_that_of_the_residuals_of_ranks() -> None:
    a, j, length = columns()
    ranks = [scipy.stats.rankdata(column).astype(np.float64) for column in (a, j, length)]
    design = np.stack([np.ones(len(a)), ranks[2]], axis=1)
    left = [own - design @ np.linalg.lstsq(design, own, rcond=None)[0] for own in ranks[:2]]
    wanted = np.corrcoef(*left)[0, 1]
    assert agree.partial_spearman(a, j, length) == pytest.approx(wanted, abs=1e-12)
    assert abs(wanted) < abs(agree.spearman(a, j))
    assert agree.partial_spearman(a, j, np.ones(len(a))) == agree.spearman(a, j)


def test_the_sign_test_is_the_sum_of_binomial_terms() -> None:
    def tail(wins: int, of: int) -> float:
        return sum(math.comb(of, k) for k in range(wins, of + 1)) / 2**of

    assert agree.sign_test(9, 3, one_sided=True) == pytest.approx(tail(9, 12), rel=1e-12)
    assert agree.sign_test(9, 3) == pytest.approx(2 * tail(9, 12), rel=1e-12)
    assert agree.sign_test(0, 0) == 1


def test_win_rate_counts_half_a_tie() -> None:
    assert agree.win_shares(np.array([1.0, 1.0, 0.0, -1.0, 3.0])).mean() == 3.5 / 5


def test_alpha_is_one_minus_observed_over_expected_disagreement() -> None:
    generator = np.random.default_rng(0)
    judges = generator.integers(-1, 2, size=(3, 40)).astype(np.float64)
    judges[1] = np.where(generator.random(40) < 0.7, judges[0], judges[1])
    pairs = [(p, q) for p, q in itertools.permutations(range(3), 2)]
    observed = np.mean([(judges[p] - judges[q]) ** 2 for p, q in pairs])
    flat = judges.ravel()
    expected = ((flat[:, None] - flat[None]) ** 2).sum() / (len(flat) * (len(flat) - 1))
    assert agree.krippendorff(list(judges)) == pytest.approx(1 - observed / expected, abs=1e-12)
    assert agree.krippendorff([judges[0], judges[0]]) == pytest.approx(1)
    assert math.isnan(agree.krippendorff([np.ones(4), np.ones(4)]))


UP, DOWN, OPEN = Score(1, 0.5, 1.5), Score(-1, -1.5, -0.5), Score(0.1, -0.4, 0.6)


@pytest.mark.parametrize(
    ("metric", "judge", "wanted"),
    [
        (UP, UP, "AGREED"),
        (DOWN, DOWN, "AGREED"),
        (UP, DOWN, "DIVERGENT"),
        (DOWN, UP, "DIVERGENT"),
        (UP, OPEN, "UNCONFIRMED"),
        (DOWN, OPEN, "UNCONFIRMED"),
        (OPEN, UP, "UNCONFIRMED"),
        (OPEN, DOWN, "UNCONFIRMED"),
        (OPEN, OPEN, "UNDECIDED"),
        (Score(1, 0, 2), UP, "UNCONFIRMED"),  # an interval that touches 0 does not exclude it
    ],
)
def test_flags_have_this_truth_table(metric: Score, judge: Score, wanted: Flag) -> None:
    assert agree.flag(metric, judge) == wanted


def test_an_interval_is_the_percentiles_of_resampled_rows() -> None:
    a, j, _ = columns()
    found = agree.drawn(agree.pearson, a, j, resamples=400, seed=3)
    wanted = scipy.stats.bootstrap(
        (a, j), agree.pearson, paired=True, vectorized=False, method="percentile", n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert found is not None
    assert found.value == pytest.approx(scipy.stats.pearsonr(a, j).statistic)
    # An end of 400 draws has a standard error of a tenth of the width at most.
    width = wanted.high - wanted.low
    assert abs(found.low - wanted.low) < 0.3 * width
    assert abs(found.high - wanted.high) < 0.3 * width
    assert agree.drawn(agree.pearson, a, j, resamples=400, seed=3) == found


def test_a_mean_is_drawn_over_the_rows_that_metrics_are_drawn_over() -> None:
    _, j, _ = columns()
    found = agree.drawn_mean(j, 2000, seed=0)
    assert found.value == j.mean()
    half = 1.96 * j.std() / math.sqrt(len(j))
    assert found.high - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.low == pytest.approx(half, rel=0.15)
