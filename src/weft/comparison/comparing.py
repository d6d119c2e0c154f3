"""Recipes x tasks x bases x seeds x learning rates, as run folders, into a table.

    search   every recipe on every task: the same budget for each, one seed, scored on a held-out tenth of train
    final    the best rate, every seed, scored once on the validation split

A finished run is never repeated and an interrupted one goes on, so the same call continues where it stopped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Protocol

from weft.answering.evaluation import read_predictions
from weft.comparison.grid import Cell, Grid, RecipeEntry, TaskEntry, cells_of, claim
from weft.comparison.jobs import (
    Job,
    best_rate,
    final_jobs,
    is_decided,
    run_job,
    score_of,
    search_jobs,
)
from weft.config import validate
from weft.data.memory import given_by_task
from weft.data.reading import LoadedTask, load_task
from weft.runs import RunFolder
from weft.scoped import tell
from weft.tasks.contract import Prediction
from weft.tasks.scoring import Score, mean_score
from weft.training.loop import Diverged, Report

__all__ = [
    "Cell",
    "Grid",
    "Job",
    "RecipeEntry",
    "Row",
    "Runner",
    "TaskEntry",
    "Told",
    "Unfinished",
    "compare",
    "examples_of",
    "predictions_of",
]


@dataclass(frozen=True)
class Row:
    """One recipe on one task and base: means over seeds at its best rate."""

    base: str
    task: str
    recipe: str
    metric: str
    learning_rate: float
    searched: dict[str, float]
    """Score on the held-out rows by learning rate."""
    on_edge: bool
    """The best rate is the smallest or largest tried, so a better one may lie beyond."""
    seeds: list[int]
    n: int
    """Validation rows."""
    scores: dict[str, Score]
    """Mean over seeds; the interval is over validation rows, the same resamples for every seed."""
    by_seed: list[float]
    deviation: float
    """Standard deviation of the metric over seeds; 0 for one seed."""
    adapter_parameters: int
    trainable_parameters: int
    examples: int
    steps: int
    seconds: float
    """Training time of a run, mean over seeds."""
    seconds_per_epoch: float
    peak_memory_mib: float
    """The most that the process of one of the runs held; of one that ran several, this one or one before it."""

    @property
    def cell(self) -> Cell:
        return Cell(self.base, self.task, self.recipe)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Told = Callable[[Job, int, int], Report | None]
"""Called before each run with the job, its number and how many there are; returns that run's progress display."""


class Runner(Protocol):
    """Whoever runs jobs somewhere else."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Bring every job to its end or leave its failure in its folder."""


class Unfinished(RuntimeError):  # noqa: N818 - says what is so, as Interrupted does
    """Runs failed; the others are done. The same call tries the failed ones again.

    Args:
        rows: Of the cells that are complete.
        failed: The runs that are not; `failure` says why.
    """

    def __init__(self, rows: list[Row], failed: list[Job]) -> None:
        lines = [f"{job.folder}: {job.failure or 'not finished'}" for job in failed]
        super().__init__("\n".join(["runs failed; the same call tries them again:", *lines]))
        self.rows = rows
        self.failed = failed


def compare(
    grid: Grid | Mapping[str, Any],
    out: str | Path,
    *,
    recipes: Sequence[str] | None = None,
    told: Told | None = None,
    extend: bool = False,
    runner: Runner | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
) -> list[Row]:
    """Run what is missing of `grid` under `out` and return the table.

    Args:
        grid: What to compare.
        out: Folder of the run folders; `grid.yaml` is written there.
        recipes: Names of the grid's recipes to run and return now; None is all.
        told: Announces runs of this process.
        extend: Take `out` even if it holds another grid; runs that both have are not repeated.
        runner: Runs several at once (`weft.comparison.workers`, `weft.comparison.ray_workers`) and goes on
            where one fails; None runs one after the other in this process and raises what a run raises.
        data: In place of what the grid says: a folder with the task's data, of several tasks with a sub-folder for
            each by its name in the grid; or rows in memory as `weft.train` takes them, without a `runner`.

    Raises:
        KeyError: If the grid has no such recipe.
        ValueError: If a setting is wrong, or `out` holds another grid.
        Unfinished: If trainings diverged, or runs of `runner` failed, after all others have ended. A rate of a search
            that diverged is out of it and no failure, while another is left.
        Interrupted: On SIGINT or SIGTERM, after the state of the runs in progress was saved.
    """
    grid = grid if isinstance(grid, Grid) else validate(Grid, grid, "grid")
    if isinstance(data, str | Path):
        grid, data = _with_folder(grid, Path(data)), None
    given: dict[str, Any] = dict(given_by_task(data, list(grid.tasks)))
    if given and runner is not None:
        raise ValueError(
            "data: rows in memory are in this process alone; leave the runner away, or save them to a folder"
        )
    folder = Path(out)
    cells = cells_of(grid, recipes)
    searches = {
        cell: {
            rate: replace(job, data=given.get(cell.task))
            for rate, job in search_jobs(grid, folder, cell).items()
        }
        for cell in cells
    }
    claim(grid, folder, extend=extend)
    total = sum(map(len, searches.values())) + len(cells) * len(grid.seeds)
    runner = runner or _Here(told, total)
    jobs = [job for search in searches.values() for job in search.values()]
    # In a search that has its winner, a rate that diverged is done with.
    over = {cell for cell, search in searches.items() if is_decided(search.values())}
    runner.run(
        [
            job
            for cell, search in searches.items()
            for job in search.values()
            if not (cell in over and job.is_lost)
        ]
    )
    chosen = {
        cell: best_rate(grid, cell, search)
        for cell, search in searches.items()
        if is_decided(search.values())
    }
    finals = {
        cell: [
            replace(job, data=given.get(cell.task)) for job in final_jobs(grid, folder, cell, rate)
        ]
        for cell, (rate, _) in chosen.items()
    }
    jobs += (last := [job for final in finals.values() for job in final])
    runner.run(last)
    rows = [
        _row(grid, cell, *chosen[cell], final) for cell, final in finals.items() if _complete(final)
    ]
    if len(rows) < len(cells):
        raise Unfinished(rows, [job for job in jobs if not job.is_complete])
    return rows


def _with_folder(grid: Grid, data: Path) -> Grid:
    """The grid with a folder of data that was given beside it."""
    own = [name for name, entry in grid.tasks.items() if entry.task.data]
    if own:
        raise ValueError(
            f"data={str(data)!r} is given, and the grid says it as well (tasks {', '.join(own)}); choose one"
        )
    several = len(grid.tasks) > 1
    tasks = {}
    for name, entry in grid.tasks.items():
        folder = str((data / name if several else data).expanduser().resolve())
        task = entry.task.model_copy(update={"data": folder})
        tasks[name] = entry.model_copy(update={"task": task})
    return grid.model_copy(update={"tasks": tasks})


def _complete(jobs: Iterable[Job]) -> bool:
    return all(job.is_complete for job in jobs)


class _Here:
    """One after the other, in this process."""

    def __init__(self, told: Told | None, total: int) -> None:
        self.told = told
        self.total = total
        self.number = 0

    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not job.is_complete:
                # It has left word in its folder, and says nothing of the others.
                with suppress(Diverged):
                    run_job(job, self.told(job, self.number, self.total) if self.told else None)
            self.number += 1


def _row(
    grid: Grid, cell: Cell, rate: float, searched: dict[str, float], final: Sequence[Job]
) -> Row:
    tell(f"scoring {cell.recipe} on {cell.task} over its seeds")
    folders = [RunFolder.open(job.folder) for job in final]
    loaded = examples_of(folders[0], final[0].data)
    examples = loaded.splits["validation"]
    predictions = [predictions_of(folder.path, [e["id"] for e in examples]) for folder in folders]
    scores = mean_score(loaded.task, predictions, examples)
    metric = loaded.task.metric
    by_seed = [score_of(folder.path, metric)["value"] for folder in folders]
    summaries = [folder.training or {} for folder in folders]
    rates = grid.recipes[cell.recipe].learning_rates
    return Row(
        base=cell.base,
        task=cell.task,
        recipe=cell.recipe,
        metric=metric,
        learning_rate=rate,
        searched=searched,
        on_edge=bool(searched) and rate in (min(rates), max(rates)),
        seeds=list(grid.seeds),
        n=len(examples),
        scores=scores,
        by_seed=by_seed,
        deviation=stdev(by_seed) if len(by_seed) > 1 else 0.0,
        adapter_parameters=summaries[0]["adapter_parameters"],
        trainable_parameters=summaries[0]["trainable_parameters"],
        examples=summaries[0]["examples"],
        steps=summaries[0]["steps"],
        seconds=mean(summary["seconds"] for summary in summaries),
        seconds_per_epoch=mean(summary["seconds_per_epoch"] for summary in summaries),
        peak_memory_mib=max(summary["peak_memory_mib"] for summary in summaries),
    )


def examples_of(folder: RunFolder, given: Any = None) -> LoadedTask:
    """The validation rows that a run was scored on; `given` where they were in memory."""
    settings = folder.run.task
    assert settings is not None
    return load_task(settings, splits=["validation"], seed=folder.run.seed, given=given)


def predictions_of(folder: Path, ids: Sequence[str]) -> list[Prediction]:
    """A run's saved validation predictions, in the order of `ids`."""
    by_id = read_predictions(folder)
    if set(by_id) != set(ids):
        raise ValueError(
            f"{folder}: its predictions are of other rows; remove that run and compare again"
        )
    return [by_id[name] for name in ids]
