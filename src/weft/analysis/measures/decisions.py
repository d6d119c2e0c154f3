"""Where along the layers an answer is settled: agreement with the last layer, and how far distributions are from it.

Decisions are (layers, items) of whole numbers; distributions are logits (items, outcomes) by layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def settled(decisions: Tensor) -> Tensor:
    """The first layer from which on each item's decision is the last one's, (items,); 0 is the first given."""
    same = (decisions == decisions[-1]).flip(0).long().cumprod(0)
    return len(decisions) - same.sum(0)


def drift(logits: Sequence[Tensor]) -> list[float]:
    """The mean over items of `KL(p_last || p_layer)` in nats, by layer; 0 at the last.

    The tuned lens of Belrose et al. 2023, arXiv:2303.08112, section 2, names it the lens' error; there against logits
    that are learnt, here against the head's own.
    """
    last = logits[-1].double().log_softmax(-1)
    return [
        (last.exp() * (last - own.double().log_softmax(-1))).sum(-1).mean().item() for own in logits
    ]


def alike(one: Tensor, other: Tensor) -> float:
    """How far two decisions on the same items agree beyond chance: Cohen's kappa, 1 where they are the same.

    Cohen 1960, doi:10.1177/001316446002000104; nan where both always say the same one thing.
    """
    found = (one == other).double().mean().item()
    classes = torch.cat([one, other]).unique()
    shares = [
        (one == own).double().mean().item() * (other == own).double().mean().item()
        for own in classes
    ]
    by_chance = sum(shares)
    return (found - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")
