"""What each kind of task asks of its head: labels as tensors, a loss, outputs as `Task.decode` takes them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100
"""The label of positions that no loss and no score looks at."""
TOP_MASKS = 5
"""Candidates kept for each mask of a masked language model."""


class Kind(ABC):
    """What a kind of task asks of its head. Shapes: (rows, ...) or (sequences, seq, ...)."""

    auto: str
    """transformers' auto class whose members are the heads of this kind."""
    trains_pooler = False
    language_model = False
    has_classes = False
    """Whether the task decides how many logits there are."""
    compares = False
    """Whether the sequences of a row are set against each other, and so never answered apart."""

    def fits(self, config: transformers.PreTrainedConfig) -> bool:
        """Whether transformers has a task class of this kind for the base."""
        return type(config) in getattr(transformers, self.auto)._model_mapping

    def logits(self, output: Any) -> Tensor:
        return output.logits

    @abstractmethod
    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        """The records' labels as one tensor, padded to `width` tokens where they are by token."""

    def count(self, labels: Tensor) -> int:
        """Labelled items: what an expert's loss is divided by over an optimizer step."""
        return int((labels != IGNORE).sum())

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """The sum of the loss over labelled items."""

    @abstractmethod
    def outputs(
        self, logits: Tensor, labels: Tensor | None, lengths: Sequence[Sequence[int]]
    ) -> list[Any]:
        """What `Task.decode` gets, by row, float32 without padding; `lengths` are tokens by row and sequence."""


class _ByRow(Kind):
    def outputs(
        self, logits: Tensor, labels: Tensor | None, lengths: Sequence[Sequence[int]]
    ) -> list[Any]:
        return list(logits.float().cpu().numpy())


class _ByToken(Kind):
    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        rows = [torch.tensor(labels) for record in records for labels in record["labels"]]
        padded = torch.full((len(rows), width), IGNORE)
        for row, labels in zip(padded, rows, strict=True):
            row[: len(labels)] = labels
        return padded

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return _cross_entropy(logits, labels, smoothing)

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


class SequenceClassification(_ByRow):
    """One answer for a row: a class (int labels), several (0/1 floats) or a number (float)."""

    auto = "AutoModelForSequenceClassification"
    has_classes = True

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        return torch.tensor([record["labels"] for record in records])

    def count(self, labels: Tensor) -> int:
        return labels.numel()

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        if not labels.is_floating_point():
            return _cross_entropy(logits, labels, smoothing)
        logits = _wide(logits)
        if labels.dim() == 2:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
        return F.mse_loss(logits.squeeze(-1), labels.to(logits), reduction="sum")


class MultipleChoice(_ByRow):
    """One of the row's sequences: logits (rows, choices)."""

    auto = "AutoModelForMultipleChoice"
    trains_pooler = True
    compares = True

    def labels(self, records: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        return torch.tensor([record["labels"] for record in records])

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return _cross_entropy(logits, labels, smoothing)


class TokenClassification(_ByToken):
    """A class for every labelled token: logits (sequences, seq, labels)."""

    auto = "AutoModelForTokenClassification"
    has_classes = True


class SpanExtraction(_ByToken):
    """Start and end of an answer in each window: logits (sequences, seq, 2)."""

    auto = "AutoModelForQuestionAnswering"

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

    def count(self, labels: Tensor) -> int:
        return len(labels)

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Half the sum over starts and ends; padding does not compete, so its amount changes nothing."""
        places, lengths = labels[:, :2], labels[:, 2]
        padding = torch.arange(logits.shape[1], device=logits.device) >= lengths[:, None]
        logits = _wide(logits).transpose(1, 2).masked_fill(padding[:, None], -torch.inf)
        total = _cross_entropy(logits, places, 0.0)
        if smoothing:
            # By hand: torch would spread over the padding too, at an infinite loss.
            each = logits.log_softmax(-1).masked_fill(padding[:, None], 0.0)
            total = (1 - smoothing) * total - smoothing * (each.sum(-1) / lengths[:, None]).sum()
        return total / 2


class CausalLM(_ByToken):
    """The next token: the logits at position t speak for the label at t + 1."""

    auto = "AutoModelForCausalLM"
    language_model = True

    def fits(self, config: transformers.PreTrainedConfig) -> bool:
        """Bases with a masked-LM class look both ways, so they cannot predict the next token."""
        return super().fits(config) and not MaskedLM().fits(config)

    def count(self, labels: Tensor) -> int:
        return super().count(labels[:, 1:])

    def loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return _cross_entropy(logits[:, :-1], labels[:, 1:], smoothing)

    def by_token(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(
                "a causal language model is scored on its own text; use generation to continue it"
            )
        nll = torch.full(labels.shape, torch.nan, device=logits.device)
        nll[:, 1:] = _nll(logits[:, :-1], labels[:, 1:])
        return nll.unsqueeze(-1)


class MaskedLM(_ByToken):
    """The token behind each mask; outputs are (tokens, 1 + 2k): nll, the k best ids, their probabilities."""

    auto = "AutoModelForMaskedLM"
    language_model = True

    def by_token(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        best = logits.float().softmax(-1).topk(min(TOP_MASKS, logits.shape[-1]), dim=-1)
        nll = (
            torch.full(logits.shape[:2], torch.nan, device=logits.device)
            if labels is None
            else _nll(logits, labels)
        )
        return torch.cat([nll.unsqueeze(-1), best.indices.float(), best.values], dim=-1)


KINDS: dict[str, Kind] = {
    "sequence_classification": SequenceClassification(),
    "token_classification": TokenClassification(),
    "multiple_choice": MultipleChoice(),
    "span_extraction": SpanExtraction(),
    "causal_lm": CausalLM(),
    "masked_lm": MaskedLM(),
}
"""A head kind has the name of its task kind."""


def kind_for(name: str, config: transformers.PreTrainedConfig) -> Kind:
    """The kind called `name`, if this base can serve it.

    Raises:
        ValueError: If it cannot; names the kinds that fit.
    """
    if not KINDS[name].fits(config):
        fitting = [other for other, kind in KINDS.items() if kind.fits(config)]
        raise ValueError(
            f"a {config.model_type} base cannot serve {name}; kinds that fit: {', '.join(fitting)}"
        )
    return KINDS[name]


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(
        _wide(logits).flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORE,
        label_smoothing=smoothing,
        reduction="sum",
    )


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    flat = F.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    nll = flat.view(labels.shape)
    return torch.where(labels == IGNORE, torch.nan, nll)


def _wide(logits: Tensor) -> Tensor:
    """At least single precision: sums of losses and their targets do not fit half."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
