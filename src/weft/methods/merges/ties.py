"""TIES: trim, elect a sign for every entry, and average those that agree with it.

    t_i = top_density(B_i A_i),    s = sign(sum_i t_i),    dW = sum_i w_i t_i [sign(t_i) = s] / max(1, #{sign(t_i) = s})

Yadav et al. 2023, TIES-Merging, arXiv:2306.01708: density 0.2, and one weight for all, its lambda. PEFT's `ties_svd`
and, with `on: factors`, its `ties` (add_weighted_adapter). Deltas are the default because a sign of a factor means
nothing: -B and -A are the same change as B and A, so which entries agree would depend on how each expert happened to be
factored, and the products of what is left have cross terms. PEFT trims each map for itself, as here; the paper trims
all parameters together, so that maps that change little lose more.

The mean is by number: experts with weights that sum to 1 are made smaller by how many agree, and two equal ones with
weights 0.5 give half the expert. See `weft.methods.changes.signs` for when signs are elected and what divides.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.methods.changes.signs import ElectionSettings, elected
from weft.methods.changes.sparse import largest
from weft.methods.merges.contract import Entrywise, SparseSettings


class TiesSettings(ElectionSettings, SparseSettings):
    """Settings of TIES."""

    density: float = Field(default=0.2, gt=0, le=1)
    """Share of the entries of every expert that stay, the largest."""


class Ties(Entrywise):
    """Trim, elect, average."""

    settings_type: ClassVar[type[Settings]] = TiesSettings
    settings: TiesSettings
    keeps: ClassVar[str] = "Large entries on whose direction the experts agree."
    loses: ClassVar[str] = "Small entries, the minority's side of every conflict, and scale."
    alone: ClassVar[str] = "Its smallest entries are left out."
    linear: ClassVar[bool] = True

    def combined(
        self, matrices: Iterable[tuple[Tensor, float]], generator: torch.Generator
    ) -> Tensor:
        density = self.settings.density
        return elected(((largest(M, density), weight) for M, weight in matrices), self.settings)
