"""Muon on the factors: momentum whose singular values are all brought near 1.

    M <- mu M + g,    step = rate sqrt(max(1, rows / columns)) NS(g + mu M)

Jordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon/: NS is five steps of a Newton-Schulz iteration with
the coefficients (3.4445, -4.7750, 2.0315), which bring singular values into [0.7, 1.2] without a decomposition. Meant
for whole hidden matrices; on the thin factors of an adapter it is a control that people ask for, no method of a paper.
The iteration runs in single precision at least, where Muon's own code takes bfloat16.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.optimizers.contract import Optimizer, State, decay

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonSettings(Settings):
    """Settings of Muon."""

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """How much of the momentum stays in a step."""
    iterations: int = Field(default=5, ge=1)
    """Newton-Schulz steps."""


class Muon(Optimizer):
    """Muon for matrices; what else is trained is AdamW's."""

    settings_type: ClassVar[type[Settings]] = MuonSettings
    settings: MuonSettings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        params = super().param_groups(adapters, lr)[0]["params"]
        matrices = [value for value in params if value.dim() == 2]
        rest = [value for value in params if value.dim() != 2]
        return [
            {"params": matrices, "lr": lr, "update": self._update},
            {"params": rest, "lr": lr},
        ]

    def _update(self, group: Mapping[str, Any], state: State) -> None:
        keep = self.settings.momentum
        for value in group["params"]:
            if value.grad is None:
                continue
            own = state[value]
            if not own:
                own["momentum"] = torch.zeros_like(value)
            own["momentum"].mul_(keep).add_(value.grad)
            step = orthogonalised(value.grad + keep * own["momentum"], self.settings.iterations)
            rows, columns = value.shape
            decay(value, group)
            value.add_(step.to(value.dtype), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonalised(matrix: Tensor, iterations: int) -> Tensor:
    """A matrix with the singular vectors of `matrix` and singular values near 1."""
    X = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    X = X / X.norm().clamp(min=1e-7)
    turned = X.shape[0] > X.shape[1]
    X = X.T if turned else X
    a, b, c = _COEFFICIENTS
    for _ in range(iterations):
        gram = X @ X.T
        X = a * X + (b * gram + c * gram @ gram) @ X
    return X.T if turned else X
