"""The contract of a balance: what each task's loss counts in the sum that one gate learns from.

    loss = sum over tasks t of c_t L_t,    L_t the task's mean loss over the labelled items of the step

Tasks that are trained apart never meet: each has its own optimizer, and a factor on its loss changes nothing. Gates are
trained on the sum, so there a task whose loss is ten times as large is heard ten times as loud. A balance says the
factors c_t; what a method adds to the loss (labels, load) keeps its own weight.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor


class Balance:
    """Every task counts as it is. A method overrides `weight`, and says what it wants to have measured.

    Args:
        measured: By task its mean loss over training rows, as `measures` says, all greater than 0; {} for None.
    """

    measures: ClassVar[Literal["start", "expert"] | None] = None
    """What is measured before the first step: the loss that training starts from, or that of each task's own expert."""

    def __init__(self, measured: Mapping[str, float] | None = None) -> None:
        self.measured = dict(measured or {})

    def weight(self, task: str) -> float:
        """c_t of the step to come."""
        return 1.0

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Look at a step that is over.

        Args:
            losses: By task its mean loss over all of the step's rows, pieces and processes together; unweighted.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What it remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
