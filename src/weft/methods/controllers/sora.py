"""SoRA's proximal step: after each update every gate moves towards zero by rate times threshold, and stops there.

    g <- sign(g) max(|g| - rate xi, 0)

Ding et al. 2023, Sparse Low-rank Adaptation of Pre-trained Language Models, arXiv:2311.11696, equations 7 and 8: the
step that minimises the loss, linearised, plus xi |g|. The rate is the schedule's of that step. The authors' code
(github.com/TsinghuaC3I/SoRA, src/sparse_optimizer.py) leaves the rate out in one file and has it in another, with 3e-4
in its place, which is xi = 0.3 at a rate of 1e-3. It subtracts first and then zeroes what is smaller than the
threshold, so that gates below twice that vanish and none ends between; here it is the soft threshold of the paper.
Gates are vectors, which are not decayed, and learn at the rate of everything else. A gate at zero has a gradient and
can open again.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.controllers.contract import Controller


class SoRASettings(Settings):
    """Settings of SoRA's proximal step."""

    threshold: float = Field(default=0.3, ge=0)
    """How far a step moves a gate towards zero, as a multiple of the step's learning rate."""


class SoRAController(Controller):
    """For adapters with a vector `gate`."""

    settings_type: ClassVar[type[Settings]] = SoRASettings
    settings: SoRASettings

    @torch.no_grad()
    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for adapter in adapters.values():
            gate = adapter.get_parameter("gate")
            gate.copy_(soft_threshold(gate, rates[id(gate)] * self.settings.threshold))


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Towards zero by `threshold`, and no further than zero."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)
