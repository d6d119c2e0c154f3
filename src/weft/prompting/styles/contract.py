"""What a way of asking does with rows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.prompting.asking import Answer, Asked, Asker
    from weft.prompting.settings import Prompting


class Style(ABC):
    """A way of asking: what is written and scored, in which order, before an answer is there."""

    def before(self, settings: "Prompting") -> int:
        """Tokens that may stand between a question and its answer: what the base's positions need room for."""
        return 0

    @abstractmethod
    def answers(self, asker: "Asker", questions: Sequence["Asked"]) -> list["Answer"]:
        """An answer to each question, in order."""
