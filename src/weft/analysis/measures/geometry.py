"""The shape of a cloud of token vectors, and how far its points were moved.

Clouds are (n, d), one token a row.
"""

import math

import torch
from torch import Tensor

OUTER = 0.1
"""Share of the largest ratios of distances that TwoNN leaves aside: far points say least of the dimension near them."""
_ROWS_AT_ONCE = 512


def mean_cosine(X: Tensor) -> float:
    """The mean cosine of two different tokens, over all pairs: 0 where directions are spread evenly, 1 for one alone.

    The anisotropy of Ethayarajh 2019, arXiv:1909.00512, section 4.1, over all pairs in place of a sample.
    """
    units = X.double()
    units = units / units.norm(dim=1, keepdim=True).clamp(min=1e-300)
    n = len(units)
    return ((units.sum(0).square().sum() - n) / (n * (n - 1))).item()


def participation_ratio(X: Tensor) -> float:
    """`(sum lambda)^2 / sum lambda^2` of the covariance's eigenvalues: how many directions hold the variance, 1 to d.

    nan where all points are one.
    """
    X = X.double() - X.double().mean(0)
    narrow = X.T @ X if X.shape[0] > X.shape[1] else X @ X.T
    whole = narrow.square().sum()
    return (narrow.trace().square() / whole).item() if bool(whole) else math.nan


def two_nn(X: Tensor, outer: float = OUTER) -> float:
    """The dimension that a cloud has near its points, from the ratio of distances to the two nearest neighbours.

    Facco et al. 2017, doi:10.1038/s41598-017-11873-y: ratios r2 / r1 follow Pareto's law with the dimension as its
    exponent. The estimator is that law's likelihood, `n / sum log(r2 / r1)`, where the largest ratios are left aside as
    the paper does, and counted as larger than the last one that is kept; without that the dimension comes out a third
    too high. Points that are there twice count once.

    Raises:
        ValueError: If fewer than 3 points differ.
    """
    X = torch.unique(X.double(), dim=0)
    if len(X) < 3:
        raise ValueError(f"{len(X)} different points have no two nearest neighbours; give more")
    ratios = torch.cat([_ratios(X, at) for at in range(0, len(X), _ROWS_AT_ONCE)]).sort().values
    kept = max(2, math.ceil((1 - outer) * len(ratios)))
    logs = ratios[:kept].log()
    return kept / (logs.sum() + (len(ratios) - kept) * logs[-1]).item()


def _ratios(X: Tensor, start: int) -> Tensor:
    apart = torch.cdist(
        X[start : start + _ROWS_AT_ONCE], X, compute_mode="donot_use_mm_for_euclid_dist"
    )
    # The nearest is the point itself.
    near = apart.topk(3, dim=1, largest=False).values
    return near[:, 2] / near[:, 1]


def moved(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """`|h' - h| / |h|` and the cosine of h' and h, of each token: (n,) and (n,)."""
    before, after = before.double(), after.double()
    sizes = before.norm(dim=1).clamp(min=1e-300)
    turned = torch.cosine_similarity(before, after, dim=1, eps=1e-300)
    return (after - before).norm(dim=1) / sizes, turned


def principal_axes(X: Tensor, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,), the leading axes (d, count), and their shares of the variance.

    An axis has no sign of its own: here the entry of largest size is positive.
    """
    X = X.double()
    mean = X.mean(0)
    _, S, Vh = torch.linalg.svd(X - mean, full_matrices=False)
    axes = Vh[:count]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    return mean, axes.T, S[:count].square() / S.square().sum().clamp(min=1e-300)
