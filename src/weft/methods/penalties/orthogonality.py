"""AdaLoRA's penalty: the vectors of a map's triplets stay near orthonormal.

    loss = weight * mean over all A and B of  |A A^T - I|_F,  |B^T B - I|_F

Zhang et al. 2023, AdaLoRA, arXiv:2303.10512, equation 4, in the form of the authors' code and of PEFT 0.21.2, which
takes the norm and not its square, and the mean over factors. PEFT adds it in evaluation too; here only training
has it. Of factors that grow (IncreLoRA, Zhang et al. 2023, arXiv:2308.12043) all trained ranks stand together in A and
in B, as in the equation; that paper's code takes each block for itself, which only keeps a single rank at length 1.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.penalties.contract import Penalty


class OrthogonalitySettings(Settings):
    """Settings of the penalty."""

    orthogonality: float = Field(default=0.5, ge=0)
    """Weight of the mean distance from orthonormal."""


class Orthogonality(Penalty):
    """For adapters with factors A (rank, in) and B (out, rank)."""

    settings_type: ClassVar[type[Settings]] = OrthogonalitySettings
    settings: OrthogonalitySettings

    def loss(
        self, outputs: Tensor | None, batch: Any, adapters: Mapping[str, nn.Module]
    ) -> Tensor | float:
        if not self.settings.orthogonality or not adapters:
            return 0.0
        total: Tensor | float = 0.0
        for adapter in adapters.values():
            for rows in (_whole(adapter, "A", 0), _whole(adapter, "B", 1).T):
                eye = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
                total = total + torch.linalg.norm(rows @ rows.T - eye)
        return self.settings.orthogonality * total / (2 * len(adapters))


def _whole(adapter: nn.Module, name: str, along: int) -> Tensor:
    """A factor, or the trained blocks of one side by side."""
    own = getattr(adapter, name)
    if isinstance(own, nn.ParameterList):
        return torch.cat([block for block in own if block.requires_grad], dim=along)
    return adapter.get_parameter(name)
