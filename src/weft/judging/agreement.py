"""How far two tracks agree: on rows, by signs, ranks and verdicts; on systems, by the intervals of their differences.

For every row `a` says how much better the first system is by a metric, and `j` by a judge: -1, 0, 1, or a difference of
points. All statistics stay as they are when the two systems change places, which negates both.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from weft.tasks.scoring import LEVEL, RESAMPLES, Score, counts_of_resamples, interval, share

Flag = Literal["DIVERGENT", "UNCONFIRMED", "AGREED", "UNDECIDED"]
_FEWEST = 3
"""Rows below which a correlation is no number."""


def sign_agreement(a: np.ndarray, j: np.ndarray) -> Score | None:
    """The share of rows with the same sign, of those where neither is 0, with Wilson's interval; None if none is."""
    decided = (a != 0) & (j != 0)
    if not decided.any():
        return None
    same = np.sign(a[decided]) == np.sign(j[decided])
    return share(int(same.sum()), int(decided.sum()))


def kendall(a: np.ndarray, j: np.ndarray) -> float:
    """Kendall's tau-b; NaN where one of the two is constant."""
    from scipy.stats import kendalltau

    if _constant(a, j):
        return math.nan
    # Its p value, which nobody asks for, is cheapest so.
    found: Any = kendalltau(a, j, method="asymptotic")
    return float(found.statistic)


def spearman(a: np.ndarray, j: np.ndarray) -> float:
    """Spearman's rho; NaN where one of the two is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(j))


def pearson(a: np.ndarray, j: np.ndarray) -> float:
    """Pearson's r; NaN where one of the two is constant."""
    return math.nan if _constant(a, j) else float(np.corrcoef(a, j)[0, 1])


def partial_spearman(a: np.ndarray, j: np.ndarray, given: np.ndarray) -> float:
    """Spearman's rho of `a` and `j` with what ranks of `given` explain of both taken out.

        (r_aj - r_ag r_jg) / sqrt((1 - r_ag^2) (1 - r_jg^2))

    Ranks, since verdicts are an order and no lengths. NaN where one of the two is constant, or `given` explains one of
    them whole; where `given` is constant nothing is taken out.
    """
    together = spearman(a, j)
    if _constant(given, given):
        return together
    with_a, with_j = spearman(a, given), spearman(j, given)
    left = (1 - with_a**2) * (1 - with_j**2)
    # Rounding leaves a little of a correlation that is 1.
    return (together - with_a * with_j) / math.sqrt(left) if left > 1e-12 else math.nan


def verdicts(values: np.ndarray, margin: float) -> np.ndarray:
    """-1, 0 or 1 by row: 0 where the difference is no larger than `margin` either way."""
    return np.where(np.abs(values) <= margin, 0, np.sign(values)).astype(int)


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two columns of verdicts (-1, 0, 1); 0 where both are one and the same constant.

        (p_o - p_e) / (1 - p_e)

    Cohen 1960, doi:10.1177/001316446002000104. Why our own: scikit-learn's is NaN where both are constant, of which
    nothing can be said either way, and takes a millisecond, of which an interval needs a thousand.
    """
    table = np.bincount(3 * (one + 1) + other + 1, minlength=9).reshape(3, 3) / len(one)
    observed, expected = np.trace(table), float(table.sum(0) @ table.sum(1))
    return 0.0 if expected == 1 else float((observed - expected) / (1 - expected))


def krippendorff(columns: Sequence[np.ndarray]) -> float:
    """Krippendorff's alpha of several judges on the same rows, by squared differences; NaN where all are alike.

    Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, the interval metric. By nltk.
    """
    from nltk.metrics.agreement import AnnotationTask
    from nltk.metrics.distance import interval_distance

    if len({float(value) for column in columns for value in column}) < 2:
        return math.nan
    data = [
        (str(judge), str(row), float(value))
        for judge, column in enumerate(columns)
        for row, value in enumerate(column)
    ]
    return float(AnnotationTask(data, distance=interval_distance).alpha())


def sign_test(wins: int, losses: int, *, one_sided: bool = False) -> float:
    """The probability of so uneven a count by chance, exact: McNemar's test on the rows that are no ties; 1 of none.

    Args:
        wins: Rows.
        losses: Rows.
        one_sided: Only of so many wins or more.
    """
    from scipy.stats import binomtest

    if wins + losses == 0:
        return 1.0
    kind = "greater" if one_sided else "two-sided"
    return float(binomtest(wins, wins + losses, alternative=kind).pvalue)


def win_shares(j: np.ndarray) -> np.ndarray:
    """By row 1 for a win, a half for a tie, 0 for a loss; the mean is the win rate."""
    return (j > 0) + 0.5 * (j == 0)


def flag(metric: Score, judge: Score) -> Flag:
    """What the two tracks say of two systems together, by the intervals of their differences.

    DIVERGENT: both exclude 0, on opposite sides. UNCONFIRMED: only one excludes it. AGREED: both, on the same side.
    UNDECIDED: neither.
    """
    one, other = _side(metric), _side(judge)
    if one and other:
        return "AGREED" if one == other else "DIVERGENT"
    return "UNCONFIRMED" if one or other else "UNDECIDED"


def drawn_mean(values: np.ndarray, resamples: int, seed: int) -> Score:
    """A mean over rows with its 95 % bootstrap interval, over the same rows as `Measured.drawn` with that seed."""
    drawn = [
        counts @ values / len(values)
        for counts in counts_of_resamples(len(values), resamples, seed)
    ]
    return interval(float(values.mean()), np.concatenate(drawn), LEVEL)


def drawn(
    statistic: Callable[..., float], *columns: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Score | None:
    """A statistic of columns of rows with its 95 % percentile bootstrap interval; None where it is no number.

    Resamples in which it is none are left out of the interval.
    """
    rows = len(columns[0])
    value = statistic(*columns) if rows >= _FEWEST else math.nan
    if math.isnan(value):
        return None
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        chosen = generator.integers(rows, size=rows)
        found.append(statistic(*(column[chosen] for column in columns)))
    return interval(value, np.array(found), LEVEL)


def _side(difference: Score) -> int:
    return (difference.low > 0) - (difference.high < 0)


def _constant(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one == one[0]).all() or (other == other[0]).all())
