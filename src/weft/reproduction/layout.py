"""What a section of the report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from weft.reporting.document import NONE, Table
from weft.reporting.tables import interval
from weft.tasks.scoring import Difference, Score


@dataclass(frozen=True)
class Block:
    """A table and what must be known to read it."""

    table: Table
    notes: tuple[str, ...] = ()
    """Numbered from 1."""
    remarks: tuple[str, ...] = ()
    brief: bool = True
    """Whether a terminal shows it too."""


@dataclass(frozen=True)
class Section:
    """Words, tables, notes."""

    key: str
    heading: str
    said: tuple[str, ...]
    blocks: tuple[Block, ...] = ()
    notes: tuple[str, ...] = ()


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent, without the sign."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def share(value: Score | None) -> str:
    """A share in percent with its interval."""
    if value is None:
        return NONE
    return f"{percent(value.value)} ({percent(value.low)} to {percent(value.high)})"


def scored(metric: str, value: Score | Difference) -> str:
    """A score with its interval, in percent where it is a fraction."""
    return interval(metric, {"value": value.value, "low": value.low, "high": value.high})


def decimal(value: float | None, digits: int = 1) -> str:
    """A number with so many digits behind the point."""
    return NONE if value is None else f"{value:,.{digits}f}"


def listed(seeds: Sequence[int]) -> str:
    """Seeds, one after the other."""
    return " ".join(map(str, seeds))
