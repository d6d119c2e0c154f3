"""Matrices of the size of a map that are a product of thin ones, and what is known of them unwritten."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Thin:
    """A matrix of the size of a map, of low rank and never written out: `left @ right`."""

    left: Tensor
    """(out, k)"""
    right: Tensor
    """(k, in)"""

    def row_squares(self) -> Tensor:
        """The squared norm of each row, (out,)."""
        return ((self.left @ (self.right @ self.right.T)) * self.left).sum(1).clamp(min=0)

    def norm(self) -> Tensor:
        """The root of the sum of all squares."""
        return self.row_squares().sum().sqrt()


def together(scaling: float, A: Tensor, B: Tensor, of_A: Tensor, of_B: Tensor) -> Thin:
    """`s (of_B A + B of_A)` for something said of both factors (gradients, moments), in single precision at least."""
    dtype = torch.promote_types(A.dtype, torch.float32)
    return Thin(
        scaling * torch.cat([of_B, B], dim=1).to(dtype), torch.cat([A, of_A], dim=0).to(dtype)
    )
