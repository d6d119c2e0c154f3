"""Intruder dimensions: leading singular vectors of a changed weight that no singular vector of the frozen one is like.

    W0 = U S V^T,  W0 + B A = sum_j s_j u_j v_j^T
    u_j (j <= k) intrudes if max_i |u_j^T U_i| < epsilon
    mitigated    W0 + B A + (lambda - 1) sum_{j intrudes} s_j u_j v_j^T

Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence, arXiv:2410.21228; defaults as PEFT's
`reduce_intruder_dimension`, which we equal up to its last step: PEFT cuts the mitigated change to the adapter's rank
and scale, here it keeps the ranks that it takes (the adapter's and one an intruder), so it is exact.

In the singular basis of W0 the changed weight is a diagonal plus a product of thin matrices. Its leading triplets are
found there by Davidson's method with the diagonal as preconditioner (Davidson 1975, J. Comput. Phys. 17, 87), so W0 is
decomposed once for all experts, and nothing of size out x in is made for any of them. The likeness of u_j to every U_i
is then a coordinate of u_j.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.lowrank.product import Pair
from weft.lowrank.start import svd

TOP, EPSILON, SHRINK = 10, 0.5, 0.75
"""PEFT's `top_k`, `threshold_epsilon` and `mitigation_lambda`."""
_TOLERANCE = 1e-9
"""Residual of a triplet as a share of the largest singular value: vectors are then right to 1e-5 where values differ by
a part in ten thousand."""
_STEPS = 40


@dataclass(frozen=True)
class Decomposed:
    """A frozen weight as its singular triplets, in its own precision, single at least."""

    U: Tensor
    """(out, k), k the smaller side."""
    S: Tensor
    Vh: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "Decomposed":
        """Those of `weight` (out, in)."""
        return cls(*svd(weight))


@dataclass(frozen=True)
class Leading:
    """The leading singular triplets of a changed weight."""

    U: Tensor
    """(out, k)."""
    S: Tensor
    Vh: Tensor
    likeness: Tensor
    """(k,): the largest size of a cosine between u_j and a left singular vector of the frozen weight."""

    def intruders(self, epsilon: float = EPSILON) -> Tensor:
        """Which of them intrude, (k,) of bool."""
        return self.likeness < epsilon


def leading_changed(frozen: Decomposed, pair: Pair, top: int = TOP) -> Leading:
    """The `top` leading triplets of W0 + B A, or as many as there are.

    Args:
        frozen: W0.
        pair: A and B.
        top: How many.
    """
    A, B = pair
    b, Q_b = _within(frozen.U, B)
    a, Q_a = _within(frozen.Vh.T, A.T)
    core = _Core(frozen.S.double(), b, a)
    u, s, v = core.leading(min(top, *core.shape))
    n = len(frozen.S)
    dtype = frozen.U.dtype
    U = frozen.U @ u[:n].to(dtype) + Q_b @ u[n:].to(dtype)
    V = frozen.Vh.T @ v[:n].to(dtype) + Q_a @ v[n:].to(dtype)
    return Leading(U, s, V.T, u[:n].abs().amax(0))


def mitigated(
    frozen: Decomposed,
    pair: Pair,
    *,
    top: int = TOP,
    epsilon: float = EPSILON,
    shrink: float = SHRINK,
) -> tuple[Pair, int]:
    """Factors of the change with its intruders shrunk, and how many those are; without any, the factors themselves.

    Args:
        frozen: W0.
        pair: A and B.
        top: How many leading triplets are looked at.
        epsilon: Likeness below which one intrudes.
        shrink: What of an intruder stays, 0 to 1.
    """
    found = leading_changed(frozen, pair, top)
    own = found.intruders(epsilon)
    count = int(own.sum())
    if not count:
        return pair, 0
    A, B = pair
    added = (shrink - 1) * found.U[:, own] * found.S[own].to(found.U)
    return (torch.cat([A, found.Vh[own].to(A)]), torch.cat([B, added.to(B)], dim=1)), count


def _within(basis: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of columns in an orthonormal basis, in double, and below them in the one that they need beyond it."""
    columns = columns.to(basis.dtype)
    inside = basis.T @ columns
    if basis.shape[0] == basis.shape[1]:
        return inside.double(), basis.new_zeros(len(basis), 0)
    rest = columns - basis @ inside
    # Once more: what rounding left of the basis in it would count twice.
    again = basis.T @ rest
    Q, R = torch.linalg.qr(rest - basis @ again)
    return torch.cat([inside + again, R]).double(), Q


class _Core:
    """`diag(S) + b a^T`, the diagonal padded with zeros to its shape."""

    def __init__(self, S: Tensor, b: Tensor, a: Tensor) -> None:
        self.S = S
        self.b = b
        self.a = a
        self.shape = len(b), len(a)

    def times(self, x: Tensor) -> Tensor:
        """(columns, some) to (rows, some)."""
        return self._padded(x, self.shape[0]) + self.b @ (self.a.T @ x)

    def turned(self, x: Tensor) -> Tensor:
        """The same by the transpose."""
        return self._padded(x, self.shape[1]) + self.a @ (self.b.T @ x)

    def dense(self) -> Tensor:
        """The matrix itself."""
        return self.times(torch.eye(self.shape[1], dtype=self.S.dtype, device=self.S.device))

    def _padded(self, x: Tensor, rows: int) -> Tensor:
        n = len(self.S)
        found = x.new_zeros(rows, x.shape[1])
        found[:n] = self.S[:, None] * x[:n]
        return found

    def leading(self, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """`u (rows, top), s (top,), v (columns, top)`, s falling."""
        rows, rank = len(self.b), self.b.shape[1]
        squares = torch.cat([self.S, self.S.new_zeros(rows - len(self.S))]).square()
        eye = torch.eye(rows, min(rows, top + 2 * rank), dtype=self.S.dtype, device=self.S.device)
        # The change of the square is spanned by b and S a: what it brings to the front begins there.
        thin = _orthonormal(torch.cat([self.b, self._padded(self.a, rows)], dim=1), beside=eye)
        Q = torch.cat([eye, thin], dim=1)
        X = self.turned(Q)
        for _ in range(_STEPS):
            values, W = torch.linalg.eigh(X.T @ X)
            s = values.flip(0)[:top].clamp(min=0).sqrt()
            W = W.flip(1)[:, :top]
            u, v = Q @ W, X @ W / s.clamp(min=torch.finfo(s.dtype).tiny)
            residual = self.times(v) - s * u
            if bool((residual.norm(dim=0) <= _TOLERANCE * s[0]).all()):
                return u, s, v
            if Q.shape[1] + top > rows:
                break
            apart = squares[:, None] - s.square()
            floor = 1e-12 * s[0].square()
            step = residual / torch.where(apart.abs() < floor, floor, apart)
            fresh = _orthonormal(step / step.norm(dim=0).clamp(min=1e-300), beside=Q)
            Q, X = torch.cat([Q, fresh], dim=1), torch.cat([X, self.turned(fresh)], dim=1)
        # Values that lie closer together than steps can part.
        U, S, Vh = svd(self.dense())
        return U[:, :top], S[:top], Vh[:top].T


def _orthonormal(columns: Tensor, beside: Tensor | None = None) -> Tensor:
    """An orthonormal basis of columns, and orthogonal to another one; what is nothing beyond rounding is left out."""
    floor = 1e-10 * columns.norm(dim=0).amax()
    for _ in range(2):
        if beside is not None:
            columns = columns - beside @ (beside.T @ columns)
        U, S, _ = torch.linalg.svd(columns, full_matrices=False)
        columns, floor = U[:, floor < S], 0.5
    return columns
