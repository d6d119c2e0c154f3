"""Which to take: the smallest that cannot be told from the best; of these the best, or what is much quicker."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

SURE = 0.05
"""The corrected p value below which a difference is no chance."""
ALIKE = 0.01
"""Sizes that differ by less than this share are one size."""
AS_QUICK = 0.25
"""Times that differ by less than this share are one time: what else a machine did meanwhile changes them as much."""


@dataclass(frozen=True)
class Candidate:
    """What could be taken."""

    name: str
    parameters: float
    """Trained ones; infinite where that is not known."""
    seconds: float
    """Of a training; the same."""


@dataclass(frozen=True)
class Gap:
    """How much better the best is than another, on the same rows."""

    value: float
    low: float
    high: float
    p: float
    """Corrected for being one of many."""


@dataclass(frozen=True)
class Choice:
    """What to take, and why."""

    take: str
    best: str
    """Of the highest mean score, whether or not chance made it that."""
    why: Literal["better", "smaller", "quicker", "smallest"]
    """better: than every other, beyond chance. The others are of several that cannot be told apart: smaller or quicker
    than the best, or the best itself, which none of the others undercuts."""
    near: tuple[str, ...]
    """Those that cannot be told from the best, without it."""
    beside: str
    """Whom `gap` is to: the next one, or what is taken in place of the best."""
    gap: Gap

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Choice":
        """What `as_json` gave, read back; other values beside it do not count."""
        own = {field.name: values[field.name] for field in fields(cls)}
        return cls(**own | {"near": tuple(values["near"]), "gap": Gap(**values["gap"])})


def choose(candidates: Sequence[Candidate], gaps: Mapping[str, Gap]) -> Choice | None:
    """What to take; None where there is nothing to choose from.

    Args:
        candidates: By mean score, the best first.
        gaps: How much better the first is than each of the others.
    """
    if len(candidates) < 2:
        return None
    best, *others = candidates
    near = [own for own in others if gaps[own.name].p >= SURE]
    names = tuple(own.name for own in near)
    if not near:
        closest = min(others, key=lambda own: gaps[own.name].value)
        return Choice(best.name, best.name, "better", (), closest.name, gaps[closest.name])
    least = min(own.parameters for own in (best, *near))
    small = [own for own in (best, *near) if own.parameters <= least * (1 + ALIKE)]
    quickest = min(own.seconds for own in small)
    take = next(own for own in small if own.seconds <= quickest * (1 + AS_QUICK))
    if take is best:
        return Choice(best.name, best.name, "smallest", names, near[0].name, gaps[near[0].name])
    why = "quicker" if best in small else "smaller"
    return Choice(take.name, best.name, why, names, take.name, gaps[take.name])
