"""Numbers as reports write them: scores in percent with their intervals, counts, shares."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft.tasks.users import OVER_USERS, POPULATION

if TYPE_CHECKING:
    from weft.tasks.scoring import Difference, Score

NONE = "n/a"
"""A cell for what was not measured."""
FRACTIONS = (
    *("accuracy", "f1", "precision", "recall", "exact_match", "recognition"),
    *("HasAns_", "NoAns_", "best_exact", "best_f1"),
    *("bleu", "chrf", "rouge"),
)
"""How names of scores between 0 and 1 begin."""
_STEPS = {1e9: "G", 1e6: "M", 1e3: "k"}


def is_fraction(name: str) -> bool:
    """Whether a score lies between 0 and 1 and is shown in percent."""
    name = name.removeprefix(POPULATION).removeprefix(OVER_USERS)
    return name.startswith(FRACTIONS) and not name.endswith("_thresh")


def scale_of(name: str) -> float:
    """What a score is multiplied by to be in the unit that figures show."""
    return 100.0 if is_fraction(name) else 1.0


def unit(name: str) -> str:
    """A score's name with its unit."""
    return f"{name} (%)" if is_fraction(name) else name


def number(name: str, value: float) -> str:
    """A score as tables show it."""
    return f"{100 * value:.1f}" if is_fraction(name) else f"{value:.4g}"


def interval(name: str, value: Mapping[str, Any]) -> str:
    """A score and its interval from `{value, low, high}`."""
    low, high = number(name, value["low"]), number(name, value["high"])
    return f"{number(name, value['value'])} ({low} to {high})"


def scored(name: str, value: "Score | Difference") -> str:
    """The same from a score."""
    return interval(name, {"value": value.value, "low": value.low, "high": value.high})


def spread(name: str, value: float) -> str:
    """A standard deviation of a score."""
    return f"{100 * value:.2f}" if is_fraction(name) else f"{value:.2g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent, without the sign."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def share(value: "Score | None") -> str:
    """A share in percent with its interval."""
    if value is None:
        return NONE
    return f"{percent(value.value)} ({percent(value.low)} to {percent(value.high)})"


def decimal(value: float | None, digits: int = 1) -> str:
    """A number with so many digits behind the point."""
    return NONE if value is None else f"{value:,.{digits}f}"


def whole(value: Any) -> str:
    """A count."""
    return decimal(value, 0)


def listed(seeds: Sequence[int]) -> str:
    """Seeds, one after the other."""
    return " ".join(map(str, seeds))


def counted(number_of: int, noun: str) -> str:
    """How many of something there are, in words."""
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"


def compact(value: float) -> str:
    """A number in few letters: 78.7k, 22.7M, 0.05."""
    for step, letter in _STEPS.items():
        if abs(value) >= step:
            return f"{value / step:.3g}{letter}"
    return f"{value:.3g}"
