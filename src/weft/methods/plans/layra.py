"""LayRA: adapters in the first and the last layers alone; those between stay as they are.

    layer l of L has adapters   where   l < p  or  l >= L - q,    p = first L / depth,  q = last L / depth

LayRA 2025, Continually Adding New Languages to Multilingual Language Models, arXiv:2509.11414: a base that
is to learn a language and keep what it knows reads the language in its first layers, thinks in the middle ones and says
it in the last. There the first 10 and the last 2 layers of bases of 28 and 32 are trained; both counts here, from notes
on the paper without code, are shares of `depth` layers and are scaled to the base's own, rounded, at least one each.
With `depth` the base's own number they are exact. Layers are those that the targets are in, of an encoder and of a
decoder each for itself; a target outside of all layers is adapted. What the paper then does with several such changes
(adding and subtracting experts' weights) is a merge and no matter of training.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from weft.config import Settings
from weft.lowrank.roles import layer_of
from weft.methods.plans.contract import Plan


class LayRASettings(Settings):
    """Settings of LayRA."""

    first: int = Field(default=10, ge=0)
    """Layers with adapters at the input, of `depth`."""
    last: int = Field(default=2, ge=0)
    """Layers with adapters at the output, of `depth`."""
    depth: int = Field(default=32, ge=1)
    """Layers of the base that `first` and `last` were counted on; for others they are scaled."""


class LayRA(Plan):
    """The rank of the settings at both ends, none between."""

    settings_type: ClassVar[type[Settings]] = LayRASettings
    settings: LayRASettings

    def plan(self, base: Mapping[str, Tensor], spec: Mapping[str, int]) -> dict[str, int | None]:
        """The rank of each target's adapter, or None in the middle.

        Raises:
            ValueError: If no target would have an adapter.
        """
        kept = self.layers(spec)
        planned = {
            name: rank if (place := _place(name)) is None or place in kept else None
            for name, rank in spec.items()
        }
        if not any(planned.values()):
            raise ValueError(
                f"plan layra: first {self.settings.first} and last {self.settings.last} leave no layer to adapt; "
                "raise one of them"
            )
        return planned

    def layers(self, names: Iterable[str]) -> set[tuple[str, int]]:
        """The layers that have adapters, by the stack that they are in and their number."""
        stacks: dict[str, set[int]] = defaultdict(set)
        for name in names:
            if (place := _place(name)) is not None:
                stacks[place[0]].add(place[1])
        return {(stack, own) for stack, numbers in stacks.items() for own in self._ends(numbers)}

    def _ends(self, numbers: set[int]) -> list[int]:
        layers = sorted(numbers)
        first, last = (
            max(1, round(asked * len(layers) / self.settings.depth)) if asked else 0
            for asked in (self.settings.first, self.settings.last)
        )
        return [own for at, own in enumerate(layers) if at < first or at >= len(layers) - last]


def _place(name: str) -> tuple[str, int] | None:
    """The stack of layers that a map is in, and its layer's number; None outside of all."""
    if (layer := layer_of(name)) is None:
        return None
    stack, _, number = layer.rpartition(".")
    return stack, int(number)
