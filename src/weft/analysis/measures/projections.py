"""Random subspaces: fixed maps from d trained numbers to D weights, theta = theta_0 + P theta_d.

    dense      P = Gaussian entries, columns brought to norm 1
    fastfood   P = [H G_1 Pi_1 H B_1; H G_2 Pi_2 H B_2; ...] cut to D rows, columns brought to norm 1
    isometry   each row of P has one entry, 1 / sqrt(n), n the number of rows of its column: columns are orthonormal

Li et al. 2018, arXiv:1804.08838, section 2 and appendix S7: columns of norm 1, nearly orthogonal, so that a step in
theta_d is as long among the weights. Fastfood is Le et al. 2013, proceedings.mlr.press/v28/le13, equation 3: H is
Walsh-Hadamard's matrix, B signs, Pi a permutation, G Gaussian, each block as wide as the power of two that holds d, and
all of it O(D log d) without the matrix. The isometry is that of Uni-LoRA, Li et al. 2025, arXiv:2506.00799, on weights
in place of factors.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

MOST_ENTRIES = 2**26
"""Of a dense matrix: a quarter GiB in single precision."""
_UNITS_AT_ONCE = 16


class Projection(ABC):
    """P (D, d), drawn once.

    Args:
        dimensions: d.
        size: D, at least d.
        generator: The draws; CPU.
    """

    def __init__(self, dimensions: int, size: int, generator: torch.Generator) -> None:
        if not 1 <= dimensions <= size:
            raise ValueError(
                f"{dimensions} dimensions: expected 1 to {size}, the number of weights"
            )
        self.dimensions, self.size = dimensions, size
        self.draw(generator)

    @abstractmethod
    def draw(self, generator: torch.Generator) -> None:
        """Make what P follows from."""

    @abstractmethod
    def __call__(self, theta: Tensor) -> Tensor:
        """P theta: (d,) to (D,)."""


class Dense(Projection):
    """All of P.

    Raises:
        ValueError: If it has more than `MOST_ENTRIES`.
    """

    def draw(self, generator: torch.Generator) -> None:
        if self.dimensions * self.size > MOST_ENTRIES:
            raise ValueError(
                f"a dense {self.size} x {self.dimensions} matrix has more than {MOST_ENTRIES} entries; take fastfood"
            )
        P = torch.randn(self.size, self.dimensions, generator=generator)
        self.P = P / P.norm(dim=0)

    def __call__(self, theta: Tensor) -> Tensor:
        self.P = self.P.to(theta)
        return self.P @ theta


class Fastfood(Projection):
    """Products of signs, transforms, permutations and diagonals."""

    def draw(self, generator: torch.Generator) -> None:
        self.width = 1 << (self.dimensions - 1).bit_length()
        blocks = -(-self.size // self.width)
        shape = blocks, self.width
        self.B = torch.randint(2, shape, generator=generator).float() * 2 - 1
        self.G = torch.randn(shape, generator=generator)
        self.Pi = torch.rand(shape, generator=generator).argsort(dim=1)
        # A whole block's columns all have the same norm; a last one that is cut is looked at as it is.
        whole = self.G[: self.size // self.width]
        squares = self.width * whole.square().sum().expand(self.dimensions).clone()
        left = self.size % self.width
        for start in range(0, self.dimensions if left else 0, _UNITS_AT_ONCE):
            stop = min(start + _UNITS_AT_ONCE, self.dimensions)
            units = torch.zeros(stop - start, 1, self.width)
            units[range(stop - start), 0, range(start, stop)] = 1
            cut = self._blocks(units, slice(-1, None))[:, 0, :left]
            squares[start:stop] += cut.square().sum(1)
        self.norms = squares.sqrt()

    def __call__(self, theta: Tensor) -> Tensor:
        for name in ("B", "G", "norms"):
            setattr(self, name, getattr(self, name).to(theta))
        self.Pi = self.Pi.to(theta.device)
        padded = theta.new_zeros(self.width)
        padded[: self.dimensions] = theta / self.norms
        return self._blocks(padded[None], slice(None)).reshape(-1)[: self.size]

    def _blocks(self, theta: Tensor, blocks: slice) -> Tensor:
        """(..., 1, width) to (..., blocks, width)."""
        mixed = hadamard(self.B[blocks] * theta)
        turned = mixed.gather(-1, self.Pi[blocks].expand_as(mixed))
        return hadamard(self.G[blocks] * turned)


class Isometry(Projection):
    """Every weight is one of the trained numbers, all of which stand for as many, or one more."""

    def draw(self, generator: torch.Generator) -> None:
        drawn = torch.randperm(self.size, generator=generator)
        self.index = torch.arange(self.size)[drawn] % self.dimensions
        self.scale = torch.bincount(self.index, minlength=self.dimensions).float().rsqrt()

    def __call__(self, theta: Tensor) -> Tensor:
        self.index, self.scale = self.index.to(theta.device), self.scale.to(theta)
        return (theta * self.scale)[self.index]


class Everything(Projection):
    """P = 1: all weights are trained."""

    def draw(self, generator: torch.Generator) -> None:
        del generator

    def __call__(self, theta: Tensor) -> Tensor:
        return theta


def hadamard(x: Tensor) -> Tensor:
    """Walsh-Hadamard's transform of the last axis, whose size is a power of two: H x, H (n, n) of 1 and -1."""
    width = x.shape[-1]
    half = 1
    while half < width:
        pairs = x.unflatten(-1, (-1, 2, half))
        a, b = pairs.unbind(-2)
        x = torch.stack([a + b, a - b], dim=-2).flatten(-3)
        half *= 2
    return x
