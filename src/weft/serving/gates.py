"""What a mixture's gates say of an input, for people to look at."""

import re
from dataclasses import dataclass

from weft.answering.gate_maps import TokenGates

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Gates:
    """Gates by token, expert and map.

    Attributes:
        expert: The mixture.
        version: Its version.
        task: Whose head would answer.
        experts: Names along the last axis; a map may have fewer gates, or one for each rank.
        sequences: One for each text that the input is read as: choices, windows.
        layers: The number of each map's layer; None where its name has none.
    """

    expert: str
    version: str
    task: str
    experts: tuple[str, ...]
    sequences: list[TokenGates]
    layers: dict[str, int | None]


def layer_of(module: str) -> int | None:
    """The layer that a map is in, by the first number in its name."""
    found = _NUMBER.search(module)
    return int(found[1]) if found else None
