"""The structural probe: a linear map under which squared distances are a tree's, and squared norms its depths.

    d(i, j) = |P (h_i - h_j)|^2,    loss  mean over sentences of 1 / |s|^2 sum_ij |d_T(i, j) - d(i, j)|
    depth(i) = |P h_i|^2,           loss  mean over sentences of 1 / |s|   sum_i  |depth_T(i) - depth(i)|

Hewitt and Manning 2019, aclanthology.org/N19-1419, equations 1 and 2. We differ in three ways, alike for every encoder:
vectors are first divided by their mean spread over the training words, which P could do itself, so that one rate
suits encoders of any scale; the rate falls linearly to 0, where theirs is halved when the loss on held-out sentences
rises; and all layers are trained at once, which their separate losses do not see.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.analysis.measures.probes.trees import depths, distances, edges, spanning_tree, spearman

RANK = 32
"""Rows of P, at most."""
EPOCHS = 15
BATCH = 40
"""Sentences."""
RATE = 3e-3
"""Adam's at the start; at the authors' 1e-3 a few hundred sentences take twice the epochs."""
START = 0.01
"""P starts uniform in ±START; at the authors' 0.05 so few sentences do not unlearn what the start gives to noise."""


@dataclass(frozen=True, eq=False)
class Parse:
    """What a probe is to find in one sentence."""

    heads: tuple[int, ...]
    """Each word's head by number from 1; 0 is the root's."""
    kept: tuple[bool, ...]
    """Whether a word counts where edges and roots do: punctuation does not."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Trained maps, one a layer."""

    scale: Tensor
    """(layers,): what vectors are divided by."""
    distance: Tensor
    """(layers, hidden, rank)."""
    depth: Tensor
    """(layers, hidden, rank)."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """How predictions of one layer agree with trees, sentence by sentence: (sentences,) each, nan where undefined."""

    right: Tensor
    """Edges that were found."""
    edges: Tensor
    """Edges that there are, without punctuation's."""
    dspr: Tensor
    """The mean over words of Spearman's correlation of distances from that word."""
    root: Tensor
    """1 where the word that seems least deep is the root."""
    nspr: Tensor
    """Spearman's correlation of depths."""


def train(
    states: Tensor, parses: Sequence[Parse], *, rank: int = RANK, epochs: int = EPOCHS, seed: int
) -> Probe:
    """Probes of every layer.

    Args:
        states: (layers, words, hidden), sentence after sentence.
        parses: The sentences' trees.
        rank: Rows of P; never more than the vectors have entries.
        epochs: Passes over the sentences.
        seed: Of the start and the order.
    """
    layers, _, hidden = states.shape
    states = states.float()
    scale = states.var(1, correction=0).mean(1).sqrt().clamp(min=1e-12)
    states = states / scale[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(2, hidden, min(rank, hidden), generator=generator) * 2 - 1
    # Every layer has the same start and order, so that layers differ in nothing else.
    P, Q = (
        (START * own).expand(layers, -1, -1).clone().to(states.device).requires_grad_()
        for own in start
    )
    counts = [len(parse.heads) for parse in parses]
    starts = torch.tensor([0, *counts]).cumsum(0).tolist()
    gold = [(distances(parse.heads), depths(parse.heads)) for parse in parses]
    optimizer = torch.optim.Adam([P, Q], lr=RATE)
    batches = -(-len(parses) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * batches)
    # Sentences of like length share a batch, which pads little; which batch comes when is drawn.
    order = sorted(range(len(parses)), key=lambda at: (counts[at], at))
    for _ in range(epochs):
        for at in torch.randperm(batches, generator=generator).tolist():
            rows = order[at * BATCH : (at + 1) * BATCH]
            width = max(counts[row] for row in rows)
            inputs = states.new_zeros(layers, len(rows), width, hidden)
            apart, deep = (
                inputs.new_zeros(len(rows), width, width),
                inputs.new_zeros(len(rows), width),
            )
            shares = inputs.new_zeros(len(rows), width)
            for place, row in enumerate(rows):
                n = counts[row]
                inputs[:, place, :n] = states[:, starts[row] : starts[row + 1]]
                apart[place, :n, :n], deep[place, :n] = (own.to(inputs) for own in gold[row])
                shares[place, :n] = 1 / n
            missed = (squared_distances(inputs @ P[:, None]) - apart).abs()
            loss = (missed * shares[:, :, None] * shares[:, None]).sum()
            loss = loss + ((squared_norms(inputs @ Q[:, None]) - deep).abs() * shares).sum()
            optimizer.zero_grad()
            (loss / len(rows)).backward()
            optimizer.step()
            schedule.step()
    return Probe(scale, P.detach(), Q.detach())


def squared_norms(projected: Tensor) -> Tensor:
    """(..., words, rank) to (..., words)."""
    return projected.square().sum(-1)


def squared_distances(projected: Tensor) -> Tensor:
    """(..., words, rank) to (..., words, words)."""
    sizes = squared_norms(projected)
    return sizes[..., None] + sizes[..., None, :] - 2 * projected @ projected.mT


def agreements(probe: Probe, states: Tensor, parses: Sequence[Parse]) -> list[Agreement]:
    """How a probe does on sentences, layer by layer.

    Args:
        probe: Trained on the same layers.
        states: (layers, words, hidden), sentence after sentence.
        parses: The sentences' trees.
    """
    states = states.float() / probe.scale[:, None, None]
    return [
        _agreement(h @ P, h @ Q, parses)
        for h, P, Q in zip(states, probe.distance, probe.depth, strict=True)
    ]


def _agreement(near: Tensor, deep: Tensor, parses: Sequence[Parse]) -> Agreement:
    near, deep = near.cpu(), squared_norms(deep.cpu())
    rows, at = [], 0
    for parse in parses:
        own = slice(at, at := at + len(parse.heads))
        rows.append(agreement_of(squared_distances(near[own]), deep[own], parse))
    return Agreement(*torch.tensor(rows, dtype=torch.float64).T)


def agreement_of(apart: Tensor, deep: Tensor, parse: Parse) -> tuple[float, ...]:
    """The entries of one sentence in an `Agreement`, of predicted distances (n, n) and depths (n,)."""
    gold, n = edges(parse.heads, parse.kept), len(parse.heads)
    right = len(gold & spanning_tree(apart, parse.kept))
    others = ~torch.eye(n, dtype=torch.bool)
    by_word = spearman(apart[others].view(n, n - 1), distances(parse.heads)[others].view(n, n - 1))
    counting = [at for at in range(n) if parse.kept[at]]
    least = min(counting, key=lambda at: float(deep[at]), default=-1)
    found = float(parse.heads[least] == 0) if counting else float("nan")
    return (
        float(right),
        float(len(gold)),
        by_word.nanmean().item() if n > 1 else float("nan"),
        found,
        spearman(deep, depths(parse.heads)).item() if n > 1 else float("nan"),
    )
