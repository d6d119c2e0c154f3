"""AltLoRA: one factor after the other takes the step that comes nearest to the whole weight's, momentum carried along.

    g^_A = s^-2 (B^T B + d I)^-1 g_A,          M_A <- b1 T_A M_A + (1 - b1) g^_A,    T_A = (B^T B + d I)^-1 B^T B_before
    then, with the new A:
    g^_B = s^-2 g_B (A A^T + d I)^-1,          M_B <- b1 M_B T_B + (1 - b1) g^_B,    T_B = A_before A^T (A A^T + d I)^-1
    step: rate M / (1 - b1^t);    AltLoRA+: divided by sqrt(v / (1 - b2^t)) + eps,    v <- b2 v + (1 - b2) g^^2

Yu et al. 2025, AltLoRA: Towards Better Gradient Approximation in Low-Rank Adaptation with Alternating Projections,
arXiv:2505.12455, algorithms 1 and 2. T carries momentum from the subspace it was gathered in to today's by least
squares, at LoRA's memory (and a copy of both factors). As in the authors' code (github.com/LucasXinYu/AltLoRA,
optimizer_new.py), one backward pass serves both; the paper takes a fresh gradient for B.

What that code does and we do not: it leaves out s^-2 and the schedule of rates; AltLoRA+ carries momentum twice in a
step and does not correct the second moment for its start at 0.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.optimizers.contract import Pair, PairOptimizer, State, damped_inverse, decay


class AltLoRASettings(Settings):
    """Settings of AltLoRA."""

    damping: float = Field(default=1e-5, ge=0)
    """Added to the diagonals of both Gram matrices before they are inverted."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """How much of the momentum stays in a step."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """How much of the second moment stays in a step."""
    second_moment: bool = False
    """AltLoRA+: divide by the root of the second moment."""
    eps: float = Field(default=1e-4, gt=0)
    """Added to that root."""


class AltLoRA(PairOptimizer):
    """Steps A, then B."""

    settings_type: ClassVar[type[Settings]] = AltLoRASettings
    settings: AltLoRASettings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        held = list(self.pairs(adapters))

        def update(group: Mapping[str, Any], state: State) -> None:
            for pair in held:
                if pair.learns:
                    self._step(pair, group, state)

        return [{**super().param_groups(adapters, lr)[0], "update": update}]

    def _step(self, pair: Pair, group: Mapping[str, Any], state: State) -> None:
        damping, scale = self.settings.damping, pair.scaling**-2
        g_A, g_B = pair.gradients()
        A, B = pair.wide()
        inverse, own = damped_inverse(B.T @ B, damping), self._state(pair.A, g_A, B, state)
        carried = inverse @ (B.T @ own["other"]) @ own["exp_avg"]
        self._move(pair.A, scale * inverse @ g_A, carried, own, group)
        own["other"].copy_(B)
        A, _ = pair.wide()
        inverse, own = damped_inverse(A @ A.T, damping), self._state(pair.B, g_B, A, state)
        carried = own["exp_avg"] @ (own["other"] @ A.T) @ inverse
        self._move(pair.B, scale * g_B @ inverse, carried, own, group)
        own["other"].copy_(A)

    def _state(
        self, value: nn.Parameter, gradient: Tensor, other: Tensor, state: State
    ) -> dict[str, Tensor]:
        """What is remembered of one factor; `other` is the other one as it was at the last step."""
        own = state[value]
        if not own:
            names = ("exp_avg", "exp_avg_sq") if self.settings.second_moment else ("exp_avg",)
            own |= {name: torch.zeros_like(gradient) for name in names}
            own |= {"step": torch.zeros(()), "other": other.clone()}
        return own

    def _move(
        self,
        value: nn.Parameter,
        gradient: Tensor,
        carried: Tensor,
        own: dict[str, Tensor],
        group: Mapping[str, Any],
    ) -> None:
        one, two = self.settings.beta1, self.settings.beta2
        own["step"] += 1
        count = own["step"].item()
        own["exp_avg"].copy_(one * carried + (1 - one) * gradient)
        step = own["exp_avg"] / (1 - one**count)
        if self.settings.second_moment:
            own["exp_avg_sq"].mul_(two).addcmul_(gradient, gradient, value=1 - two)
            step = step / ((own["exp_avg_sq"] / (1 - two**count)).sqrt() + self.settings.eps)
        decay(value, group)
        value.add_(step.to(value.dtype), alpha=-group["lr"])
