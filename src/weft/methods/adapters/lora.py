"""LoRA: low-rank adaptation of large language models.

    dW = s B A,    s = alpha / rank  (rank-stabilised: s = alpha / sqrt(rank)),    A ~ U(±1/sqrt(in)), B = 0

Hu et al. 2021, arXiv:2106.09685, section 4.1. A's initial law is the authors' code (github.com/microsoft/LoRA,
loralib/layers.py, Kaiming-uniform with a = sqrt 5), not the paper's Gaussian. The rank-stabilised scale is
Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2. With ranks that differ by module, alpha is divided by each
module's own rank, as PEFT does.

`zero: A` starts the other way round, A = 0 and B ~ U(±1/sqrt(rank)): no change either, but the first gradient goes to
A, dL/dA = s B^T G, where it else goes to B, dL/dB = s G A^T (G = dL/dW). So start Omni-AVSR's adapters (Cappellazzo et
al. 2025, arXiv:2511.07253; authors' code, Omni_AVSR/Llama_LoRA.py).
"""

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import zero_first, zero_product
from weft.methods.adapters import contract

_NOTHING_DRAWN = torch.Generator()


class Spec(contract.Spec):
    """Settings of LoRA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead, so that large ranks learn as fast as small ones."""
    zero: Literal["A", "B"] = "B"
    """The factor that starts at 0; the other is drawn."""


class LoRA(contract.Adapter):
    """The change of the weight is a product of two thin matrices."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    pairs: ClassVar[bool] = True
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        rank = self.rank
        self.scaling = self.spec.alpha / (math.sqrt(rank) if self.spec.rank_stabilised else rank)
        begin = zero_product if self.spec.zero == "B" else zero_first
        A, B = begin(weight, rank, generator)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)

    @classmethod
    def of(cls, A: Tensor, B: Tensor, spec: Spec) -> Self:
        """An adapter of these factors, which become its own."""
        # Nothing is drawn where there is no memory; a new generator a map would take as long as the map.
        made = cls(torch.empty(B.shape[0], A.shape[1], device="meta"), spec, _NOTHING_DRAWN)
        made.A, made.B = nn.Parameter(A), nn.Parameter(B)
        return made

    def like(self, A: Tensor, B: Tensor) -> Self:
        """Another of the same settings with these factors, in a third of the time that a new one takes."""
        # As torch's DataParallel repeats modules: a dict of its own for all that a module registers.
        made = type(self).__new__(type(self))
        vars(made).update(
            {name: own.copy() if isinstance(own, dict) else own for name, own in vars(self).items()}
        )
        made._parameters |= {"A": nn.Parameter(A), "B": nn.Parameter(B)}
        return made

    def delta(self, weight: Tensor) -> Tensor:
        return self.scaling * (self.B @ self.A)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.scaling * ((x.to(self.A.dtype) @ self.A.T) @ self.B.T)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.scaling * self.B

    def peft_alpha(self) -> float | None:
        # Said exactly, not by way of the scale: a round trip through a file must not change its last bit.
        own = self.spec
        return own.alpha * math.sqrt(own.rank) if own.rank_stabilised else own.alpha
