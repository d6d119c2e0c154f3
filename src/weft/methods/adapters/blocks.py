"""Blocks of ranks: a sum of products that grows while it is trained, and keeps its next terms in reserve.

    dW = s sum_i B_i E_i A_i,    s = alpha / (rank + 1e-5),    A_i, B_i ~ N(0, 0.02^2),    E_i = 0 at the start

Zhang et al. 2023, IncreLoRA, arXiv:2308.12043; the values are those of the authors' code
(github.com/FeiyuZhang98/IncreLoRA, loralib/increlora.py). Each block is one rank, as there, where a first block of
several ranks is possible besides. `rank` is what is in use now, so each growth makes the earlier ranks weaker.

The last `growth` blocks are the reserve: `grow` takes it into use and makes a new one. It learns in advance, with its
E held at 1e-5, so that it is no random direction when its turn comes. The start is the base but for that 1e-5, and
growth changes the output by the scale and the new reserve alone. Without `advance` the reserve is frozen with E = 0,
and the start is the base exactly.

How many blocks there are follows from rank and `growth`, so that an adapter built anew at the rank it had grown to, or
resized to it, takes the saved state. A rank whose E is zero still has a gradient; `factors` leaves it out only where no
gradients are recorded, as on export, and if none is left has one rank of zeros, because PEFT's format knows no rank of
0. `finish` empties the reserve, which else is part of the exported rank, as it is of the change. When to grow, and
which maps, and what keeps A and B near orthogonal, is training and not part of this form.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import normal
from weft.methods.adapters import contract

INIT_STD = 0.02
"""Standard deviation of A and B at the start."""
IN_RESERVE = 1e-5
"""E of ranks that learn in advance."""
BESIDE_RANK = 1e-5
"""What the authors add to the rank before they divide by it."""


class Spec(contract.Spec):
    """Settings of blocks."""

    rank: int = Field(default=1, ge=1)
    """Ranks in use at the start."""
    alpha: float = Field(default=16.0, gt=0)
    """Strength of the change: the sum is scaled by alpha / rank, with the rank of the moment."""
    growth: int = Field(default=1, ge=1)
    """Ranks in reserve, which one growth adds."""
    advance: bool = True
    """Train the reserve before it is in use; false keeps it frozen and without effect."""


class Blocks(contract.Factored):
    """The change of the weight is a sum of rank-one products, to which more can be added."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    resizes: ClassVar[bool] = True
    spec: Spec

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        self.shape = tuple(weight.shape)
        self.A, self.E, self.B = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        self._append(self.rank, generator, weight, reserve=False)
        self._append(self.spec.growth, generator, weight, reserve=True)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        A, B, E = torch.cat([*self.A]), torch.cat([*self.B], dim=1), torch.cat([*self.E])[:, 0]
        return contract.weighted_factors(A, E, B, self.spec.alpha / (self.rank + BESIDE_RANK))

    def grow(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Take the reserve into use and make a new one.

        Args:
            generator: Source of the new reserve; CPU.

        Returns:
            What is trained from now on and was not before.

        Raises:
            ValueError: If the rank would be larger than the map.
        """
        rank = self.rank + self.spec.growth
        if rank > min(self.shape):
            raise ValueError(
                f"rank {self.rank} cannot grow by {self.spec.growth}: the map is {self.shape[0]} x "
                f"{self.shape[1]}, so its rank is at most {min(self.shape)}"
            )
        before = {id(value) for value in self.parameters() if value.requires_grad}
        for value in self._reserve():
            value.requires_grad_(True)
        self._append(self.spec.growth, generator, self.A[0], reserve=True)
        self.rank = rank
        self.spec = self.spec.model_copy(update={"rank": rank})
        return [v for v in self.parameters() if v.requires_grad and id(v) not in before]

    @property
    def growth(self) -> int:
        """Ranks that one growth adds."""
        return self.spec.growth

    @property
    def is_full(self) -> bool:
        """Whether the map has no place for another growth."""
        return self.rank + self.growth > min(self.shape)

    def finish(self) -> None:
        """Empty the reserve and freeze it: nothing will grow any more."""
        with torch.no_grad():
            for value in self._reserve():
                value.requires_grad_(False).zero_()

    def resize(self, rank: int) -> None:
        count, there = rank + self.spec.growth, len(self.A)
        self.A, self.E, self.B = self.A[:count], self.E[:count], self.B[:count]
        if count > there:
            self._append(count - there, torch.Generator(), self.A[0], reserve=False)
        for value in self.parameters():
            value.requires_grad_(True)
        for value in self._reserve():
            value.requires_grad_(self.spec.advance)
        with torch.no_grad():
            for E in self.E[rank:]:
                # As it was made: in single precision first.
                E.requires_grad_(False).copy_(torch.full((1, 1), IN_RESERVE * self.spec.advance))
        self.rank = rank
        self.spec = self.spec.model_copy(update={"rank": rank})

    def _reserve(self) -> list[nn.Parameter]:
        count = self.spec.growth
        return [*self.A[-count:], *self.E[-count:], *self.B[-count:]]

    def _append(
        self, blocks: int, generator: torch.Generator, like: Tensor, *, reserve: bool
    ) -> None:
        """So many blocks more, on the device of `like` and of the type of those there are."""
        dtype = self.A[0].dtype if len(self.A) else torch.float32
        out_features, in_features = self.shape
        advance = reserve and self.spec.advance
        trained = advance or not reserve
        for _ in range(blocks):
            A = normal((1, in_features), INIT_STD, generator, like).to(dtype)
            B = normal((out_features, 1), INIT_STD, generator, like).to(dtype)
            E = torch.full((1, 1), IN_RESERVE * advance, device=like.device).to(dtype)
            self.A.append(nn.Parameter(A, requires_grad=trained))
            self.E.append(nn.Parameter(E, requires_grad=not reserve))
            self.B.append(nn.Parameter(B, requires_grad=trained))
