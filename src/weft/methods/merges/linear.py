"""Linear as PEFT means it: the A's added up and the B's added up, which is no sum of the changes.

    A = sum_i sign(w_i) sqrt(|w_i|) A_i,    B = sum_i sqrt(|w_i|) B_i
    B A = sum_i w_i B_i A_i + sum_{i != j} sign(w_i) sqrt(|w_i w_j|) B_j A_i

PEFT's `combination_type="linear"` (add_weighted_adapter), whose page calls it a very rough approximation: the second
sum are products of one expert's B and another's A, which nobody trained. Two equal experts with weights 0.5 give twice
the expert; two unrelated ones miss the sum by about its own size. It is here because results that people have were made
so; take `cat`, `svd` or `sum` for the sum itself. LoraHub (Huang et al. 2023, arXiv:2307.13269) adds factors up too.

Experts need one rank. PEFT shares an expert's scale s between both factors, sqrt(s) each; here it is all in B, and as
long as the experts have one scale that is the same product.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch

from weft.lowrank.product import Pair
from weft.methods.merges.contract import Merge, added_factors, weighted_sum


class Linear(Merge):
    """Factors added up."""

    keeps: ClassVar[str] = "Each expert's own change, and among equal ones their direction."
    loses: ClassVar[str] = "The sum itself: products of different experts' factors are in it."
    one_rank: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        return added_factors(pairs, weights, weighted_sum)
