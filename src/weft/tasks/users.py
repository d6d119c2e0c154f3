"""Scores over users: each user's own, their mean, and how far it may be from that of other users.

A score of all rows together is most of all that of whoever has the most rows; the mean over users counts each once. Its
interval draws users, not rows: rows of one user are no independent witnesses of how the next one fares.
"""

from collections.abc import Sequence

import numpy as np

from weft.tasks.contract import Example, Prediction, Task
from weft.tasks.scoring import LEVEL, RESAMPLES, Score, interval

OVER_USERS = "users_"
"""Before the name of a score that is a mean over users."""
POPULATION = "population_"
"""Before the name of a score that the population's expert has alone, in a personal run's `metrics.json`."""


def by_user(
    task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Every score of each user's own rows, by user; NaN where it is undefined for these rows."""
    users, found = _each(task, predictions, examples)
    return {
        user: {name: float(own[at]) for name, own in found.items()} for at, user in enumerate(users)
    }


def over_users(
    task: Task,
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """The mean over users of every score, as `users_<score>`, with a percentile bootstrap over users.

    Users for whom a score is undefined do not count in it; a score that is so for all is left out.

    Args:
        task: Knows what to count.
        predictions: One a row.
        examples: The rows, with their answers and `user`.
        resamples: Bootstrap resamples; 0 leaves the interval out: both ends are the score.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.
    """
    users, found = _each(task, predictions, examples)
    shares = np.full(len(users), 1 / len(users))
    counts = np.random.default_rng(seed).multinomial(len(users), shares, size=resamples)
    scores: dict[str, Score] = {}
    for name, own in found.items():
        defined = ~np.isnan(own)
        if not defined.any():
            continue
        total = counts[:, defined].sum(1)
        drawn = (counts[:, defined] @ own[defined])[total > 0] / total[total > 0]
        scores[f"{OVER_USERS}{name}"] = interval(float(own[defined].mean()), drawn, level)
    return scores


def _each(
    task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]
) -> tuple[list[str], dict[str, np.ndarray]]:
    pairs = zip(predictions, examples, strict=True)
    statistics = np.stack([task.statistics(said, own) for said, own in pairs]).astype(np.float64)
    users = sorted({example["user"] for example in examples})
    place = {user: at for at, user in enumerate(users)}
    counts = np.zeros((len(users), len(examples)))
    counts[[place[example["user"]] for example in examples], range(len(examples))] = 1.0
    return users, {**task.metrics(counts @ statistics), **task.ranked(statistics, counts)}
