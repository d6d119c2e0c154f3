"""Factors of several experts to those of one by a method, and how far that is from what was wanted, by role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weft.config import MergeSettings
from weft.lowrank.product import Pair
from weft.lowrank.roles import Roles
from weft.merging.sources import Source
from weft.methods.merges.contract import Factors, Merge, Merged


@dataclass(frozen=True)
class Learned:
    """Weights: given, or what rows have decided."""

    weights: list[float]
    """One an expert; the mean over maps where they differ by map."""
    by_map: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """One an expert for each map, where they differ."""
    trained: int = 0
    """Numbers that were learned."""
    rows: int = 0
    """Rows they were learned from."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """How, for the record."""
    notes: tuple[str, ...] = ()
    """What must be said of them."""


@dataclass(frozen=True)
class Combined:
    """What the experts were made into."""

    merged: Merged
    weights: list[float]
    notes: list[str]
    trained: int = 0
    rows: int = 0
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def factors(self) -> dict[str, Pair]:
        """By module."""
        return self.merged.factors

    @property
    def error(self) -> float:
        """Distance from the exact weighted sum as a share of it, over all maps."""
        return self.merged.error

    def errors(self, roles: Roles) -> dict[str, float]:
        """The same by role."""
        return self.merged.errors(roles)


def combined(
    sources: Sequence[Source],
    method: Merge,
    learned: Learned,
    settings: MergeSettings,
) -> Combined:
    """Merge experts.

    Args:
        sources: The experts.
        method: The method.
        learned: The weights.
        settings: Rank and seed.
    """
    weights, rank = learned.weights, settings.rank
    entering: Sequence[Factors] = [source.factors for source in sources]
    if learned.by_map:
        entering = weighed(entering, learned.by_map)
        weights = [1.0] * len(sources)
    merged = method.merge(entering, weights, rank=rank, seed=settings.seed)
    if any(source.exact for source in sources):
        merged = _against_exact(merged, sources, method.coefficients(weights))
    notes = list(learned.notes)
    if merged.clamped:
        most, least = max(merged.clamped.values()), min(merged.clamped.values())
        notes.append(
            f"rank {rank} is more than the change has at {len(merged.clamped)} of {len(merged.factors)} maps: they "
            f"keep the exact one, {least if least == most else f'{least} to {most}'}"
        )
    told = dict(learned.told)
    if learned.by_map:
        told["by_map"] = {module: list(own) for module, own in learned.by_map.items()}
    return Combined(merged, learned.weights, notes, learned.trained, learned.rows, told)


def weighed(
    experts: Sequence[Factors], by_map: Mapping[str, Sequence[float]]
) -> list[dict[str, Pair]]:
    """The experts' factors, each map's change times its own weight."""
    return [
        {name: (A, by_map[name][at] * B) for name, (A, B) in factors.items()}
        for at, factors in enumerate(experts)
    ]


def _against_exact(merged: Merged, sources: Sequence[Source], shares: Sequence[float]) -> Merged:
    """The same beside the sum of the true changes, where some entered as something near."""
    wanted = {
        module: [
            (exact[module], share)
            for source, share in zip(sources, shares, strict=True)
            if module in (exact := source.exact or source.factors)
        ]
        for module in merged.factors
    }
    return replace(merged, wanted=wanted)
