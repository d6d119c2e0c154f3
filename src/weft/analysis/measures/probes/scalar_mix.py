"""The scalar mix: one weight a layer, learned with a linear probe, and the layer on which the weights balance.

    h = gamma sum_l w_l h_l,    w = softmax(a),    centre of gravity = sum_l l w_l

Peters et al. 2018, aclanthology.org/N18-1202, equation 1; Tenney et al. 2019, aclanthology.org/P19-1452, section 2.
Every layer is first divided by its root mean square over the training vectors, so that a large weight is not one of a
layer whose vectors are short.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 300
BATCH = 512
"""Vectors."""
RATE, MIX_RATE = 1e-2, 0.1
"""Adam's at the start, of the classifier and of the mix; both fall linearly to 0."""
DECAY = 1e-2
"""AdamW's of the classifier; the mix has none."""


def mix_weights(states: Tensor, labels: Sequence[str], *, steps: int = STEPS, seed: int) -> Tensor:
    """w, (layers,): rising from 0 and 1 together.

    Args:
        states: (layers, n, hidden).
        labels: (n,).
        steps: Of AdamW.
        seed: Of start and batches.
    """
    layers, n, hidden = states.shape
    states = states.float()
    states = states / states.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
    classes = {label: at for at, label in enumerate(sorted(set(labels)))}
    wanted = torch.tensor([classes[label] for label in labels], device=states.device)
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(len(classes), hidden, generator=generator) / hidden**0.5
    W = W.to(states.device).requires_grad_()
    b, a = (states.new_zeros(size).requires_grad_() for size in (len(classes), layers))
    gamma = states.new_ones(()).requires_grad_()
    groups = [
        {"params": [W], "weight_decay": DECAY},
        {"params": [b], "weight_decay": 0.0},
        {"params": [a, gamma], "weight_decay": 0.0, "lr": MIX_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        rows = torch.randint(n, (min(BATCH, n),), generator=generator)
        mixed = gamma * torch.einsum("l,lnh->nh", a.softmax(0), states[:, rows])
        loss = F.cross_entropy(mixed @ W.T + b, wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return a.detach().softmax(0).double().cpu()


def centre_of_gravity(weights: Tensor) -> float:
    """`sum_l l w_l`, layers counted from 0, the embeddings."""
    return (torch.arange(len(weights), dtype=weights.dtype) * weights).sum().item()
