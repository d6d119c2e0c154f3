"""What a mixture has to know of the trunk that it is made for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """The trunk that a mixture is made for."""

    model_type: str
    hidden: int
    layers: int
    causal: bool = False
    """Whether a token sees those before it alone."""
