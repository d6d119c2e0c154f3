"""MiCA: minor component adaptation, which learns within the directions that the weight uses least.

    dW = s B A,    s = alpha / rank,    W0 = U S V^T,    B = U[:, -rank:] frozen,    A = 0 trained

arXiv:2604.01694, as PEFT 0.21.2 has it (`init_lora_weights="mica"`); the paper was not read. B holds the left singular
vectors of the smallest singular values, A starts at zero, so the start is a no-op and W0 stays as it is. B is a buffer,
so no optimizer can hold it. Singular vectors have no sign of their own; `start.svd` gives them one, and training does
not see it.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import trailing
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of MiCA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""


class MiCA(contract.Factored):
    """The change of the weight writes into the weight's own minor directions."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    B: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        U, _, _ = trailing(weight, self.rank)
        self.scaling = self.spec.alpha / self.rank
        self.A = nn.Parameter(torch.zeros(self.rank, weight.shape[1], device=weight.device))
        self.register_buffer("B", U.contiguous())

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.scaling * self.B

    def peft_alpha(self) -> float | None:
        return self.spec.alpha
