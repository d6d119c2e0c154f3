"""How large one method's mean score is as a share of another's, with a bootstrap interval over rows."""

from collections.abc import Sequence

import numpy as np

from weft.tasks.contract import Example, Prediction, Task
from weft.tasks.metrics import ratio
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval, means


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
    values, drawn = means(task, ours, examples, resamples, seed)
    of_values, of_drawn = means(task, whole, examples, resamples, seed)
    found = {}
    for name, value in values.items():
        share = float(ratio(value, of_values[name], empty=np.nan))
        if np.isfinite(share):
            each = ratio(drawn[name], of_drawn[name], empty=np.nan)
            found[name] = interval(share, each, level)
    return found
