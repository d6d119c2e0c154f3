"""Elected signs: of several matrices, entry by entry, only those count that have the sign that was elected.

    elected    sign of sum_i t_i (total) or of sum_i sign(t_i) (frequency), + where that is 0
    result     sum_i w_i t_i [sign(t_i) = elected] / max(1, how many agree)

Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, section 3.2, which has no weights. With them there are two readings,
and both are here: PEFT elects from t_i and weights afterwards, mergekit elects from w_i t_i, where a negative weight
turns a vote around and a weight of 0 has none. PEFT divides by the number of matrices that agree, as the paper;
mergekit by their weights' sum.

The two sides are added up apart while matrices come in, so that only sums are held, however many there are.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from weft.config import Settings


class ElectionSettings(Settings):
    """How signs are elected."""

    elect: Literal["before", "after"] = "before"
    """Whether signs are elected before the weights are applied, as in PEFT, or after, as in mergekit."""
    majority: Literal["total", "frequency"] = "total"
    """What votes: an entry's value, or its sign alone."""
    divide: Literal["count", "weights"] = "count"
    """What the sum of the agreeing entries is divided by: their number, or the sum of their weights."""


def elected(matrices: Iterable[tuple[Tensor, float]], settings: ElectionSettings) -> Tensor:
    """The mean of the entries that agree with the elected sign."""
    up, down = _Side(), _Side()
    votes: Tensor | None = None
    for matrix, weight in matrices:
        asked, factor = (matrix, weight) if settings.elect == "before" else (weight * matrix, 1.0)
        vote = asked if settings.majority == "total" else asked.sign()
        votes = vote.clone() if votes is None else votes.add_(vote)
        share = weight if settings.divide == "weights" else 1.0
        up.add(asked.clamp(min=0.0), factor, share)
        down.add(asked.clamp(max=0.0), factor, share)
    assert votes is not None
    return torch.where(votes >= 0, up.mean(settings.divide), down.mean(settings.divide))


class _Side:
    """The entries of one sign."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.shares: Tensor | None = None

    def add(self, values: Tensor, factor: float, share: float) -> None:
        if self.total is None or self.shares is None:
            self.total, self.shares = torch.zeros_like(values), torch.zeros_like(values)
        self.total.add_(values, alpha=factor)
        self.shares.add_(values.ne(0.0), alpha=share)

    def mean(self, divide: str) -> Tensor:
        assert self.total is not None
        assert self.shares is not None
        if divide == "count":
            return self.total / self.shares.clamp(min=1.0)
        return self.total / torch.where(self.shares == 0, 1.0, self.shares)
