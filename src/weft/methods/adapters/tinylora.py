"""TinyLoRA: LoRA-XS whose square matrix is a sum of fixed random ones, weighted by a handful of trained numbers.

    dW = B (sum_i v_i P_i) A,    W0 = U S V^T,    B = U sqrt(S),    A = sqrt(S) V^T,    P_i ~ N(0, 1 / rank),    v = 0

with the leading `rank` singular triplets. Morris et al. 2026, arXiv:2602.04118, whose own equation is W0 + U S (sum_i
v_i P_i) V^T, with all of S on one side, and leaves the law of P open (from memory of the paper). This is PEFT 0.21.2's
`TinyLoraConfig`, whose S lies half on either side and whose P is normal.

Only v is trained: u numbers for a map, or for a group of maps that are tied. Of n maps, max(1, round(n (1 -
weight_tying))) groups of neighbours are made; all have n // groups maps, the last also what remains. An untied v
belongs to its map's adapter, a tied one to the expert. P of the k-th map is drawn from seed projection_seed + k, k
counted over the expert's own maps; P, A and B are always saved, because neither draws nor decompositions are sure to
be the same elsewhere. PEFT may leave P out of its file, may leave v as memory happens to be, and takes a rank over the
map's size for the size; here none of these exists.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import leading, normal, uniform
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of TinyLoRA; PEFT's names, `rank` for its `r`."""

    rank: int = Field(default=2, ge=1)
    """Leading singular directions of the weight that the change moves within."""
    u: int = Field(default=64, ge=1)
    """Trained numbers of a map, or of a group of tied maps."""
    weight_tying: float = Field(default=0.0, ge=0, le=1)
    """How far maps share their v: 0 gives every map its own, 1 gives all maps the same."""
    projection_seed: int = Field(default=42, ge=0)
    """Seed of the fixed projections P; the run's seed does not change them."""
    init_v: Literal["zeros", "uniform"] = "zeros"
    """Where v starts: at zero, which changes nothing, or uniform in ±init_v_bound."""
    init_v_bound: float = Field(default=0.02, gt=0)
    """Bound of a uniform start of v."""


def _start(spec: Spec, generator: torch.Generator, like: Tensor) -> nn.Parameter:
    """One v."""
    if spec.init_v == "uniform":
        return nn.Parameter(uniform((spec.u,), spec.init_v_bound, generator, like))
    return nn.Parameter(torch.zeros(spec.u, device=like.device))


class Ties(nn.Module):
    """The vectors that maps share, and whose turn it is to take one.

    Args:
        maps: How many maps the expert adapts.
        spec: Its settings.
        generator: Source of the vectors' start.
    """

    def __init__(self, maps: int, spec: Spec, generator: torch.Generator) -> None:
        super().__init__()
        groups = max(1, round(maps * (1 - spec.weight_tying)))
        self.groups = [min(place // (maps // groups), groups - 1) for place in range(maps)]
        tied = groups if spec.weight_tying else 0
        like = torch.empty(0)
        self.v = nn.ParameterList(_start(spec, generator, like) for _ in range(tied))
        self.taken = 0

    def take(self) -> int:
        """The place, from 0, of the map that is being adapted; they come in the order of `share`'s weights."""
        self.taken += 1
        return self.taken - 1


class TinyLoRA(contract.Factored):
    """The change of the weight is steered by the vector `v` through fixed projections."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A: Tensor
    B: Tensor
    P: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        spec, rank, shared = self.spec, self.rank, self.shared
        place = shared.take() if isinstance(shared, Ties) else 0
        self.group = shared.groups[place] if isinstance(shared, Ties) else 0
        U, S, Vh = leading(weight, rank)
        root = S.sqrt()
        self.register_buffer("A", (root[:, None] * Vh).contiguous())
        self.register_buffer("B", (U * root).contiguous())
        draw = torch.Generator().manual_seed(spec.projection_seed + place)
        self.register_buffer("P", normal((spec.u, rank, rank), rank**-0.5, draw, weight))
        self.v = None if spec.weight_tying else _start(spec, generator, weight)

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: contract.Spec, generator: torch.Generator
    ) -> nn.Module | None:
        assert isinstance(spec, Spec)
        return Ties(len(weights), spec, generator)

    def vector(self) -> Tensor:
        """`v` of this map, (u,): its own, or its group's."""
        if self.v is not None:
            return self.v
        assert isinstance(self.shared, Ties)
        return self.shared.v[self.group]

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        R = torch.einsum("i,ijk->jk", self.vector(), self.P)
        return self.A, self.B @ R
