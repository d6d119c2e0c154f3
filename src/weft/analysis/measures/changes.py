"""The change of one weight as its singular triplets, and what two changes have in common; from thin factors alone.

    dW = B A = U S V^T,  A (rank, in), B (out, rank)

Nothing of size out x in is made: sums over entries are sums over pairs of ranks. In double precision.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.lowrank.product import Pair, thin_svd, true_rank


@dataclass(frozen=True)
class Change:
    """How one map's weight was changed."""

    U: Tensor
    """(out, k), orthonormal columns."""
    S: Tensor
    """(k,), falling; values that are rounding are left out, so k may be 0."""
    Vh: Tensor
    """(k, in), orthonormal rows."""

    @classmethod
    def of(cls, A: Tensor, B: Tensor) -> "Change":
        """The change `B A`."""
        U, S, Vh = thin_svd(A.detach().double(), B.detach().double())
        kept = true_rank(S, (len(B), A.shape[1])) if bool(S.any()) else 0
        return cls(U[:, :kept].contiguous(), S[:kept], Vh[:kept].contiguous())

    @property
    def rank(self) -> int:
        return len(self.S)

    @property
    def norm(self) -> float:
        """Frobenius."""
        return self.S.norm().item()

    @property
    def pair(self) -> Pair:
        """Factors, each with the root of the singular values."""
        root = self.S.sqrt()
        return root[:, None] * self.Vh, self.U * root


def drawn_like(change: Change, generator: torch.Generator) -> Change:
    """A change of the same shape, rank and Frobenius norm whose factors are Gaussian: what chance would make of it."""
    rank = change.rank
    A = torch.randn(rank, change.Vh.shape[1], generator=generator, dtype=torch.float64)
    B = torch.randn(change.U.shape[0], rank, generator=generator, dtype=torch.float64)
    U, S, Vh = thin_svd(A, B)
    return Change(U, S * (change.norm / S.norm().clamp(min=1e-300)), Vh)


def inner(one: Change, other: Change) -> float:
    """`<dW1, dW2>`, the sum of the products of their entries: tr((B1^T B2) (A2 A1^T)) in any factors."""
    left, right = one.U.T @ other.U, one.Vh @ other.Vh.T
    return (one.S[:, None] * left * right * other.S).sum().item()


def cosine(one: Change, other: Change) -> float:
    """Their inner product over their norms, -1 to 1; nan where one changes nothing."""
    sizes = one.norm * other.norm
    return inner(one, other) / sizes if sizes else math.nan


def interference(one: Change, other: Change) -> float:
    """`|dW1 dW2^T|_F` as a share of `|dW1|_F |dW2|_F`, 0 to 1: how far both read the same directions of the input.

    0 where what one reads is orthogonal to what the other reads; then neither disturbs the other, whatever they write.
    nan where one changes nothing.
    """
    sizes = one.norm * other.norm
    if not sizes:
        return math.nan
    return (one.S[:, None] * (one.Vh @ other.Vh.T) * other.S).norm().item() / sizes


def together(one: dict[str, Change], other: dict[str, Change]) -> float:
    """The cosine of two experts, all maps together; a map that one leaves alone counts as no change."""
    shared = sum(inner(one[name], other[name]) for name in one if name in other)
    sizes = math.prod(
        math.sqrt(sum(change.norm**2 for change in own.values())) for own in (one, other)
    )
    return shared / sizes if sizes else math.nan
