"""Concatenation: the factors one under the other, which is the weighted sum of the changes, exactly.

    A = [A_1; ...; A_n],    B = [w_1 B_1, ..., w_n B_n],    B A = sum_i w_i B_i A_i

The rank is the sum of the ranks. PEFT's `combination_type="cat"` (add_weighted_adapter). What weights of 1 mean is that
every expert acts in full, as one that was trained beside the others did not expect; see Huang et al. 2023, LoraHub,
arXiv:2307.13269, for weights that are searched. Asked for a lower rank, it is `svd`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from weft.lowrank.product import Pair, stacked
from weft.methods.merges.contract import Merge


class Cat(Merge):
    """The exact sum."""

    keeps: ClassVar[str] = "The weighted sum of all changes, to the last bit of rounding."
    loses: ClassVar[str] = "Nothing; the rank grows to the sum of the experts' ranks."
    linear: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        return stacked(pairs, weights)

    def default_rank(self, ranks: Sequence[int]) -> int:
        return sum(ranks)
