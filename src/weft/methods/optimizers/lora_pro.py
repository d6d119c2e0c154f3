"""LoRA-Pro: the steps of A and B whose common effect on the weight comes nearest to a step of the whole weight.

    minimise |s (B g^_A + g^_B A) - G|_F:
    g^_A = s^-2 (B^T B)^-1 g_A + X A
    g^_B = s^-2 (I - P_B) g_B (A A^T)^-1 - B X,    P_B = B (B^T B)^-1 B^T
    X:     B^T B X + X A A^T = -s^-2 (B^T B)^-1 g_A A^T     (of all minimisers the one nearest to g_A, g_B)

Wang et al. 2024, LoRA-Pro: Are Low-Rank Adapters Properly Optimized?, arXiv:2407.18242, theorems 2.1 and 2.3. Three
forms. `cheap`: the adjusted gradients go to AdamW, whose moments are those of LoRA. `sgd`: a plain step along them.
`adam`, the authors': the equivalent gradient `s (B g^_A + g^_B A)` with X = 0 has moments of its own, each as large as
the weight (for all linear maps the memory of full fine-tuning); what Adam makes of it is brought back to the factors by
the formulas and stepped plainly.

The authors' code (github.com/mrflogs/LoRA-Pro) writes s = 16/8, counts its steps one ahead and keeps second moments in
bfloat16; here s is the adapter's, Adam's bias correction is the usual one, and the algebra has single precision at
least. While B is 0 its inverse is that of the damping alone, times a gradient of A that is 0.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from weft.config import Settings
from weft.methods.optimizers.contract import Pair, PairOptimizer, State, damped_inverse, decay

BETAS, EPS = (0.9, 0.999), 1e-8


class LoRAProSettings(Settings):
    """Settings of LoRA-Pro."""

    form: Literal["cheap", "sgd", "adam"] = "cheap"
    """AdamW on adjusted gradients; a plain step along them; or Adam on the whole weight's equivalent gradient."""
    damping: float = Field(default=1e-8, gt=0)
    """Added to the diagonals of both Gram matrices before they are inverted."""


class LoRAPro(PairOptimizer):
    """Adjusts both gradients of a pair."""

    settings_type: ClassVar[type[Settings]] = LoRAProSettings
    settings: LoRAProSettings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        groups = super().param_groups(adapters, lr)
        if self.settings.form == "cheap":
            return groups
        held = list(self.pairs(adapters))

        def update(group: Mapping[str, Any], state: State) -> None:
            for pair in held:
                if pair.learns:
                    self._step(pair, group, state)

        return [{**groups[0], "update": update}]

    def transform(self, pairs: Mapping[str, nn.Module], step: int) -> None:
        if self.settings.form != "cheap":
            return
        for pair in self.pairs(pairs):
            if pair.learns:
                to_A, to_B = self.adjusted(pair, *pair.gradients())
                assert pair.A.grad is not None
                assert pair.B.grad is not None
                pair.A.grad.copy_(to_A)
                pair.B.grad.copy_(to_B)

    def adjusted(
        self, pair: Pair, g_A: Tensor, g_B: Tensor, *, balanced: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The adjusted gradients of A and B.

        Args:
            pair: The factors.
            g_A: Gradient of A, (rank, in).
            g_B: Gradient of B, (out, rank).
            balanced: Choose X by the Sylvester equation; false is X = 0, which has the same effect on the weight.
        """
        (A, B), damping = pair.wide(), self.settings.damping
        inner, outer = B.T @ B, A @ A.T
        by_B, by_A = damped_inverse(inner, damping), damped_inverse(outer, damping)
        to_A = by_B @ g_A / pair.scaling**2
        to_B = (g_B - B @ (by_B @ (B.T @ g_B))) @ by_A / pair.scaling**2
        if balanced:
            X = sylvester(inner, outer, -to_A @ A.T)
            to_A, to_B = to_A + X @ A, to_B - B @ X
        return to_A, to_B

    def _step(self, pair: Pair, group: Mapping[str, Any], state: State) -> None:
        g_A, g_B = pair.gradients()
        if self.settings.form == "adam":
            (A, B), s = pair.wide(), pair.scaling
            to_A, to_B = self.adjusted(pair, g_A, g_B, balanced=False)
            whole = _adam(s * (B @ to_A + to_B @ A), state[pair.B])
            g_A, g_B = s * (B.T @ whole), s * (whole @ A.T)
        for value, gradient in zip((pair.A, pair.B), self.adjusted(pair, g_A, g_B), strict=True):
            decay(value, group)
            value.add_(gradient.to(value.dtype), alpha=-group["lr"])


def sylvester(left: Tensor, right: Tensor, wanted: Tensor) -> Tensor:
    """X with `left X + X right = wanted`, for symmetric positive matrices of which one at least is definite."""
    (a, U), (b, V) = torch.linalg.eigh(left), torch.linalg.eigh(right)
    # The smallest eigenvalue of a singular matrix may come out a little below 0.
    sums = (a.clamp(min=0)[:, None] + b.clamp(min=0)[None]).clamp(min=torch.finfo(a.dtype).tiny)
    return U @ ((U.T @ wanted @ V) / sums) @ V.T


def _adam(gradient: Tensor, own: dict[str, Tensor]) -> Tensor:
    """What Adam makes of the whole weight's gradient; moments (out, in) and the count are kept in `own`."""
    if not own:
        own |= {"step": torch.zeros(())}
        own |= {name: torch.zeros_like(gradient) for name in ("exp_avg", "exp_avg_sq")}
    own["step"] += 1
    count, (one, two) = own["step"].item(), BETAS
    own["exp_avg"].lerp_(gradient, 1 - one)
    own["exp_avg_sq"].mul_(two).addcmul_(gradient, gradient, value=1 - two)
    root = (own["exp_avg_sq"] / (1 - two**count)).sqrt()
    return own["exp_avg"] / (1 - one**count) / (root + EPS)
