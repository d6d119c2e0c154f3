"""The weighted sum in as few ranks as it has: exact, and no larger than it must be.

    U S V^T = sum_i w_i B_i A_i,    B = U sqrt(S),    A = sqrt(S) V^T,    without the singular values that are rounding

Linear averaging of weights (Wortsman et al. 2022, Model soups, arXiv:2203.05482), of changes instead of weights. `cat`
is the same change with the sum of all ranks, whether or not the experts share directions or exceed the map: the sum of
two equal experts of rank 8 has rank 16 there and 8 here. What that costs is the decomposition, and that the factors are
no longer the experts' own. Singular values below max(in, out) eps times the largest count as zero, as in numpy's
`matrix_rank`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from weft.lowrank.product import Pair, stacked, truncated
from weft.methods.merges.contract import Merge


class Sum(Merge):
    """The exact sum at its own rank."""

    keeps: ClassVar[str] = "The weighted sum of all changes, in the fewest ranks that hold it."
    loses: ClassVar[str] = "Nothing but rounding; which expert a rank came from."
    linear: ClassVar[bool] = True

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
