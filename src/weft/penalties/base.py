"""The contract of a penalty: a term added to an expert's loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Penalty:
    """No extra term. A method overrides `loss`.

    Args:
        settings: The method's own settings from its recipe.
    """

    def __init__(self, **settings: Any) -> None:
        if settings:
            raise ValueError(f"this penalty has no settings, got {', '.join(sorted(settings))}")

    def loss(
        self, outputs: Tensor | None, batch: Any, adapters: Mapping[str, nn.Module]
    ) -> Tensor | float:
        """The term for one optimizer step, added once whatever the number of accumulation steps and processes.

        Args:
            outputs: The head's logits for the step's first piece of rows.
            batch: That piece.
            adapters: The expert's adapters by module name.
        """
        return 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """What the penalty remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
