"""The four middle maps: all the difference there is between mixtures of low-rank experts.

    Y = X W0ᵀ + b + mid_G( X A_catᵀ ) B_catᵀ

    diag   z * G, the gate of its expert on every rank (or a gate a rank)   sum of gated experts
    tile   G ⊗ z, one A for all experts                                     sum of gated B
    blend  G ⊗ (sum_f G_f z_f)                                              (sum G B) (sum G A): mixed weights
    core   sum_e G_e z M_e, one A and one B                                 sum of gated r x r cores

`blend` has the cross terms `G_e G_f B_e A_f` that `diag` has not; with one-hot gates the two agree. Scales are part of
B_cat. z is (..., ranks in), gates are (..., experts), the result is (..., ranks out); leading sizes are those of the
module's own input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def diag(z: Tensor, gates: Tensor, ranks: Sequence[int]) -> Tensor:
    """Each rank times its expert's gate; (..., sum of ranks) gates are taken rank by rank.

    Raises:
        ValueError: If there are neither as many gates as experts nor as ranks.
    """
    gates = gates.to(z.dtype)
    if gates.shape[-1] == len(ranks) and len(set(ranks)) == 1:
        # No gate is copied where ranks are equal.
        each = z.reshape(*z.shape[:-1], len(ranks), ranks[0]) * gates.unsqueeze(-1)
        return each.flatten(-2)
    return z * by_rank(gates, ranks)


def by_rank(gates: Tensor, ranks: Sequence[int]) -> Tensor:
    """Gates of experts spread over the ranks of each, (..., sum of ranks).

    Raises:
        ValueError: If there are neither as many gates as experts nor as ranks.
    """
    if gates.shape[-1] == len(ranks):
        if len(set(ranks)) == 1:
            return gates.repeat_interleave(ranks[0], dim=-1)
        counts = torch.tensor(list(ranks), device=gates.device)
        return gates.repeat_interleave(counts, dim=-1, output_size=sum(ranks))
    if gates.shape[-1] == sum(ranks):
        return gates
    raise ValueError(
        f"{gates.shape[-1]} gates for {len(ranks)} experts with {sum(ranks)} ranks: expected one an expert "
        "or one a rank"
    )


def tile(z: Tensor, gates: Tensor) -> Tensor:
    """One projection of the input, handed to every expert's B by its gate."""
    return (gates.to(z.dtype).unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)


def blend(z: Tensor, gates: Tensor, ranks: Sequence[int]) -> Tensor:
    """What the mixed A makes of the input, handed to every expert's B by its gate.

    Experts of smaller rank have zeros for the ranks they lack.
    """
    widest = max(ranks)
    parts = z.split(list(ranks), dim=-1)
    if min(ranks) < widest:
        parts = [torch.nn.functional.pad(part, (0, widest - part.shape[-1])) for part in parts]
    stacked = torch.stack(tuple(parts), dim=-2)
    gates = gates.to(z.dtype).unsqueeze(-1)
    mixed = gates * (gates * stacked).sum(-2, keepdim=True)
    if min(ranks) == widest:
        return mixed.flatten(-2)
    return torch.cat([mixed[..., at, :rank] for at, rank in enumerate(ranks)], dim=-1)


def core(z: Tensor, gates: Tensor, cores: Tensor) -> Tensor:
    """`sum_e G_e z M_e` with cores (experts, rank, rank): all products first, never a matrix a token."""
    each = torch.einsum("...i,eij->...ej", z, cores.to(z.dtype))
    return (gates.to(z.dtype).unsqueeze(-1) * each).sum(-2)
