"""Which rate is tried next, and which is the best: halving, from many rates on few steps to few rates on many.

    a quarter, half, one, two, four times the recipe's rate   an eighth of the training's steps each
    the best three of them                                    a quarter
    the best two of them                                      half

Each trial is a training of its own, whose schedule ends with it. Where the best of the first round is the lowest or the
highest tried, the next one beyond is tried too. In the later rounds only a lower one is: longer trainings want lower
rates, never higher. All of it is a function of what has been tried, so that a search that was killed goes on.

Jamieson and Talwalkar 2016, arXiv:1502.07943 (successive halving), on a grid, with rounds of three fixed sizes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the recipe's rate."""
SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the training's steps, by round."""
KEPT = (3, 2)
"""Rates that go on to the next round."""
LEAST = 10
"""Steps of a trial, where the training has so many."""
BEYOND = 3
"""Rates tried beyond either end of the first five, in all rounds together: chance could lead anywhere."""


@dataclass(frozen=True)
class Trial:
    """One rate tried in one round."""

    round: int
    rate: float


@dataclass(frozen=True)
class Outcome:
    """How a trial did on the rows held out."""

    score: float
    """The mean of the tasks' metrics, turned so that more is better."""
    loss: float
    """Decides between equal scores, which a score that starts at 0 has many of."""

    @property
    def order(self) -> tuple[float, float]:
        """Greater is better; what diverged is the worst."""
        if not (math.isfinite(self.score) and math.isfinite(self.loss)):
            return -math.inf, -math.inf
        return self.score, -self.loss


Tried = Mapping[Trial, Outcome]


@dataclass(frozen=True)
class Halving:
    """A search.

    Args:
        middle: The rate it starts around.
        steps: Of the training that the rate is for.
    """

    middle: float
    steps: int

    def budget(self, round_: int) -> int:
        """Steps of a trial of a round."""
        return min(self.steps, max(LEAST, round(SHARES[round_] * self.steps)))

    @property
    def cost(self) -> int:
        """Steps in all, if no rate beyond the ends is tried."""
        counts = (len(FACTORS), *KEPT)
        return sum(count * self.budget(number) for number, count in enumerate(counts))

    @property
    def trials(self) -> int:
        """Trainings in all, if no rate beyond the ends is tried."""
        return len(FACTORS) + sum(KEPT)

    def next(self, tried: Tried) -> Trial | None:
        """What to try now; None when it is over."""
        rates = [_rounded(factor * self.middle) for factor in FACTORS]
        ends = 0.99 * rates[0] / 2**BEYOND, 1.01 * rates[-1] * 2**BEYOND
        for number in range(len(SHARES)):
            own = _of_round(tried, number)
            open_ = next((rate for rate in rates if rate not in own), None)
            if open_ is None:
                open_ = _beyond(own, ends, both=number == 0)
            if open_ is not None:
                return Trial(number, open_)
            if number < len(KEPT):
                rates = sorted(_ranked(own)[: KEPT[number]])
        return None

    def best(self, tried: Tried) -> float:
        """The rate to take, once it is over."""
        return _ranked(_of_round(tried, len(SHARES) - 1))[0]


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def _of_round(tried: Tried, number: int) -> dict[float, Outcome]:
    return {trial.rate: outcome for trial, outcome in tried.items() if trial.round == number}


def _ranked(own: Mapping[float, Outcome]) -> list[float]:
    """Rates, the best first; of equals the lower, which does less harm."""
    return sorted(sorted(own), key=lambda rate: own[rate].order, reverse=True)


def _beyond(own: Mapping[float, Outcome], ends: tuple[float, float], *, both: bool) -> float | None:
    """The next rate beyond an end that the best lies at, if it is not too far out."""
    best = _ranked(own)[0]
    if best == min(own) and best / 2 > ends[0]:
        return _rounded(best / 2)
    if both and best == max(own) and best * 2 < ends[1]:
        return _rounded(best * 2)
    return None
