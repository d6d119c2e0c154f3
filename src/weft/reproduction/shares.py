"""How large one method's mean score is as a share of another's, with a bootstrap interval over rows."""

from collections.abc import Sequence

import numpy as np

from weft.metrics import ratio
from weft.scoring import COUNTS_AT_ONCE, LEVEL, RESAMPLES, Score
from weft.tasks.base import Example, Prediction, Task


def mean_share(
    task: Task,
    ours: Sequence[Sequence[Prediction]],
    whole: Sequence[Sequence[Prediction]],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """The mean over runs (seeds) of one method's scores divided by that of another's, by score.

    A resample draws rows, the same for every run of both (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    section 13.3). The interval does not hold the spread over seeds. A share of a score of 0 is left out.

    Args:
        task: Knows what to count.
        ours: For each run of one method its predictions, one a row.
        whole: The other's; it may have more runs, or fewer.
        examples: The rows, with their answers.
        resamples: Bootstrap resamples.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.
    """
    counted = [[_counted(task, said, examples) for said in runs] for runs in (ours, whole)]
    every_row = np.ones((1, len(examples)))
    value = _shares(task, counted, every_row)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in value}
    generator = np.random.default_rng(seed)
    chunk = max(1, COUNTS_AT_ONCE // len(examples))
    even = np.full(len(examples), 1 / len(examples))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = generator.multinomial(len(examples), even, size=size).astype(np.float64)
        for name, shares in _shares(task, counted, counts).items():
            drawn[name].append(shares)
    found = {}
    for name, (share,) in value.items():
        known = np.concatenate(drawn[name])
        known = known[np.isfinite(known)]
        if np.isfinite(share) and len(known):
            low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            found[name] = Score(float(share), float(low), float(high))
    return found


def _counted(
    task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]
) -> np.ndarray:
    """(rows, k) what `Task.metrics` adds up."""
    pairs = zip(predictions, examples, strict=True)
    return np.stack([task.statistics(said, example) for said, example in pairs]).astype(np.float64)


def _shares(
    task: Task, counted: Sequence[Sequence[np.ndarray]], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The share in each sample of rows: (samples,) by score, NaN where it is undefined."""
    means = []
    for runs in counted:
        scores = [task.metrics(counts @ own) for own in runs]
        means.append({name: np.mean([own[name] for own in scores], axis=0) for name in scores[0]})
    ours, whole = means
    return {name: ratio(ours[name], whole[name], empty=np.nan) for name in ours}
