"""The six tables as published and as measured, cell by cell; a cell without a number says why.

A cell is filled by finished runs, by settings, or by counts made from the architectures alone.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal, NamedTuple

from weft.catalogue.counting import mixture_parameters, parameters
from weft.comparison.grid import Cell as Place
from weft.comparison.grid import label_of
from weft.comparison.jobs import final_jobs
from weft.config import RecipeSettings
from weft.methods.recipes import resolve
from weft.reproduction.plan import STUDY, Plan
from weft.reproduction.published import Address, Figure, published
from weft.runs import RunFolder


@dataclass(frozen=True)
class Filling:
    """How one cell is filled."""

    how: Literal["runs", "settings", "count", "nothing"]
    base: str | None = None
    """The base of the runs."""
    differences: tuple[str, ...] = ()
    """In what base and set are not the published ones."""
    why: str = ""
    """how nothing: the reason."""


def fillings(plan: Plan) -> dict[Address, Filling]:
    """For every published cell, in order, how it is filled."""
    return {figure.address: _filling(plan, figure.address) for figure in plan.study.figures()}


def _filling(plan: Plan, address: Address) -> Filling:
    if address.table == 1:
        assert address.task is not None  # the table has a row a task
        return _of_task(plan, address.task, Filling("settings"))
    if address.task is None:
        return Filling("count", address.base)
    base = _base(plan, address.base)
    if base is None:
        return Filling("nothing", why=_missing(plan, address.base))
    own = plan.profile.bases[base].difference
    return _of_task(plan, address.task, Filling("runs", base, (own,) if own else ()))


def _base(plan: Plan, published: str | None) -> str | None:
    """The base that is trained in a published one's place."""
    return next((b for b in plan.profile.bases if plan.published_base(b) == published), None)


def _missing(plan: Plan, base: str | None) -> str:
    name = plan.study.bases.get(str(base), base)
    have = ", ".join(map(label_of, plan.profile.bases))
    return (
        f"profile {plan.name} does not train {name}, only {have}; profile paper does, from the hub"
    )


def _of_task(plan: Plan, task: str, found: Filling) -> Filling:
    entry = plan.profile.tasks.get(task)
    if entry is None:
        name = plan.study.tasks[task]
        return Filling("nothing", why=f"profile {plan.name} has nothing in the place of {name}")
    more = (entry.difference,) if entry.difference else ()
    return Filling(found.how, found.base, found.differences + more)


@dataclass(frozen=True)
class Cell:
    """A published figure and ours, in the figure's unit."""

    figure: Figure
    filling: Filling
    measured: float | None
    deviation: float = 0.0
    """Standard deviation over seeds; 0 for one seed and for what is not random."""
    seeds: int = 0
    """Finished runs behind the number."""
    remarks: tuple[str, ...] = ()
    """Stand-ins, explanations, and why there is no number."""


def cells(plan: Plan) -> list[Cell]:
    """Every published cell with what the finished runs under the plan's folder say."""
    found = fillings(plan)
    return [_cell(plan, figure, found) for figure in plan.study.figures()]


def _cell(plan: Plan, figure: Figure, found: Mapping[Address, Filling]) -> Cell:
    own, address = found[figure.address], figure.address
    if own.how == "nothing":
        return Cell(figure, own, None, remarks=(f"not measured: {own.why}",))
    if own.how == "settings":
        return Cell(figure, own, _setting(plan, address), remarks=own.differences)
    if own.how == "count":
        number = count(address) / 1e6
        return Cell(figure, own, number, remarks=_counted(plan, address))
    assert own.base is not None
    ours = measured(plan, own.base, address)
    if ours is None:
        why = f"not measured: no finished run in {label_of(own.base)}/{STUDY}/final yet"
        return Cell(figure, own, None, remarks=(*own.differences, why))
    remarks = own.differences
    if ours.seeds < len(plan.seeds):
        remarks += (f"{ours.seeds} of {len(plan.seeds)} seeds are finished",)
    if figure.machine is not None and address.metric != "epochs":
        remarks += (f"published on {figure.machine}, measured on {ours.device}",)
    return Cell(figure, own, ours.value, ours.deviation, ours.seeds, remarks)


def _setting(plan: Plan, address: Address) -> float:
    """What the runs at the study's settings have where table 1 has a figure."""
    grid = plan.stage(STUDY, next(iter(plan.profile.bases))).grid
    assert address.task is not None
    if address.metric == "rank":
        return float((grid.recipes["lora"].recipe.model_extra or {})["rank"])
    if address.metric == "learning_rate":
        return grid.recipes["lora"].learning_rates[0]
    return float(grid.tasks[address.task].training[address.metric])


def _counted(plan: Plan, address: Address) -> tuple[str, ...]:
    base = plan.study.bases[str(address.base)]
    exact = f"{base}: {count(address):,}"
    if address.method != "xlora":
        where = f"{exact} counted in its architecture, without pooler and head"
        return (where,)
    assert address.base is not None
    whole, trained = mixture_count(address.base).printed
    twice = whole if address.metric == "parameters" else trained
    said = f"{exact} counted; {twice:,} with the head twice"
    return (said, plan.study.reconstruction.says)


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
    place = Place(stage.grid.base, task, recipe)
    return [job.folder for job in final_jobs(stage.grid, stage.folder, place, rate)]


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


@dataclass(frozen=True)
class MixtureCount:
    """X-LoRA in one base: three experts and the head."""

    trained: int
    of: int
    """Base, experts and head."""
    head: int

    @property
    def printed(self) -> tuple[int, int]:
        """(all, trained) with the head counted twice, as published."""
        return self.of + self.head, self.trained + self.head


@functools.cache
def mixture_count(base: str) -> MixtureCount:
    """What table 6 counts in one base."""
    known = published().reconstruction
    found = mixture_parameters("xlora", base, known.experts, known.settings[base])
    return MixtureCount(found["trained"], found["of"], found["gates"])


@functools.cache
def trained(base: str, method: str) -> int:
    """Numbers that full fine-tuning or LoRA trains in a base, without pooler and head."""
    study = published()
    settings = RecipeSettings(name=method)
    if method == "lora":
        address = Address(1, None, None, next(iter(study.tasks)), "rank")
        settings = RecipeSettings.model_validate(
            {
                "name": "lora",
                "rank": int(study.figure(address).value),
                "targets": study.settings.targets,
            }
        )
    return parameters(resolve(settings), base)["trained"]


def count(address: Address) -> int:
    """The count that belongs in a cell."""
    assert address.base is not None
    if address.method == "xlora":
        found = mixture_count(address.base)
        return found.of if address.metric == "parameters" else found.trained
    assert address.method is not None
    return trained(address.base, address.method)
