"""What a prompt template says of rows of one kind of task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from weft.tasks.contract import Example, Prediction, Task


class Template(ABC):
    """Rows of one kind in words. A template is a subclass of `Choosing` or of `Writing`.

    Args:
        task: Whose rows are asked about.

    Raises:
        ValueError: If its options make them rows that cannot be asked about.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def instruction(self) -> str:
        """What is to be done, said once before all rows; "" where the rows say it themselves."""
        return ""

    @abstractmethod
    def question(self, example: Example) -> str:
        """A row up to where its answer follows, without white space at its end."""

    @abstractmethod
    def answer(self, example: Example) -> str:
        """The right answer of a row as the model is to say it, without white space at its ends.

        Raises:
            ValueError: If the row has none.
        """

    @abstractmethod
    def about(self, example: Example) -> str:
        """The text by which a row is like others."""

    def passage(self, example: Example) -> str:
        """What a row of the training split has to tell somebody who is asked about another."""
        return f"{self.question(example)} {self.answer(example)}"


class Choosing(Template):
    """An answer is one of several texts: the likeliest, each scored behind the question."""

    @abstractmethod
    def options(self, example: Example) -> Sequence[str]:
        """What an answer may be, each different from the others."""

    @abstractmethod
    def decided(self, example: Example, scores: np.ndarray) -> Prediction:
        """The prediction that scores of the options, in nats, make."""


class Writing(Template):
    """An answer is a text that the model writes."""

    max_new_tokens: ClassVar[int]
    """Longest answer in tokens, where the user says no other."""
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    """Texts at which an answer ends."""

    @abstractmethod
    def read(self, example: Example, text: str) -> Prediction:
        """The prediction that a written text makes."""
