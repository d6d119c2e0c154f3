"""Balance by uncertainty: each task's loss as a share of what it has lately been.

    loss = sum_t exp(-s_t) L_t + s_t,    at its least in s_t where exp(s_t) = L_t
    c_t = 1 / m_t,    m_t <- 0.9 m_t + 0.1 L_t(step),    m_t = L_t(0) before the first step

Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equation 10: s_t is the logarithm of a task's variance and is learned
with the weights. Differences: theirs takes a gradient step in s_t, whose rate is one more setting; here s_t is where
that ends for the loss of late (a running mean, so that one batch does not decide). Theirs has exp(-s_t) L_t + s_t / 2
for losses of classes, which halves every c_t alike. The gradient is that of sum_t log L_t: a task that is nearly
learned goes on being heard as loud as one that is not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from weft.methods.balances import contract

KEPT = 0.9
"""Of the running mean, from step to step."""
LEAST = 1e-6
"""What a running mean is taken for at least: a loss may become 0."""


class ByUncertainty(contract.Balance):
    """Losses that are all about 1 at any time."""

    measures = "start"

    def __init__(self, measured: Mapping[str, float] | None = None) -> None:
        super().__init__(measured)
        self.means = {
            task: torch.tensor(value, dtype=torch.float64) for task, value in self.measured.items()
        }

    def weight(self, task: str) -> float:
        return 1 / max(self.means[task].item(), LEAST)

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        for task, loss in losses.items():
            self.means[task] = KEPT * self.means[task] + (1 - KEPT) * loss.detach().double().cpu()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.means)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.means |= {task: value.clone() for task, value in state.items()}
