"""Pairwise: which of two answers is better, asked in both orders; a verdict that flips with the order is a tie.

Zheng et al. 2023, arXiv:2306.05685, section 3.4: judges favour the place an answer stands at, so that one order alone
measures the place. There a flipped verdict is a tie too.
"""

from collections.abc import Sequence
from typing import ClassVar

from weft.judging.protocols.contract import Protocol, Verdict, asked

FIRST, SECOND, TIE = "A", "B", "tie"


class Pairwise(Protocol):
    """Two prompts a row: one for each order."""

    options: ClassVar[tuple[str, ...]] = (FIRST, SECOND, TIE)
    compares: ClassVar[bool] = True

    def prompts(self, criteria: str, question: str | None, texts: Sequence[str]) -> list[str]:
        one, two = texts
        return [_prompt(criteria, question, *order) for order in ((one, two), (two, one))]

    def verdict(self, answers: Sequence[str]) -> Verdict:
        straight, turned = (_sign(answer) for answer in answers)
        consistent = straight == -turned
        return Verdict(float(straight) if consistent else 0.0, consistent)


def _sign(answer: str) -> int:
    return {FIRST: 1, SECOND: -1, TIE: 0}[answer]


def _prompt(criteria: str, question: str | None, one: str, two: str) -> str:
    return (
        f"{criteria}\n\n{asked(question)}Answer A:\n{one}\n\nAnswer B:\n{two}\n\n"
        "Which answer is better? Reply with A, B or tie, and nothing else."
    )
