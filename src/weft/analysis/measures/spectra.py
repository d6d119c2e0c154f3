"""What singular values say of a matrix, and how a change stands to the weight that it changes.

Each rank counts directions, of a spectrum s_1 >= s_2 >= ... that is not all zero:

    stable      |s|^2 / s_1^2                                 Rudelson and Vershynin 2007, doi:10.1145/1255443.1255449
    effective   exp(-sum_j p_j log p_j), p = s / sum s        Roy and Vetterli 2007, EUSIPCO
    energy      the least k with s_1^2 + ... + s_k^2 >= 90 % of |s|^2
"""

import math

import torch
from torch import Tensor

from weft.analysis.measures.changes import Change

ENERGY = 0.9


def stable_rank(S: Tensor) -> float:
    """1 to the rank; 0 of nothing."""
    return (S.square().sum() / S.max().square()).item() if bool(S.any()) else 0.0


def effective_rank(S: Tensor) -> float:
    """1 to the rank, which it is where all values are equal; 0 of nothing."""
    if not bool(S.any()):
        return 0.0
    return torch.special.entr(S / S.sum()).sum().exp().item()


def energy_rank(S: Tensor, share: float = ENERGY) -> int:
    """How many of the largest values hold `share` of the sum of squares; 0 of nothing."""
    if not bool(S.any()):
        return 0
    energy = S.square().cumsum(0)
    # The last sum and the whole are the same number up to rounding.
    return int((energy < share * energy[-1] * (1 - 1e-12)).sum()) + 1


def amplification(change: Change, weight: Tensor, rank: int | None = None) -> float:
    """`|dW|_F / |U_r^T W0 V_r|_F`: how much stronger the changed directions are in the change than in the weight.

    Hu et al. 2021, LoRA, arXiv:2106.09685, section 7.3, with both projections: they take `U^T W0 V^T` of the top r
    singular vectors of the change. Large where the change strengthens what the weight hardly has; infinite where the
    weight has nothing there; nan where nothing changes.

    Args:
        change: dW.
        weight: W0, (out, in).
        rank: r; None is all of the change's.
    """
    kept = slice(rank)
    if not change.rank:
        return math.nan
    inside = projected(weight, change.U[:, kept], change.Vh[kept])
    size = change.S[kept].norm().item()
    return size / inside if inside else math.inf


def projected(weight: Tensor, U: Tensor, Vh: Tensor) -> float:
    """`|U^T W V|_F` for orthonormal columns of U (out, r) and rows of Vh (r, in)."""
    weight = weight.detach()
    return (U.to(weight).T @ weight @ Vh.to(weight).T).double().norm().item()
