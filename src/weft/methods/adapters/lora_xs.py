"""LoRA-XS: a small square matrix between frozen singular vectors of the weight.

    dW = s B R A,    s = alpha / rank,    R ~ N(0, 1e-5^2)
    W0 = P S Q^T,    B = P[:, :rank],    A = S[:rank] Q^T[:rank]

Bałazy et al. 2024, arXiv:2405.17604, section 3. Only R is trained: rank^2 numbers, whatever the size of the map. That
the singular values lie on A, the law of R and alpha are the authors' code (github.com/MohammadrezaBanaei/LoRA-XS,
utils/initialization_utils.py), which approximates the decomposition by a seeded randomised one; here it is exact. Their
choice of random A and B in place of singular vectors is left out. Singular vectors are known up to a sign, and R means
nothing without the A and B that it was trained between, so both are saved with it; the authors' merging decomposes the
weight again. The base stays as it is, so at the start the change is about 1e-5 of the weight's own size, not zero.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import leading, normal
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of LoRA-XS."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""
    init_std: float = Field(default=1e-5, ge=0)
    """Standard deviation of R at the start; 0 starts at the base exactly."""


class LoRAXS(contract.Factored):
    """The change of the weight moves within the weight's own leading singular directions."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A: Tensor
    B: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        rank, std = self.rank, self.spec.init_std
        self.scaling = self.spec.alpha / rank
        U, S, Vh = leading(weight, rank)
        self.register_buffer("A", (S[:, None] * Vh).contiguous())
        self.register_buffer("B", U.contiguous())
        self.R = nn.Parameter(normal((rank, rank), std, generator, weight))

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.scaling * (self.B @ self.R)
