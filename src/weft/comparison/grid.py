"""What a comparison compares: recipes x tasks x bases x seeds x learning rates, as settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from weft.atomic import make_folder, write_text
from weft.config import (
    RecipeSettings,
    Settings,
    TaskSettings,
    read_yaml,
    to_yaml,
    validate,
)
from weft.guard import with_overrides
from weft.methods.recipes import self_contained
from weft.registry import unknown
from weft.tasks.sets import sets


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
    """The one base; with `bases` it is one of them and has no say."""
    bases: list[str] = []
    """Several bases: everything is run on each, in a folder of its own."""
    tasks: dict[str, TaskEntry]
    recipes: dict[str, RecipeEntry]
    seeds: list[int] = [0, 1, 2]
    search_seed: int = 0
    training: dict[str, Any] = {}
    """Training settings of every run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _first_base(cls, values: Any) -> Any:
        bases = values.get("bases") if isinstance(values, Mapping) else None
        if isinstance(bases, list) and bases and "base" not in values:
            return {**values, "base": bases[0]}
        return values

    @model_validator(mode="after")
    def _check_bases(self) -> Self:
        labels = [label_of(base) for base in self.bases]
        if len(set(labels)) < len(labels):
            raise ValueError(f"each base gets a folder by its name, and two share one: {labels}")
        if self.bases and self.base not in self.bases:
            raise ValueError(f"give `base` or `bases`, not {self.base!r} beside {self.bases}")
        return self


@dataclass(frozen=True)
class Cell:
    """One place of the table: a recipe on a task on a base."""

    base: str
    task: str
    recipe: str


def label_of(base: str) -> str:
    """What a base is called in folders: an alias itself, else the last part of hub id or path."""
    return Path(base).name


def cells_of(grid: Grid, recipes: Iterable[str] | None = None) -> list[Cell]:
    """Every cell of the grid, by base, task and recipe.

    Args:
        grid: What is compared.
        recipes: Names of its recipes to take; None is all.

    Raises:
        KeyError: If the grid has no such recipe.
    """
    chosen = list(grid.recipes if recipes is None else recipes)
    for name in chosen:
        if name not in grid.recipes:
            raise KeyError(unknown("recipe of this grid", name, grid.recipes))
    return [
        Cell(base, task, recipe)
        for base in grid.bases or [grid.base]
        for task in grid.tasks
        for recipe in chosen
    ]


def load_grid(path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """A grid from its YAML file, with `a.b=c` overrides applied; what is the user's own in it needs its folder no more.

    Raises:
        ValueError: If the file or a setting is wrong, naming the key.
    """
    values = with_overrides(read_yaml(Path(path)), list(overrides))
    grid = validate(Grid, values, str(path))
    recipes = {
        name: entry.model_copy(update={"recipe": self_contained(entry.recipe)})
        for name, entry in grid.recipes.items()
    }
    tasks = {name: _by_path(entry) for name, entry in grid.tasks.items()}
    return grid.model_copy(update={"recipes": recipes, "tasks": tasks})


def _by_path(entry: TaskEntry) -> TaskEntry:
    """The entry with the path of a set of the user's own in place of a name that stands for it here and now."""
    path = sets.included(entry.task.name)
    if path is None:
        return entry
    return entry.model_copy(update={"task": entry.task.model_copy(update={"name": str(path)})})


def claim(grid: Grid, folder: Path, *, extend: bool) -> None:
    """Write `grid.yaml`, which says whose runs a folder holds.

    Args:
        grid: What is compared.
        folder: Of the comparison; made if it is not there.
        extend: Take a folder that holds another grid.

    Raises:
        ValueError: If the folder holds another grid and `extend` is not set.
    """
    path = folder / "grid.yaml"
    if not extend and path.is_file() and not _holds(path, grid):
        raise ValueError(
            f"{folder} holds another grid; choose another folder, or extend that one "
            "(extend=True, --extend)"
        )
    make_folder(folder)
    write_text(path, to_yaml(grid))


def _holds(path: Path, grid: Grid) -> bool:
    """Whether a `grid.yaml` says this grid; settings that it does not name have their defaults."""
    try:
        return validate(Grid, read_yaml(path), str(path)) == grid
    except ValueError:
        return False
