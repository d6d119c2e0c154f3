"""LoraHub: a weight for each expert, found without gradients from a few examples.

    factors:  A = sum_i w_i A_i,  B = sum_i w_i B_i,  dW = B A        (as published: quadratic in w)
    delta:    dW = sum_i w_i B_i A_i                                  (linear in w, any ranks)
    w = argmin  loss(examples; w) + penalty * mean_i |w_i|,   -bound <= w_i <= bound

Huang et al. 2023, LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition, arXiv:2307.13269, and its
code (sail-sg/lorahub): bound 1.5, penalty 0.05, 40 tries from w = 0. In `factors` w and -w are the same model, a single
expert with weight w comes to w^2 of its change, and products of different experts' factors are part of the result.

Different here: the search is CMA-ES (Hansen 2016, arXiv:1604.00772; package `cma`) in place of Nevergrad's NGOpt. The
loss is the mean over labelled items, task by task, and then over tasks; their code divides it once more by the number
of examples, which makes the penalty stronger than it is written. Scales are in B, where theirs multiply the product.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from weft.config import Settings
from weft.lowrank.product import Pair, stacked
from weft.methods.merges.contract import Merge, check_one_rank, weighted_sum


class LorahubSettings(Settings):
    mode: Literal["factors", "delta"] = "factors"
    """What is added up: the factors, which need one rank, or the changes."""
    rows: int = Field(default=5, ge=1)
    """Examples of each task that weights are found from."""
    tries: int = Field(default=40, ge=1)
    """How often the loss is computed."""
    bound: float = Field(default=1.5, gt=0)
    """Largest size of a weight."""
    penalty: float = Field(default=0.05, ge=0)
    """What the mean size of the weights counts beside the loss."""


class Lorahub(Merge):
    """Factors added up with weights that are searched."""

    settings_type: ClassVar[type[Settings]] = LorahubSettings
    settings: LorahubSettings
    keeps: ClassVar[str] = "What lowers the loss on the examples, in one expert's rank."
    loses: ClassVar[str] = "The sum itself: products of different experts' factors are in it."
    one_rank: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        if self.settings.mode == "delta":
            return stacked(pairs, weights)
        check_one_rank(pairs, "set mode: delta")
        sides = zip(*pairs, strict=True)
        A, B = (weighted_sum(zip(own, weights, strict=True)) for own in sides)
        return A, B

    def default_rank(self, ranks: Sequence[int]) -> int:
        return sum(ranks) if self.settings.mode == "delta" else max(ranks)
