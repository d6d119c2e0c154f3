"""Balance by the start: each task's loss as a share of what it was before the first step.

    c_t = 1 / L_t(0)

So every task's loss starts at 1, and what is summed is how much of each is left. GradNorm calls L_t(s) / L_t(0) the
loss ratio and takes it for a task's progress (Chen et al. 2018, arXiv:1711.02257, section 3.1); here it is the loss
itself, and the factors stay. L_t(0) is measured over the first training rows of a task (`training/preparation`),
with gates and dropout as in training.
"""

from weft.methods.balances import contract


class ByStart(contract.Balance):
    """Losses that all start at 1."""

    measures = "start"

    def weight(self, task: str) -> float:
        return 1 / self.measured[task]
