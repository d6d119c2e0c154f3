"""SoRA's penalty: the mean size of all gates.

    loss = lambda * sum |g| / number of gates

Ding et al. 2023, arXiv:2311.11696; its code has it beside the proximal step (src/trainer.py, `sparse_lambda`, 1e-3 or
10 by task).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.penalties.contract import Penalty


class SoRAPenaltySettings(Settings):
    """Settings of SoRA's penalty."""

    sparsity: float = Field(default=1e-3, ge=0)
    """Weight of the mean size of the gates."""


class SoRAPenalty(Penalty):
    """For adapters with a vector `gate`."""

    settings_type: ClassVar[type[Settings]] = SoRAPenaltySettings
    settings: SoRAPenaltySettings

    def loss(
        self, outputs: Tensor | None, batch: Any, adapters: Mapping[str, nn.Module]
    ) -> Tensor | float:
        if not adapters:
            return 0.0
        gates = torch.cat([adapter.get_parameter("gate") for adapter in adapters.values()])
        return self.settings.sparsity * gates.abs().mean()
