"""The rate that a method learns at on a base: what its file says, carried from the width it was measured at.

    rate(width) = rate(384) (384 / width)^p        p = 1/2 for adapters, 1 for full fine-tuning, 0 for a head alone

A recipe's rate was measured on the embedded base, whose states have 384 numbers. Adam's steps do not shrink with the
gradient, so the same rate moves the outputs of a wider map more; how much less it has to be was measured on bases of
several widths (`benchmarks/learning_rates.py`, docs/concepts/learning-rates.md), for LoRA and for full fine-tuning. The
exponent of other adapters is taken to be LoRA's; a head alone was not measured and keeps its rate. The rank has no part
in it: LoRA divides by it (alpha / rank), and ranks 4 and 16 want nearly the same rate.
"""

from dataclasses import dataclass

REFERENCE_WIDTH = 384
"""Size of the states of the base that recipes' rates were measured on."""
FALLS = {"adapters": 0.5, "base": 1.0, "head": 0.0}
"""By what a recipe trains: the power of the width that its best rate falls with."""


@dataclass(frozen=True)
class Rate:
    """A rate, and where it comes from."""

    value: float
    """For the base at hand; three digits, since no more were measured."""
    said: str
    """Where it comes from, as a sentence says it."""


def rate_for(stated: float, trains: str, width: int) -> Rate:
    """What a recipe's own rate is on a base.

    Args:
        stated: The rate at the reference width.
        trains: What learns, a name of `FALLS`.
        width: Size of the base's states.
    """
    power = FALLS[trains]
    value = float(f"{stated * (REFERENCE_WIDTH / width) ** power:.3g}")
    if width == REFERENCE_WIDTH:
        return Rate(value, f"the recipe's {stated:g}, measured at this base's width, {width}")
    return Rate(
        value, f"the recipe's {stated:g} at width {REFERENCE_WIDTH}{fall_of(trains)}; here {width}"
    )


def fall_of(trains: str) -> str:
    """How a rate changes with the width, as the end of a sentence that names it."""
    power = FALLS[trains]
    how = f"falls with the width to the power {power:g}" if power else "is taken at any width"
    return f", which {how}"
