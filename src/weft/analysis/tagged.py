"""Means of what was measured of each unit, by tag."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from weft.analysis.intervals import jackknife
from weft.tasks.scoring import Score

FEWEST = 20
"""Units of a tag below which its mean says nothing."""
MOST = 12
"""Tags, the most frequent."""


def frequent(tags: Sequence[str], most: int = MOST) -> list[str]:
    """The tags that occur often enough, the most frequent first."""
    return [tag for tag, count in Counter(tags).most_common(most) if count >= FEWEST]


def means(
    values: Tensor, tags: Sequence[str], sentence: Tensor, most: int = MOST
) -> dict[str, Score]:
    """The mean of each frequent tag's units, with its interval over sentences."""
    found = {}
    for tag in frequent(tags, most):
        own = torch.tensor([one == tag for one in tags])
        theirs = values[own].double()

        def mean(kept: Tensor, theirs: Tensor = theirs) -> float:
            return theirs[kept].mean().item()

        found[tag] = jackknife(mean, sentence[own])
    return found
