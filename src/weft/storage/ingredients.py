"""The experts that a mixture mixes, read from their run folders."""

from collections.abc import Sequence
from pathlib import Path

from weft.base.loading import Base
from weft.config import TaskSettings
from weft.methods.recipes import file_of
from weft.model.mixing import Ingredient
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage.experts import load_expert


def parts_of(runs: Sequence[str]) -> list[RunFolder]:
    """The run folder of every task of some runs.

    Raises:
        ValueError: If a run has no expert that can be mixed, or two are of one name; says what to do.
    """
    found = [part for run in runs for part in RunFolder.open(run).parts()]
    names: dict[str, Path] = {}
    for part in found:
        task = part.run.task
        if part.run.mixture is not None or task is None:
            raise ValueError(
                f"{part.path} is a mixture, which is not mixed again; give its experts' runs"
            )
        if not part.expert.is_dir():
            raise ValueError(f"{part.path} holds no expert yet; train it to its end first")
        if task.label in names:
            raise ValueError(
                f"two experts are named {task.label!r}: {names[task.label]} and {part.path}; give one of them, or "
                "rename the task of the other"
            )
        names[task.label] = part.path
    return found


def tasks_of(runs: Sequence[str], chosen: Sequence[TaskSettings]) -> list[TaskSettings]:
    """The tasks of some runs, as they were trained; `chosen` takes the place of those it names.

    Raises:
        ValueError: If `chosen` names a task that is none of the runs'.
    """
    tasks = {}
    for part in parts_of(runs):
        settings = part.run.task
        assert settings is not None  # checked by parts_of
        data = settings.data if settings.data is not None else part.run.data
        tasks[settings.label] = settings.model_copy(update={"data": data})
    for settings in chosen:
        if settings.label not in tasks:
            raise ValueError(unknown("task of these runs", settings.label, tasks))
        tasks[settings.label] = settings
    return list(tasks.values())


def read_ingredients(runs: Sequence[str], base: Base) -> dict[str, Ingredient]:
    """The experts of run folders on one base, by the name of their task.

    Raises:
        ValueError: If one belongs to another base, or has nothing that can be mixed; says what to do.
    """
    found = {}
    for part in parts_of(runs):
        task = part.run.task
        assert task is not None  # checked by parts_of
        if file_of(part.run.recipe).trains != "adapters":
            raise ValueError(
                f"{part.path}: recipe {part.run.recipe.name} trains no adapters, so there is nothing to mix; "
                "train an expert, e.g. with recipe lora"
            )
        expert, card = load_expert(part.expert, base, name=task.label)
        if expert.copies:
            raise ValueError(
                f"{part.path} owns copies of {', '.join(list(expert.copies)[:3])}, which no gate can weigh; "
                "train it without train_also"
            )
        found[task.label] = Ingredient(expert, card, part.expert)
    return found
