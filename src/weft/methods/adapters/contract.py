"""The contract of a variant: one trained term on one frozen linear map.

    y = W0 x + b + adapter(drop(x), W0)

An adapter states its equation once, as `delta`. It knows nothing of names, merging, devices or other adapters, and it
never writes to `W0`, because many experts share it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings


class NotLowRank(ValueError):  # noqa: N818 - says what is the case, not that something failed
    """This adapter's change of the weight has no exact low-rank factors; the message says why."""


class Spec(Settings):
    """What every variant can set; a variant adds its own, and refuses by name what it does not have."""

    rank: int = Field(default=8, ge=1)
    """Inner size of the change; at most the smaller side of the map."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the input dropped before the adapter sees it, while training."""


class Adapter(nn.Module, ABC):
    """One trained term on one frozen map; what it holds, it makes in `start`.

    Args:
        weight: The frozen W0, (out, in); read, never kept, never written to.
        spec: Its settings, with the rank of this very module.
        generator: Source of every random start value; CPU.
        shared: What `share` returned for the expert, if anything; also `self.shared`, whose
            parameters are the expert's and none of this adapter's.
    """

    shared: nn.Module | None

    spec_type: ClassVar[type[Spec]] = Spec
    low_rank: ClassVar[bool] = True
    """Whether `factors` exists for every state of this variant."""
    rank_bounded: ClassVar[bool] = True
    """Whether a rank over the smaller side of a map is of no use, and so refused."""
    resizes: ClassVar[bool] = False
    """Whether the rank may change while it is trained, so that there is a `resize`."""
    nests: ClassVar[bool] = False
    """Whether the first ranks are an adapter of their own, so that there is a `truncate`."""
    pairs: ClassVar[bool] = False
    """Whether the change is `scaling * B @ A`, up to what is constant, with A and B both trained under these names."""

    def __init__(
        self,
        weight: Tensor,
        spec: Spec,
        generator: torch.Generator,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.rank = spec.rank
        self.dropout = spec.dropout
        # Past nn.Module, which would count what belongs to the expert once for every adapter.
        object.__setattr__(self, "shared", shared)
        self._through: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        self.start(weight, generator)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """`forward`, by way of what `see` was told."""
        y = super().__call__(x, weight)
        return y if self._through is None else self._through(x, weight, y)

    def see(self, through: Callable[[Tensor, Tensor, Tensor], Tensor] | None) -> None:
        """Add `through(x, weight, y)` to the map's output in place of `y`, what `forward` gives; None ends that.

        For the rows of a training step alone: whoever sets it takes it back after the step. The change of the weight
        and what is saved know nothing of it.
        """
        self._through = through
        # Until then the factors do not say all that is added, so nothing may be computed from them.
        if through is None:
            vars(self).pop("low_rank", None)
        else:
            vars(self)["low_rank"] = False

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        """Make the parameters and buffers at their first values; `spec`, `rank` and `shared` are there.

        Args:
            weight: The frozen W0, (out, in), or one on the meta device, where adapters are only counted; read, never
                kept, never written to.
            generator: Source of every random value; CPU.

        Raises:
            ValueError: If the method cannot adapt a map of this size with these settings.
        """

    @classmethod
    def share(
        cls, weights: Mapping[str, Tensor], spec: Spec, generator: torch.Generator
    ) -> nn.Module | None:
        """State that all adapters of one expert share (projections, vectors), or None; owned by the expert.

        Args:
            weights: The frozen W0 of every adapted map by name.
            spec: The expert's settings.
            generator: Source of every random value; CPU, so that every machine draws the same.
        """
        return None

    @classmethod
    def parameter_count(cls, out_features: int, in_features: int, spec: Spec) -> int:
        """Trained numbers on one map of that shape, shared state not counted."""
        with torch.device("meta"):
            weight = torch.empty(out_features, in_features)
            adapter = cls(weight, spec, torch.Generator())
        return sum(value.numel() for value in adapter.parameters() if value.requires_grad)

    def resize(self, rank: int) -> None:
        """Take on a rank that it had, or that another of the same recipe has; new values are there to be loaded."""

    def truncate(self, rank: int) -> None:
        """Keep the first `rank` ranks alone, for good."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """The change of the weight, (out, in)."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x @ delta(weight).T`, (..., in) to (..., out); override it to avoid the dense matrix."""
        delta = self.delta(weight)
        return x.to(delta.dtype) @ delta.T

    @abstractmethod
    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """`A' (rank', in)` and `B' (out, rank')` with `delta == B' @ A'` exactly, differentiable.

        Raises:
            NotLowRank: If there are none, with the reason.
        """

    def peft_alpha(self) -> float | None:
        """PEFT's alpha if the state is A and B, which PEFT scales itself; None exports baked factors."""
        return None

    def peft_magnitude(self) -> nn.Parameter | None:
        """The row norms m (out,) of PEFT's DoRA form, where A, B and m are the whole state."""
        return None

    @classmethod
    def prepare(
        cls,
        adapters: "Mapping[str, Adapter]",
        weights: Mapping[str, Tensor],
        gradients: Callable[[int], Mapping[str, Tensor]],
        rate: float,
    ) -> None:
        """Set start values that need data; called once, before the optimizer exists.

        Args:
            adapters: The expert's adapters by module name, as built.
            weights: The frozen W0 by module name; read only.
            gradients: `gradients(rows)` runs so many training rows through the model as it starts and returns
                the loss's gradient with respect to each W0, (out, in), by module name.
            rate: The learning rate of the run's first step.
        """


class Factored(Adapter):
    """An adapter that states its equation as `factors`; the rest follows."""

    def delta(self, weight: Tensor) -> Tensor:
        A, B = self.factors(weight)
        return B @ A

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        A, B = self.factors(weight)
        return (x.to(A.dtype) @ A.T) @ B.T


class Moved(Factored):
    """`s (B A - B0 A0)`: how far A and B, which start as a part of W0, have moved from there.

    A method that trains a part of the weight keeps the rest frozen. The base is shared by many experts and stays as it
    is, so here the start is subtracted, and the exact plain LoRA has twice the rank. The change is computed as

        s (B (A - A0) + (B - B0) A0)

    which is the same, but exactly 0 at the start and free of the difference of two large products after it, in any
    type. Dropout therefore acts on `B0 A0` as well.
    """

    pairs: ClassVar[bool] = True
    scaling: float
    A0: Tensor
    B0: Tensor

    def start_at(self, A0: Tensor, B0: Tensor) -> None:
        """Start A and B there, (rank, in) and (out, rank), and keep where that was."""
        self.register_buffer("A0", A0)
        self.register_buffer("B0", B0)
        self.A = nn.Parameter(A0.clone())
        self.B = nn.Parameter(B0.clone())

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.cat([self.B, self.B - self.B0], dim=1)
        return torch.cat([self.A - self.A0, self.A0]), self.scaling * moved


def weighted_factors(A: Tensor, values: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Factors of `scaling B diag(values) A`: of all ranks, or without gradients of those not at 0, or of one at 0."""
    core = scaling * values
    if not torch.is_grad_enabled():
        kept = values.nonzero().flatten()
        kept = kept if len(kept) else kept.new_zeros(1)
        A, B, core = A[kept], B[:, kept], core[kept]
    return A, B * core
