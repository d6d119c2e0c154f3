"""Two variants as a user would write them: one whose adapters share state, one of full rank."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.methods.adapters.contract import Adapter, NotLowRank, Spec


class SharedSpec(Spec):
    """Settings of `Shared`."""

    scale: float = Field(2.0, gt=0)
    """Size of the shared projections."""


class Projections(nn.Module):
    """What `Shared` shares: frozen, and one trained gain."""

    def __init__(
        self, rank: int, out: int, inner: int, scale: float, draw: torch.Generator
    ) -> None:
        super().__init__()
        self.register_buffer("down", scale * torch.randn(rank, inner, generator=draw))
        self.register_buffer("up", torch.randn(out, rank, generator=draw))
        self.gain = nn.Parameter(torch.ones(rank))


class Shared(Adapter):
    """VeRA's form: `dW = diag(b) U diag(gain d) V`; U, V and gain are of the largest map's size."""

    spec_type: ClassVar[type[Spec]] = SharedSpec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        self.d = nn.Parameter(torch.full((self.rank,), 0.1, device=weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device))

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: Spec, generator: torch.Generator
    ) -> nn.Module | None:
        out = max(weight.shape[0] for weight in weights.values())
        inner = max(weight.shape[1] for weight in weights.values())
        assert isinstance(spec, SharedSpec)
        return Projections(spec.rank, out, inner, spec.scale, generator)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        own = self.shared
        assert isinstance(own, Projections)
        out, inner = weight.shape
        return own.down[:, :inner], self.b[:, None] * own.up[:out] * (own.gain * self.d)

    def delta(self, weight: Tensor) -> Tensor:
        A, B = self.factors(weight)
        return B @ A


class Scaled(Adapter):
    """IA3's form without its bias: `dW = diag(s) W0`, as full as W0 is; with a constructor in place of `start`."""

    low_rank = False

    def __init__(
        self,
        weight: Tensor,
        spec: Spec,
        generator: torch.Generator,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__(weight, spec, generator, shared)
        self.s = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device))

    def delta(self, weight: Tensor) -> Tensor:
        return self.s[:, None] * weight.to(self.s.dtype)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotLowRank("a rescaled weight has the rank of the weight itself")
