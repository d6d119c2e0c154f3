"""What a plan needs before its first run: bases, sets, packages; what is missing, and what to bring where."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import is_offline_mode

from weft.atomic import atomic_folder
from weft.base.locate import ALIASES, Alias, checkpoint_files, locate
from weft.comparison.grid import label_of
from weft.config import TaskSettings, validate
from weft.data.generated import SIZES, write_demo_data
from weft.data.reading import find_spec, load_task
from weft.reproduction.plan import STUDY, Plan

PACKAGES = ("matplotlib", "jinja2")
"""What the report is made with."""
BASE_FILES = "config.json, model.safetensors, tokenizer.json, tokenizer_config.json"


def ready(plan: Plan, *, fetch: bool = True) -> tuple[Plan, list[str]]:
    """A plan with everything it needs at hand, its sets' rows as they really are, and what to say of that.

    Generated sets are written where they are not. Sets in a folder are read to the last row, so that a damaged one is
    found now.

    Args:
        plan: What is to be run.
        fetch: Write generated sets, and take from the hub what is not here.

    Raises:
        ValueError: If something is missing; names every base and set, what to bring and where to put it.
    """
    lines = [*_packages()]
    if fetch or is_offline_mode():
        lines += [line for base in plan.profile.bases for line in _base(base)]
    if fetch and plan.profile.sets == "generated":
        write_sets(plan)
    rows: dict[str, tuple[int, int]] = {}
    for task in plan.profile.tasks:
        settings = _settings(plan, task)
        if _can_be_read(plan, settings, fetch):
            try:
                rows[task] = _rows(settings)
            except ValueError as error:
                lines.append(_set(task, settings, error))
    if lines:
        asked = "; HF_HUB_OFFLINE is set, so the hub is not asked" if is_offline_mode() else ""
        listed = "\n".join(f"- {line}" for line in lines)
        raise ValueError(f"profile {plan.name} cannot be run yet{asked}:\n{listed}")
    return _corrected(plan, rows)


def write_sets(plan: Plan) -> None:
    """Write the generated sets, whole or not at all; the same ones each time."""
    if (plan.out / "data").is_dir():
        return
    entries = plan.profile.tasks.values()
    sizes = {own.generated: (own.train, own.validation) for own in entries if own.generated}
    with atomic_folder(plan.out / "data") as draft:
        write_demo_data(draft, sizes={**SIZES, **sizes})


def _settings(plan: Plan, task: str) -> TaskSettings:
    """A task with all its rows."""
    grid = plan.stage(STUDY, next(iter(plan.profile.bases))).grid
    return grid.tasks[task].task.model_copy(update={"max_examples": None})


def _can_be_read(plan: Plan, settings: TaskSettings, fetch: bool) -> bool:
    """Whether reading a set takes nothing that was not asked for: no download, no writing."""
    if settings.data is None:
        return fetch or is_offline_mode()
    return plan.profile.sets != "generated" or Path(settings.data).is_dir()


def _rows(settings: TaskSettings) -> tuple[int, int]:
    found = load_task(settings, splits=["train", "validation"], seed=0).splits
    return len(found["train"]), len(found["validation"])


def _corrected(plan: Plan, rows: dict[str, tuple[int, int]]) -> tuple[Plan, list[str]]:
    """Estimates go by the rows there are, not by those that the profile expects."""
    tasks, notes = dict(plan.profile.tasks), []
    for task, (train, validation) in rows.items():
        said = tasks[task]
        if (said.train, said.validation) != (train, validation):
            notes.append(
                f"{task}: {train:,} rows to train on and {validation:,} to score here; profile {plan.name} is made for "
                f"{said.train:,} and {said.validation:,}, so what it says of the set may not be so"
            )
            tasks[task] = said.model_copy(update={"train": train, "validation": validation})
    profile = plan.profile.model_copy(update={"tasks": tasks})
    return dataclasses.replace(plan, profile=profile), notes


def _packages() -> Iterator[str]:
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        yield f"the report needs {' and '.join(absent)}: pip install 'weft[report]'"


def _base(name: str) -> Iterator[str]:
    try:
        folder, _, _ = locate(name, None)
        checkpoint_files(folder)
    except ValueError as error:
        hub = name
        if name in ALIASES.names():
            hub = validate(Alias, ALIASES.read(name), f"base {name}").hub
        yield (
            f"base {label_of(name)}: bring {BASE_FILES} of https://huggingface.co/{hub} into DIR/{label_of(name)} and "
            f"give --bases DIR ({_first(error)})"
        )


def _set(task: str, settings: TaskSettings, error: ValueError) -> str:
    spec = find_spec(settings.name)
    place = f"DIR/{task} and give --data DIR" if settings.data is None else settings.data
    return (
        f"set {task}: bring its files for train and validation, in the form {spec.format} as published at "
        f"{spec.source}, into {place} ({_first(error)})"
    )


def _first(error: ValueError) -> str:
    return str(error).split("\n")[0]
