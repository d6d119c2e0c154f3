"""OLoRA: orthonormal low-rank adaptation, which starts from a QR decomposition of the weight.

    dW = s (B A - B0 A0),    s = alpha / rank
    B0 = Q[:, :r],    A0 = R[:r]    from    W0 = Q R

Büyükakyüz 2024, arXiv:2406.01775 (from memory of the paper). A and B start as A0 and B0, and the frozen rest is
`W0 - s B0 A0`. The scale is that of the author's code in PEFT (`olora_init`, read in 0.21.2): A0 and B0 are not divided
by it, unlike PiSSA's, so the rest is W0 without `Q_r R_r` only where alpha is the rank. The start is a no-op for every
alpha. The default is the 16 of the author's example (`examples/olora_finetuning`, there with rank 32).

Differences from PEFT: Q and R are unique up to signs, and here R has no negative diagonal, so that the same weight
gives the same start everywhere; training does not see the signs. PEFT writes the rest into the base; here the base is
shared and the start is subtracted (`contract.Moved`), so dropout acts on `B0 A0` as well, where PEFT drops `B A` alone.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.lowrank.start import wide
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of OLoRA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank, at the start as well."""


class OLoRA(contract.Moved):
    """Orthonormal columns of the weight, and what W0 makes of them, are trained."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        rank = self.rank
        self.scaling = self.spec.alpha / rank
        Q, R = torch.linalg.qr(wide(weight))
        sign = torch.where(R.diagonal() < 0, -1.0, 1.0).to(R.dtype)[:rank]
        self.start_at(sign[:, None] * R[:rank], Q[:, :rank] * sign)
