"""A plan's runs as jobs: where each lies, and how far it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weft.comparison.grid import Cell, cells_of
from weft.comparison.jobs import Job, best_rate, final_jobs, search_jobs
from weft.reproduction.plan import OWN, MixtureRun, Plan, Stage
from weft.reproduction.work import Planned, work


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
    jobs = [job for stage in plan.stages for job in _stage(stage)]
    jobs += [mixture_job(plan, mixture) for mixture in plan.mixtures]
    return [Step(planned, job) for planned, job in zip(work(plan), jobs, strict=True)]


def place_of(plan: Plan, run: Planned) -> Path:
    """What the folders of a run's job and of those like it have in common; a mixture's own folder."""
    if run.stage != "mixtures":
        return plan.stage(run.stage, run.base).folder / run.part / run.tasks[0] / run.what
    named = (run.base, run.what, run.seed)
    return next(m.folder for m in plan.mixtures if (m.base, m.name, m.seed) == named)


def experts_of(plan: Plan, mixture: MixtureRun) -> list[Job] | None:
    """The runs whose experts a mixture mixes: of its seed, at the best rate; None before the search has ended."""
    stage = plan.stage(OWN, mixture.base)
    found = []
    for task in stage.grid.tasks:
        own = finals(stage, Cell(stage.grid.base, task, mixture.row.experts))
        if own is None:
            return None
        found.append(own[stage.grid.seeds.index(mixture.seed)])
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
    if not all(job.is_complete for job in search.values()):
        return None
    rate, _ = best_rate(stage.grid, cell, search)
    return final_jobs(stage.grid, stage.folder, cell, rate)


def _stage(stage: Stage) -> Iterator[Job | None]:
    cells = cells_of(stage.grid)
    for cell in cells:
        yield from search_jobs(stage.grid, stage.folder, cell).values()
    for cell in cells:
        yield from finals(stage, cell) or [None] * len(stage.grid.seeds)
