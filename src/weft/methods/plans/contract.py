"""The contract of a plan: which maps get an adapter, and of which rank, decided before anything is attached."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from weft.config import Settings


class Plan:
    """Every target gets the rank its settings say. A method overrides `plan`.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    def plan(self, base: Mapping[str, Tensor], spec: Mapping[str, int]) -> dict[str, int | None]:
        """The rank of each target's adapter, or None to leave that map as it is.

        Args:
            base: The frozen weight of every target by module name.
            spec: The rank that the settings give each target.
        """
        return dict(spec)
