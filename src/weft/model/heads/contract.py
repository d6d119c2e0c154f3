"""The contract of a head's kind: labels as tensors, a loss, outputs as `Task.decode` takes them.

The head itself is transformers' task class (`model/head.py`); a kind says which, and what is done with its logits.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from weft.config import TrainingSettings

IGNORE = -100
"""The label of positions that no loss and no score looks at."""


class Kind(ABC):
    """What a kind of task asks of its head. Shapes: (rows, ...) or (sequences, seq, ...)."""

    auto: str
    """transformers' auto class whose members are the heads of this kind."""
    task_type: str | None = None
    """PEFT's task type; None where PEFT has none."""
    pipeline: str
    """The hub's task."""
    along: tuple[str, ...]
    """What there is an answer for, as axes before the last."""
    outcome = "outcome"
    """What the last axis of the logits counts, where it is neither classes nor a vocabulary nor choices."""
    trains_pooler = False
    language_model = False
    has_classes = False
    """Whether the task decides how many logits there are."""
    compares = False
    """Whether the sequences of a row are set against each other, and so never answered apart."""
    joint = False
    """Whether a row's loss depends on the rows beside it: those of one step are then never parted."""
    is_trunk = False
    """Whether the task class is the trunk itself, so that nothing stands before the trunk's names in a checkpoint."""
    outcomes: tuple[str, ...] = ()
    """What the logits of a place speak of, where neither the task's classes nor a vocabulary say it."""

    def fits(self, config: transformers.PreTrainedConfig) -> bool:
        """Whether transformers has a task class of this kind for the base."""
        return has_class(getattr(transformers, self.auto), config)

    def task_class(self, config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
        """The task class of this kind, with a trunk of that config inside."""
        # In single precision whatever the base is in, so that start values drawn for it are the same.
        return getattr(transformers, self.auto).from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )

    def check_training(self, training: TrainingSettings) -> None:
        """Refuse what this kind cannot be trained with, before any work.

        Raises:
            ValueError: If it cannot; says what to do.
        """
        return

    def logits(self, output: Any) -> Tensor:
        return output.logits

    @abstractmethod
    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        """The records' labels as one tensor, padded to `width` tokens where they are by token."""

    def weights(self, labels: Tensor, rows: Tensor | None, classes: Tensor | None) -> Tensor:
        """What each labelled item's loss is multiplied by: its row's weight times its class's, in the labels' shape.

        Args:
            labels: As `labels` makes them.
            rows: The weight of each row, or of each sequence where labels are by sequence; None is 1 everywhere.
            classes: The weight of each class; None is 1 everywhere.
        """
        found = torch.ones(labels.shape, dtype=torch.float64)
        if rows is not None:
            found *= rows.view(-1, *[1] * (labels.dim() - 1))
        if classes is not None:
            found *= classes[labels.clamp(min=0)]
        return found.masked_fill(labels == IGNORE, 0.0)

    def count(
        self, labels: Tensor, rows: Tensor | None = None, classes: Tensor | None = None
    ) -> float:
        """What an expert's loss is divided by over an optimizer step: labelled items, or the sum of their weights.

        So a weight of 2 is the item twice, as in torch's and transformers' weighted means.
        """
        if rows is None and classes is None:
            return int((labels != IGNORE).sum())
        return self.weights(labels, rows, classes).sum().item()

    @abstractmethod
    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        """The sum of the loss over labelled items, each, smoothed or not, times its weight."""

    @abstractmethod
    def places(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The logits of what has a label, one by one: (places, outcomes)."""

    @abstractmethod
    def expected(self, sequences: int, seq: int) -> tuple[int, ...]:
        """The shape of the logits of so many sequences without padding, but for its last axis."""

    @abstractmethod
    def outputs(
        self, logits: Tensor, labels: Tensor | None, lengths: Sequence[Sequence[int]]
    ) -> list[Any]:
        """What `Task.decode` gets, by row, float32 without padding; `lengths` are tokens by row and sequence."""


class ByRow(Kind):
    """One answer for a row."""

    along = ("row",)

    def places(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits

    def expected(self, sequences: int, seq: int) -> tuple[int, ...]:
        return (1,) if self.compares else (sequences,)

    def outputs(
        self, logits: Tensor, labels: Tensor | None, lengths: Sequence[Sequence[int]]
    ) -> list[Any]:
        return list(logits.float().cpu().numpy())


class BySequence(Kind):
    """One answer for every sequence of a row, in which the others have no part."""

    along = ("sequence",)

    def places(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits

    def expected(self, sequences: int, seq: int) -> tuple[int, ...]:
        return (sequences,)

    def outputs(
        self, logits: Tensor, labels: Tensor | None, lengths: Sequence[Sequence[int]]
    ) -> list[Any]:
        answers = iter(logits.float().cpu().numpy())
        return [[next(answers) for _ in row] for row in lengths]


class ByToken(Kind):
    """One answer for every token."""

    along = ("sequence", "token")

    def places(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits[labels != IGNORE]

    def expected(self, sequences: int, seq: int) -> tuple[int, ...]:
        return (sequences, seq)

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        rows = [torch.tensor(labels) for record in records for labels in record["labels"]]
        padded = torch.full((len(rows), width), IGNORE)
        for row, labels in zip(padded, rows, strict=True):
            row[: len(labels)] = labels
        return padded

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        return cross_entropy(logits, labels, smoothing, weights)

    def by_token(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        return logits

    def outputs(
        self, logits: Tensor, labels: Tensor | None, lengths: Sequence[Sequence[int]]
    ) -> list[Any]:
        values = self.by_token(logits, labels).float().cpu().numpy()
        rows, at = [], 0
        for row in lengths:
            rows.append([values[at + i, :length] for i, length in enumerate(row)])
            at += len(row)
        return rows


def has_class(auto: Any, config: transformers.PreTrainedConfig) -> bool:
    """Whether transformers' auto class `auto` has a member for this config."""
    return type(config) in auto._model_mapping


def cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """The sum over labelled items of (..., classes) logits, in single precision at least.

    Args:
        logits: (..., classes).
        labels: Class numbers, (...).
        smoothing: Mass taken from the true class and spread over all.
        weights: What each item's loss is multiplied by, (...).
    """
    found = F.cross_entropy(
        wide(logits).flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORE,
        label_smoothing=smoothing,
        reduction="sum" if weights is None else "none",
    )
    return found if weights is None else weighted(found, weights.flatten())


def weighted(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The sum of the items' losses, each times its weight."""
    return losses.sum() if weights is None else (losses * weights.to(losses)).sum()


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label, in its shape; NaN where there is none to predict."""
    flat = F.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    nll = flat.view(labels.shape)
    return torch.where(labels == IGNORE, torch.nan, nll)


def wide(logits: Tensor) -> Tensor:
    """At least single precision: sums of losses and their targets do not fit half."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
