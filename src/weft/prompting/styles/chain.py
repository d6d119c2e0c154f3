"""Chain of thought: the model writes its reasoning first, and the answer is asked for behind it.

Kojima et al. 2022, Large Language Models are Zero-Shot Reasoners, arXiv:2205.11916, figure 2: the first prompt ends
with `Let's think step by step.`, the second is the first with what was written and `Therefore, the answer is`. The
second is answered as any question is (scored or written), where the authors write it always and read the answer off it.

Examples before the question show answers alone: rows have no reasoning to show (Wei et al. 2022, arXiv:2201.11903,
wrote theirs by hand).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.prompting.styles.contract import Style

if TYPE_CHECKING:
    from weft.prompting.asking import Answer, Asked, Asker
    from weft.prompting.settings import Prompting

BEGIN = "Let's think step by step."
CONCLUDE = "\nTherefore, the answer is:"
_CUES = 24
"""Tokens that both take at most, with what parts them."""
PARTED = ("\n\n",)
"""Behind an empty line small models make up the next question."""


class Chain(Style):
    """Reasoning of at most `thought_tokens` tokens, then the answer."""

    def before(self, settings: "Prompting") -> int:
        return settings.thought_tokens + _CUES

    def answers(self, asker: "Asker", questions: Sequence["Asked"]) -> list["Answer"]:
        begun = [replace(own, begun=BEGIN) for own in questions]
        written = asker.written(begun, asker.settings.thought_tokens, PARTED)
        concluded = [
            replace(own, begun=f"{own.begun}{one.text.rstrip()}{CONCLUDE}")
            for own, one in zip(begun, written, strict=True)
        ]
        return [
            answer.after(one) for answer, one in zip(asker.decided(concluded), written, strict=True)
        ]
