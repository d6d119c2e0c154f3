"""The contract of an optimizer rule: what happens to an expert's gradients before AdamW sees them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from weft.config import Settings


class Optimizer:
    """Plain AdamW: one group, gradients as they are. A method overrides what it changes.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    def param_groups(self, adapters: Mapping[str, nn.Module], lr: float) -> list[dict[str, Any]]:
        """Torch parameter groups that hold every trained adapter parameter once, each with its `lr`."""
        params = [p for adapter in adapters.values() for p in adapter.parameters()]
        return [{"params": [p for p in params if p.requires_grad], "lr": lr}]

    def transform(self, pairs: Mapping[str, nn.Module], step: int) -> None:
        """Change the `.grad` of the adapters in `pairs` in place, after clipping, before step `step` (from 0)."""

    def state_dict(self) -> dict[str, Tensor]:
        """What `transform` remembers between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
