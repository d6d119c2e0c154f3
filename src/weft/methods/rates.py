"""The rate that a method learns at on a base: what its file says, carried from the width it was measured at.

    rate(width) = rate(384) (384 / width)^p        p = 3/4 for adapters, 1 for full fine-tuning, 0 for a head alone

A recipe's rate was measured on the embedded base, whose states have 384 numbers. Adam's steps do not shrink with the
gradient, so the same rate moves the outputs of a wider map more. How much less it has to be was measured on bases of
four widths (`benchmarks/learning_rates.py`, docs/concepts/learning-rates.md): 0.80 [0.70, 0.98] for LoRA, 1.00 [0.92,
1.11] for full fine-tuning; more steps on narrow bases said more than 1 for LoRA. LoRA's is taken as 3/4, since theory
says 1/2 for the largest rate that stays stable (Hayou et al. 2024, arXiv:2406.08447) and Schulman et al. 2025 ("LoRA
Without Regret") found 0.78 on Llamas. The power of other adapters is taken to be LoRA's; a head alone was not measured
and keeps its rate. The rank has no part in it: LoRA divides by it (alpha / rank), and ranks 4 and 16 want nearly the
same rate.
"""

from dataclasses import dataclass

REFERENCE_WIDTH = 384
"""Size of the states of the base that recipes' rates were measured on."""
FALLS = {"adapters": 0.75, "base": 1.0, "head": 0.0}
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
