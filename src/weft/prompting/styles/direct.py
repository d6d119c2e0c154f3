"""Direct: the answer follows on the question; with examples before it, few-shot.

Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.prompting.styles.contract import Style

if TYPE_CHECKING:
    from weft.prompting.asking import Answer, Asked, Asker


class Direct(Style):
    """Nothing stands between question and answer."""

    def answers(self, asker: "Asker", questions: Sequence["Asked"]) -> list["Answer"]:
        return asker.decided(questions)
