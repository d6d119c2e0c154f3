"""SLoRA, NLoRA, IntTune: a square matrix between LoRA's two.

    dW = s B N A,    s = alpha / rank,    N (rank, rank)
    kaiming:  A ~ U(±1/sqrt(in)),  N ~ U(±1/sqrt(rank)),  B = 0
    slices:   A = W0[:r, :],  B = W0[:, :r],  N = W0[:r, :r]

Guo et al. 2025, arXiv:2502.14482; the start values are the authors' code (github.com/TracyGuo2001/NLoRA).
StructuredLoRA (SLoRA) starts with `kaiming` and trains all three; NLoRA starts with `slices`, the blocks of a Nyström
approximation of W0; IntTune starts like NLoRA and trains N alone. A Nyström approximation would have the
pseudo-inverse of the leading block in the middle. The authors' code takes the block itself, and so does this: with the
pseudo-inverse, dW can be larger than W0.

With `slices` the change is not zero at the start, and its size grows with s, so alpha = rank is the authors' choice.
`compensate`, which they do not have, subtracts the start's product as a frozen term of the adapter: the expert then
starts as the base; its exact factors have rank 2r, or r where only N is trained. With dropout, that term sees the
dropped input. In the authors' code only the first adapter of a map gets its N.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from weft.lowrank.start import kaiming, wide, zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of SLoRA, NLoRA and IntTune."""

    alpha: float = Field(default=8.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""
    start: Literal["kaiming", "slices"] = "kaiming"
    """First values: random with B = 0, or the leading rows, columns and block of W0."""
    compensate: bool = False
    """Subtract the product that training starts from; nothing to subtract where it is zero."""
    train: Literal["all", "core"] = "all"
    """What learns: A, N and B, or N alone."""

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if self.train == "core" and self.start == "kaiming":
            raise ValueError(
                "train: core keeps B, and start: kaiming sets it to zero, so nothing would be learnt; "
                "choose start: slices"
            )
        return self


class SLoRA(contract.Factored):
    """`B N A`, less the product that it started from if that is compensated."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A: Tensor
    B: Tensor
    A0: Tensor
    C0: Tensor
    N0: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        spec = self.spec
        self.scaling = spec.alpha / self.rank
        A, N, B = _start(weight, spec, generator)
        self.compensates = spec.compensate and spec.start == "slices"
        self.N = nn.Parameter(N)
        if spec.train == "all":
            self.A, self.B = nn.Parameter(A), nn.Parameter(B)
            if self.compensates:
                self.register_buffer("A0", A.clone())
                self.register_buffer("C0", B @ N)
        else:
            self.register_buffer("A", A)
            self.register_buffer("B", B)
            if self.compensates:
                self.register_buffer("N0", N.clone())

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if not self.compensates:
            return self.A, self.scaling * (self.B @ self.N)
        if self.spec.train == "core":
            return self.A, self.scaling * (self.B @ (self.N - self.N0))
        C = torch.cat([self.B @ self.N, -self.C0], dim=1)
        return torch.cat([self.A, self.A0]), self.scaling * C


def _start(weight: Tensor, spec: Spec, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """First values of A, N and B."""
    rank = spec.rank
    if spec.start == "slices":
        W0 = wide(weight)
        return W0[:rank].clone(), W0[:rank, :rank].clone(), W0[:, :rank].clone()
    A, B = zero_product(weight, rank, generator)
    return A, kaiming((rank, rank), generator, weight), B
