"""Concatenation: the factors one under the other, which is the weighted sum of the changes, exactly.

    A = [A_1; ...; A_n],    B = [w_1 B_1, ..., w_n B_n],    B A = sum_i w_i B_i A_i

The rank is the sum of the ranks. PEFT's `combination_type="cat"` (add_weighted_adapter). What weights of 1 mean is that
every expert acts in full, as one that was trained beside the others did not expect; see Huang et al. 2023, LoraHub,
arXiv:2307.13269, for weights that are searched.
"""

from collections.abc import Sequence

from weft.methods.merges.contract import Merge, Pair, exact_sum


class Cat(Merge):
    """The exact sum."""

    def pair(self, pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
        return exact_sum(pairs, weights)
