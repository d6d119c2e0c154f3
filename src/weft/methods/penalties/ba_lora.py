"""BA-LoRA's three penalties of the output: near the base's, not all alike, and of few directions.

    loss = l1 consistency + l2 diversity + l3 spectral,    spectral = -(sum_{i <= k} sigma_i) / (sum_i sigma_i) of Z
    classes: consistency = mean (Z0 / |Z0| - Z / |Z|)^2,    diversity = (1 / C) sum_{i != j} Cov(Z)_ij^2
    words:   consistency = mean KL(softmax Z0 | softmax Z),  diversity = -mean H(softmax Z)

Chang, Chang and Wu 2024, BA-LoRA: Bias-Alleviating Low-Rank Adaptation to Mitigate Catastrophic Inheritance in Large
Language Models, arXiv:2408.04556; weights, k and means as in the authors' code (github.com/cyp-jlu-ai/BA-LoRA,
train.py). Z are the logits of a step, Z0 those of the base without any adapter, which is its own teacher: no second
copy, but a forward pass of the base without gradients on the first piece of each step. The form `words` is for language
models, whose outcomes are words; the others are classes of few.

Rows of Z are places with a label (rows, tokens, words), not whole sequences: one row a process has no covariance
and a matrix of one row no spectrum but -1, as the authors' published batch of 1 has it. So padding and prompts take no
part, and the KL is a mean over words, where theirs sums over them. The authors' spectral term fails (it takes the
second axis of a vector); here it is the equation, over at most `places` rows, evenly spaced, because a decomposition of
all words of a step would take longer than the step. With one row the covariance is 0. The head learns with the
adapters, so Z0 moves with the head; for language models, whose head is the base's, it is the base itself.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.config import Settings
from weft.methods.penalties.contract import Penalty, Said


class BALoRASettings(Settings):
    """Settings of BA-LoRA's penalties."""

    consistency: float = Field(default=1e-4, ge=0)
    """Weight of the distance from what the base says; 0 saves its forward pass."""
    diversity: float = Field(default=3e-4, ge=0)
    """Weight of the covariance of classes, or of the words' entropy, which is to be high."""
    spectral: float = Field(default=1e-4, ge=0)
    """Weight of the share of the largest singular values, which is to be high."""
    leading: int = Field(default=3, ge=1)
    """How many singular values count as the largest (k)."""
    places: int = Field(default=64, ge=2)
    """Rows of Z at most that the spectral term decomposes."""


class BALoRA(Penalty):
    """Reads what the expert says, nothing of its adapters."""

    settings_type: ClassVar[type[Settings]] = BALoRASettings
    reads_outputs: ClassVar[bool] = True
    settings: BALoRASettings

    def output_loss(self, said: Said) -> Tensor | float:
        if not len(said.logits):
            return 0.0
        own, total = self.settings, torch.zeros((), device=said.logits.device)
        Z = _wide(said.logits)
        if own.consistency:
            near = word_consistency if said.language_model else class_consistency
            total = total + own.consistency * near(Z, _wide(said.bare()))
        if own.diversity:
            apart = word_diversity if said.language_model else class_diversity
            total = total + own.diversity * apart(Z)
        if own.spectral:
            total = total + own.spectral * spectrum(_spaced(Z, own.places), own.leading)
        return total


def class_consistency(Z: Tensor, Z0: Tensor) -> Tensor:
    """Mean square between rows of length 1."""
    return F.mse_loss(F.normalize(Z, dim=-1), F.normalize(Z0, dim=-1))


def word_consistency(Z: Tensor, Z0: Tensor) -> Tensor:
    """Mean over rows of the divergence of what is said from what the base says."""
    return F.kl_div(Z.log_softmax(-1), Z0.log_softmax(-1), reduction="batchmean", log_target=True)


def class_diversity(Z: Tensor) -> Tensor:
    """The squared covariances of different classes, over the number of classes."""
    centred = Z - Z.mean(0)
    covariance = centred.T @ centred / max(1, len(Z) - 1)
    return (covariance - covariance.diag().diag()).square().sum() / Z.shape[1]


def word_diversity(Z: Tensor) -> Tensor:
    """Minus the mean entropy."""
    said = Z.log_softmax(-1)
    return (said.exp() * said).sum(-1).mean()


def spectrum(Z: Tensor, leading: int) -> Tensor:
    """Minus the share of the sum of singular values that the `leading` largest have."""
    values = torch.linalg.svdvals(Z)
    return -values[:leading].sum() / values.sum().clamp(min=torch.finfo(values.dtype).tiny)


def _spaced(rows: Tensor, most: int) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most, device=rows.device) * len(rows) // most]


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
