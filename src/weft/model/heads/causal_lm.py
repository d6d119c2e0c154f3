"""Causal language modelling: labels, loss and outputs of its head."""

import torch
import transformers
from torch import Tensor

from weft.model.heads.contract import ByToken, cross_entropy, has_class, token_nll


class CausalLM(ByToken):
    """The next token: the logits at position t speak for the label at t + 1."""

    auto = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    pipeline = "text-generation"
    language_model = True

    def fits(self, config: transformers.PreTrainedConfig) -> bool:
        """Bases with a masked-LM class look both ways, so they cannot predict the next token."""
        return super().fits(config) and not has_class(transformers.AutoModelForMaskedLM, config)

    def count(
        self, labels: Tensor, rows: Tensor | None = None, classes: Tensor | None = None
    ) -> float:
        return super().count(labels[:, 1:], rows, classes)

    def loss(
        self, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
    ) -> Tensor:
        own = None if weights is None else weights[:, 1:]
        return cross_entropy(logits[:, :-1], labels[:, 1:], smoothing, own)

    def places(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().places(logits[:, :-1], labels[:, 1:])

    def by_token(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(
                "a causal language model is scored on its own text; use generation to continue it"
            )
        nll = torch.full(labels.shape, torch.nan, device=logits.device)
        nll[:, 1:] = token_nll(logits[:, :-1], labels[:, 1:])
        return nll.unsqueeze(-1)
