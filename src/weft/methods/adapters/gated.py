"""Gated ranks: LoRA with a gate on each rank, of which those at zero are left out of what is stored.

    dW = s B diag(g) A,    s = alpha / rank,    A ~ U(±1/sqrt(in)),    B = 0,    g ~ N(0, 1)

Ding et al. 2023, SoRA, arXiv:2311.11696; scale and starting values are those of the authors' code
(github.com/TsinghuaC3I/SoRA, src/lora.py). What drives gates to zero, a proximal step on g after each update, is
training and not part of this form.

A gate at zero still has a gradient, by which it can open again, so wherever gradients are recorded `factors` has all
ranks. Without them, as on export and in serving, it has those whose gate is open, and the scale stays alpha over all
ranks. A map whose gates are all shut has one rank of zeros, because PEFT's format knows no rank of 0. The gate is a
vector, which the trainer does not decay; in the authors' code it is not decayed either.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import normal, zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of gated ranks."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank, shut gates counted."""


class Gated(contract.Factored):
    """The change of the weight is a product whose ranks can be shut one by one."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        A, B = zero_product(weight, self.rank, generator)
        self.scaling = self.spec.alpha / self.rank
        self.A = nn.Parameter(A)
        self.gate = nn.Parameter(normal((self.rank,), 1.0, generator, weight))
        self.B = nn.Parameter(B)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x.to(self.A.dtype) @ self.A.T * (self.scaling * self.gate)) @ self.B.T

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return contract.weighted_factors(self.A, self.gate, self.B, self.scaling)
