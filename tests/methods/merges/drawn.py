"""Experts with drawn factors, and what their changes are in dense matrices of double precision."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.lowrank.product import Pair

INNER, OUT = 7, 9


def expert(rank: int, seed: int, *modules: str) -> dict[str, Pair]:
    """Factors of one rank for every module, in double precision."""
    draw = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return {module: (values(rank, INNER), values(OUT, rank)) for module in modules}


def dense(factors: Mapping[str, Pair]) -> dict[str, Tensor]:
    """The change of every map."""
    return {module: B.double() @ A.double() for module, (A, B) in factors.items()}


def exact(experts: Sequence[Mapping[str, Pair]], weights: Sequence[float], module: str) -> Tensor:
    """The weighted sum of the changes of one map."""
    total = torch.zeros(OUT, INNER, dtype=torch.float64)
    for own, weight in zip(experts, weights, strict=True):
        if module in own:
            total += weight * dense(own)[module]
    return total


def nearest(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of a rank."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]
