"""What a whole sequence says of itself, in one vector."""

import torch
from torch import Tensor


def summary(state: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """The mean over real tokens beside one token that has seen the whole sequence, (sequences, 2 hidden).

    A mean tells what words there are; the token at the end, where attention has been, how the sequence is made.

    Args:
        state: (sequences, seq, hidden).
        mask: (sequences, seq), 1 where a token is real; None: all are.
        causal: A token sees those before it alone, so the last real one is taken, not the first.
    """
    if mask is None:
        return torch.cat([state.mean(1), state[:, -1 if causal else 0]], -1)
    real = mask.to(state.dtype).unsqueeze(-1)
    mean = (state * real).sum(1) / real.sum(1).clamp_min(1)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    # Padding may stand on either side.
    end = (places * mask).argmax(1) if causal else mask.argmax(1)
    return torch.cat([mean, state[torch.arange(len(state), device=mask.device), end]], -1)


def shared(value: Tensor, rows: Tensor | None) -> Tensor:
    """For every sequence the mean over those that it is answered with, in the same shape.

    Choices are set against each other, so they must meet the same gates.

    Args:
        value: (sequences, ...).
        rows: (sequences,), for each the first of those that it is answered together with; None: each for itself.
    """
    if rows is None:
        return value
    wide = torch.cat([value.flatten(1), value.new_ones(len(value), 1)], -1)
    sums = torch.zeros_like(wide).index_add(0, rows, wide)[rows]
    return (sums[:, :-1] / sums[:, -1:]).view_as(value)
