"""KaSA: an update in the shape of an SVD, on a base without its smallest singular values.

    W0 + dW = W0 - sum_{i > k - r} sigma_i u_i v_i^T + s B diag(d) A,    s = alpha / rank,    k = min(out, in)
    A ~ U(±1/sqrt(in)),    B = 0,    d ~ N(0, 1)

Wang et al. 2024, arXiv:2412.06071, section 3: the r smallest singular components of W0 are taken for noise and
removed once; what is learnt has singular values d of its own, and a penalty (`penalties/kasa.py`) keeps them small
and A, B near orthonormal. Scale and start values are the authors' code (github.com/juyongjiang/KaSA) and PEFT's.

Here nothing is written to W0: the removed part is a frozen term of the adapter, so another expert on the same base
never sees it, and the exact factors have rank 2r. It starts at the truncated weight, not as a no-op. The authors' code
counts k as `in`, so where a map is wider than tall it removes too little or nothing. PEFT 0.21.2 counts as here, but
writes to the base, so that switching its adapter off does not give W0 back. With dropout, the removed part sees the
dropped input as the rest of the term does; in PEFT it sees the whole one.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import normal, trailing, zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of KaSA; its rank is smaller than the smaller side of the map."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the learnt part: its product is scaled by alpha / rank."""


class KaSA(contract.Factored):
    """`B diag(d) A`, less the rank smallest singular components of W0."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A0: Tensor
    B0: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        rank, size = self.rank, min(weight.shape)
        if rank >= size:
            raise ValueError(
                f"rank {rank} leaves nothing of a {weight.shape[0]} x {weight.shape[1]} map: kasa removes that "
                f"many of its {size} singular components; choose a rank below {size}"
            )
        A, B = zero_product(weight, rank, generator)
        self.scaling = self.spec.alpha / rank
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.d = nn.Parameter(normal((rank,), 1.0, generator, weight))
        U, S, Vh = trailing(weight, rank)
        self.register_buffer("A0", Vh.clone())
        self.register_buffer("B0", U * S)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        A = torch.cat([self.A, self.A0])
        return A, torch.cat([self.scaling * self.B * self.d, -self.B0], dim=1)
