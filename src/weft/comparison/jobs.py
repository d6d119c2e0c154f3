"""The runs of a comparison: where each lies, what is complete, what failed, running one.

    [<base>/]search/<task>/<recipe>/<rate>            one rate, scored on a held-out tenth of train
    [<base>/]final/<task>/<recipe>/<rate>-seed<seed>  the best rate and one seed, scored on validation

The folder of the base is there only where the grid names several.
"""

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from weft.atomic import make_folder, writing
from weft.comparison.grid import Cell, Grid, cells_of, label_of
from weft.config import Run, TrainingSettings, validate
from weft.data.reading import find_kind, find_spec
from weft.runs import CONFIG, RunFolder
from weft.storage.card import CARD, read_card, task_of
from weft.tasks.contract import Task
from weft.training.loop import Diverged, Report, train
from weft.training.settings import completed

FAILED = "failed.txt"
"""Why a run failed: what was raised, an empty line, where. Its next attempt removes it."""


@dataclass(frozen=True)
class Job:
    """One run of the comparison."""

    folder: Path
    run: Run
    data: Mapping[str, Any] | None = None
    """Rows in memory of its task; None reads files."""

    @property
    def is_complete(self) -> bool:
        return (self.folder / CONFIG).is_file() and RunFolder.open(self.folder).is_complete

    @property
    def failure(self) -> str | None:
        """What the last attempt raised; None if it did not fail."""
        path = self.folder / FAILED
        return path.read_text(encoding="utf-8").split("\n\n")[0] if path.is_file() else None

    @property
    def is_lost(self) -> bool:
        """Whether the last attempt diverged, as another one would."""
        return (self.failure or "").startswith(f"{Diverged.__name__}:")

    def fail(self, error: str, where: str = "") -> None:
        """Leave word of a failure."""
        make_folder(self.folder)
        # Not by way of a draft, which a kill could leave in a folder that is to go.
        with writing(self.folder / FAILED):
            (self.folder / FAILED).write_text(f"{error.strip()}\n\n{where}", encoding="utf-8")


def run_job(job: Job, report: Report | None = None) -> None:
    """Train what is missing of one run; what it raises is left in its folder, too.

    Two processes never write to one run: the second waits, and finds it complete or goes on with it.

    Args:
        job: The run.
        report: Called after steps.

    Raises:
        Interrupted: On SIGINT or SIGTERM, after the state was saved.
    """
    make_folder(job.folder.parent)
    # The lock of a process that dies, however it dies, is free.
    with FileLock(job.folder.with_name(f".{job.folder.name}.lock")):
        if job.is_complete:
            return
        (job.folder / FAILED).unlink(missing_ok=True)
        try:
            if (job.folder / CONFIG).is_file():
                train(resume=job.folder, report=report, data=job.data)
            else:
                if job.folder.is_dir():
                    job.folder.rmdir()
                train(job.run, out=job.folder, report=report, data=job.data)
        except Exception as error:
            job.fail(f"{type(error).__name__}: {error}", traceback.format_exc())
            raise


def search_jobs(grid: Grid, folder: Path, cell: Cell) -> dict[float, Job]:
    """The runs of a cell's search by rate; none where only one rate is given."""
    rates = grid.recipes[cell.recipe].learning_rates
    return {rate: _search_job(grid, folder, cell, rate) for rate in rates if len(rates) > 1}


def final_jobs(grid: Grid, folder: Path, cell: Cell, rate: float) -> list[Job]:
    """The runs of a cell at its best rate, seed by seed."""
    place = _place(grid, folder, cell, "final")
    return [
        Job(place / f"{rate:g}-seed{seed}", _run(grid, cell, rate, seed, {})) for seed in grid.seeds
    ]


def is_decided(search: Iterable[Job]) -> bool:
    """Whether a search has come to its end: every rate was tried, and at one of them a training did not diverge."""
    jobs = list(search)
    ended = [job for job in jobs if job.is_complete]
    return all(job.is_complete or job.is_lost for job in jobs) and bool(ended or not jobs)


def best_rate(grid: Grid, cell: Cell, jobs: Mapping[float, Job]) -> tuple[float, dict[str, float]]:
    """The rate that scored best on held-out rows, and the score of each that ended; a single one needs no search."""
    if not jobs:
        return grid.recipes[cell.recipe].learning_rates[0], {}
    ended = {rate: job for rate, job in jobs.items() if not job.is_lost}
    task = _task(grid, cell, next(iter(ended.values())))
    scores = {rate: score_of(job.folder, task.metric)["value"] for rate, job in ended.items()}
    sign = 1 if task.higher_is_better else -1
    best = max(scores, key=lambda rate: sign * scores[rate])
    return best, {f"{rate:g}": value for rate, value in scores.items()}


def _task(grid: Grid, cell: Cell, job: Job) -> Task:
    """The task as a run's expert has it, for the form of its rows may decide its metric; else as it is described."""
    expert = RunFolder.open(job.folder).expert
    if (expert / CARD).is_file():
        return task_of(read_card(expert))
    spec = find_spec(grid.tasks[cell.task].task)
    return find_kind(spec)(spec, spec.labels or ())


def score_of(folder: Path, metric: str) -> dict[str, Any]:
    """A run's own score, `{value, low, high, n, ...}`, on the rows that it was meant for."""
    found = RunFolder.open(folder)
    split = found.run.training.evaluate_on
    return next(row for row in found.metrics if row["name"] == metric and row["split"] == split)


@dataclass(frozen=True)
class Plan:
    """How far one cell is, before anything is run."""

    cell: Cell
    runs: int
    """All that it takes: its search and its seeds."""
    done: int
    failed: int
    """Of the last call; they are tried again."""


def planned(grid: Grid, out: str | Path, recipes: Iterable[str] | None = None) -> list[Plan]:
    """What `compare` will find done and what it will run; recipes that cannot be run are refused here, not in hours.

    Raises:
        KeyError: If the grid has no such recipe, or a recipe or task is unknown.
        ValueError: If a setting is wrong.
    """
    plans = []
    for cell in cells_of(grid, recipes):
        find_spec(grid.tasks[cell.task].task)
        search = search_jobs(grid, Path(out), cell)
        jobs = list(search.values())
        # A rate that diverged in a search with a winner is done with; elsewhere it is tried again.
        lost = 0
        if is_decided(jobs):
            lost = sum(job.is_lost for job in jobs)
            jobs += final_jobs(grid, Path(out), cell, best_rate(grid, cell, search)[0])
        done = lost + sum(job.is_complete for job in jobs)
        failed = sum(job.failure is not None for job in jobs if not job.is_complete) - lost
        runs = len(search) + len(grid.seeds)
        if done < runs:
            completed(jobs[0].run)
        plans.append(Plan(cell, runs, done, failed))
    return plans


def _place(grid: Grid, folder: Path, cell: Cell, part: str) -> Path:
    own = folder / label_of(cell.base) if grid.bases else folder
    return own / part / cell.task / cell.recipe


def _search_job(grid: Grid, folder: Path, cell: Cell, rate: float) -> Job:
    entry = grid.tasks[cell.task]
    more = entry.search | {"evaluate_on": "holdout"}
    run = _run(grid, cell, rate, grid.search_seed, more)
    if entry.search_examples is not None:
        own = entry.task.model_copy(update={"max_examples": {"train": entry.search_examples}})
        run = run.model_copy(update={"task": own})
    return Job(_place(grid, folder, cell, "search") / f"{rate:g}", run)


def _run(grid: Grid, cell: Cell, rate: float, seed: int, more: Mapping[str, Any]) -> Run:
    entry, method = grid.tasks[cell.task], grid.recipes[cell.recipe]
    values = grid.training | entry.training | method.training | dict(more) | {"learning_rate": rate}
    training = validate(TrainingSettings, values, f"{cell.task}, {cell.recipe}: training")
    return Run(
        base=cell.base,
        task=entry.task,
        recipe=method.recipe,
        training=training,
        seed=seed,
        device=grid.device,
    )
