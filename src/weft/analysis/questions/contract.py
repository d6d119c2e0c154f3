"""The contract of a question: from the base, experts on it and texts to what a section of a report says.

A question is asked in plain words and answered by numbers, each with its interval and what chance gives for the same;
by figures, and how to read them; and by rows, unrounded, which become a CSV file and JSON.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from weft.analysis.intervals import Number
from weft.analysis.study import Study
from weft.reporting.document import Figure, Section, Table
from weft.reporting.numbers import NONE

Needs = Literal["weights", "pairs", "rows", "trees", "gates", "training"]
"""What must be there: any expert; two experts; rows to read, of the treebank or of the experts' tasks; the treebank; a
mixture; rows to train on, and the time, so that it is asked by name alone. A report has its sections in this order."""


@dataclass(frozen=True)
class Answer:
    """What a question found."""

    words: tuple[str, ...]
    """What it says, in sentences."""
    numbers: tuple[Number, ...]
    rows: tuple[Mapping[str, Any], ...]
    """Everything that was measured: JSON values under the same keys in every row; what is no number is None."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = tuple({key: _finite(value) for key, value in row.items()} for row in self.rows)
        object.__setattr__(self, "rows", rows)


class Question(ABC):
    """Something that can be asked of experts."""

    asks: ClassVar[str]
    """In plain words."""
    reading: ClassVar[str]
    """How to read the figure and the numbers."""
    chance: ClassVar[str]
    """What the line for chance is."""
    needs: ClassVar[Needs]

    @abstractmethod
    def answer(self, study: Study) -> Answer:
        """Measure.

        Raises:
            NotAtHandError: If the texts that it reads are not there; says what is missing.
        """


def section(name: str, question: type[Question], found: Answer) -> Section:
    """An answer as a section of a report."""
    seeds = any(number.deviation is not None for number in found.numbers)
    table = Table(
        "The numbers that answer it, with their 95 % intervals, and what chance gives."
        + (
            " Of several seeds: their mean, their standard deviation and Student's interval."
            * seeds
        ),
        ("expert", "measured", "value", *(("± seeds",) * seeds), "95 % interval", "chance"),
        tuple(
            (
                number.of,
                number.what,
                shown(number.score.value),
                *((NONE if number.deviation is None else shown(number.deviation),) * seeds),
                f"{shown(number.score.low)} to {shown(number.score.high)}"
                if math.isfinite(number.score.low)
                else NONE,
                NONE if number.chance is None else shown(number.chance),
            )
            for number in found.numbers
        ),
        words=2,
    )
    numbers = (table,) if found.numbers else ()
    return Section(
        key=f"question-{name}",
        heading=question.asks,
        words=(
            *found.words,
            f"How to read it: {question.reading}",
            f"Chance: {question.chance}",
        ),
        notes=found.notes,
        parts=(*found.figures, *numbers, *found.tables),
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: float) -> str:
    """A number of an answer in three digits, or in whole ones."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "unlimited"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
