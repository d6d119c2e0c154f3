"""What a mixture has to know of the trunk that it is made for."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Frame:
    """The trunk that a mixture is made for."""

    model_type: str
    hidden: int
    layers: int
    causal: bool = False
    """Whether a token sees those before it alone."""
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By role, the maps that play it, named inside a layer."""
