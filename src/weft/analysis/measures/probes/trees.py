"""Trees of words: how far apart words are, how deep, and how well predicted distances and depths agree with both.

Hewitt and Manning 2019, aclanthology.org/N19-1419, section 3 and appendix: edges of the minimum spanning tree of the
predicted distances that are edges of the tree, without direction (UUAS); Spearman's correlation of distances, word by
word, and of depths, sentence by sentence; both means are taken within each length of sentence first, over lengths then.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SHORTEST, LONGEST = 5, 50
"""Words of a sentence between which correlations count."""


def distances(heads: Sequence[int]) -> Tensor:
    """The number of edges between every two words, (n, n), from each word's head by number from 1; 0 is the root's.

    Raises:
        ValueError: If the heads make no tree.
    """
    n = len(heads)
    found = torch.full((n, n), n, dtype=torch.int64)
    found.fill_diagonal_(0)
    for word, head in enumerate(heads):
        if head:
            found[word, head - 1] = found[head - 1, word] = 1
    for middle in range(n):  # Floyd 1962
        found = torch.minimum(found, found[:, middle, None] + found[None, middle])
    if int((found >= n).sum()) or sum(head == 0 for head in heads) != 1:
        raise ValueError(f"heads {list(heads)} make no tree: expected one 0, and no circle")
    return found


def depths(heads: Sequence[int]) -> Tensor:
    """The number of edges from every word to the root, (n,)."""
    return distances(heads)[list(heads).index(0)]


def edges(heads: Sequence[int], kept: Sequence[bool]) -> set[tuple[int, int]]:
    """Edges between words that count, each with the earlier word first."""
    return {
        (min(word, head - 1), max(word, head - 1))
        for word, head in enumerate(heads)
        if head and kept[word] and kept[head - 1]
    }


def spanning_tree(apart: Tensor, kept: Sequence[bool]) -> set[tuple[int, int]]:
    """Edges of the minimum spanning tree of the words that count (Prim 1957), each with the earlier word first."""
    words = [at for at, counts in enumerate(kept) if counts]
    found: set[tuple[int, int]] = set()
    if not words:
        return found
    near = {word: (float(apart[words[0], word]), words[0]) for word in words[1:]}
    while near:
        word = min(near, key=lambda at: near[at])
        _, by = near.pop(word)
        found.add((min(word, by), max(word, by)))
        for other, (least, _) in near.items():
            if float(apart[word, other]) < least:
                near[other] = float(apart[word, other]), word
    return found


def ranks(values: Tensor) -> Tensor:
    """Places in rising order along the last axis, from 1; those that are equal share the mean of theirs."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return below + (equal + 1) / 2


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """The correlation of ranks along the last axis; nan where one of both is constant."""
    a, b = (own - own.mean(-1, keepdim=True) for own in (ranks(x).double(), ranks(y).double()))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def mean_by_length(values: Tensor, lengths: Tensor) -> float:
    """The mean over lengths of sentences, 5 to 50 words, of the mean over the sentences of each.

    Args:
        values: One a sentence; those that are no number do not count.
        lengths: In words.
    """
    kept = (lengths >= SHORTEST) & (lengths <= LONGEST) & ~values.isnan()
    own = [values[kept & (lengths == at)].mean() for at in lengths[kept].unique()]
    return torch.stack(own).mean().item() if own else float("nan")
