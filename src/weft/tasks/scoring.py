"""Scores from predictions, with percentile bootstrap intervals over rows.

Statistics add up over rows, so a resample is a row of multinomial counts and all resamples are one
matrix product (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3). Comparing
two systems uses the same resamples for both (Koehn 2004, aclanthology.org/W04-3250).

Why our own: `scipy.stats.bootstrap` computes a metric anew for each resample: nothing there adds statistics up.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from weft.tasks.cases import Mistakes, mistakes_of
from weft.tasks.contract import Example, Prediction, Task

RESAMPLES = 1000
LEVEL = 0.95
COUNTS_AT_ONCE = 2**22
"""Row counts held in memory at a time: 32 MiB."""
NOTHING_SHOWN = {"roc_auc": 0.5}
"""What stands for a score that is undefined, where it is not 0: the value of an order that says nothing."""


@dataclass(frozen=True)
class Score:
    """A score and the ends of its interval; fractions for fractions."""

    value: float
    low: float
    high: float


def score(
    task: Task,
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """Every score of a task over the rows, by name.

    A score that is undefined where more is better (Pearson's of constant values, an area under a curve of one class)
    is given as what no relation gives, 0 or 0.5, and a warning says so. Resamples in which a score is undefined are
    left out of its interval.

    Args:
        task: Knows what to count.
        predictions: One a row.
        examples: The rows, with their answers.
        resamples: Bootstrap resamples; 0 leaves the interval out: both ends are the score.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.

    Raises:
        ValueError: If there are no rows, a row has no answer, or nothing to score by perplexity.
    """
    statistics = _statistics(task, predictions, examples)
    values = _values(task, statistics)
    (drawn,) = _drawn(task, [statistics], resamples, seed)
    return {name: interval(value, drawn[name], level) for name, value in values.items()}


def paired_difference(
    task: Task,
    predictions_a: Sequence[Prediction],
    predictions_b: Sequence[Prediction],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """How much higher A scores than B on the same rows, by score; both see the same resamples.

    Args:
        task: Knows what to count.
        predictions_a: One system's, one a row.
        predictions_b: The other's.
        examples: The rows, with their answers.
        resamples: Bootstrap resamples; 0 leaves the interval out: both ends are the score.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.

    Raises:
        ValueError: As `score`.
    """
    a, b = (_statistics(task, said, examples) for said in (predictions_a, predictions_b))
    first, second = _values(task, a), _values(task, b)
    drawn_a, drawn_b = _drawn(task, [a, b], resamples, seed)
    return {
        name: interval(first[name] - second[name], drawn_a[name] - drawn_b[name], level)
        for name in first
    }


def share(hits: int, of: int, *, level: float = LEVEL) -> Score:
    """A proportion with Wilson's interval, which says something at 0 and 1 too.

    Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Raises:
        ValueError: If `of` is 0.
    """
    if not of:
        raise ValueError("a share of no rows is undefined")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = hits / of
    middle = p + z * z / (2 * of)
    spread = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * spread) / (1 + z * z / of) for sign in (-1, 1))
    # Rounding may put an end past 0, past 1 or past the share itself.
    return Score(p, min(p, max(0.0, low)), max(p, min(1.0, high)))


def _statistics(
    task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]
) -> np.ndarray:
    if not examples:
        raise ValueError(f"{task.spec.name}: no rows to score")
    if len(predictions) != len(examples):
        raise ValueError(
            f"{task.spec.name}: {len(predictions)} predictions for {len(examples)} rows; "
            "give one a row"
        )
    pairs = zip(predictions, examples, strict=True)
    return np.stack([task.statistics(said, example) for said, example in pairs]).astype(np.float64)


def _values(task: Task, statistics: np.ndarray) -> dict[str, float]:
    once = np.ones((1, len(statistics)))
    found = {**task.metrics(statistics.sum(0)), **_of_one(task.ranked(statistics, once))}
    values = {name: float(value) for name, value in found.items()}
    undefined = [name for name, value in values.items() if np.isnan(value)]
    if undefined and not task.higher_is_better:
        raise ValueError(
            f"{task.spec.name}: nothing to score: no row has a token that counts "
            f"({', '.join(undefined)})"
        )
    for name in undefined:
        values[name] = NOTHING_SHOWN.get(name, 0.0)
        warnings.warn(
            f"{task.spec.name}: {name} is undefined for these {len(statistics)} rows: the right answers or those given "
            f"are all alike; {values[name]:g} stands for it",
            stacklevel=3,
        )
    return values


def _of_one(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[0] for name, values in scores.items()}


def _drawn(
    task: Task, systems: Sequence[np.ndarray], resamples: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Every score in every resample of the rows, (resamples,) by name; all systems see the same resamples."""
    every = np.concatenate(systems, axis=1)
    totals = [np.empty((0, every.shape[1]))]
    ranked: list[list[dict[str, np.ndarray]]] = [[] for _ in systems]
    for counts in counts_of_resamples(len(every), resamples, seed):
        totals.append(counts @ every)
        for found, own in zip(ranked, systems, strict=True):
            found.append(task.ranked(own, counts))
    summed = np.split(np.concatenate(totals), len(systems), axis=1)
    return [
        {**task.metrics(own), **_joined(parts)} for own, parts in zip(summed, ranked, strict=True)
    ]


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}


def mistakes(
    task: Task,
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Mistakes | None:
    """The worst rows and what confidence is worth; None where the kind makes no cases, or there are no rows."""
    made = [task.case(said, row) for said, row in zip(predictions, examples, strict=True)]
    cases = [case for case in made if case is not None]
    if not cases:
        return None

    def resample(rows: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [counts @ rows for counts in counts_of_resamples(len(rows), resamples, seed)]
        )

    return mistakes_of(cases, resample)


def counts_of_resamples(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample draws each row, (some resamples, rows) at a time."""
    if resamples < 0:
        raise ValueError(f"resamples must not be negative, got {resamples}")
    generator = np.random.default_rng(seed)
    chunk = max(1, COUNTS_AT_ONCE // rows)
    for start in range(0, max(resamples, 1), chunk):  # none at all is one empty part
        count = min(chunk, resamples - start)
        drawn = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        yield counts.astype(np.float64)


def interval(value: float, drawn: np.ndarray, level: float) -> Score:
    """A value with the quantiles of its resamples; those that are no number do not count."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Score(value, value, value)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Score(value, float(low), float(high))


def mean_score(
    task: Task,
    runs: Sequence[Sequence[Prediction]],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Score]:
    """Each score's mean over several runs (seeds) of one method on the same rows.

    The interval is over rows: every resample is scored for all runs and averaged. It does not hold the spread over
    seeds, which three runs cannot estimate; report that beside it.

    Args:
        task: Knows what to count.
        runs: For each run its predictions, one a row.
        examples: The rows, with their answers.
        resamples: Bootstrap resamples.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.
    """
    values, drawn = means(task, runs, examples, resamples, seed)
    return {name: interval(value, drawn[name], level) for name, value in values.items()}


def means(
    task: Task,
    runs: Sequence[Sequence[Prediction]],
    examples: Sequence[Example],
    resamples: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Each score's mean over several runs, and the same in every resample of the rows: (resamples,) by score.

    Equal rows, resamples and seed draw equal samples, so that two methods can be held against each other.
    """
    statistics = [_statistics(task, predictions, examples) for predictions in runs]
    values = [_values(task, own) for own in statistics]
    drawn = [_drawn(task, [own], resamples, seed)[0] for own in statistics]
    return (
        {name: float(np.mean([own[name] for own in values])) for name in values[0]},
        {name: np.mean([own[name] for own in drawn], axis=0) for name in values[0]},
    )


@dataclass(frozen=True)
class Difference:
    """How much higher one method scores than another, and how likely chance makes that much."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, from the same resamples as the interval; at least 2 / (resamples + 1)."""


def mean_difference(
    task: Task,
    runs_a: Sequence[Sequence[Prediction]],
    runs_b: Sequence[Sequence[Prediction]],
    examples: Sequence[Example],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """How much higher A scores than B on average over paired runs (seeds), by score.

    A resample draws rows, the same for every run of both, and pairs of runs: the interval holds the
    spread over seeds as far as so few can show it.

    Args:
        task: Knows what to count.
        runs_a: For each run of one method its predictions, one a row.
        runs_b: The other's, run by run with the same seed.
        examples: The rows, with their answers.
        resamples: Bootstrap resamples.
        level: Probability that the interval is meant to cover, 0 to 1.
        seed: Decides the resamples.

    Raises:
        ValueError: As `score`, or if the runs are no pairs.
    """
    if len(runs_a) != len(runs_b):
        raise ValueError(
            f"{len(runs_a)} runs and {len(runs_b)}: give as many of both, seed by seed"
        )
    values, drawn = [], []
    for said_a, said_b in zip(runs_a, runs_b, strict=True):
        a, b = (_statistics(task, said, examples) for said in (said_a, said_b))
        first, second = _values(task, a), _values(task, b)
        values.append({name: first[name] - second[name] for name in first})
        of_a, of_b = _drawn(task, [a, b], resamples, seed)
        drawn.append({name: np.asarray(of_a[name]) - of_b[name] for name in first})
    runs = len(values)
    chosen = np.random.default_rng([seed, runs]).integers(runs, size=(resamples, runs))
    found = {}
    for name in values[0]:
        by_run = np.stack([own[name] for own in drawn], axis=1)
        means = np.take_along_axis(by_run, chosen, axis=1).mean(axis=1)
        middle = interval(float(np.mean([own[name] for own in values])), means, level)
        tail = min((means <= 0).sum(), (means >= 0).sum())
        p = min(1.0, 2 * (tail + 1) / (resamples + 1))
        found[name] = Difference(middle.value, middle.low, middle.high, p)
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values corrected for being many: the chance that any true null hypothesis among them is rejected.

    Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    found: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        found[name] = largest
    return found
