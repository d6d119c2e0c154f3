"""Scaled descent: each factor's gradient divided by the Gram matrix of the other (Riemannian preconditioning).

    g^_A = (B^T B + d I)^-1 g_A,    g^_B = g_B (A A^T + d I)^-1

Zhang and Pilanci 2024, Riemannian Preconditioned LoRA for Fine-Tuning Foundation Models, arXiv:2402.02347, equation 3:
the step of the product no longer depends on how a scale is shared out between A and B. AdamW takes the result
(the paper's scaled AdamW); `adaptive: false` takes a plain step along it (its scaled gradient descent). The damping is
PEFT 0.21.2's (peft/optimizers/riemannian.py), 1e-2: while B is near 0 it bounds what is divided by its Gram matrix.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from weft.config import Settings
from weft.methods.optimizers.contract import PairOptimizer, State, damped_inverse, decay


class RiemannianSettings(Settings):
    """Settings of scaled descent."""

    damping: float = Field(default=1e-2, ge=0)
    """Added to the diagonals of both Gram matrices before they are inverted."""
    adaptive: bool = True
    """Let AdamW take the scaled gradients; false takes a step along them as they are."""


class Riemannian(PairOptimizer):
    """Divides both gradients of a pair by the other factor's Gram matrix."""

    settings_type: ClassVar[type[Settings]] = RiemannianSettings
    settings: RiemannianSettings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        groups = super().param_groups(adapters, lr)
        return groups if self.settings.adaptive else [{**groups[0], "update": _descend}]

    def transform(self, pairs: Mapping[str, nn.Module], step: int) -> None:
        damping = self.settings.damping
        for pair in self.pairs(pairs):
            if not pair.learns:
                continue
            (A, B), (g_A, g_B) = pair.wide(), pair.gradients()
            assert pair.A.grad is not None
            assert pair.B.grad is not None
            pair.A.grad.copy_(damped_inverse(B.T @ B, damping) @ g_A)
            pair.B.grad.copy_(g_B @ damped_inverse(A @ A.T, damping))


def _descend(group: Mapping[str, Any], state: State) -> None:
    for value in group["params"]:
        if value.grad is not None:
            decay(value, group)
            value.add_(value.grad, alpha=-group["lr"])
