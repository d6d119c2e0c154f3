"""What parameters are normalised by before a generator sees them, and given back after.

    pooled   x = (w - mean expert) / s_t,      s_t the deviation from it of tensor t over all tasks' experts
    own      x = (w - m_t) / s_t,              m_t, s_t the mean and deviation of tensor t of this expert

`own` is the published way. Its m_t and s_t are not known of a task that has no expert yet: the authors take them from a
checkpoint of the same task, which gives away of the answer what it is to be told apart from others by.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Means and deviations; `(w - mean) / deviation` and back."""

    mean: Tensor
    """(length,), or (tensors,) where each has one."""
    deviation: Tensor
    """(tensors,)."""

    @classmethod
    def pooled(cls, vectors: Tensor, tasks: Tensor, sizes: Sequence[int]) -> "Statistics":
        """Of all experts; every task counts the same, however many states it has.

        Args:
            vectors: (states, length).
            tasks: (states,) the number of each one's task.
            sizes: Numbers in each tensor.
        """
        count = torch.bincount(tasks).to(vectors)
        weight = (1 / count[tasks] / len(count))[:, None]
        mean = (weight * vectors).sum(0)
        squares = (weight * (vectors - mean).square()).sum(0)
        return cls(
            mean, _usable(torch.stack([p.mean().sqrt() for p in squares.split(list(sizes))]))
        )

    @classmethod
    def own(cls, vector: Tensor, sizes: Sequence[int]) -> "Statistics":
        """Of one expert (length,): mean and deviation of each tensor."""
        parts = vector.split(list(sizes))
        spread = torch.stack([part.std(unbiased=False) for part in parts])
        return cls(torch.stack([part.mean() for part in parts]), _usable(spread))

    def normalised(self, vector: Tensor, sizes: Sequence[int]) -> Tensor:
        """(..., length) as a generator sees it."""
        return (vector - self._mean(sizes)) / _spread(self.deviation, sizes)

    def restored(self, vector: Tensor, sizes: Sequence[int]) -> Tensor:
        """Back from what a generator says, (..., length)."""
        return vector * _spread(self.deviation, sizes) + self._mean(sizes)

    def _mean(self, sizes: Sequence[int]) -> Tensor:
        return self.mean if len(self.mean) == sum(sizes) else _spread(self.mean, sizes)


def _spread(values: Tensor, sizes: Sequence[int]) -> Tensor:
    return values.repeat_interleave(torch.tensor(list(sizes), device=values.device))


def _usable(deviation: Tensor) -> Tensor:
    """1 where all values are the same: nothing is to be scaled."""
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
