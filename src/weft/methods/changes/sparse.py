"""Sparse matrices: which entries stay, by size or by chance.

Where the size of entries decides, an entry stays because of its size alone: entries as large as the last one that
stays do too, in whatever order they lie.
"""

import numpy as np
import torch
from torch import Tensor


def largest(matrix: Tensor, density: float) -> Tensor:
    """The `int(density n)` largest of n entries by size, zero elsewhere."""
    return between(matrix, density, 0.0)


def between(matrix: Tensor, density: float, above: float) -> Tensor:
    """The `int(density n)` largest of n entries by size after the `int(above n)` largest, zero elsewhere.

    Where that many are not left after those, fewer are left out above.
    """
    n = matrix.numel()
    count = int(density * n)
    if count >= n:
        return matrix
    if count == 0:
        return torch.zeros_like(matrix)
    last = n - min(int(above * n), n - count) - 1
    first = last - count + 1
    sizes = matrix.abs()
    # numpy finds one entry of a sorted order in a tenth of the time that torch.kthvalue takes.
    ordered = np.partition(sizes.flatten().cpu().numpy(), [first, last])
    kept = (sizes >= float(ordered[first])) & (sizes <= float(ordered[last]))
    return torch.where(kept, matrix, 0.0)


def dropped(matrix: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Every entry stays with probability `density`, made larger by as much: right on average."""
    if density >= 1:
        return matrix
    return sampled(matrix, matrix.new_full((1, 1), density), generator)


def sampled(matrix: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
    """Every entry stays with its own probability and is divided by it: right on average."""
    drawn = torch.rand(matrix.shape, generator=generator).to(matrix.device)
    return torch.where(drawn < probability, matrix / probability, 0.0)


def ranked(matrix: Tensor) -> Tensor:
    """Where every entry stands in its row by size, from 0 for the smallest to 1; 1 where it is alone."""
    places = matrix.abs().argsort(dim=1, stable=True).argsort(dim=1)
    last = matrix.shape[1] - 1
    return places.to(matrix.dtype) / last if last else torch.ones_like(matrix)
