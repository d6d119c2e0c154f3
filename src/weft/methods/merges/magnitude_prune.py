"""Magnitude pruning: of every change the largest entries, then the weighted sum.

    dW = sum_i w_i top_density(B_i A_i)

PEFT's `combination_type="magnitude_prune_svd"`, and with `on: factors` its `magnitude_prune` (add_weighted_adapter),
which prunes A and B each for itself and adds them up as `linear` does. It is TIES-Merging (Yadav et al. 2023,
arXiv:2306.01708) without the election. Entries as large as the last one that stays do too.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from weft.config import Settings
from weft.methods.changes.sparse import largest
from weft.methods.merges.contract import Entrywise, SparseSettings, weighted_sum


class MagnitudePrune(Entrywise):
    """The largest entries of each, added up."""

    settings_type: ClassVar[type[Settings]] = SparseSettings
    settings: SparseSettings
    keeps: ClassVar[str] = "Of every change the largest entries, with their weights."
    loses: ClassVar[str] = "The small entries, which together may be most of a low-rank change."
    alone: ClassVar[str] = "Its smallest entries are left out."
    linear: ClassVar[bool] = True

    def combined(
        self, matrices: Iterable[tuple[Tensor, float]], generator: torch.Generator
    ) -> Tensor:
        return weighted_sum((largest(M, self.settings.density), weight) for M, weight in matrices)
