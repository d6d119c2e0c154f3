"""A profile's two comparisons on one base, as grids of `weft.comparison.comparing`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.comparison.comparing import Grid
from weft.config import validate
from weft.reproduction.figures import Address
from weft.reproduction.profiles import Profile, SetEntry
from weft.reproduction.published import Study


def _task(task: str, entry: SetEntry, folder: Path | None) -> dict[str, Any]:
    if entry.generated is not None and folder is not None:
        files = str(folder / entry.generated)
        return {"name": str(folder / f"demo_{entry.generated}.yaml"), "data": files, **entry.task}
    return {"name": task, "data": None if folder is None else str(folder / task), **entry.task}


def _printed(study: Study, task: str, metric: str) -> float:
    return float(study.figure(Address(1, None, None, task, metric)).value)


def _same(study: Study, metric: str) -> float:
    """What table 1 says of every task alike."""
    (value,) = {_printed(study, task, metric) for task in study.tasks}
    return value


def _times(study: Study, task: str) -> dict[str, Any]:
    """Table 1's epochs and batch."""
    return {
        "epochs": _printed(study, task, "epochs"),
        "batch_size": int(_printed(study, task, "batch_size")),
    }


def study_grid(
    own: Profile, study: Study, base: str, folder: Path | None, seeds: Sequence[int]
) -> Grid:
    """Full fine-tuning and LoRA at the settings of table 1."""
    tasks = {}
    for task, entry in own.tasks.items():
        patience = study.settings.early_stopping.get(task)
        stop: dict[str, Any] = {"early_stopping": patience, "select_on": "validation"}
        if patience is not None:
            stop["early_stopping_on"] = study.settings.early_stopping_on
        training = {**_times(study, task), **stop, **entry.study}
        tasks[task] = {"task": _task(task, entry, folder), "training": training}
    lora = {"name": "lora", "rank": int(_same(study, "rank")), "targets": study.settings.targets}
    rates = [_same(study, "learning_rate")]
    recipes = {"full": {"name": "full"}, "lora": lora}
    return _grid(
        own,
        base,
        seeds,
        tasks,
        {name: {"recipe": recipe, "learning_rates": rates} for name, recipe in recipes.items()},
    )


def own_grid(
    own: Profile, study: Study, base: str, folder: Path | None, seeds: Sequence[int]
) -> Grid:
    """Every recipe at a rate of its own."""
    tasks = {
        task: {
            "task": _task(task, entry, folder),
            "training": {**_times(study, task), **entry.own},
            "search": entry.search,
            "search_examples": entry.search_examples,
        }
        for task, entry in own.tasks.items()
    }
    recipes = {name: row.model_dump() for name, row in own.recipes.items()}
    return _grid(own, base, seeds, tasks, recipes)


def _grid(
    own: Profile, base: str, seeds: Sequence[int], tasks: Any, recipes: Mapping[str, Any]
) -> Grid:
    values = {
        "base": base,
        "tasks": tasks,
        "recipes": recipes,
        "seeds": list(seeds),
        "training": own.training,
        "device": own.device,
    }
    return validate(Grid, values, f"grid of {base}")
