"""Task arithmetic: changes are added to learn several tasks, and subtracted to forget one.

    dW = scaling sum_i w_i B_i A_i,    with `negate` its negative

Ilharco et al. 2022, Editing Models with Task Arithmetic, arXiv:2212.04089. One `scaling` is shared by all tasks and
chosen on validation data; the authors find values near 0.3 to 0.5 good where several tasks are added. A single expert
is subtracted with a weight below zero, all of them with `negate`, which leaves a base that has forgotten what they
know. The result is exact, in as few ranks as it has; its error is counted from the scaled sum, which is what is wanted.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from weft.config import Settings
from weft.lowrank.product import Pair, stacked, truncated
from weft.methods.merges.contract import Merge


class TaskArithmeticSettings(Settings):
    """Settings of task arithmetic."""

    scaling: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """What the whole sum is multiplied by."""
    negate: bool = False
    """Subtract the sum from the base instead of adding it."""


class TaskArithmetic(Merge):
    """The scaled sum, added or subtracted."""

    settings_type: ClassVar[type[Settings]] = TaskArithmeticSettings
    settings: TaskArithmeticSettings
    keeps: ClassVar[str] = "All changes, scaled alike and added, or subtracted to forget them."
    loses: ClassVar[str] = "Nothing of the sum; where tasks disagree, each undoes the other."
    linear: ClassVar[bool] = True

    def coefficients(self, weights: Sequence[float]) -> Sequence[float]:
        factor = -self.settings.scaling if self.settings.negate else self.settings.scaling
        return [factor * weight for weight in weights]

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        return truncated(*stacked(pairs, weights), rank)

    def default_rank(self, ranks: Sequence[int]) -> int:
        return sum(ranks)
