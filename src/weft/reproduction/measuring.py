"""Reading a cell's value out of the run folders that fill it."""

import math
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from weft.comparison.grid import Cell
from weft.comparison.jobs import final_jobs
from weft.reproduction.figures import Address
from weft.reproduction.plan import STUDY, Plan
from weft.runs import RunFolder


class Measured(NamedTuple):
    """A value over seeds."""

    value: float
    deviation: float
    """Standard deviation over seeds; 0 for one."""
    seeds: int
    device: str


def folders(plan: Plan, base: str, task: str, recipe: str) -> list[Path]:
    """The run folders of one recipe at the study's settings, one a seed, finished or not."""
    stage = plan.stage(STUDY, base)
    (rate,) = stage.grid.recipes[recipe].learning_rates
    cell = Cell(stage.grid.base, task, recipe)
    return [job.folder for job in final_jobs(stage.grid, stage.folder, cell, rate)]


def measured(plan: Plan, base: str, address: Address) -> Measured | None:
    """The mean of the finished runs in the metric of a cell; None where none is finished."""
    assert address.task is not None
    assert address.method is not None
    paths = folders(plan, base, address.task, address.method)
    runs = [RunFolder.open(path) for path in paths if (path / "run.yaml").is_file()]
    runs = [run for run in runs if run.is_complete]
    if not runs:
        return None
    values = [value(run, address.metric) for run in runs]
    spread = stdev(values) if len(values) > 1 else 0.0
    devices = sorted({str((run.training or {})["device"]) for run in runs})
    return Measured(mean(values), spread, len(values), ", ".join(devices))


def value(run: RunFolder, metric: str) -> float:
    """A score in percent, seconds, or epochs.

    Raises:
        ValueError: If the run does not have it.
    """
    training = run.training or {}
    if metric == "seconds":
        return float(training["seconds"])
    if metric in ("epochs", "seconds_per_epoch"):
        epochs = training["steps"] / math.ceil(training["examples"] / run.run.training.batch_size)
        return epochs if metric == "epochs" else float(training["seconds"]) / epochs
    for row in run.metrics:
        if (row["name"], row["split"]) == (metric, "validation"):
            return 100 * float(row["value"])
    raise ValueError(f"{run.path} has no {metric} of validation; remove that run and run it again")
