"""The contract of a plan: which maps get an adapter, and of which rank, decided before anything is attached."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from weft.config import Settings


class Trial(Protocol):
    """A new expert that learns for a while, so that a plan sees what matters; nothing of it stays."""

    @property
    def start(self) -> Mapping[str, Tensor]:
        """All that the expert trains, its head's numbers too, at the first values; detached."""
        ...

    @property
    def rates(self) -> Mapping[str, float]:
        """The rate that each of them would be trained at."""
        ...

    def loss(
        self, weights: Mapping[str, Tensor], scales: Mapping[str, Tensor], *, held: bool, at: int
    ) -> Tensor:
        """The mean loss of a batch of training rows, differentiable twice in both arguments.

        Args:
            weights: What stands for `start`.
            scales: What the adapter's output is multiplied by, by map.
            held: Of rows that are held out of the trial, or of all others; both are rows of train.
            at: Which batch, from 0; after the last one the first comes again.
        """
        ...


class Plan:
    """Every target gets the rank its settings say. A method overrides `plan`.

    Args:
        settings: The method's own settings; None takes their defaults.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    tries: ClassVar[bool] = False
    """Whether it looks at new experts on training rows first, so that there are `choose` and `keep`, and a setting
    `chosen` in which training writes down by expert what `choose` found."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = self.settings_type() if settings is None else settings

    def plan(self, base: Mapping[str, Tensor], spec: Mapping[str, int]) -> dict[str, int | None]:
        """The rank of each target's adapter, or None to leave that map as it is.

        Args:
            base: The frozen weight of every target by module name.
            spec: The rank that the settings give each target.
        """
        return dict(spec)

    def choose(self, expert: str, maps: Sequence[str], trial: Callable[[], Trial]) -> Sequence[str]:
        """The layers (`weft.lowrank.roles.layer_of`) that one expert's adapters are to go on.

        Args:
            expert: The expert's name.
            maps: All targets of the settings, which the expert of the trial has adapters on.
            trial: Makes the trial; not called where the settings say what was chosen before.
        """
        return []

    def keep(self, layers: Sequence[str]) -> None:
        """Let `plan` give adapters to these layers alone."""
