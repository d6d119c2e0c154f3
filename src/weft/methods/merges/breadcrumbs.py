"""Breadcrumbs: of every change the entries in the middle, without the very large and the small; then the sum.

    t_i = (B_i A_i) * [low_i <= |B_i A_i| <= high_i],    dW = sum_i w_i t_i

Davari and Belilovsky 2023, Model Breadcrumbs, arXiv:2312.06795: outliers of one task disturb the others, and small
entries are noise. `gamma` is the share above `high`, `density` the share between, which is what mergekit calls them
(its `breadcrumbs`, whose gamma of 0.01 is the default here); the paper searches both on validation data. Where density
leaves no room for gamma, fewer of the largest are left out, as in mergekit, and with density 1 nothing is. Maps are
masked each for itself, as in the paper.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.methods.changes.sparse import between
from weft.methods.merges.contract import Entrywise, SparseSettings, weighted_sum


class BreadcrumbsSettings(SparseSettings):
    """Settings of breadcrumbs."""

    density: float = Field(default=0.9, gt=0, le=1)
    """Share of the entries of every expert that stay, the largest but for `gamma`."""
    gamma: float = Field(default=0.01, ge=0, lt=1)
    """Share of the entries of every expert that are left out because they are the largest."""


class Breadcrumbs(Entrywise):
    """Neither outliers nor dust."""

    settings_type: ClassVar[type[Settings]] = BreadcrumbsSettings
    settings: BreadcrumbsSettings
    keeps: ClassVar[str] = "Of every change the entries of middle size, with their weights."
    loses: ClassVar[str] = "The largest entries as outliers, and the smallest as noise."
    alone: ClassVar[str] = "Its largest and its smallest entries are left out."
    linear: ClassVar[bool] = True

    def combined(
        self, matrices: Iterable[tuple[Tensor, float]], generator: torch.Generator
    ) -> Tensor:
        density, gamma = self.settings.density, self.settings.gamma
        return weighted_sum((between(M, density, gamma), weight) for M, weight in matrices)
