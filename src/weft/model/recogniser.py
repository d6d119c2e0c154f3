"""Which task is this? A linear classifier on what the base's first layer makes of a sequence.

    p(task) = softmax(W h + b),    h = [mean over tokens; a token that has seen all others]

It sees one sequence with its token types at zero: no field's name, no number of choices. The sequences of a row vote by
the sum of their log probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STATES = 2
"""Hidden states that a sequence is read from, side by side: their mean, and one token's."""


@dataclass(frozen=True)
class Recognised:
    """The likeliest task of a row."""

    task: str
    confidence: float
    """Its probability, 0 to 1."""
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Recogniser:
    """The fitted classifier.

    Attributes:
        tasks: Their names, in the order of the weights.
        weight: (tasks, features).
        bias: (tasks,).
    """

    tasks: tuple[str, ...]
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor, rows: Sequence[int]) -> list[Recognised]:
        """The task of each row.

        Args:
            features: (sequences, features), of `weft.answering.recognition.features`.
            rows: For every sequence the number of its row, from 0 without gaps.
        """
        logits = features.to(self.weight) @ self.weight.T + self.bias
        votes = torch.zeros(max(rows) + 1, len(self.tasks), dtype=logits.dtype)
        votes.index_add_(0, torch.tensor(rows), logits.log_softmax(-1).cpu())
        found = []
        for row in votes.softmax(-1).tolist():
            at = max(range(len(row)), key=row.__getitem__)
            found.append(
                Recognised(self.tasks[at], row[at], dict(zip(self.tasks, row, strict=True)))
            )
        return found

    def to(self, device: torch.device) -> "Recogniser":
        """The same, elsewhere."""
        return Recogniser(self.tasks, self.weight.to(device), self.bias.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """What to save."""
        return {"recognise.weight": self.weight, "recognise.bias": self.bias}

    @property
    def parameters(self) -> int:
        return self.weight.numel() + self.bias.numel()

    @classmethod
    def of(cls, tasks: Sequence[str], tensors: Mapping[str, Tensor]) -> "Recogniser":
        """What `tensors()` saved.

        Raises:
            ValueError: If it is not there.
        """
        if not {"recognise.weight", "recognise.bias"} <= set(tensors):
            raise ValueError(
                "this mixture recognises no tasks: it lacks recognise.weight and recognise.bias"
            )
        return cls(tuple(tasks), tensors["recognise.weight"], tensors["recognise.bias"])
