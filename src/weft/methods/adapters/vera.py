"""VeRA: vector-based random matrix adaptation.

    dW = diag(b) B diag(d) A,    A ~ U(±sqrt(6/in)), B ~ U(±sqrt(6/rank)), frozen,    b = 0, d = d_initial

Kopiczko et al. 2023, arXiv:2310.11454, equation 2 (from memory of the paper). One A (rank, largest in) and one B
(largest out, rank) serve all maps of an expert; a smaller map takes the first columns of A and the first rows of B.
Only b (out) and d (rank) are trained, and there is no scale. Laws, defaults and slices are PEFT 0.21.2's (tuners/vera);
the same seed gives its projections, where it is called `projection_prng_key`.

The projections come from a CPU generator of their own, so they depend on `projection_seed`, the rank and the largest
sides among the targets, not on the seed of the run. They are saved with the expert, as PEFT does by default, and belong
to it: PEFT refuses two adapters of different seeds on one model, here every expert has its own.

Elsewhere the rank may differ by module; here it is the size of what the maps share, so one rank holds for all of them.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import uniform
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of VeRA."""

    rank: int = Field(default=256, ge=1)
    """Inner size of the change, one for all maps; large, for a rank costs one trained number a map."""
    d_initial: float = 0.1
    """Where every entry of d starts."""
    projection_seed: int = Field(default=0, ge=0)
    """Determines the random projections A and B, together with the sizes of the largest map."""


class Projections(nn.Module):
    """The frozen A (rank, in) and B (out, rank) of the largest map."""

    A: Tensor
    B: Tensor

    def __init__(
        self, out_features: int, in_features: int, rank: int, seed: int, like: Tensor
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        A = uniform((rank, in_features), math.sqrt(6 / in_features), generator, like)
        B = uniform((out_features, rank), math.sqrt(6 / rank), generator, like)
        self.register_buffer("A", A)
        self.register_buffer("B", B)


class VeRA(contract.Factored):
    """The change is a random product, shared and frozen, whose rows and inner dimensions are rescaled."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    rank_bounded: ClassVar[bool] = False
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        out_features, in_features = weight.shape
        if isinstance(self.shared, Projections) and self.shared.A.shape[0] != self.rank:
            raise ValueError(
                f"ranks: the maps of a VeRA expert share projections of rank {self.shared.A.shape[0]}, so a map "
                f"({out_features} x {in_features}) cannot have rank {self.rank}; set `rank` for all of them"
            )
        self.b = nn.Parameter(torch.zeros(out_features, device=weight.device))
        self.d = nn.Parameter(torch.full((self.rank,), self.spec.d_initial, device=weight.device))

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: contract.Spec, generator: torch.Generator
    ) -> nn.Module | None:
        assert isinstance(spec, Spec)
        out_features, in_features = (
            max(weight.shape[side] for weight in weights.values()) for side in (0, 1)
        )
        like = next(iter(weights.values()))
        return Projections(out_features, in_features, spec.rank, spec.projection_seed, like)

    def projections(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """This map's part of the shared A and B: (rank, in) and (out, rank)."""
        assert isinstance(self.shared, Projections)
        out_features, in_features = weight.shape
        return self.shared.A[:, :in_features], self.shared.B[:out_features]

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        A, B = self.projections(weight)
        return self.d[:, None] * A, self.b[:, None] * B

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        # Scaling tokens, not matrices: the gradients of b and d then need no product of the matrices' size.
        A, B = self.projections(weight)
        return self.b * ((self.d * (x.to(A.dtype) @ A.T)) @ B.T)
