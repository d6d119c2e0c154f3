"""Sequence classification: labels, loss and outputs of its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.model.heads.contract import ByRow, cross_entropy, wide


class SequenceClassification(ByRow):
    """One answer for a row: a class (int labels), several (0/1 floats) or a number (float)."""

    auto = "AutoModelForSequenceClassification"
    has_classes = True

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        return torch.tensor([record["labels"] for record in records])

    def count(self, labels: Tensor) -> int:
        return labels.numel()

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        if not labels.is_floating_point():
            return cross_entropy(logits, labels, smoothing)
        logits = wide(logits)
        if labels.dim() == 2:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
        return F.mse_loss(logits.squeeze(-1), labels.to(logits), reduction="sum")
