"""The contract of a merge: the factors of several experts and their weights to the factors of one.

    wanted    dW = sum_i w_i B_i A_i
    error     |dW_merged - dW|_F / |dW|_F, over all maps together

Pure functions of the factors, map by map: no base, no data. A merge that cannot be exact says by `error` how far it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.config import Settings

Pair = tuple[Tensor, Tensor]
"""`A (rank, in)` and `B (out, rank)`, every scale in B."""
Factors = Mapping[str, Pair]
"""One expert's factors by module."""


@dataclass(frozen=True)
class Merged:
    """One expert's worth of factors, and what was lost."""

    factors: dict[str, Pair]
    error: float
    """Distance from the exact weighted sum as a share of it; 0 is exact."""


class Merge(ABC):
    """Combines experts. A method overrides `pair`.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    @abstractmethod
    def pair(self, pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
        """The merged factors of one map.

        Args:
            pairs: The factors of the experts that have an adapter there; at least one.
            weights: One for each.
        """

    @torch.no_grad()
    def merge(self, experts: Sequence[Factors], weights: Sequence[float]) -> Merged:
        """Merge experts; a map that an expert leaves alone counts as no change.

        Args:
            experts: Their exact factors by module, in any ranks.
            weights: One an expert.

        Raises:
            ValueError: If there is no expert, not one weight each, or two experts' maps differ in shape.
        """
        if not experts or len(experts) != len(weights):
            raise ValueError(
                f"{len(experts)} experts and {len(weights)} weights: give at least one expert, and a weight each"
            )
        merged, missed, whole = {}, 0.0, 0.0
        for module in dict.fromkeys(name for expert in experts for name in expert):
            own = [
                (expert[module], weight)
                for expert, weight in zip(experts, weights, strict=True)
                if module in expert
            ]
            pairs, shares = [pair for pair, _ in own], [weight for _, weight in own]
            _check_shapes(module, pairs)
            merged[module] = self.pair(pairs, shares)
            A, B = exact_sum(pairs, shares)
            down, up = merged[module]
            missed += squared_norm(torch.cat([down, A]), torch.cat([up, -B], dim=1))
            whole += squared_norm(A, B)
        return Merged(merged, (missed / whole) ** 0.5 if whole else 0.0)


def exact_sum(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """Factors of `sum_i w_i B_i A_i`, one under the other."""
    A = torch.cat([A for A, _ in pairs])
    return A, torch.cat([weight * B for (_, B), weight in zip(pairs, weights, strict=True)], dim=1)


def squared_norm(A: Tensor, B: Tensor) -> float:
    """`|B A|_F^2` without the dense product, in double precision; rounding below zero is zero."""
    A, B = A.double(), B.double()
    return max(0.0, ((B.T @ B) * (A @ A.T)).sum().item())


def _check_shapes(module: str, pairs: Sequence[Pair]) -> None:
    shapes = {(B.shape[0], A.shape[1]) for A, B in pairs}
    if len(shapes) > 1:
        raise ValueError(
            f"{module} is {' and '.join(f'{out} x {inner}' for out, inner in sorted(shapes))} in different "
            "experts: they belong to different bases"
        )
