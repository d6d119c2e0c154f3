"""LoraHub: weights by CMA-ES over the loss on a few examples of every task."""

from collections.abc import Callable, Sequence
from statistics import mean
from typing import cast

from weft.answering.inference import padding_id, total_loss
from weft.config import MergeSettings
from weft.merging.combine import Learned
from weft.merging.learned.contract import Learner
from weft.merging.search import held_items, put, seen_in_training
from weft.merging.stage import Stage
from weft.methods.merges.contract import Merge
from weft.methods.merges.lorahub import Lorahub, LorahubSettings

SPREAD = 0.5
"""Standard deviation of the first weights, a third of the bound as published."""


class LorahubLearner(Learner):
    """Weights without gradients."""

    def learn(self, stage: Stage, method: Merge, settings: MergeSettings) -> Learned:
        own = cast(Lorahub, method).settings
        count = len(stage.sources)
        if count < 2:
            raise ValueError("lorahub weighs experts against each other; give at least two runs")
        tasks = [(one, held_items(stage, one, own.rows)) for one in stage.answered]

        def objective(weights: Sequence[float]) -> float:
            put(weights, stage, method, settings)
            losses = []
            for one, items in tasks:
                total, labelled = total_loss(
                    stage.model,
                    items,
                    pad_id=padding_id(stage.base),
                    device=stage.device,
                    precision=one.part.folder.run.training.precision,
                )
                losses.append(total / (labelled or 1))
            return mean(losses) + own.penalty * mean(map(abs, weights))

        tried = searched(objective, count, own, settings.seed)
        best = min(tried, key=lambda one: one[1])
        told = {
            "by": "CMA-ES on held-out rows of train",
            "tried": [{"weights": weights, "value": value} for weights, value in tried],
        }
        rows = sum(len(items) for _, items in tasks)
        notes = seen_in_training(stage)
        return Learned(best[0], trained=count, rows=rows, told=told, notes=notes)


def searched(
    objective: Callable[[Sequence[float]], float], count: int, settings: LorahubSettings, seed: int
) -> list[tuple[list[float], float]]:
    """What was tried, in order, with what it comes to; the smaller the better.

    Raises:
        ValueError: If the package that searches is not installed.
    """
    try:
        import cma  # type: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("lorahub needs cma: pip install 'weft[merge]'") from None
    options = {
        "bounds": [-settings.bound, settings.bound],
        "maxfevals": settings.tries,
        # 0 would mean the time of day.
        "seed": seed + 1,
        "verbose": -9,
    }
    search = cma.CMAEvolutionStrategy([0.0] * count, SPREAD * settings.bound / 1.5, options)
    tried: list[tuple[list[float], float]] = []
    while len(tried) < settings.tries and not search.stop():
        asked = search.ask()
        values = [objective([float(w) for w in weights]) for weights in asked]
        search.tell(asked, values)
        tried += [
            ([float(w) for w in weights], value)
            for weights, value in zip(asked, values, strict=True)
        ]
    return tried[: settings.tries]
