"""What gates say of how experts share the work: entropy, load, information on the task, switching, agreement.

Gates are (tokens, experts). All but `shares` take shares, which sum to 1 at every token; a token at which nobody speaks
has none (nan) and counts nowhere. In double precision, logarithms are natural.
"""

import math

import torch
from torch import Tensor


def shares(gates: Tensor) -> Tensor:
    """Each expert's part of a token: `|g_e| / sum |g|`; nan where all gates are 0."""
    sizes = gates.double().abs()
    return sizes / sizes.sum(-1, keepdim=True)


def spoken(found: Tensor) -> Tensor:
    """Which tokens have shares, (tokens,) of bool."""
    return ~found.isnan().any(-1)


def entropy(found: Tensor) -> Tensor:
    """`-sum_e p_e log p_e` of each token that has shares, from 0 to log of the number of experts."""
    return torch.special.entr(found[spoken(found)].double()).sum(-1)


def load(found: Tensor) -> Tensor:
    """The mean share of each expert, (experts,)."""
    return found[spoken(found)].double().mean(0)


def variation(of: Tensor) -> float:
    """The coefficient of variation of a load: 0 where all carry alike, `sqrt(experts - 1)` where one carries all."""
    return (of.std(correction=0) / of.mean()).item()


def information(found: Tensor, groups: Tensor, normalised: bool = False) -> float:
    """`I = sum_te p(t, e) log(p(t, e) / (p(t) p(e)))` between the group of a token and the expert that speaks, in nats.

    `p(e | t)` is the mean share over the group's tokens, and every group counts alike, however many tokens it has: with
    n groups, each with an expert of its own, it is log n; 0 where all groups have the same mean.

    Args:
        found: Shares.
        groups: A number for each token's group, (tokens,).
        normalised: As a share of the most there can be, the log of the smaller of groups and experts; nan of one.
    """
    kept = spoken(found)
    found, groups = found[kept].double(), groups[kept]
    given = torch.stack([found[groups == own].mean(0) for own in groups.unique()])
    within = torch.special.entr(given).sum(-1).mean()
    known = (torch.special.entr(given.mean(0)).sum() - within).item()
    if not normalised:
        return known
    most = math.log(min(given.shape))
    return known / most if most else math.nan


def chosen(found: Tensor) -> Tensor:
    """The expert with the largest share at each token, the first of equals, (tokens,); -1 where nobody speaks."""
    # Argmax leaves open which of equals it takes.
    best = found.nan_to_num(-1.0).sort(dim=-1, descending=True, stable=True).indices[:, 0]
    return torch.where(spoken(found), best, -1)


def switching(choice: Tensor, sentence: Tensor) -> float:
    """How often the next token of the same sentence has another expert, 0 to 1; nan where no two tokens are neighbours.

    Args:
        choice: As `chosen` gives it.
        sentence: Each token's sentence by number; a sentence's tokens are together and in order.
    """
    beside = (sentence[1:] == sentence[:-1]) & (choice[1:] >= 0) & (choice[:-1] >= 0)
    if not bool(beside.any()):
        return math.nan
    return (choice[1:] != choice[:-1])[beside].double().mean().item()


def agreement(one: Tensor, other: Tensor) -> float:
    """How far two choices for the same tokens tell the same, whatever the experts are called, 0 to 1.

    Their mutual information over the smaller of their entropies: 1 where one follows from the other; nan where either
    is always the same expert.
    """
    kept = (one >= 0) & (other >= 0)
    one, other = one[kept], other[kept]
    if not len(one):
        return math.nan
    width = int(other.max()) + 1
    table = torch.bincount(one * width + other, minlength=(int(one.max()) + 1) * width)
    table = table.view(-1, width)
    # Of whole counts, so that one that is always the same has an entropy of exactly 0.
    own, theirs, both = (
        torch.special.entr(part.double() / len(one)).sum().item()
        for part in (table.sum(1), table.sum(0), table)
    )
    most = min(own, theirs)
    return max(0.0, own + theirs - both) / most if most > 0 else math.nan
