"""Rubric: each answer alone is given 1 to 10 points; of two, the difference counts.

Zheng et al. 2023, arXiv:2306.05685, section 3.1 (single answer grading). No place can be favoured; a judge that gives
everybody eight points says nothing, which its validation shows.
"""

from collections.abc import Sequence
from typing import ClassVar

from weft.judging.protocols.contract import Protocol, Verdict, asked

LEAST, MOST = 1, 10


class Rubric(Protocol):
    """A prompt a text."""

    options: ClassVar[tuple[str, ...]] = tuple(str(points) for points in range(LEAST, MOST + 1))
    compares: ClassVar[bool] = False

    def prompts(self, criteria: str, question: str | None, texts: Sequence[str]) -> list[str]:
        return [
            f"{criteria}\n\n{asked(question)}Answer:\n{text}\n\n"
            f"How good is the answer, from {LEAST} (worst) to {MOST} (best)? Reply with the number, and nothing else."
            for text in texts
        ]

    def verdict(self, answers: Sequence[str]) -> Verdict:
        points = tuple(float(answer) for answer in answers)
        return Verdict(points[0] - (points[1] if len(points) > 1 else 0.0), None, points)
