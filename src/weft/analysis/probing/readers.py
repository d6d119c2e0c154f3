"""Who is probed, and what a difference to the base is worth: the same for every probe."""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from weft.analysis.intervals import repeated
from weft.analysis.study import Reader, Study
from weft.analysis.subjects import Subject, owner
from weft.analysis.texts import NotAtHandError
from weft.tasks.scoring import Score

SEEDS = 3
"""Trainings of each probe."""
BASE, UNTRAINED = "the base", "untrained encoder"
Statistic = Callable[[Tensor], float]
"""Of the tokens that count, (n,) of bool."""


def check_installed() -> None:
    """Say that linear probes need scikit-learn where it is not.

    Raises:
        NotAtHandError: If it is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise NotAtHandError(
            "linear probes need scikit-learn: pip install 'weft[probes]'"
        ) from None


def readers(study: Study) -> dict[str, Reader]:
    """The base, every expert, and the same architecture with weights that were drawn, which is what chance is here."""
    experts: dict[str, Reader] = {subject.name: subject for subject in study.subjects}
    return {BASE: None, **experts, UNTRAINED: "untrained"}


def said_of(name: str, reader: Reader) -> Mapping[str, str]:
    """What is said of who was probed in every row of a result."""
    if isinstance(reader, Subject):
        return owner(reader)
    return {"expert": name, "task": "", "method": "", "seed": ""}


def differences(
    found: Mapping[str, Sequence[Statistic]], sentence: Tensor, *, scale: float = 1.0
) -> dict[str, Score]:
    """How much higher each is than the base with the same seed, over seeds and sentences; the base by itself.

    Args:
        found: By name, each seed's statistic.
        sentence: Each token's sentence by number.
        scale: Of the result: 100 makes percent of shares.
    """

    def less(own: Statistic, base: Statistic | None) -> Statistic:
        return lambda kept: scale * (own(kept) - (base(kept) if base else 0.0))

    return {
        name: repeated(
            [
                less(one, base if name != BASE else None)
                for one, base in zip(own, found[BASE], strict=True)
            ],
            sentence,
        )
        for name, own in found.items()
    }


def verdict(score: Score) -> str:
    """Whether a difference to the base is one, in words."""
    if math.isnan(score.low) or score.low <= 0 <= score.high:
        return "no more than probes vary"
    return "more than probes vary"
