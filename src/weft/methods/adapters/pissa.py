"""PiSSA: adaptation of the principal singular values and singular vectors.

    dW = s (B A - B0 A0),    s = alpha / rank
    B0 = U_r sqrt(S_r / s),    A0 = sqrt(S_r / s) Vh_r    from    W0 = U diag(S) Vh

Meng et al. 2024, arXiv:2404.02948, section 3 (from memory of the paper, whose A and B have each other's names). A and B
start as A0 and B0, so what learns is the best rank-r part of W0, and what is frozen is the rest, `W0 - s B0 A0`. That
division by s, which makes any alpha legal, is PEFT's.

PEFT writes the rest into the base; here the base is shared and the start is subtracted (`contract.Moved`), so dropout
acts on `B0 A0` as well, where PEFT drops `B A` alone. PiSSA uses none.

The decomposition is exact unless `iterations` asks for the randomised one, as the paper does for large maps
(algorithm 5.1 of Halko et al. 2009, arXiv:0909.4061, without oversampling, as in PEFT's `pissa_niter_<n>`). Another
start is then trained, but the start is a no-op all the same.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from weft.lowrank.start import leading, normal, svd, wide
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of PiSSA."""

    alpha: float | None = Field(default=None, gt=0)
    """Strength of the change: the product is scaled by alpha / rank. None: alpha is the rank, as is customary."""
    iterations: int | None = Field(default=None, ge=0)
    """Power iterations of a randomised decomposition, faster on large maps; None: the exact one."""


class PiSSA(contract.Moved):
    """The principal part of the weight is trained as a product of two thin matrices."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        spec, rank = self.spec, self.rank
        self.scaling = 1.0 if spec.alpha is None else spec.alpha / rank
        if spec.iterations is None:
            U, S, Vh = leading(weight, rank)
        else:
            U, S, Vh = randomised_svd(weight, rank, spec.iterations, generator)
        root = (S / self.scaling).sqrt()
        self.start_at(root[:, None] * Vh, U * root)


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
