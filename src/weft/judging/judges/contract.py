"""The contract of a judge: prompts in, one answer of a scale for each out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from weft.config import Settings


class Judge(ABC):
    """Who is asked; made from its settings, a frozen model that refuses unknown keys."""

    spec_type: ClassVar[type[Settings]]

    @abstractmethod
    def __init__(self, spec: Any) -> None: ...

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What must be the same for the same answers: who it is, and its settings; no key. JSON values."""

    @abstractmethod
    def answers(self, prompts: Sequence[str], options: Sequence[str]) -> Iterator[str]:
        """An answer to each prompt, in order, as they come; each is one of `options`.

        Args:
            prompts: What is asked.
            options: The scale.

        Raises:
            ValueError: If it answers outside the scale, or a prompt is none that it can read.
            OSError: If it does not answer.
        """
