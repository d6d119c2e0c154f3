"""Tied-LoRA: one pair of LoRA factors for all layers, which each layer rescales.

    dW_l = s diag(v_l) B diag(u_l) A,    s = alpha / rank,    A ~ U(±1/sqrt(in)), B = 0, u = v = 1

Renduchintala et al. 2023, arXiv:2311.09578, section 3, in the variant that trains everything: A, B, u and v. From
memory of the paper; A's law is LoRA's. A and B belong to the expert, u (rank) and v (out) to each map: rank (in + out)
numbers once and rank + out for each map. With a single map and u = v = 1 it is LoRA.

Maps are tied where their shapes are the same: an expert has one A and one B for each (out, in) among its targets, so
query and value maps of one shape share both and differ by u and v. The paper adapts the fused query-key-value map
alone, where query and value share A but have rows of B of their own; on a base whose maps are fused it is so here too.

Elsewhere the rank may differ by module; here it is the size of what the maps share, so one rank holds for all of them.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import zero_product
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of Tied-LoRA."""

    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the product is scaled by alpha / rank."""


class Pair(nn.Module):
    """The trained A (rank, in) and B (out, rank) of all maps of one shape."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        A, B = zero_product(weight, rank, generator)
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)


class Pairs(nn.ModuleDict):
    """A pair for every shape among the maps, called `<out>x<in>`."""

    def __init__(
        self, weights: Mapping[str, Tensor], rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.rank = rank
        for weight in weights.values():
            if _shape(weight) not in self:
                self[_shape(weight)] = Pair(weight, rank, generator)

    def of(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A and B of a map with the shape of `weight`."""
        pair = self[_shape(weight)]
        assert isinstance(pair, Pair)
        return pair.A, pair.B


def _shape(weight: Tensor) -> str:
    return f"{weight.shape[0]}x{weight.shape[1]}"


class TiedLoRA(contract.Factored):
    """The change is a product that all maps of one shape share, rescaled by vectors of its own."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        if isinstance(self.shared, Pairs) and self.shared.rank != self.rank:
            raise ValueError(
                f"ranks: the maps of a Tied-LoRA expert share factors of rank {self.shared.rank}, so a map "
                f"({_shape(weight)}) cannot have rank {self.rank}; set `rank` for all of them"
            )
        self.scaling = self.spec.alpha / self.rank
        self.u = nn.Parameter(torch.ones(self.rank, device=weight.device))
        self.v = nn.Parameter(torch.ones(weight.shape[0], device=weight.device))

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: contract.Spec, generator: torch.Generator
    ) -> nn.Module | None:
        return Pairs(weights, spec.rank, generator)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.shared, Pairs)
        A, B = self.shared.of(weight)
        return self.u[:, None] * A, self.scaling * self.v[:, None] * B
