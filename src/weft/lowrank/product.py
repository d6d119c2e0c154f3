"""Changes as products: what can be known of `B A`, or of a weighted sum of such products, without the dense matrix.

    sum_i w_i B_i A_i = [w_1 B_1, ..., w_n B_n] [A_1; ...; A_n] = Q_B (R_B R_A^T) Q_A^T = (Q_B U) S (Q_A V)^T

The two thin factors are brought to orthonormal columns by QR, and the small matrix between them is decomposed: exact,
in O((in + out) R^2 + R^3) for R ranks together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.lowrank.start import svd

Pair = tuple[Tensor, Tensor]
"""`A (rank, in)` and `B (out, rank)`, every scale in B."""


def stacked(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """Factors of `sum_i w_i B_i A_i`, one under the other."""
    A = torch.cat([A for A, _ in pairs])
    return A, torch.cat([weight * B for (_, B), weight in zip(pairs, weights, strict=True)], dim=1)


def product_rule(scaling: float, A: Tensor, B: Tensor, of_A: Tensor, of_B: Tensor) -> Pair:
    """Factors of `s (of_B A + B of_A)` for something said of both factors (gradients, moments).

    In single precision at least.
    """
    dtype = torch.promote_types(A.dtype, torch.float32)
    return torch.cat([A, of_A]).to(dtype), scaling * torch.cat([of_B, B], dim=1).to(dtype)


def row_squares(A: Tensor, B: Tensor) -> Tensor:
    """The squared norm of each row of `B A`, (out,)."""
    return ((B @ (A @ A.T)) * B).sum(1).clamp(min=0)


def thin_svd(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, k), S (k,), Vh (k, in)` with `B A == U @ diag(S) @ Vh`, S falling.

    `k` is the number of ranks, or the smaller side where that is less. Signs are as `weft.lowrank.start.svd` sets them,
    on the small matrix.
    """
    Q_A, R_A = torch.linalg.qr(A.T)
    Q_B, R_B = torch.linalg.qr(B)
    U, S, Vh = svd(R_B @ R_A.T)
    return Q_B @ U, S, Vh @ Q_A.T


def split(U: Tensor, S: Tensor, Vh: Tensor, rank: int) -> Pair:
    """Factors of the leading `rank` terms, or of fewer where the rest is rounding, at least 1.

    Each has the root of the singular values.
    """
    kept = min(rank, max(1, true_rank(S, (U.shape[0], Vh.shape[1]))))
    root = S[:kept].sqrt()
    return root[:, None] * Vh[:kept], U[:, :kept] * root


def truncated(A: Tensor, B: Tensor, rank: int) -> Pair:
    """Factors of the nearest change of a rank, in as few ranks as that has, at least 1."""
    return split(*thin_svd(A, B), rank)


def true_rank(S: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values are more than rounding; numpy's `matrix_rank` has the same threshold."""
    floor = S.max() * max(shape) * torch.finfo(S.dtype).eps
    return int(S.gt(floor).sum())


def balanced(A: Tensor, B: Tensor) -> Pair:
    """Factors of the same change that depend on nothing but the change: `A = sqrt(S) Vh`, `B = U sqrt(S)`.

    `(A, B)` and `(G A, B G^-1)` are the same change for every invertible G, and lie far apart; here both become the
    same point: singular values fall, the entry of largest size in each row of A is positive, and terms that are
    rounding are 0. As many ranks as before, filled up with zeros. Of equal singular values the vectors are not
    determined, so where two come close the form may jump.
    """
    U, S, Vh = thin_svd(A, B)
    S = torch.where(
        torch.arange(len(S), device=S.device) < true_rank(S, (len(B), A.shape[1])), S, 0
    )
    # The signs of the small matrix' vectors follow from the gauge; those of the whole vectors do not.
    sign = torch.where(Vh.gather(1, Vh.abs().argmax(dim=1, keepdim=True)) < 0, -1.0, 1.0).to(Vh)
    root = S.sqrt()[:, None] * sign
    rows, columns = root * Vh, (U * root.T)
    short = len(A) - len(S)
    return (
        torch.cat([rows, rows.new_zeros(short, A.shape[1])]),
        torch.cat([columns, columns.new_zeros(len(B), short)], dim=1),
    )
