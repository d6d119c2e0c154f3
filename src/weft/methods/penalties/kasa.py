"""KaSA's penalty: learnt singular values stay small, learnt singular vectors near orthonormal.

    loss = sum over maps of  beta |d|^2 + gamma (|B^T B - I|_F + |A A^T - I|_F)

Wang et al. 2024, arXiv:2412.06071, equations 9 to 12; beta and gamma as in the authors' code
(github.com/juyongjiang/KaSA, main.py). That code takes the other side of both products, `A^T A - I_in` and
`B B^T - I_out`, and divides the sum by the number of maps; PEFT 0.21.2 computes the equation above. The directions are
the same, the sizes are not, so that published weights suit one form only: `gram: full` with `reduce: mean` is the
authors' code, the defaults are the paper and PEFT.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.penalties.contract import Penalty


class KaSASettings(Settings):
    """Settings of KaSA's penalty."""

    beta: float = Field(default=1e-4, ge=0)
    """Weight of the squared singular values."""
    gamma: float = Field(default=1e-3, ge=0)
    """Weight of the distances from orthonormal."""
    gram: Literal["r", "full"] = "r"
    """Products compared with the identity: rank x rank, or the map's own sides as in the authors' code."""
    reduce: Literal["sum", "mean"] = "sum"
    """Over adapted maps: their sum, or their mean as in the authors' code."""


class KaSAPenalty(Penalty):
    """For adapters with factors A and B and singular values d."""

    settings_type: ClassVar[type[Settings]] = KaSASettings
    settings: KaSASettings

    def loss(
        self, outputs: Tensor | None, batch: Any, adapters: Mapping[str, nn.Module]
    ) -> Tensor | float:
        total = sum((self._term(adapter) for adapter in adapters.values()), start=0.0)
        return total / max(1, len(adapters)) if self.settings.reduce == "mean" else total

    def _term(self, adapter: nn.Module) -> Tensor:
        A, B, d = (adapter.get_parameter(name) for name in ("A", "B", "d"))
        apart = self._from_orthonormal(A) + self._from_orthonormal(B.T)
        return self.settings.beta * d.square().sum() + self.settings.gamma * apart

    def _from_orthonormal(self, rows: Tensor) -> Tensor:
        rank, size = rows.shape
        near = torch.linalg.norm(rows @ rows.T - torch.eye(rank, device=rows.device).to(rows))
        if self.settings.gram == "r":
            return near
        # |A^T A - I_n|^2 = |A A^T - I_r|^2 + (n - r): the n x n matrix is never needed.
        return (near.square() + (size - rank)).sqrt()
