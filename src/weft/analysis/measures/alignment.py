"""How alike two representations of the same tokens are: linear CKA, SVCCA and PWCCA.

Both take X (n, p) and Y (n, q) of the same n tokens, and neither sees where the origin is. CKA does not change with a
rotation or a scale of all directions alike, and does change with any other linear map; SVCCA does not see any
invertible linear map of the directions that it keeps, and PWCCA none of Y's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FEW = 10
"""Tokens for each dimension below which the plain estimator of CKA says too much."""
VARIANCE = 0.99


def centred(X: Tensor) -> Tensor:
    """Double precision, every column's mean taken off."""
    X = X.double()
    return X - X.mean(0)


def linear_cka(X: Tensor, Y: Tensor, *, unbiased: bool | None = None) -> float:
    """`|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)` of centred X and Y, 0 to 1.

    Kornblith et al. 2019, arXiv:1905.00414, equation 8 with linear kernels. The plain form rises to 1 with the number
    of dimensions whatever the tokens are; for few tokens HSIC is taken without that bias (Song et al. 2012, JMLR 13,
    equation 5; Nguyen et al. 2020, arXiv:2010.15327, equation 3), which may fall a little below 0.

    Args:
        X: (n, p).
        Y: (n, q).
        unbiased: None takes the unbiased form where there are fewer than 10 tokens a dimension, as section 12.2 of the
            measurements' definition has it.

    Raises:
        ValueError: If the unbiased form has fewer than 4 tokens.
    """
    X, Y = centred(X), centred(Y)
    if unbiased is None:
        unbiased = len(X) < FEW * max(X.shape[1], Y.shape[1])
    of = _unbiased_hsic if unbiased else _hsic
    return (of(X, Y) / (of(X, X) * of(Y, Y)).sqrt()).item()


def cka_table(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Unbiased linear CKA of every layer before with every layer after, (layers, layers)."""
    X, Y = ([centred(one) for one in own] for own in (before, after))
    own, other = ([_unbiased_hsic(one, one) for one in sides] for sides in (X, Y))
    table = torch.stack([torch.stack([_unbiased_hsic(x, y) for y in Y]) for x in X])
    return table / (torch.stack(own)[:, None] * torch.stack(other)).sqrt()


def _hsic(X: Tensor, Y: Tensor) -> Tensor:
    return (Y.T @ X).square().sum()


def _unbiased_hsic(X: Tensor, Y: Tensor) -> Tensor:
    """Of the kernels X X^T and Y Y^T without their diagonals, which are never made: O(n p q) for any n."""
    n = len(X)
    if n < 4:
        raise ValueError(f"{n} tokens: the unbiased form of CKA needs at least 4")
    k, l = X.square().sum(1), Y.square().sum(1)  # noqa: E741 - the paper's letters
    trace = _hsic(X, Y) - k @ l
    rows_k, rows_l = X @ X.sum(0) - k, Y @ Y.sum(0) - l
    sums = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (rows_k @ rows_l)) / (n * (n - 3))


def svcca(X: Tensor, Y: Tensor, variance: float = VARIANCE) -> float:
    """The mean canonical correlation of the principal components that hold a share of each one's variance, 0 to 1.

    Raghu et al. 2017, arXiv:1706.05806, section 2. As many correlations as the side with fewer components has. With few
    tokens a component some are found by chance: hold it against rows that are permuted.

    Args:
        X: (n, p).
        Y: (n, q).
        variance: The share that is kept, 0 to 1.
    """
    return canonical(X, Y, variance)[0]


def pwcca(X: Tensor, Y: Tensor, variance: float = VARIANCE) -> float:
    """The canonical correlations of `svcca`, weighted by how much of X they account for, 0 to 1.

        sum_i a_i rho_i / sum_i a_i,    a_i = sum_j |<h_i, x_j>|

    Morcos et al. 2018, arXiv:1806.05759, equation 1, with h_i the canonical variates of X and x_j its centred columns.
    The authors' code weighs by the side that keeps fewer directions; here always by X, so that it says of one thing how
    much of it is found in another.

    Args:
        X: (n, p), whose directions weigh.
        Y: (n, q).
        variance: The share of variance that is kept of each, 0 to 1.
    """
    return canonical(X, Y, variance)[1]


def canonical(X: Tensor, Y: Tensor, variance: float = VARIANCE) -> tuple[float, float]:
    """SVCCA and PWCCA from the same components, which take nearly all of the time; arguments as of `pwcca`."""
    own = _components(X, variance)
    P, found, _ = torch.linalg.svd(own.T @ _components(Y, variance), full_matrices=False)
    found = found.clamp(max=1.0)
    weights = ((own @ P).T @ centred(X)).abs().sum(1)
    return found.mean().item(), ((weights * found).sum() / weights.sum()).item()


def _components(X: Tensor, variance: float) -> Tensor:
    """Orthonormal columns (n, k): the leading components' values, whitened."""
    U, S, _ = torch.linalg.svd(centred(X), full_matrices=False)
    energy = S.square().cumsum(0)
    kept = int((energy < variance * energy[-1] * (1 - 1e-12)).sum()) + 1
    return U[:, :kept]
