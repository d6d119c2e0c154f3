"""ALLoRA as a scale of the update: rows of B learn the slower, the larger their part of the change is already.

    c_i = 1 / sqrt(|(B A)_i| + 1 / eta^2),    step of row i of B times c_i / eta

Huang and Balestriero 2024, ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws, arXiv:2410.09692, section 4,
without dropout and alpha. The paper scales the backward pass by c. Adam divides gradients by their own size, so that a
scale that hardly changes from step to step is lost on it; here c scales what Adam makes of them. It is c / eta, which
is 1 while B is 0: the rate keeps its meaning, and eta says from which size of a row on it falls. Row norms come from
`|(B A)_i|^2 = B_i (A A^T) B_i^T`, with the adapter's scale, computed anew each step and without a gradient.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.lowrank.product import row_squares
from weft.methods.optimizers.contract import Pair, PairOptimizer, State, decay

BETAS, EPS = (0.9, 0.999), 1e-8


class ALLoRASettings(Settings):
    """Settings of ALLoRA."""

    eta: float = Field(default=1.0, gt=0)
    """Rows of the change with a norm over 1 / eta^2 learn more slowly."""
    scale: Literal["update", "backward"] = "update"
    """What c scales: what Adam makes of gradients, or, as in the paper, the backward pass (`controllers/allora.py`)."""


class ALLoRA(PairOptimizer):
    """Adam whose steps of B are scaled by row."""

    settings_type: ClassVar[type[Settings]] = ALLoRASettings
    settings: ALLoRASettings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        if self.settings.scale == "backward":
            return super().param_groups(adapters, lr)
        held = list(self.pairs(adapters))

        def update(group: Mapping[str, Any], state: State) -> None:
            for pair in held:
                scales = self.coefficients(pair) / self.settings.eta
                for value, scale in ((pair.A, None), (pair.B, scales[:, None])):
                    if value.grad is not None:
                        _step(value, scale, group, state)

        return [{**super().param_groups(adapters, lr)[0], "update": update}]

    def coefficients(self, pair: Pair) -> Tensor:
        """`c` of each output row, (out,)."""
        A, B = pair.wide()
        return (pair.scaling * row_squares(A, B).sqrt() + self.settings.eta**-2).rsqrt()


def _step(
    value: nn.Parameter, scale: Tensor | None, group: Mapping[str, Any], state: State
) -> None:
    own, gradient = state[value], value.grad
    assert gradient is not None
    if not own:
        own |= {"step": torch.zeros(())}
        own |= {name: torch.zeros_like(value) for name in ("exp_avg", "exp_avg_sq")}
    own["step"] += 1
    count, (one, two) = own["step"].item(), BETAS
    own["exp_avg"].lerp_(gradient, 1 - one)
    own["exp_avg_sq"].mul_(two).addcmul_(gradient, gradient, value=1 - two)
    root = (own["exp_avg_sq"] / (1 - two**count)).sqrt()
    step = own["exp_avg"] / (1 - one**count) / (root + EPS)
    decay(value, group)
    value.add_(step if scale is None else step * scale.to(step.dtype), alpha=-group["lr"])
