"""Sequence classification: labels, loss and outputs of its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.model.heads.contract import ByRow, cross_entropy, weighted, wide


class SequenceClassification(ByRow):
    """One answer for a row: a class (int labels), several (0/1 floats) or a number (float)."""

    auto = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"
    pipeline = "text-classification"
    has_classes = True

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        return torch.tensor([record["labels"] for record in records])

    def weights(self, labels: Tensor, rows: Tensor | None, classes: Tensor | None) -> Tensor:
        """As always; with several classes a row, a class's weight is that of its presence (torch's `pos_weight`)."""
        if not labels.is_floating_point():
            return super().weights(labels, rows, classes)
        found = torch.ones(labels.shape, dtype=torch.float64)
        if rows is not None:
            found *= rows.view(-1, *[1] * (labels.dim() - 1))
        return found if classes is None else torch.where(labels > 0, found * classes, found)

    def count(
        self, labels: Tensor, rows: Tensor | None = None, classes: Tensor | None = None
    ) -> float:
        """As always; with several classes a row, classes' weights do not count, as in torch's mean (`pos_weight`)."""
        if not labels.is_floating_point():
            return super().count(labels, rows, classes)
        return labels.numel() if rows is None else self.weights(labels, rows, None).sum().item()

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        if not labels.is_floating_point():
            return cross_entropy(logits, labels, smoothing, weights)
        logits = wide(logits)
        how = "sum" if weights is None else "none"
        if labels.dim() == 2:
            found = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction=how)
        else:
            found = F.mse_loss(logits.squeeze(-1), labels.to(logits), reduction=how)
        return weighted(found, weights)
