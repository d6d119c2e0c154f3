"""Tasks drawn for each step by their size: one set of all rows, mixed at a temperature.

    rows of task i in a step ~ Multinomial(batch_size, p),    p_i = n_i^t / sum_j n_j^t

t = 1 is the concatenated data, 0 gives every task the same share, 0.5 is a common middle (Conneau and Lample 2019,
arXiv:1901.07291, section 3.1). Each task's mean loss counts by its share of the step's rows, so that tasks with many
tokens a row do not dominate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from weft.model.batching import Item
from weft.training.learning import Stream

_DRAWS = 7
"""Keeps these draws apart from those of a stream's own order."""


def shares(sizes: Sequence[int], temperature: float) -> np.ndarray:
    """p, one a task."""
    weights = np.asarray(sizes, dtype=np.float64) ** temperature
    return weights / weights.sum()


@dataclass
class Sampled(Stream):
    """A task's rows where all tasks share the steps.

    Attributes:
        sizes: Training rows of every task.
        place: Which of them is this one.
        temperature: t.
    """

    sizes: Sequence[int] = ()
    place: int = 0
    temperature: float = 1.0
    _counts: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        draw = np.random.default_rng([self.seed, _DRAWS])
        p = shares(self.sizes, self.temperature)
        drawn = draw.multinomial(self.training.batch_size, p, size=self.total_steps)
        self._counts = drawn[:, self.place]
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many rows are seen as all tasks have."""
        return math.ceil(sum(self.sizes) / self.training.batch_size)

    def items(self, step: int) -> list[Item]:
        start, stop = int(self._starts[step]), int(self._starts[step + 1])
        return [self.item(self._row(at), step) for at in range(start, stop)]

    def weight(self, step: int) -> float:
        return self.loss_weight * float(self._counts[step]) / self.training.batch_size

    def _row(self, at: int) -> int:
        """The row at a place of the endless sequence of this task's epochs, each a new order."""
        epoch, place = divmod(at, len(self.records))
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.records))
            self._epoch = (epoch, [[int(row)] for row in order])
        return self._epoch[1][place][0]
