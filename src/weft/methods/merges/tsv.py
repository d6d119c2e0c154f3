"""Task singular vectors: every expert's strongest directions, made orthogonal to each other's before they are added.

    dW_i = U_i S_i V_i^T,    U' = polar([U_1, ..., U_n]),  V' = polar([V_1, ..., V_n]),    dW = U' diag(w_i S_i) V'^T

Gargiulo et al. 2024, Task Singular Vectors, arXiv:2412.00081 (TSV-Merge; github.com/AntoAndGar/task_singular_vectors,
src/utils/TSVM_utils.py). `polar` is the matrix with orthonormal columns that is nearest (Procrustes): U V^T of the
matrix's own decomposition. The authors keep of n full-rank changes a share of 1/n of the directions, so that all
together fill the map once; here the shares fill the rank that is asked for, and by default all of a low-rank expert's
directions stay where they fit into the map.

Where experts share a direction exactly, the nearest orthogonal vectors are not unique; what a decomposition invents
there is left out, so that such a direction is shared among its owners (two equal experts with weights 1 give the expert
once).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from weft.lowrank.product import Pair, thin_svd, true_rank
from weft.lowrank.start import svd
from weft.methods.merges.contract import Merge


class Tsv(Merge):
    """Orthogonal singular vectors."""

    keeps: ClassVar[str] = "Every expert's strongest directions and their strengths, kept apart."
    loses: ClassVar[str] = "What experts share: directions are turned away from each other's."
    linear: ClassVar[bool] = True

    def pair(
        self,
        pairs: Sequence[Pair],
        weights: Sequence[float],
        rank: int,
        generator: torch.Generator,
    ) -> Pair:
        shape = pairs[0][1].shape[0], pairs[0][0].shape[1]
        share = _share([len(A) for A, _ in pairs], min(rank, *shape))
        downs, ups, strengths = [], [], []
        for (A, B), weight in zip(pairs, weights, strict=True):
            U, S, Vh = thin_svd(A, B)
            # A direction without strength may be any, and must not turn the others.
            kept = min(share, true_rank(S, shape))
            downs.append(Vh[:kept].T)
            ups.append(U[:, :kept])
            strengths.append(weight * S[:kept])
        A, B = torch.cat(downs, dim=1), torch.cat(ups, dim=1)
        if not A.shape[1]:
            return pairs[0][0][:1], torch.zeros_like(pairs[0][1][:, :1])
        return _polar(A).T, _polar(B) * torch.cat(strengths)

    def default_rank(self, ranks: Sequence[int]) -> int:
        return sum(ranks)


def _share(ranks: Sequence[int], room: int) -> int:
    """The most directions an expert may keep so that all together fit; at least 1."""
    fitting = [
        most for most in range(1, max(ranks) + 1) if sum(min(r, most) for r in ranks) <= room
    ]
    return max(fitting, default=1)


def _polar(vectors: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, without directions that `vectors` does not have."""
    U, S, Vh = svd(vectors)
    kept = true_rank(S, (vectors.shape[0], vectors.shape[1]))
    return U[:, :kept] @ Vh[:kept]
