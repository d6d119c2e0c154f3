"""The factors of several experts at one linear map, one under the other: `A_cat` and `B_cat` of equation (U)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weft.lowrank.start import zero_product


class Part(NamedTuple):
    """One expert at one map: `dW = scale B A`."""

    A: Tensor
    """(rank, in)."""
    B: Tensor
    """(out, rank)."""
    scale: float = 1.0


class Stack(nn.Module):
    """Stacked factors. Trained ones keep their scales apart, so that they learn as each would alone.

    Args:
        A: (ranks in, in).
        B: (out, ranks out).
        ranks: Of B, expert by expert; 0 where an expert leaves this map alone.
        scale: What each column of B is multiplied by: one number, or one a column.
        cores: (experts, ranks in, ranks out), where experts share A and B.
        trained: Whether training changes them; frozen factors hold their scale from the start.
    """

    scale: Tensor

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        ranks: Sequence[int],
        scale: Tensor | float = 1.0,
        cores: Tensor | None = None,
        *,
        trained: bool,
    ) -> None:
        super().__init__()
        self.ranks = tuple(ranks)
        columns = torch.as_tensor(scale, dtype=B.dtype, device=B.device).expand(B.shape[1])
        if not trained:
            B, columns = B * columns, torch.ones_like(columns)
        self.A = nn.Parameter(A.clone(), requires_grad=trained)
        self.B = nn.Parameter(B.clone(), requires_grad=trained)
        self.cores = None if cores is None else nn.Parameter(cores.clone(), requires_grad=trained)
        self.register_buffer("scale", columns.clone())
        # Asked once: a run-time look at a tensor would wait for the device at every map.
        self._scaled = trained

    @classmethod
    def of(cls, parts: Sequence[Part | None], *, trained: bool) -> "Stack":
        """Whole experts, one under the other; None where one has no adapter here.

        Raises:
            ValueError: If no expert has one.
        """
        own = [part for part in parts if part is not None]
        if not own:
            raise ValueError("no expert has an adapter on this map")
        scales = [
            torch.full((part.B.shape[1],), part.scale, dtype=part.B.dtype, device=part.B.device)
            for part in own
        ]
        return cls(
            torch.cat([part.A for part in own]),
            torch.cat([part.B for part in own], dim=1),
            [0 if part is None else part.A.shape[0] for part in parts],
            torch.cat(scales),
            trained=trained,
        )

    @classmethod
    def new(
        cls, weight: Tensor, count: int, rank: int, alpha: float, generator: torch.Generator
    ) -> "Stack":
        """`count` experts as LoRA starts: A uniform in ±1/sqrt(in), B zero, scaled by alpha / rank.

        Args:
            weight: The frozen W0, (out, in); read only.
            count: How many experts.
            rank: Of each.
            alpha: Their strength.
            generator: Source of every random value; CPU.
        """
        A, B = zero_product(weight, count * rank, generator)
        return cls(A, B, [rank] * count, alpha / rank, trained=True)

    def up(self, h: Tensor) -> Tensor:
        """`h B_catᵀ`, scaled: (..., ranks out) to (..., out)."""
        return nn.functional.linear(h * self.scale if self._scaled else h, self.B)

    def factors(self) -> tuple[Tensor, Tensor]:
        """`A (ranks in, in)` and `B (out, ranks out)`, every scale in B."""
        return self.A, self.B * self.scale if self._scaled else self.B
