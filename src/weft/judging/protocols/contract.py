"""The contract of a protocol: what a judge is asked of one row, what it may answer, and what its answers amount to."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

CRITERIA = "Judge how correct, complete and clear an answer is. Its length does not count."
"""What a judge is told to look at, unless the caller says it."""


@dataclass(frozen=True)
class Verdict:
    """What a judge makes of one row."""

    difference: float
    """How much better the first text is than the second: -1, 0 or 1 where they were compared, points where each was
    scored. Of one text alone, its points."""
    consistent: bool | None = None
    """Whether it said the same when the two changed places; None where they have none."""
    points: tuple[float, ...] = ()
    """Of each text, where each was scored."""


class Protocol(ABC):
    """A way to ask."""

    options: ClassVar[tuple[str, ...]]
    """The scale: everything that a judge may answer."""
    compares: ClassVar[bool]
    """Whether it needs two texts; otherwise it takes one as well."""

    @abstractmethod
    def prompts(self, criteria: str, question: str | None, texts: Sequence[str]) -> list[str]:
        """What is asked of one row; the judge answers each alone.

        Args:
            criteria: What to look at.
            question: What the texts answer; None where nothing is known of it.
            texts: Two, or, where the protocol does not compare, one.
        """

    @abstractmethod
    def verdict(self, answers: Sequence[str]) -> Verdict:
        """What the answers to `prompts` amount to, each one of `options`."""


def asked(question: str | None) -> str:
    """The part of a prompt that says what was to be answered."""
    return "" if question is None else f"What was asked:\n{question}\n\n"
