"""LoRA-FA: LoRA whose down-projection stays as it was drawn, so that only the up-projection learns.

    dW = s B A,    s = alpha / rank,    A ~ U(±1/sqrt(in)) frozen,    B = 0 trained

Zhang et al. 2023, arXiv:2308.03303. With A fixed, the backward pass needs A x, rank numbers for each token, and not x
itself. A is drawn as PEFT 0.21.2 draws it, by LoRA's own law; the paper's is a Gaussian (from memory of the paper).
Here A is a buffer and not a parameter without gradient: no optimizer can hold it, no decay can move it and nothing that
thaws an expert's parameters thaws it. The state is still A and B, so PEFT opens it as the plain LoRA it is.

The gradient rule that goes with it is the optimizer `lora_fa`; without it B learns from its own gradient.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of LoRA-FA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""


class LoRAFA(contract.Adapter):
    """The change of the weight reads its input through a fixed random projection."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        A, B = zero_product(weight, self.rank, generator)
        self.scaling = self.spec.alpha / self.rank
        self.register_buffer("A", A)
        self.B = nn.Parameter(B)

    def delta(self, weight: Tensor) -> Tensor:
        return self.scaling * (self.B @ self.A)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.scaling * ((x.to(self.A.dtype) @ self.A.T) @ self.B.T)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.scaling * self.B

    def peft_alpha(self) -> float | None:
        return self.spec.alpha
