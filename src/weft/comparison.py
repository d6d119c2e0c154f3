"""Recipes x tasks x seeds x learning rates, as run folders, into a table.

    search   every recipe on every task: the same rates budget, one seed, scored on a held-out tenth of train
    final    the best rate, every seed, scored once on the validation split

A finished run is never repeated and an interrupted one goes on, so the same call continues where it stopped.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from pydantic import Field

from weft.config import (
    RecipeSettings,
    Run,
    Settings,
    TaskSettings,
    TrainingSettings,
    to_yaml,
    validate,
)
from weft.data import LoadedTask, find_kind, find_spec, load_task
from weft.registry import unknown
from weft.runs import RunFolder
from weft.scoring import Score, mean_score
from weft.tasks.base import Prediction
from weft.training import Report, train


class TaskEntry(Settings):
    """A task of the comparison, and how long every recipe is trained on it."""

    task: TaskSettings
    training: dict[str, Any] = {}
    """Training settings of every run on this task."""
    search: dict[str, Any] = {}
    """Training settings that differ during the search (e.g. fewer epochs)."""
    search_examples: int | None = None
    """Training rows used by the search; None takes all."""


class RecipeEntry(Settings):
    """A recipe of the comparison and the rates tried for it."""

    recipe: RecipeSettings
    learning_rates: list[float] = Field(min_length=1)
    training: dict[str, Any] = {}
    """Training settings of this recipe alone."""


class Grid(Settings):
    """What is compared."""

    base: str = "minilm"
    tasks: dict[str, TaskEntry]
    recipes: dict[str, RecipeEntry]
    seeds: list[int] = [0, 1, 2]
    search_seed: int = 0
    training: dict[str, Any] = {}
    """Training settings of every run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True)
class Row:
    """One recipe on one task: means over seeds at its best rate."""

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
    seconds_per_epoch: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """One run of the comparison."""

    folder: Path
    run: Run

    @property
    def is_complete(self) -> bool:
        return (self.folder / "run.yaml").is_file() and RunFolder.open(self.folder).is_complete


Told = Callable[[Job, int, int], Report | None]
"""Called before each run with the job, its number and how many there are; returns that run's progress display."""


def compare(
    grid: Grid | Mapping[str, Any],
    out: str | Path,
    *,
    recipes: Sequence[str] | None = None,
    told: Told | None = None,
    extend: bool = False,
) -> list[Row]:
    """Run what is missing of `grid` under `out` and return the table.

    Args:
        grid: What to compare.
        out: Folder of the run folders; `grid.yaml` is written there.
        recipes: Names of the grid's recipes to run and return now; None is all.
        told: Announces runs.
        extend: Take `out` even if it holds another grid; runs that both have are not repeated.

    Raises:
        ValueError: If a setting is wrong, or `out` holds another grid.
    """
    grid = grid if isinstance(grid, Grid) else validate(Grid, grid, "grid")
    folder = Path(out)
    _check_same(grid, folder, extend=extend)
    chosen = list(grid.recipes if recipes is None else recipes)
    for name in chosen:
        if name not in grid.recipes:
            raise KeyError(unknown("recipe of this grid", name, grid.recipes))
    rows = []
    jobs = {key: job for key, job in _search_jobs(grid, folder).items() if key[1] in chosen}
    total = len(jobs) + len(grid.tasks) * len(chosen) * len(grid.seeds)
    for number, job in enumerate(jobs.values()):
        _run(job, number, total, told)
    number = len(jobs)
    for task in grid.tasks:
        for recipe in chosen:
            rate, searched = _best_rate(grid, jobs, task, recipe)
            final = [final_job(grid, folder, (task, recipe), rate, seed) for seed in grid.seeds]
            for job in final:
                _run(job, number, total, told)
                number += 1
            rows.append(_row(grid, (task, recipe), rate, searched, final))
    return rows


def _check_same(grid: Grid, folder: Path, *, extend: bool) -> None:
    path = folder / "grid.yaml"
    text = to_yaml(grid)
    if not extend and path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{folder} holds another grid; choose another folder, or pass extend=True to extend that one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _run(job: Job, number: int, total: int, told: Told | None) -> None:
    if job.is_complete:
        return
    report = told(job, number, total) if told else None
    if job.folder.exists():
        train(resume=job.folder, report=report)
    else:
        train(job.run, out=job.folder, report=report)


def _make(
    grid: Grid, cell: tuple[str, str], rate: float, seed: int, more: Mapping[str, Any]
) -> Run:
    task, recipe = cell
    entry, method = grid.tasks[task], grid.recipes[recipe]
    values = grid.training | entry.training | method.training | dict(more) | {"learning_rate": rate}
    training = validate(TrainingSettings, values, f"{task}, {recipe}: training")
    return Run(
        base=grid.base,
        task=entry.task,
        recipe=method.recipe,
        training=training,
        seed=seed,
        device=grid.device,
    )


def _search_jobs(grid: Grid, folder: Path) -> dict[tuple[str, str, float], Job]:
    jobs = {}
    for task, entry in grid.tasks.items():
        for recipe, method in grid.recipes.items():
            if len(method.learning_rates) == 1:
                continue
            for rate in method.learning_rates:
                more = entry.search | {"evaluate_on": "holdout"}
                run = _make(grid, (task, recipe), rate, grid.search_seed, more)
                if entry.search_examples is not None:
                    own = entry.task.model_copy(
                        update={"max_examples": {"train": entry.search_examples}}
                    )
                    run = run.model_copy(update={"task": own})
                jobs[task, recipe, rate] = Job(folder / "search" / task / recipe / f"{rate:g}", run)
    return jobs


def _best_rate(
    grid: Grid, jobs: Mapping[tuple[str, str, float], Job], task: str, recipe: str
) -> tuple[float, dict[str, float]]:
    rates = grid.recipes[recipe].learning_rates
    if len(rates) == 1:
        return rates[0], {}
    kind = find_kind(find_spec(grid.tasks[task].task.name))
    scores = {rate: _value(jobs[task, recipe, rate].folder, kind.metric) for rate in rates}
    sign = 1 if kind.higher_is_better else -1
    best = max(scores, key=lambda rate: sign * scores[rate])
    return best, {f"{rate:g}": value for rate, value in scores.items()}


def _value(folder: Path, metric: str) -> float:
    return next(row["value"] for row in RunFolder.open(folder).metrics if row["name"] == metric)


def final_job(grid: Grid, folder: Path, cell: tuple[str, str], rate: float, seed: int) -> Job:
    """The run of a task and recipe (`cell`) with its best rate and one seed, scored on validation."""
    task, recipe = cell
    run = _make(grid, cell, rate, seed, {})
    return Job(folder / "final" / task / recipe / f"{rate:g}-seed{seed}", run)


def _row(
    grid: Grid, cell: tuple[str, str], rate: float, searched: dict[str, float], final: Sequence[Job]
) -> Row:
    task, recipe = cell
    folders = [RunFolder.open(job.folder) for job in final]
    loaded = examples_of(folders[0])
    examples = loaded.splits["validation"]
    predictions = [predictions_of(folder.path, [e["id"] for e in examples]) for folder in folders]
    scores = mean_score(loaded.task, predictions, examples)
    metric = loaded.task.metric
    by_seed = [_value(folder.path, metric) for folder in folders]
    summary = folders[0].training or {}
    rates = grid.recipes[recipe].learning_rates
    return Row(
        task=task,
        recipe=recipe,
        metric=metric,
        learning_rate=rate,
        searched=searched,
        on_edge=bool(searched) and rate in (min(rates), max(rates)),
        seeds=list(grid.seeds),
        n=len(examples),
        scores=scores,
        by_seed=by_seed,
        deviation=stdev(by_seed) if len(by_seed) > 1 else 0.0,
        adapter_parameters=summary["adapter_parameters"],
        trainable_parameters=summary["trainable_parameters"],
        examples=summary["examples"],
        steps=summary["steps"],
        seconds_per_epoch=mean((folder.training or {})["seconds_per_epoch"] for folder in folders),
    )


def examples_of(folder: RunFolder) -> LoadedTask:
    """The validation rows that a run was scored on."""
    settings = folder.run.task
    assert settings is not None
    return load_task(settings, splits=["validation"], seed=folder.run.seed)


def predictions_of(folder: Path, ids: Sequence[str]) -> list[Prediction]:
    """A run's saved validation predictions, in the order of `ids`."""
    lines = (folder / "predictions-validation.jsonl").read_text(encoding="utf-8").splitlines()
    by_id = {row["id"]: row for row in map(json.loads, lines)}
    if set(by_id) != set(ids):
        raise ValueError(
            f"{folder}: its predictions are of other rows; remove that run and compare again"
        )
    return [by_id[name] for name in ids]
