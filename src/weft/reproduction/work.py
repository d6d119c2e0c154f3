"""What a plan runs, run by run: how many tokens each is, where it lies, and how far it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weft.comparison.comparing import Grid
from weft.comparison.grid import Cell, cells_of
from weft.comparison.jobs import Job, best_rate, final_jobs, is_decided, search_jobs
from weft.config import TrainingSettings, validate
from weft.data.rows import HOLDOUT
from weft.reproduction.plan import OWN, MergeRun, MixtureRun, Plan, Stage
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
    found = [run for stage in plan.stages for run in _planned(plan, stage)]
    return found + list(_mixtures(plan))


def _planned(plan: Plan, stage: Stage) -> Iterator[Planned]:
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
        rate = training.rate
        yield Planned(run.base, "mixtures", "final", run.name, tasks, rate, run.seed, tokens, False)


@dataclass(frozen=True)
class Step:
    """One run of a plan."""

    planned: Planned
    job: Job | None
    """None: the rate or the experts that it takes are not known yet."""

    @property
    def state(self) -> Literal["done", "failed", "open"]:
        """failed: in the last call; it is tried again."""
        if self.job is None:
            return "open"
        if self.job.is_complete:
            return "done"
        return "open" if self.job.failure is None else "failed"


def steps(plan: Plan) -> list[Step]:
    """Every run of a plan, in the order of `work`."""
    jobs = [job for stage in plan.stages for job in _jobs(stage)]
    jobs += [mixture_job(plan, mixture) for mixture in plan.mixtures]
    return [Step(planned, job) for planned, job in zip(work(plan), jobs, strict=True)]


def place_of(plan: Plan, run: Planned) -> Path:
    """What the folders of a run's job and of those like it have in common; a mixture's own folder."""
    if run.stage != "mixtures":
        return plan.stage(run.stage, run.base).folder / run.part / run.tasks[0] / run.what
    named = (run.base, run.what, run.seed)
    return next(m.folder for m in plan.mixtures if (m.base, m.name, m.seed) == named)


def experts_of(plan: Plan, one: MixtureRun | MergeRun) -> list[Job] | None:
    """The runs whose experts are combined: of its seed, at the best rate; None before the search has ended."""
    stage = plan.stage(OWN, one.base)
    found = []
    for task in stage.grid.tasks:
        own = finals(stage, Cell(stage.grid.base, task, one.row.experts))
        if own is None:
            return None
        found.append(own[stage.grid.seeds.index(one.seed)])
    return found


def mixture_job(plan: Plan, mixture: MixtureRun) -> Job | None:
    """A mixture's run; None before its experts are known."""
    experts = experts_of(plan, mixture)
    if experts is None:
        return None
    folders = [job.folder for job in experts]
    own = mixture.run(folders, plan.profile.training, plan.profile.device)
    return Job(mixture.folder, own)


def finals(stage: Stage, cell: Cell) -> list[Job] | None:
    """A cell's final runs, seed by seed; None before its search has ended."""
    search = search_jobs(stage.grid, stage.folder, cell)
    if not is_decided(search.values()):
        return None
    rate, _ = best_rate(stage.grid, cell, search)
    return final_jobs(stage.grid, stage.folder, cell, rate)


def _jobs(stage: Stage) -> Iterator[Job | None]:
    cells = cells_of(stage.grid)
    for cell in cells:
        yield from search_jobs(stage.grid, stage.folder, cell).values()
    for cell in cells:
        yield from finals(stage, cell) or [None] * len(stage.grid.seeds)
