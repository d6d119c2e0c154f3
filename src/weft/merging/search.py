"""`--search`: weights by a pattern search over scores on held-out rows; the rows that are scored are never looked at.

    value(w) = mean over tasks of  score of the merged expert / score of the task's own expert

One weight at a time goes up and down by a step, which halves when nothing helps (Hooke and Jeeves 1961,
doi:10.1145/321062.321069). It needs no gradient, draws nothing, and keeps the best that it has seen.
"""

from collections.abc import Callable, Sequence
from statistics import mean

from weft.answering.inference import sampled
from weft.config import MergeSettings
from weft.data.reading import holdout
from weft.data.rows import HOLDOUT
from weft.merging.combine import Learned, combined
from weft.merging.heads import Answered
from weft.merging.stage import MERGED, Rows, Stage
from weft.methods.merges.contract import Merge
from weft.model.batching import Item
from weft.scoped import tell
from weft.tasks.contract import Prediction
from weft.tasks.scoring import score

ROWS = 200
"""Held-out rows of a task, at most."""
TRIES = 24
"""Weights that are tried."""
SMALLEST = 0.05
"""Step below which the search ends."""


def found_weights(stage: Stage, method: Merge, settings: MergeSettings) -> Learned:
    """The best weights that were tried.

    Raises:
        ValueError: If a task's training rows are not at hand.
    """
    rows = [(one, held(stage, one)) for one in stage.answered]
    own = [
        _value(one, part, stage.said(one, part, (stage.name_of(one.own, one.part.label),)))
        for one, part in rows
    ]

    def value(weights: Sequence[float]) -> float:
        put(weights, stage, method, settings)
        reached = [_value(one, part, stage.said(one, part, (MERGED,))) for one, part in rows]
        return mean(
            _share(one, part, *pair) for (one, part), *pair in zip(rows, reached, own, strict=True)
        )

    count = len(stage.sources)
    tried = pattern_search(value, [[1 / count] * count, [1.0] * count], TRIES)
    best = max(tried, key=lambda one: one[1])
    told = {
        "by": "search on held-out rows of train",
        "rows": {one.part.label: len(part.examples) for one, part in rows},
        "tried": [{"weights": weights, "value": found} for weights, found in tried],
    }
    count_of_rows = sum(len(part.examples) for _, part in rows)
    return Learned(best[0], rows=count_of_rows, told=told, notes=seen_in_training(stage))


def put(weights: Sequence[float], stage: Stage, method: Merge, settings: MergeSettings) -> None:
    """Make the experts what they are with weights that are tried."""
    tell(f"trying weights {', '.join(f'{weight:.3g}' for weight in weights)}")
    stage.put(combined(stage.sources, method, Learned(list(weights)), settings).factors)


def seen_in_training(stage: Stage) -> tuple[str, ...]:
    """What must be said where an expert was trained on the rows that are held out here."""
    return tuple(
        f"{one.part.label}: its expert was trained on the rows that weights are found on, so they flatter it; one that "
        "stops early (training.early_stopping) holds them out"
        for one in stage.answered
        if not _was_held(one)
    )


def pattern_search(
    value: Callable[[Sequence[float]], float], starts: Sequence[Sequence[float]], tries: int
) -> list[tuple[list[float], float]]:
    """What was tried, in order, with its value; the larger the better.

    Args:
        value: Of weights.
        starts: Where to begin: at the best of these.
        tries: How often `value` may be asked.
    """
    found: dict[tuple[float, ...], float] = {}

    def ask(weights: Sequence[float]) -> float:
        key = tuple(round(weight, 6) for weight in weights)
        if key not in found and any(key) and len(found) < tries:
            found[key] = value(key)
        return found.get(key, float("-inf"))

    best = list(max(starts, key=ask))
    step = 0.5 * max(map(abs, best))
    while step >= SMALLEST and len(found) < tries:
        reached = ask(best)
        for at in range(len(best)):
            for sign in (1, -1):
                moved = [*best[:at], best[at] + sign * step, *best[at + 1 :]]
                if ask(moved) > ask(best):
                    best = moved
                    break
        if ask(best) <= reached:
            step /= 2
    return [(list(weights), reached) for weights, reached in found.items()]


def held(stage: Stage, one: Answered, limit: int = ROWS) -> Rows:
    """The tenth of a task's training rows that a run which stops early holds out, or the first `limit` of it.

    Raises:
        ValueError: If the rows are not at hand.
    """
    label = one.part.label
    try:
        rows = stage.rows(one.part, "train")
    except ValueError as error:
        raise ValueError(
            f"{label}: weights are found on rows of its training split, which are not at hand: {error}"
        ) from error
    _, kept = holdout(rows.examples, HOLDOUT, seed=one.part.folder.run.seed)
    ids = [example["id"] for example in kept[:limit]]
    places = {example["id"]: at for at, example in enumerate(rows.examples)}
    return Rows(rows.loaded, kept[:limit], [rows.records[places[name]] for name in ids])


def held_items(stage: Stage, one: Answered, limit: int) -> list[Item]:
    """The same for the merged expert to learn from.

    Raises:
        ValueError: If the rows are not at hand.
    """
    part = held(stage, one, limit)
    records = sampled(part.loaded.task, part.records)
    return [stage.item(one, (MERGED,), record) for record in records]


def _was_held(one: Answered) -> bool:
    """Whether the expert did not learn from those rows."""
    training = one.part.folder.run.training
    stops = training.early_stopping is not None or training.eval_every is not None
    return training.evaluate_on == "holdout" or (stops and training.select_on == "holdout")


def _value(one: Answered, rows: Rows, said: Sequence[Prediction]) -> float:
    task = rows.loaded.task
    return score(task, said, rows.examples, resamples=0)[task.metric].value


def _share(one: Answered, rows: Rows, reached: float, own: float) -> float:
    """How much of the own expert's score is reached; the score itself, where that has none."""
    if rows.loaded.task.higher_is_better:
        return reached / own if own else reached
    return own / reached if reached else 1.0
