"""How far one measure of pairs foretells another: rank correlation, with what resampled pairs and chance make of it."""

import math
from collections.abc import Sequence

import numpy as np

from weft.tasks.ranks import spearman
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval

FEWEST = 5
"""Pairs below which resampling them says nothing: of n pairs a resample leaves out more than a third."""


def rank_correlation(
    x: Sequence[float], y: Sequence[float], owner: Sequence[int], seed: int = 0
) -> Score:
    """Spearman's correlation with its 95 % bootstrap interval over owners.

    Values of one owner are drawn together, since they are not independent; fewer than 5 owners have no interval.

    Args:
        x: One measure.
        y: The other.
        owner: By number whose values they are: of a pair of experts both tasks'.
        seed: Of the resamples.

    Returns:
        nan where a measure is constant.
    """
    one, other = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    value = float(spearman(one, other, np.ones((1, len(one))))[0])
    _, numbers = np.unique(np.asarray(owner), return_inverse=True)
    count = int(numbers.max()) + 1
    if count < FEWEST or math.isnan(value):
        return Score(value, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    counts = np.stack([np.bincount(own, minlength=count) for own in drawn])[:, numbers]
    return interval(value, spearman(one, other, counts.astype(float)), LEVEL)


def by_chance(x: Sequence[float], y: Sequence[float], seed: int = 0) -> float:
    """The size of the correlation that 95 % of random orders of one measure stay below; nan where one is constant."""
    one, other = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not (np.ptp(one) and np.ptp(other)):
        return math.nan
    generator = np.random.default_rng(seed)
    every = np.ones((1, len(one)))
    found = [
        abs(float(spearman(one, generator.permutation(other), every)[0])) for _ in range(RESAMPLES)
    ]
    return float(np.quantile(found, LEVEL))
