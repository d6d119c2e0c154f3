"""DoRA: weight-decomposed low-rank adaptation; the length and the direction of each row learn apart.

    dW = diag(m / c) V - W0,    V = W0 + s B A,    c_i = ||V_i||, a constant in backward,    s = alpha / rank

Liu et al. 2024, arXiv:2402.09353, equation 5; c without a gradient is section 4.3. A and B start as LoRA's, and m as
the row norms of W0, so that nothing changes at the start. A row of V is what makes one output feature: the paper
speaks of columns, the authors' code (github.com/NVlabs/DoRA, `tuners/dora.py`) and PEFT take dim 1 of torch's
(out, in), as here.

Dropout acts on the whole of the adapter's input, so in training the term `(m / c - 1) W0 x` sees the dropped x too, as
in both of those. One difference: a row of zeros in W0 stays one, where PEFT 0.21.2 divides 0 by 0. A plain LoRA cannot
hold m: PEFT's `convert_to_lora` loses it silently.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import wide, zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of DoRA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change of direction: the product is scaled by alpha / rank."""


class DoRA(contract.Adapter):
    """The rows of the weight keep trained lengths, and a product of two thin matrices turns them."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    low_rank: ClassVar[bool] = False
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        A, B = zero_product(weight, self.rank, generator)
        self.scaling = self.spec.alpha / self.rank
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        # Laid out as V will be: the norms of equal rows are then equal to the last bit.
        self.m = nn.Parameter(torch.linalg.vector_norm(wide(weight).contiguous(), dim=1))

    def delta(self, weight: Tensor) -> Tensor:
        W0 = weight.to(self.A.dtype)
        V = torch.addmm(W0, self.B, self.A, alpha=self.scaling)
        return self._ratio(V)[:, None] * V - W0

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            V = torch.addmm(weight.to(self.A.dtype), self.B, self.A, alpha=self.scaling)
        ratio = self._ratio(V)
        # In the base's own type: a wider copy of every W0 would stay alive until backward.
        frozen = (x.to(weight.dtype) @ weight.T).to(ratio.dtype)
        turned = (x.to(self.A.dtype) @ self.A.T) @ self.B.T
        return (ratio - 1) * frozen + (self.scaling * ratio) * turned

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise contract.NotLowRank(
            "DoRA rescales every row of W0, so its change of the weight has as high a rank as W0: merge the expert "
            "into a dense checkpoint (export to merged), or say at which rank a plain LoRA may come near it "
            "(export to peft with a rank)"
        )

    def peft_alpha(self) -> float | None:
        return self.spec.alpha

    def peft_magnitude(self) -> nn.Parameter | None:
        return self.m

    def _ratio(self, V: Tensor) -> Tensor:
        """`m / c`, (out,)."""
        c = torch.linalg.vector_norm(V.detach(), dim=1)
        return self.m / torch.where(c > 0, c, 1.0)
