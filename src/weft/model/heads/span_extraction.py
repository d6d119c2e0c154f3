"""Span extraction: labels, loss and outputs of its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weft.model.heads.contract import ByToken, cross_entropy, weighted, wide


class SpanExtraction(ByToken):
    """Start and end of an answer in each window: logits (sequences, seq, 2)."""

    auto = "AutoModelForQuestionAnswering"
    task_type = "QUESTION_ANS"
    pipeline = "question-answering"
    outcomes = ("start", "end")

    def logits(self, output: Any) -> Tensor:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        """Start, end and number of tokens of every window, (sequences, 3)."""
        rows = [
            [*pair, len(ids)]
            for record in records
            for pair, ids in zip(record["labels"], record["input_ids"], strict=True)
        ]
        return torch.tensor(rows)

    def weights(self, labels: Tensor, rows: Tensor | None, classes: Tensor | None) -> Tensor:
        """The weight of every window: its row's."""
        return torch.ones(len(labels), dtype=torch.float64) if rows is None else rows

    def count(
        self, labels: Tensor, rows: Tensor | None = None, classes: Tensor | None = None
    ) -> float:
        return len(labels) if rows is None else rows.sum().item()

    def places(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Every token, as a start and as an end."""
        return logits[torch.arange(logits.shape[1], device=logits.device) < labels[:, 2:]]

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        """Half the sum over starts and ends; padding does not compete, so its amount changes nothing."""
        places, lengths = labels[:, :2], labels[:, 2]
        padding = torch.arange(logits.shape[1], device=logits.device) >= lengths[:, None]
        logits = wide(logits).transpose(1, 2).masked_fill(padding[:, None], -torch.inf)
        own = None if weights is None else weights[:, None].expand(-1, 2)
        total = cross_entropy(logits, places, 0.0, own)
        if smoothing:
            # By hand: torch would spread over the padding too, at an infinite loss.
            each = logits.log_softmax(-1).masked_fill(padding[:, None], 0.0)
            spread = weighted(each.sum(-1) / lengths[:, None], own)
            total = (1 - smoothing) * total - smoothing * spread
        return total / 2
