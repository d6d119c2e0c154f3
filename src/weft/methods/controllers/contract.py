"""The contract of a controller: what a method changes around each optimizer step."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from weft.config import Settings


class Controller:
    """Changes nothing. A method overrides `before_step`, `after_step` or both.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    def before_step(
        self,
        adapters: Mapping[str, nn.Module],
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> None:
        """Change how the expert's adapters see the rows of step `step` (from 0) of `total`.

        Args:
            adapters: By module name.
            step: The step to come.
            total: Steps of the whole training.
            generator: Source of what is drawn; CPU. It begins anew each step from the run's seed and the step, so that
                all processes draw the same, and so does a run that is resumed.
        """

    def after_step(
        self,
        adapters: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        step: int,
        total: int,
    ) -> None:
        """Look at or change the expert's adapters after step `step` (from 0) of `total`; no gradients here."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the controller remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
