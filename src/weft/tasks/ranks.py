"""Scores that depend on the order of rows, for many bootstrap resamples at once.

A resample is how often each row was drawn, so a row drawn twice is two rows with equal values. `counts` is
(resamples, rows) everywhere; results are (resamples,), NaN where a score is undefined.
"""

import numpy as np

from weft.tasks.metrics import ratio

_ANCHORS = 1024
"""Anchors whose distances to all candidates are held at a time."""


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's correlation of ranks, equal values sharing their mean rank (Spearman 1904).

    Args:
        x: One number a row, (rows,).
        y: The other.
        counts: How often each row was drawn.
    """
    middle = (counts.sum(1, keepdims=True) + 1) / 2
    a, b = (_ranks(values, counts) - middle for values in (x, y))
    above = (counts * a * b).sum(1)
    return ratio(above, np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1)), empty=np.nan)


def roc_auc(scores: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The chance that a positive row scores above a negative one, ties counting half.

    The area under the curve of true against false positive rates (Hanley & McNeil 1982,
    doi:10.1148/radiology.143.1.7063747).

    Args:
        scores: One number a row, (rows,).
        positive: Whether each row is positive, (rows,).
        counts: How often each row was drawn.
    """
    order, starts, _ = _groups(scores)
    drawn, yes = counts[:, order], positive[order]
    above = np.add.reduceat(drawn * yes, starts, axis=1)
    below = np.add.reduceat(drawn * ~yes, starts, axis=1)
    passed = np.cumsum(below, axis=1) - below / 2
    return ratio((above * passed).sum(1), above.sum(1).astype(float) * below.sum(1), empty=np.nan)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the last dimension of what is a number; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1), empty=np.nan)


def best_threshold(
    odds: np.ndarray, without: np.ndarray, answering: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best mean score that refusing to answer above a threshold of `odds` can give, and that threshold.

    `find_best_thresh` of SQuAD 2.0's evaluation script: thresholds are tried from none answered to all, the first of
    the best is taken. Rows of equal odds are refused together, where the script takes them one by one; and where
    refusing all is best the threshold, 0 in the script, is at least below all odds.

    Args:
        odds: How much is said for no answer, (rows,).
        without: The score of refusing, (rows,).
        answering: The score of answering, (rows,).
        counts: How often each row was drawn.
    """
    order, starts, distinct = _groups(odds)
    gain = np.add.reduceat((counts * (answering - without))[:, order], starts, axis=1)
    path = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(gain, axis=1)], axis=1)
    best = path.argmax(1)
    none = min(0.0, np.nextafter(distinct[0], -np.inf))
    value = ratio(
        (counts * without).sum(1) + path[np.arange(len(path)), best], counts.sum(1), empty=np.nan
    )
    return value, np.append(none, distinct)[best]


def nearest_is_own(texts: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Whether each anchor is nearer to its own positive than to every other candidate: 1.0 or 0.0, (rows,).

    Candidates are all positives and all negatives. Of these an anchor is held against none that is its own text or that
    some row gives as its positive; a candidate as near as its own positive is a miss.

    Args:
        texts: A number for each text, (rows, 2 or 3): anchor, positive, negative; the same for the same text.
        vectors: Of length 1, (rows, 2 or 3, dimensions).
    """
    rows = len(texts)
    anchors, others = texts[:, 0], texts[:, 1:].T.ravel()
    candidates = vectors[:, 1:].transpose(1, 0, 2).reshape(len(others), -1)
    positives: dict[float, set[float]] = {}
    for anchor, positive in texts[:, :2].tolist():
        positives.setdefault(anchor, {anchor}).add(positive)
    hits = np.zeros(rows)
    for start in range(0, rows, _ANCHORS):
        near = vectors[start : start + _ANCHORS, 0] @ candidates.T
        for at, own in enumerate(near, start=start):
            known = np.isin(others, list(positives[float(anchors[at])]))
            hits[at] = not (own[~known] >= own[at]).any()
    return hits


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in rising order of `values`, where each run of equal ones starts, and its value."""
    order = np.argsort(values, kind="stable")
    risen = values[order]
    starts = np.flatnonzero(np.append(True, risen[1:] != risen[:-1]))
    return order, starts, risen[starts]


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rank of each row in every resample, (resamples, rows)."""
    order, starts, _ = _groups(values)
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    return ranks[:, group]
