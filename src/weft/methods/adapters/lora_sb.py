"""LoRA-SB: LoRA-XS that starts at the best low-rank copy of full fine-tuning's first step.

    dW = B R A,    -rate sign(G) = U S V^T,    B = U[:, :rank],    A = V^T[:rank],    R = diag(S[:rank])

Ponkshe et al. 2024, arXiv:2411.19557, section 3. G is the loss's gradient by W0, summed over a few training rows;
-rate sign(G) is AdamW's first step at the rate of the run's first step. Only R is trained: rank^2 numbers. As the
columns of B and the rows of A are orthonormal, R's plain gradient is already the change nearest to full fine-tuning's,
so there is no alpha to tune. The start is not a no-op: the model has made its first step.

The rows (50) and the rate are the authors' code (github.com/RaghavSinghal10/lora-sb, utils/gradient_utils.py and
train_arithmetic.py), which divides the peak rate by the warm-up's steps, as the run's own schedule does here; without
warm-up the first step is at the peak. It decomposes by a randomised routine and rounds to bf16, which leaves B and A
orthonormal to 1e-2 only; here the decomposition is exact and stays in single precision. Entries of G that are exactly
zero stay zero. Another implementation in circulation decomposes G itself, without sign and rate; this is the authors'.

An adapter that has not been calibrated (it is being counted, or its trained state is about to be loaded) has the first
rows and columns of the identity as A and B, which are orthonormal too, and R = 0: a no-op.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.lowrank.start import leading, wide
from weft.methods.adapters import contract


class Spec(contract.Spec):
    """Settings of LoRA-SB."""

    calibration_rows: int = Field(default=50, ge=1)
    """Training rows whose gradients are summed to find the first step."""


class LoRASB(contract.Factored):
    """The change of the weight moves within the leading directions of its first full step."""

    spec_type: ClassVar[type[contract.Spec]] = Spec
    spec: Spec
    A: Tensor
    B: Tensor

    def start(self, weight: Tensor, generator: torch.Generator) -> None:
        (out_features, in_features), rank = weight.shape, self.rank
        self.register_buffer("A", torch.eye(rank, in_features, device=weight.device))
        self.register_buffer("B", torch.eye(out_features, rank, device=weight.device))
        self.R = nn.Parameter(torch.zeros(rank, rank, device=weight.device))

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.A, self.B @ self.R

    @torch.no_grad()
    def calibrate(self, gradient: Tensor, rate: float) -> None:
        """Start at the best copy of the step `-rate * sign(gradient)` that this rank allows."""
        # The rate is multiplied in afterwards, so that neither a tiny one nor zero spoils the directions.
        U, S, Vh = leading(-wide(gradient).sign(), self.rank)
        self.A.copy_(Vh)
        self.B.copy_(U)
        self.R.copy_(torch.diag(rate * S))

    @classmethod
    def prepare(
        cls,
        adapters: Mapping[str, contract.Adapter],
        weights: Mapping[str, Tensor],
        gradients: Callable[[int], Mapping[str, Tensor]],
        rate: float,
    ) -> None:
        """Calibrate every adapter of an expert that has taken no step; one that has keeps its weights.

        Raises:
            ValueError: If the gradient of a target is zero throughout or not finite.
        """
        own = {name: value for name, value in adapters.items() if isinstance(value, cls)}
        # Weights taken over from a trained expert are a start of their own, in directions of their own.
        if not own or any(bool(adapter.R.any()) for adapter in own.values()):
            return
        rows = next(iter(own.values())).spec.calibration_rows
        found = gradients(rows)
        for name in own:
            if not found[name].isfinite().all():
                raise ValueError(
                    f"LoRA-SB: the gradient of {name} over {rows} training rows is not finite; "
                    "expected numbers: train in fp32 or bf16, or look for rows that break the loss"
                )
            if not found[name].any():
                raise ValueError(
                    f"LoRA-SB: the gradient of {name} over {rows} training rows is zero throughout, so there "
                    "is no first step to start from; raise calibration_rows or leave it out of targets"
                )
        for name, adapter in own.items():
            adapter.calibrate(found[name], rate)
