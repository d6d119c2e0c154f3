"""A number of an answer, and how sure it is: intervals over maps, and over sentences.

Two ways, by what is resampled. A mean over maps takes the percentile bootstrap. What is no mean of tokens (CKA, the
dimension of a cloud) takes the jackknife with groups of sentences left out: a bootstrap would put tokens in twice,
which moves such numbers by itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval

GROUPS = 10
_T = 2.262
"""The 97.5 % point of Student's t with 9 degrees of freedom, one less than there are groups."""
_T_OF = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""The same by the number of repetitions."""


@dataclass(frozen=True)
class Number:
    """One number that answers a question."""

    of: str
    """The expert, or the two."""
    what: str
    """What was measured, with its unit."""
    score: Score
    chance: float | None = None
    """The same where chance alone made the change; None where there is no such thing."""
    deviation: float | None = None
    """How far runs of several seeds are apart, where the score is their mean; None of one run."""

    def __post_init__(self) -> None:
        if self.chance is not None and not math.isfinite(self.chance):
            object.__setattr__(self, "chance", None)


def mean_over(values: Sequence[float], *, seed: int = 0) -> Score:
    """The mean with its 95 % bootstrap interval; those that are no number do not count."""
    known = np.array([value for value in values if math.isfinite(value)])
    if not len(known):
        return Score(math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(len(known), size=(RESAMPLES, len(known)))
    return interval(float(known.mean()), known[drawn].mean(1), LEVEL)


def median_over(values: Sequence[float], *, seed: int = 0) -> Score:
    """The median with its 95 % bootstrap interval, for ratios, which may be far out at one map."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Score(math.nan, math.nan, math.nan)
    drawn = np.random.default_rng(seed).integers(len(known), size=(RESAMPLES, len(known)))
    return interval(float(np.median(known)), np.median(known[drawn], axis=1), LEVEL)


def jackknife(statistic: Callable[[Tensor], float], sentence: Tensor) -> Score:
    """A statistic of tokens with its 95 % interval over sentences.

    Delete-a-group jackknife (Kott 2001, Journal of Official Statistics 17): the statistic without each tenth of the
    sentences, and Student's t with 9 degrees of freedom.

    Args:
        statistic: Given which tokens count, (n,) of bool.
        sentence: Each token's sentence by number, (n,); fewer than 10 sentences have no interval.
    """
    every = torch.ones(len(sentence), dtype=torch.bool)
    value = statistic(every)
    if len(sentence.unique()) < GROUPS:
        return Score(value, math.nan, math.nan)
    group = sentence % GROUPS
    without = np.array([statistic(group != at) for at in range(GROUPS)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((without - without.mean()) ** 2).sum()))
    return Score(value, value - _T * error, value + _T * error)


def repeated(statistics: Sequence[Callable[[Tensor], float]], sentence: Tensor) -> Score:
    """The mean of a statistic over repetitions (seeds of a probe), with a 95 % interval over both what can vary.

    The half-width is the root of the sum of squares of that of the mean over sentences, by the jackknife, and of that
    over repetitions, by Student's t; each is its own interval's, so both together cover at least as often.

    Args:
        statistics: By repetition, each given which tokens count, (n,) of bool.
        sentence: Each token's sentence by number, (n,).
    """
    found = jackknife(lambda kept: float(np.mean([own(kept) for own in statistics])), sentence)
    every = torch.ones(len(sentence), dtype=torch.bool)
    values = np.array([own(every) for own in statistics])
    over = _T_OF[len(values)] * float(values.std(ddof=1)) / math.sqrt(len(values))
    half = math.hypot(found.high - found.value, over)
    return Score(found.value, found.value - half, found.value + half)


def over_seeds(values: Sequence[float]) -> Score:
    """The mean over repetitions with its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    half = _T_OF[len(values)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Score(mean, mean - half, mean + half)


def geometric(values: Sequence[float]) -> Score:
    """The geometric mean of sizes over repetitions, with the 95 % interval of the mean of their logarithms.

    Where one is unlimited the mean is, and there is no interval.
    """
    if not all(map(math.isfinite, values)):
        found = math.nan if any(map(math.isnan, values)) else math.inf
        return Score(found, math.nan, math.nan)
    ends = over_seeds([math.log(value) for value in values])
    return Score(*(math.exp(end) for end in (ends.value, ends.low, ends.high)))
