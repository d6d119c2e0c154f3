"""The arithmetic of scores that several kinds of task share, vectorised over leading dimensions.

Why our own: scikit-learn and seqeval score one set of predictions; an interval needs a thousand resamples at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Entity = tuple[str, int, int]
"""Type, first word, last word."""


def ratio(numerator: ArrayLike, denominator: ArrayLike, empty: float = 0.0) -> np.ndarray:
    """`numerator / denominator`, and `empty` where the denominator is 0."""
    above, below = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    result = np.full(above.shape, empty, dtype=np.float64)
    return np.divide(above, below, out=result, where=below != 0)


def f1(correct: ArrayLike, predicted: ArrayLike, gold: ArrayLike) -> np.ndarray:
    """Harmonic mean of precision and recall from counts; 0 where all counts are 0."""
    return ratio(2.0 * np.asarray(correct), np.asarray(predicted) + np.asarray(gold))


def matthews(correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Matthews' correlation of answers and right answers, of several classes as Gorodkin has it; NaN where undefined.

    Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.

    Args:
        correct: Rows of each class that are answered with it, (..., classes).
        predicted: Rows answered with each class.
        gold: Rows of each class.
    """
    rows = gold.sum(-1)
    above = correct.sum(-1) * rows - (predicted * gold).sum(-1)
    spread = (rows**2 - (predicted**2).sum(-1)) * (rows**2 - (gold**2).sum(-1))
    return ratio(above, np.sqrt(spread), empty=np.nan)


def pearson(sums: np.ndarray) -> np.ndarray:
    """Pearson's correlation of two numbers; NaN where it is undefined.

    Args:
        sums: Over rows, (..., 6): 1, x, y, xx, yy, xy.
    """
    rows, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.maximum(rows * xx - x * x, 0) * np.maximum(rows * yy - y * y, 0)
    return ratio(rows * xy - x * y, np.sqrt(spread), empty=np.nan)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last dimension, float64."""
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def language_scores(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Perplexity `exp(nll / tokens)` and bits per byte `nll / ln 2 / bytes`.

    NaN where nothing was scored.

    Args:
        totals: (..., 3) sums of negative log-likelihood in nats, of scored tokens and of their
            UTF-8 bytes.
    """
    nll, tokens, size = np.moveaxis(np.asarray(totals, dtype=np.float64), -1, 0)
    with np.errstate(over="ignore"):
        perplexity = np.exp(ratio(nll, tokens, empty=np.nan))
    return {
        "perplexity": perplexity,
        "bits_per_byte": ratio(nll / np.log(2), size, empty=np.nan),
    }


def gold(example: Mapping[str, Any], column: str) -> Any:
    """The right answer of a row.

    Raises:
        ValueError: If the row has none: it can be predicted but not scored.
    """
    if example.get(column) is None:
        raise ValueError(
            f"row {example['id']!r} has no {column!r}: it can be predicted, not scored"
        )
    return example[column]


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that IOB2 tags say, as seqeval's default reads them.

    `I-` without a tag of the same type before it begins an entity.
    """
    found: list[Entity] = []
    previous = "O"
    for word, tag in enumerate(tags):
        if tag != "O":
            kind = tag[2:]
            if tag[0] == "I" and previous != "O" and previous[2:] == kind:
                found[-1] = (kind, found[-1][1], word)
            else:
                found.append((kind, word, word))
        previous = tag
    return found
