"""What a plan runs, run by run, and how many tokens each is: the ground of an estimate."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from weft.comparison.comparing import Grid
from weft.config import TrainingSettings, validate
from weft.data.rows import HOLDOUT
from weft.reproduction.plan import Plan, Stage
from weft.reproduction.profiles import SetEntry

SCORING = 0.5
"""Time of a scored token beside one of training LoRA: a forward without its backward."""


@dataclass(frozen=True)
class Planned:
    """One run."""

    base: str
    stage: str
    """study, own or mixtures."""
    part: Literal["search", "final"]
    what: str
    """A recipe or mixture."""
    tasks: tuple[str, ...]
    learning_rate: float | None
    """None: what the search finds best, or the mixture's own."""
    seed: int
    tokens: float
    """Tokens trained on, each counted as many times as its time is that of one in LoRA, and tokens scored."""
    may_stop: bool
    """Whether it may stop before its last epoch."""


def work(plan: Plan) -> list[Planned]:
    """Every run of a plan in the order it is run; finished ones too."""
    found = [run for stage in plan.stages for run in _stage(plan, stage)]
    return found + list(_mixtures(plan))


def _stage(plan: Plan, stage: Stage) -> Iterator[Planned]:
    grid = stage.grid
    for task in grid.tasks:
        for recipe, row in grid.recipes.items():
            if len(row.learning_rates) > 1:
                for rate in row.learning_rates:
                    tokens, stops = _tokens(plan, grid, task, recipe, search=True)
                    where = stage.base, stage.name
                    yield Planned(
                        *where, "search", recipe, (task,), rate, grid.search_seed, tokens, stops
                    )
    for task in grid.tasks:
        for recipe, row in grid.recipes.items():
            rate = row.learning_rates[0] if len(row.learning_rates) == 1 else None
            tokens, stops = _tokens(plan, grid, task, recipe, search=False)
            for seed in grid.seeds:
                where = stage.base, stage.name
                yield Planned(*where, "final", recipe, (task,), rate, seed, tokens, stops)


def _tokens(plan: Plan, grid: Grid, task: str, recipe: str, *, search: bool) -> tuple[float, bool]:
    entry, own = plan.profile.tasks[task], grid.tasks[task]
    values = grid.training | own.training | grid.recipes[recipe].training
    training = validate(TrainingSettings, values | (own.search if search else {}), task)
    rows = float(entry.rows)
    if search and own.search_examples is not None:
        rows = min(entry.train, own.search_examples)
    held = rows * HOLDOUT if search else 0.0
    looks = 1 + (training.epochs if training.early_stopping is not None else 0)
    scored = (held if search else entry.validation) * looks
    trained = (rows - held) * training.epochs * plan.profile.costs[recipe]
    return entry.tokens * (trained + SCORING * scored), training.early_stopping is not None


def _mixtures(plan: Plan) -> Iterator[Planned]:
    entries: list[SetEntry] = list(plan.profile.tasks.values())
    for run in plan.mixtures:
        values = plan.profile.training | run.row.training
        training = validate(TrainingSettings, values, f"mixture {run.name}")
        # The mixture is scored, and beside it uniform gates and the experts' sum.
        tokens = run.row.cost * sum(
            entry.tokens * (entry.rows * training.epochs + 3 * SCORING * entry.validation)
            for entry in entries
        )
        tasks = tuple(plan.profile.tasks)
        rate = training.learning_rate
        yield Planned(run.base, "mixtures", "final", run.name, tasks, rate, run.seed, tokens, False)
