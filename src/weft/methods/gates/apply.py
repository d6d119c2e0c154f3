"""The sum of gated experts at one map, by the path that suits how many take part.

    dense     z = x A_catᵀ, gated, then B_catᵀ: two large products, work grows with all ranks
    grouped   each expert's own product on the tokens that selected it, added back to their places

Both are `diag` and agree in values and gradients.
"""

from collections.abc import Sequence

from torch import Tensor

from weft.methods.gates.gate import Gate
from weft.methods.gates.mid import diag


def dense(x: Tensor, A: Tensor, B: Tensor, gates: Tensor, ranks: Sequence[int]) -> Tensor:
    """What the gated experts add, (..., out).

    Args:
        x: (..., in).
        A: (sum of ranks, in).
        B: (out, sum of ranks), scales folded in.
        gates: (..., experts) or (..., sum of ranks).
        ranks: Rank of each expert.
    """
    return diag(x.to(A.dtype) @ A.T, gates, ranks) @ B.T


def grouped(x: Tensor, A: Tensor, B: Tensor, found: Gate, ranks: Sequence[int]) -> Tensor:
    """As `dense`, but each expert sees only the tokens that selected it.

    Args:
        x: (..., in).
        A: (sum of ranks, in).
        B: (out, sum of ranks), scales folded in.
        found: What the gate said, (..., experts).
        ranks: Rank of each expert.
    """
    flat = x.reshape(-1, x.shape[-1])
    G = found.gates.reshape(-1, len(ranks)).to(A.dtype)
    chosen = found.selected.reshape(-1, len(ranks))
    out = flat.new_zeros(len(flat), B.shape[0], dtype=A.dtype)
    downs, ups = A.split(list(ranks)), B.split(list(ranks), dim=1)
    for expert, (down, up) in enumerate(zip(downs, ups, strict=True)):
        index = chosen[:, expert].nonzero()[:, 0]
        if len(index):
            part = (flat[index].to(A.dtype) @ down.T) @ up.T
            out = out.index_add(0, index, part * G[index, expert].unsqueeze(-1))
    return out.view(*x.shape[:-1], -1)


def cheaper(ranks: Sequence[int], k: int | None) -> str:
    """`grouped` where so few of the ranks take part that gathering tokens pays, else `dense`."""
    if k is None:
        return "dense"
    return "grouped" if 8 * k * max(ranks) < sum(ranks) else "dense"
