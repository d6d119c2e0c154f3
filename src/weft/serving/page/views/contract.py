"""What a kind of task needs to be on the page: fields to ask with, and its answers as marked texts and bars."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weft.reporting.document import Marked
from weft.tasks.cases import Mark, apart
from weft.tasks.contract import Prediction

Given = Mapping[str, Any]
"""What was typed, by column: texts, and lists of texts."""


@dataclass(frozen=True)
class Field:
    """One thing to type."""

    name: str
    """The task's column."""
    label: str
    hint: str = ""
    lines: int = 1
    """Height; a single line ends with the return key."""
    required: bool = True
    is_list: bool = False
    """Whether each line is an item of its own."""


@dataclass(frozen=True)
class Bar:
    """A possible answer and its probability, or another share."""

    label: str
    share: float
    """0 to 1; what lies outside is drawn as the nearest of them."""
    is_said: bool = False
    """Whether it is the answer, or part of it."""


@dataclass(frozen=True)
class Bars:
    """Shares of one thing, in the order in which they are shown."""

    caption: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Passage:
    """A text with what was found in it."""

    heading: str
    text: Marked

    @property
    def hues(self) -> dict[str, int]:
        """The number of each label, by which parts of one label look alike."""
        labels = dict.fromkeys(mark.label for _, mark in self.text.parts if mark is not None)
        return {label: at for at, label in enumerate(labels)}


@dataclass(frozen=True)
class Shown:
    """An answer as people look at it."""

    said: str
    """In a line: what a screen reader says first."""
    passages: tuple[Passage, ...] = ()
    bars: tuple[Bars, ...] = ()


class View(ABC):
    """How one kind of task is asked and answered."""

    fields: tuple[Field, ...]
    """In the order of asking."""
    writes: ClassVar[bool] = False
    """Whether its answer comes word by word."""

    @abstractmethod
    def shown(self, given: Given, prediction: Prediction) -> Shown:
        """An answer.

        Args:
            given: The input that it answers.
            prediction: As of `weft predict`.
        """


def percent(share: float) -> str:
    """A share as words."""
    return f"{100 * share:.1f} %"


def ranked(shares: Iterable[tuple[str, float]], said: Sequence[str]) -> tuple[Bar, ...]:
    """Bars of shares, the largest first; of equal ones, as they came."""
    bars = (Bar(label, share, label in said) for label, share in shares)
    return tuple(sorted(bars, key=lambda bar: -bar.share))


def marked(text: str, places: Iterable[tuple[int, int, str]]) -> Marked:
    """A text with parts of it marked as said: beginning, end and label of each, in characters."""
    return Marked(text, apart([Mark(start, end, label, "said") for start, end, label in places]))
