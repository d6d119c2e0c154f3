"""How many dimensions a task needs, of scores at several sizes; and what some directions hold of a change."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.analysis.measures.changes import Change

SHARE = 0.9
WITHIN = 0.01


def least_size(sizes: Sequence[float], scores: Sequence[float], wanted: float) -> float:
    """The least size whose score is what is wanted, between two sizes by a line over the logarithm of the size.

    d_90 of Li et al. 2018, arXiv:1804.08838, section 2, where `wanted` is 90 % of the score of training all weights.

    Args:
        sizes: Rising.
        scores: Of each; higher is better.
        wanted: A score.

    Returns:
        The first size where its score is high enough already; infinity where none is.
    """
    for at, score in enumerate(scores):
        if score >= wanted:
            if at == 0:
                return float(sizes[0])
            before = scores[at - 1]
            part = (wanted - before) / (score - before)
            low, high = math.log(sizes[at - 1]), math.log(sizes[at])
            return math.exp(low + part * (high - low))
    return math.inf


def least_within(sizes: Sequence[int], scores: Sequence[float], share: float = WITHIN) -> int:
    """The smallest size whose score is within a share of the best one's size below it."""
    best = max(scores)
    return next(
        size for size, score in zip(sizes, scores, strict=True) if score >= best - share * abs(best)
    )


def truncated(change: Change, kept: Tensor | int) -> Change:
    """A change with some of its singular triplets alone: the so many largest, or those of an index (k,)."""
    own = torch.arange(change.rank)[:kept] if isinstance(kept, int) else kept
    return Change(change.U[:, own], change.S[own], change.Vh[own])


def held_by(change: Change, U: Tensor, Vh: Tensor) -> float:
    """The share of a change's squared norm that other directions hold: `|U^T dW V|_F^2 / |dW|_F^2`, 0 to 1.

    Args:
        change: dW.
        U: (out, k), orthonormal columns.
        Vh: (k, in), orthonormal rows.
    """
    inside = (U.T @ change.U) * change.S @ (change.Vh @ Vh.T)
    return (inside.square().sum() / change.S.square().sum()).item() if change.rank else math.nan


def held_by_leading(change: Change, rank: int) -> float:
    """The share of its squared norm that the so many leading directions of a change hold: the most that any can."""
    squares = change.S.square()
    return (squares[:rank].sum() / squares.sum()).item() if change.rank else math.nan
