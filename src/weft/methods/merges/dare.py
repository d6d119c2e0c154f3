"""DARE: of every change a random share of the entries, made larger by as much; then the sum, or TIES's election.

    t_i = (B_i A_i) * m_i / density,  m_i ~ Bernoulli(density),    dW = sum_i w_i t_i    (E dW = sum_i w_i B_i A_i)

Yu et al. 2023, Language Models are Super Mario, arXiv:2311.03099. PEFT's `dare_linear_svd` (`then: sum`) and
`dare_ties_svd` (`then: ties`), and with `on: factors` its `dare_linear` and `dare_ties` (add_weighted_adapter). The
paper keeps as little as a tenth of full-rank changes; what is drawn is noise of full rank, of which the cut to a rank
removes most, so low-rank experts bear less: half stays by default. With density 1 nothing is drawn. On factors the
masks of A and B are independent, so the product is right on average too, but for `linear`'s cross terms.

The draw depends on the seed, the map and the experts themselves, not on their order.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from weft.config import Settings
from weft.methods.changes.signs import ElectionSettings, elected
from weft.methods.changes.sparse import dropped
from weft.methods.merges.contract import Entrywise, SparseSettings, weighted_sum


class DareSettings(ElectionSettings, SparseSettings):
    """Settings of DARE."""

    then: Literal["sum", "ties"] = "sum"
    """What is done with what is left: the weighted sum, or the mean of those that agree with an elected sign."""


class Dare(Entrywise):
    """Drop and rescale."""

    settings_type: ClassVar[type[Settings]] = DareSettings
    settings: DareSettings
    keeps: ClassVar[str] = "Every change on average over draws, and fewer collisions in each."
    loses: ClassVar[str] = "A random share of the entries; the cut to a rank then loses much."
    alone: ClassVar[str] = "Some of its entries are left out at random."
    linear: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def combined(
        self, matrices: Iterable[tuple[Tensor, float]], generator: torch.Generator
    ) -> Tensor:
        density = self.settings.density
        left = ((dropped(M, density, generator), weight) for M, weight in matrices)
        return weighted_sum(left) if self.settings.then == "sum" else elected(left, self.settings)
