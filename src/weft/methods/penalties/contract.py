"""The contract of a penalty: a term added to an expert's loss."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from weft.config import Settings


class Penalty:
    """No extra term. A method overrides `loss`.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

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
