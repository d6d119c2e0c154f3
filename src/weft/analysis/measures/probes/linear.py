"""The linear probe: multinomial logistic regression on frozen vectors, and the control task that it is held against.

A control task gives every word a label drawn at random, the same wherever the word stands; what a probe gets right of
it it has learned by heart. Selectivity is its accuracy on the task less that on the control task.

Hewitt and Liang 2019, aclanthology.org/D19-1275, section 2.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTH = 0.1
"""1 / C of scikit-learn is the weight of the penalty |W|^2 / 2 against the sum of the losses."""
STEPS = 60
"""Of L-BFGS, at most."""


class Scale:
    """Vectors with every entry at mean 0 and variance 1 over the training vectors; an entry that is constant is 0.

    Args:
        states: (n, hidden), of training.
    """

    def __init__(self, states: Tensor) -> None:
        self.mean, self.spread = states.mean(0), states.std(0, correction=0)
        self.spread = torch.where(self.spread > 1e-6 * self.spread.max(), self.spread, torch.inf)

    def __call__(self, states: Tensor) -> Any:
        return ((states - self.mean) / self.spread).float().numpy()


def fitted(states: Any, labels: Any, *, strength: float = STRENGTH) -> "LogisticRegression | None":
    """A trained probe; None where there is one class alone, and nothing to learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        return None
    with warnings.catch_warnings():
        # So many steps for every encoder are the recipe; where it stops matters less than that it is the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=STEPS).fit(states, labels)


def hits(states: Tensor, labels: Sequence[str], others: Tensor, wanted: Sequence[str]) -> Tensor:
    """Which labels of other vectors a probe that was trained on the first gets right, (n,) of 0 and 1.

    Args:
        states: (train, hidden).
        labels: Of them.
        others: (n, hidden).
        wanted: Their labels; a class that training did not show is never right.
    """
    scale, known = Scale(states), np.array(labels)
    probe = fitted(scale(states), known)
    said = np.full(len(wanted), known[0]) if probe is None else probe.predict(scale(others))
    return torch.from_numpy(said == np.array(wanted)).double()


def control_labels(
    words: list[str], labels: list[str] | tuple[str, ...], generator: torch.Generator
) -> dict[str, str]:
    """A label for every word, drawn as often as labels occur, the same for the same draws.

    Args:
        words: Types; those that are there twice get one label.
        labels: Of tokens: what to draw from.
        generator: The draws.
    """
    types = sorted(set(words))
    drawn = torch.randint(len(labels), (len(types),), generator=generator).tolist()
    return {word: labels[at] for word, at in zip(types, drawn, strict=True)}
