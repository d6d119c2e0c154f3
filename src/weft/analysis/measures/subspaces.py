"""How two subspaces lie to each other: similarity, principal angles, distances.

A subspace is given by orthonormal columns Q (d, k). All of it depends on the spans alone where all columns are taken.
"""

import torch
from torch import Tensor


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """`phi(i, j) = |Q1[:, :i]^T Q2[:, :j]|_F^2 / min(i, j)`, (k1, k2), from 0 (orthogonal) to 1 (one holds the other).

    Hu et al. 2021, LoRA, arXiv:2106.09685, equation 4. At i = j = k it is the mean squared cosine of the principal
    angles.
    """
    squares = (one.T @ other).square().cumsum(0).cumsum(1)
    i = torch.arange(1, squares.shape[0] + 1, dtype=squares.dtype)
    j = torch.arange(1, squares.shape[1] + 1, dtype=squares.dtype)
    return squares / torch.minimum(i[:, None], j[None])


def by_chance(i: int, j: int, size: int) -> float:
    """What `similarity` is on average for subspaces drawn at random in `size` dimensions: `max(i, j) / size`."""
    return max(i, j) / size


def angles(one: Tensor, other: Tensor) -> Tensor:
    """Principal angles in radians, rising, as many as the smaller subspace has dimensions.

    Small ones from their sines, which a cosine near 1 does not hold (Björck and Golub 1973, doi:10.2307/2005662).
    """
    if one.shape[1] < other.shape[1]:
        one, other = other, one
    inside = one.T @ other
    cosines = torch.linalg.svdvals(inside).clamp(max=1.0)
    sines = torch.linalg.svdvals(other - one @ inside).clamp(max=1.0).flip(0)
    return torch.where(cosines.square() >= 0.5, sines.asin(), cosines.acos())


def chordal(found: Tensor) -> float:
    """`sqrt(sum sin^2)` of principal angles."""
    return found.sin().norm().item()


def grassmann(found: Tensor) -> float:
    """`sqrt(sum angle^2)` of principal angles: the length of the shortest way from one subspace to the other."""
    return found.norm().item()
