"""Isotropic merging in the common subspace: the weighted sum with all its singular values made equal.

    U S V^T = sum_i w_i B_i A_i,    dW = mean(S) U V^T

Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces,
arXiv:2502.04959 (Iso-C): a sum is ruled by directions that several tasks share, and evening out its spectrum gives
those of one task alone their part. There the changes have full rank and the mean is over all singular values of the
map; the sum of low-rank experts has no other directions than its own, so that the mean is over those that are more
than rounding. By default all of them stay; a lower rank keeps the strongest of the sum, at that same mean.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from weft.lowrank.product import Pair, split, stacked, thin_svd, true_rank
from weft.methods.merges.contract import Merge


class IsoC(Merge):
    """A flat spectrum."""

    keeps: ClassVar[str] = "Every direction of the weighted sum, and their mean strength."
    loses: ClassVar[str] = (
        "How strong each direction was: the weak are raised and the strong lowered."
    )
    alone: ClassVar[str] = "Its singular values are made equal."

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        A, B = stacked(pairs, weights)
        U, S, Vh = thin_svd(A, B)
        own = max(1, true_rank(S, (B.shape[0], A.shape[1])))
        return split(U, S[:own].mean().expand(own), Vh, rank)

    def default_rank(self, ranks: Sequence[int]) -> int:
        return sum(ranks)
