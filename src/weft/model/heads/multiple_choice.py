"""Multiple choice: labels, loss and outputs of its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weft.model.heads.contract import ByRow, cross_entropy


class MultipleChoice(ByRow):
    """One of the row's sequences: logits (rows, choices)."""

    auto = "AutoModelForMultipleChoice"
    pipeline = "multiple-choice"
    trains_pooler = True
    compares = True

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        return torch.tensor([record["labels"] for record in records])

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        return cross_entropy(logits, labels, smoothing, weights)
