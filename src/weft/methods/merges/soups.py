"""LoRA Soups: concatenation with a weight for every map and expert, learned on a few rows of all tasks.

    dW_m = sum_i g_mi B_mi A_mi,    g_m = softmax(w_m) or w_m,    w at the start: every g is 1 / n

Experts, heads and base are frozen; the w alone learn, one for each expert at each map. Prabhakar et al. 2024, LoRA
Soups: Merging LoRAs for Practical Skill Composition Tasks, arXiv:2410.13025. Their code (aksh555/LoRA-Soups) takes the
softmax, the paper's formula has free weights (`normalise: free`). A softmax can express neither a difference nor a sum
over 1.

Different here: their code draws the w from N(0, 1), so that it starts from an uneven mixture; here it starts from the
mean of the experts. They learn on ten thousand rows for an epoch at a rate of 1e-4; here a few hundred rows are enough
for a few hundred numbers, at a rate to match. What is learned is folded into B, so the result is `cat` with those
weights. Where the weights are given and not learned (`weft.methods` has no rows) all maps have the same.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from weft.config import Settings
from weft.lowrank.product import Pair, stacked
from weft.methods.merges.contract import Merge


class SoupsSettings(Settings):
    normalise: Literal["softmax", "free"] = "softmax"
    """Whether a map's weights are positive with sum 1, or any numbers."""
    rows: int = Field(default=200, ge=1)
    """Rows of each task that weights are learned from, at most."""
    epochs: int = Field(default=3, ge=1)
    """Passes over them."""
    batch_size: int = Field(default=8, ge=1)
    """Rows of each task in a step."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Of AdamW, without decay; it falls linearly to 0."""


class Soups(Merge):
    """Concatenation whose weights are learned map by map."""

    settings_type: ClassVar[type[Settings]] = SoupsSettings
    settings: SoupsSettings
    keeps: ClassVar[str] = (
        "Every expert's own directions, as strong at each map as the mixed rows want them."
    )
    loses: ClassVar[str] = (
        "What the rows do not ask for; the rank grows to the sum of the experts' ranks."
    )
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
