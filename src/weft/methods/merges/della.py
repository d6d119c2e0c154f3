"""DELLA: entries are left out by chance, small ones more often; then TIES's election, or the sum.

    p = density - epsilon + 2 epsilon rank(|t|) / (in - 1),    t_i = (B_i A_i) * m_i / p_i,    m_i ~ Bernoulli(p_i)

Deep et al. 2024, DELLA-Merging, arXiv:2406.11617. `rank` is an entry's place in its row by size, from 0 for the
smallest. The authors' code (github.com/declare-lab/della, its mergekit/sparsify.py) divides by p, so that what is left
is right on average; the mergekit of today restores a norm instead. The election is as in TIES; mergekit elects after
weighting and divides by weights (`elect: after`, `divide: weights`). With density 1 nothing is drawn.

The draw depends on the seed, the map and the experts themselves, not on their order.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from weft.config import Settings
from weft.methods.changes.signs import ElectionSettings, elected
from weft.methods.changes.sparse import ranked, sampled
from weft.methods.merges.contract import Entrywise, SparseSettings, weighted_sum


class DellaSettings(ElectionSettings, SparseSettings):
    """Settings of DELLA."""

    epsilon: float = Field(default=0.15, ge=0, lt=0.5)
    """How much more than `density` the largest entry of a row is kept, and less the smallest."""
    then: Literal["sum", "ties"] = "ties"
    """What is done with what is left: the weighted sum, or the mean of those that agree with an elected sign."""

    @model_validator(mode="after")
    def _probable(self) -> Self:
        if self.density < 1 and not self.epsilon < self.density <= 1 - self.epsilon:
            raise ValueError(
                f"density {self.density:g} and epsilon {self.epsilon:g}: density - epsilon must be above 0 and "
                "density + epsilon at most 1"
            )
        return self


class Della(Entrywise):
    """Drop by rank of size and rescale."""

    settings_type: ClassVar[type[Settings]] = DellaSettings
    settings: DellaSettings
    keeps: ClassVar[str] = "Mostly large entries, on average all, where the experts agree."
    loses: ClassVar[str] = "Entries at random, small ones first, and the minority's sides."
    alone: ClassVar[str] = "Some of its entries are left out at random."
    linear: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def combined(
        self, matrices: Iterable[tuple[Tensor, float]], generator: torch.Generator
    ) -> Tensor:
        left = ((self._left(M, generator), weight) for M, weight in matrices)
        return weighted_sum(left) if self.settings.then == "sum" else elected(left, self.settings)

    def _left(self, matrix: Tensor, generator: torch.Generator) -> Tensor:
        density, epsilon = self.settings.density, self.settings.epsilon
        if density == 1:
            return matrix
        return sampled(matrix, density - epsilon + 2 * epsilon * ranked(matrix), generator)
