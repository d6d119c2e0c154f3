"""LaMDA: a trained square matrix between the singular vectors of W0, one side of which learns only at first.

    W0 + dW = W0 - s B0 S0 A + s B S A,    s = alpha / rank
    spectral:  W0 = U diag(sigma) V^T,  A = V[:, :r]^T,  B0 = U[:, :r],  S0 = diag(sigma[:r]) / s
    lora:      A ~ U(±1/sqrt(in)),  S ~ U(±1/sqrt(rank)),  B0 = 0

Azizi, Kundu and Pedram 2024, arXiv:2406.12832. A (the paper's PMA) is never trained, S (LDA) always, and B (PMB) is
frozen column by column early on: `controllers/lamda.py`. So training changes `rank * (rank + out)` numbers of a map at
first and `rank * rank` in the end. Projections from the singular vectors of W0 are the paper's; that S takes the
singular values and that their product is subtracted, as a frozen residual would have it, is from memory of the paper.
The authors' code (github.com/ArminAzizi98/LaMDA) has only the other start, `lora`, on the whole base.

Either start is a no-op. The frozen residual is a term of the adapter and W0 stays whole; as A never moves, the exact
factors are `A` and `s (B S - B0 S0)`, of rank r. With dropout, the subtracted term sees the dropped input. Ranks by
the spectrum of each map (LaMDA++) are a plan of their own.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import kaiming, leading, zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of LaMDA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""
    start: Literal["spectral", "lora"] = "spectral"
    """First values: the largest singular components of W0, subtracted from it, or random with B = 0."""


class LaMDA(contract.Factored):
    """`B S A` with A frozen, less what it started from."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A: Tensor
    C0: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        rank = self.rank
        self.scaling = self.spec.alpha / rank
        if self.spec.start == "spectral":
            B, sigma, A = leading(weight, rank)
            S = torch.diag(sigma / self.scaling)
            self.register_buffer("C0", B @ S)
        else:
            A, B = zero_product(weight, rank, generator)
            S = kaiming((rank, rank), generator, weight)
        self.register_buffer("A", A.clone())
        self.S = nn.Parameter(S)
        self.B = nn.Parameter(B.clone())

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        C = self.B @ self.S
        return self.A, self.scaling * (C - self.C0 if self.spec.start == "spectral" else C)
