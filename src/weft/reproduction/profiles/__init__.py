"""Profiles: how much of the study is run, on which bases and sets; one YAML file each."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from weft.config import RecipeSettings, Settings, read_yaml, validate
from weft.registry import Registry

profiles: Registry[object] = Registry("weft.reproduction.profiles", suffix=".yaml")


class BaseEntry(Settings):
    """A base that is trained on."""

    stands_for: str | None = None
    """The published base whose place it takes; None where it is that base."""
    difference: str = ""
    """In what it is not the published one."""


class SetEntry(Settings):
    """The rows of one published task, and how long they are trained on."""

    task: dict[str, Any] = {}
    """Settings of the task beside its name and folder."""
    generated: str | None = None
    """The set of `weft.data.generated` that takes its place."""
    called: str = ""
    """What the rows are called in tables, where they are not the published set."""
    difference: str = ""
    """In what the set is not the published one."""
    study: dict[str, Any] = {}
    """Training settings with the study's rate, where they are not those of its table 1."""
    own: dict[str, Any] = {}
    """Training settings with a searched rate, over those of table 1."""
    search: dict[str, Any] = {}
    """What differs from `own` during the search."""
    search_examples: int | None = Field(default=None, ge=1)
    """Training rows of the search; None takes all."""
    train: int = Field(ge=1)
    """Training rows there are, for estimates."""
    validation: int = Field(ge=1)
    tokens: float = Field(gt=0)
    """Tokens that a row has on average, over all choices or windows; for estimates."""

    @property
    def rows(self) -> int:
        """Training rows that a run sees."""
        limit = self.task.get("max_examples")
        limit = limit.get("train") if isinstance(limit, dict) else limit
        return self.train if limit is None else min(limit, self.train)


class RecipeRow(Settings):
    """A recipe with a rate of its own."""

    recipe: RecipeSettings
    learning_rates: list[float] = Field(min_length=1)
    training: dict[str, Any] = {}
    """Training settings of this recipe alone."""


class MixtureRow(Settings):
    """A mixture of the tasks' experts."""

    experts: str
    """The searched recipe whose experts are mixed."""
    settings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    cost: float = Field(gt=0)
    """Time of a training token beside one of plain LoRA."""


class MergeRow(Settings):
    """A merge of the tasks' experts."""

    experts: str
    """The searched recipe whose experts are merged."""
    weights: list[float] | None = None
    """A weight a task, in the order of the tasks; None is the mean."""
    rank: int | None = Field(default=None, ge=1)
    """Of the merged expert; None is what the method takes by itself."""
    settings: dict[str, Any] = {}


class Profile(Settings):
    """One scale of the reproduction."""

    summary: str
    sets: Literal["hub", "folder", "generated"]
    """Where rows come from; a folder given by the user takes the place of the hub."""
    bases: dict[str, BaseEntry]
    tasks: dict[str, SetEntry]
    """By their published names."""
    recipes: dict[str, RecipeRow]
    mixtures: dict[str, MixtureRow]
    """By the names of their files."""
    merges: dict[str, MergeRow] = {}
    """By the names of their files; they take seconds, so no estimate counts them."""
    costs: dict[str, float]
    """Time of a training token by recipe beside one of plain LoRA, for estimates."""
    seeds: int = Field(default=1, ge=1)
    training: dict[str, Any] = {}
    """Training settings of every run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


def profile(name: str) -> Profile:
    """The profile called `name`, or that of a YAML file of the user's own.

    Raises:
        KeyError: If there is none; names the nearest.
        ValueError: If the file is not there or a setting is wrong, naming the key.
    """
    if name.endswith((".yaml", ".yml")):
        return validate(Profile, read_yaml(Path(name)), name)
    return validate(Profile, profiles.read(name), f"profiles/{name}.yaml")
