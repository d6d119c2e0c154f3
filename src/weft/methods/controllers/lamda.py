"""LaMDA's freezing: the columns of B stop learning one after another, early in training.

    frozen(t) = floor(rank * t / (freezing * T)),    all of them for t >= freezing * T

Azizi, Kundu and Pedram 2024, arXiv:2406.12832: over the first 30 % of the T steps; B's columns belong to singular
values in falling order, so those of the largest freeze first. The count above is what the paper describes, from memory
of it. The authors' code (github.com/ArminAzizi98/LaMDA, custom_trainer.py) computes `int(t / (0.3 T))`, which freezes
three columns at most in a whole run, and zeroes their gradients, under which AdamW's momentum and decay go on moving
them. Here a frozen column's value is kept and put back after every step, so that no optimizer can move it. Its gradient
is still there, and counts where the norm of all gradients is clipped.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from weft.config import Settings
from weft.methods.controllers.contract import Controller


class LaMDASettings(Settings):
    """Settings of LaMDA's freezing."""

    freezing: float = Field(default=0.3, gt=0, le=1)
    """Fraction of all steps over which B freezes."""


def frozen_columns(step: int, total: int, rank: int, freezing: float) -> int:
    """How many of B's first columns step `step` (from 0) of `total` leaves as they are."""
    # The margin is for products of decimals: 0.07 * 100 is a little over 7.
    return min(rank, math.floor(rank * step / (freezing * total) + 1e-9))


class LaMDAController(Controller):
    """For adapters with a trained factor B (out, rank).

    Remembers the frozen columns by module name, as they were when each froze.
    """

    settings_type: ClassVar[type[Settings]] = LaMDASettings
    settings: LaMDASettings

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        for name, adapter in adapters.items():
            B = adapter.get_parameter("B")
            kept = self.remembered.get(name, B[:, :0])
            B[:, : kept.shape[1]].copy_(kept)
            frozen = frozen_columns(step + 1, total, B.shape[1], self.settings.freezing)
            if frozen > kept.shape[1]:
                self.remembered[name] = B[:, :frozen].clone()
