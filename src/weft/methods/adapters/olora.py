"""OLoRA: orthonormal low-rank adaptation, which starts from a QR decomposition of the weight.

    dW = s (B A - B0 A0),    s = alpha / rank
    B0 = Q[:, :r],    A0 = R[:r]    from    W0 = Q R

Büyükakyüz 2024, arXiv:2406.01775 (from memory of the paper). A and B start as A0 and B0, and the frozen rest is
`W0 - s B0 A0`. The scale is that of the author's code in PEFT (`olora_init`, read in 0.21.2): A0 and B0 are not divided
by it, unlike PiSSA's, so the rest is W0 without `Q_r R_r` only where alpha is the rank. The start is a no-op for every
alpha. The default is the 16 of the author's example (`examples/olora_finetuning`, there with rank 32).

Differences from PEFT: Q and R are unique up to signs, and here R has no negative diagonal, so that the same weight
gives the same start everywhere; training does not see the signs. PEFT writes the rest into the base; here the base is
shared by many experts and stays as it is, so the start is a frozen part of the adapter, and the exact plain LoRA has
twice the rank. The change is computed as

    dW = s (B (A - A0) + (B - B0) A0)

which is the same, but exactly 0 at the start and free of the difference of two large products after it, in any type.
Dropout therefore acts on `B0 A0` as well, where PEFT drops `B A` alone.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import wide
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of OLoRA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank, at the start as well."""


class OLoRA(contract.Factored):
    """Orthonormal columns of the weight, and what W0 makes of them, are trained."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A0: Tensor
    B0: Tensor

    def __init__(
        self,
        weight: Tensor,
        spec: Spec,
        generator: torch.Generator,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__(weight, spec, generator, shared)
        self.scaling = spec.alpha / spec.rank
        Q, R = torch.linalg.qr(wide(weight))
        sign = torch.where(R.diagonal() < 0, -1.0, 1.0).to(R.dtype)[: spec.rank]
        A0, B0 = sign[:, None] * R[: spec.rank], Q[:, : spec.rank] * sign
        self.register_buffer("A0", A0)
        self.register_buffer("B0", B0)
        self.A = nn.Parameter(A0.clone())
        self.B = nn.Parameter(B0.clone())

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.cat([self.B, self.B - self.B0], dim=1)
        return torch.cat([self.A - self.A0, self.A0]), self.scaling * moved
