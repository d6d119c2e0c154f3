"""PiSSA: adaptation of the principal singular values and singular vectors.

    dW = s (B A - B0 A0),    s = alpha / rank
    B0 = U_r sqrt(S_r / s),    A0 = sqrt(S_r / s) Vh_r    from    W0 = U diag(S) Vh

Meng et al. 2024, arXiv:2404.02948, section 3 (from memory of the paper, whose A and B have each other's names). A and B
start as A0 and B0, so what learns is the best rank-r part of W0, and what is frozen is the rest, `W0 - s B0 A0`. That
division by s, which makes any alpha legal, is PEFT's.

PEFT writes the rest into the base. Here the base is shared by many experts and stays as it is, so the start is a frozen
part of the adapter, and the exact plain LoRA has twice the rank. The change is computed as

    dW = s (B (A - A0) + (B - B0) A0)

which is the same, but exactly 0 at the start and free of the difference of two large products after it, in any type.
The price of the shared base: dropout acts on `B0 A0` as well, where PEFT drops `B A` alone. PiSSA uses none.

The decomposition is exact unless `iterations` asks for the randomised one, as the paper does for large maps
(algorithm 5.1 of Halko et al. 2009, arXiv:0909.4061, without oversampling, as in PEFT's `pissa_niter_<n>`). Another
start is then trained, but the start is a no-op all the same.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import normal, svd, wide
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of PiSSA."""

    alpha: float | None = Field(default=None, gt=0)
    """Strength of the change: the product is scaled by alpha / rank. None: alpha is the rank, as is customary."""
    iterations: int | None = Field(default=None, ge=0)
    """Power iterations of a randomised decomposition, faster on large maps; None: the exact one."""


class PiSSA(contract.Factored):
    """The principal part of the weight is trained as a product of two thin matrices."""

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
        self.scaling = 1.0 if spec.alpha is None else spec.alpha / spec.rank
        if spec.iterations is None:
            U, S, Vh = svd(weight)
        else:
            U, S, Vh = randomised_svd(weight, spec.rank, spec.iterations, generator)
        root = (S[: spec.rank] / self.scaling).sqrt()
        A0, B0 = root[:, None] * Vh[: spec.rank], U[:, : spec.rank] * root
        self.register_buffer("A0", A0)
        self.register_buffer("B0", B0)
        self.A = nn.Parameter(A0.clone())
        self.B = nn.Parameter(B0.clone())

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.cat([self.B, self.B - self.B0], dim=1)
        return torch.cat([self.A - self.A0, self.A0]), self.scaling * moved


def randomised_svd(
    weight: Tensor, rank: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, rank), S (rank,), Vh (rank, in)`: nearly the largest of `svd`, nearer with every power iteration."""
    W = wide(weight)
    Q = torch.linalg.qr(W @ normal((W.shape[1], rank), 1.0, generator, W).to(W.dtype)).Q
    for _ in range(iterations):
        Q = torch.linalg.qr(W.T @ Q).Q
        Q = torch.linalg.qr(W @ Q).Q
    U, S, Vh = svd(Q.T @ W)
    return Q @ U, S, Vh
