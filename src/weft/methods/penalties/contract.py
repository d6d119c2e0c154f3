"""The contract of a penalty: a term added to an expert's loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from weft.config import Settings


@dataclass(frozen=True)
class Said:
    """What an expert said of a step's first piece of rows, at the places that have a label."""

    logits: Tensor
    """(places, outcomes): a row, a token or a choice of the next word each, by the head's kind."""
    bare: Callable[[], Tensor]
    """The same as the bare base says it with the same head: a forward pass of the base, without gradients or dropout.
    """
    language_model: bool
    """Whether outcomes are words of the vocabulary."""


class Penalty:
    """No extra term. A method overrides `loss`, or `output_loss` with `reads_outputs` set.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    reads_outputs: ClassVar[bool] = False
    """Whether there is an `output_loss`."""

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

    def output_loss(self, said: Said) -> Tensor | float:
        """The term of what an expert said, as `loss` in all else; the mean over heads, where it serves several."""
        return 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """What the penalty remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
