"""Named methods: a composition of one variant and, where it needs them, optimizer, penalties, controller and plan.

A recipe is one short YAML file of this folder. `resolve` turns what a run says about its recipe into objects, with the
file's defaults filled in and every setting checked by the variant that owns it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weft.adapters import adapters
from weft.adapters.base import Adapter, Spec
from weft.config import RecipeSettings, Settings, validate
from weft.controllers import controllers
from weft.controllers.base import Controller
from weft.optimizers import optimizers
from weft.optimizers.base import Optimizer
from weft.penalties import penalties
from weft.penalties.base import Penalty
from weft.plans import plans
from weft.plans.base import Plan
from weft.registry import Registry, unknown

recipes: Registry[object] = Registry("weft.recipes", suffix=".yaml")


class Part(Settings):
    """A file of a method folder and its settings."""

    name: str
    settings: dict[str, Any] = {}


class RecipeFile(Settings):
    """What a recipe's YAML file says."""

    summary: str
    paper: str
    citation: str
    trains: Literal["adapters", "head", "base"] = "adapters"
    """What learns: adapters and head; the head alone; or all weights of a private copy of the base."""
    adapter: str | None = None
    settings: dict[str, Any] = {}
    """The method's defaults for the adapter's settings."""
    targets: list[str] | str = []
    optimizer: Part | None = None
    penalties: list[Part] = []
    controller: Part | None = None
    plan: Part | None = None
    training: dict[str, Any] = {}
    """Measured defaults for training settings that a run leaves open."""


@dataclass(frozen=True)
class Recipe:
    """A method ready to train one expert."""

    name: str
    file: RecipeFile
    settings: RecipeSettings
    adapter: type[Adapter] | None
    spec: Spec | None
    optimizer: Optimizer
    penalties: tuple[Penalty, ...]
    controller: Controller
    plan: Plan

    @property
    def trains(self) -> str:
        return self.file.trains

    @property
    def learning_rate(self) -> float:
        return float(self.file.training["learning_rate"])

    def describe(self) -> RecipeSettings:
        """The settings with every default of the method written out."""
        values = self.settings.model_dump()
        return RecipeSettings(**(values | (self.spec.model_dump() if self.spec else {})))


def recipe_file(name: str) -> RecipeFile:
    """The recipe called `name` as its file says it.

    Raises:
        KeyError: If there is none; the message names the nearest.
    """
    return validate(RecipeFile, recipes.read(name), f"recipes/{name}.yaml")


def resolve(settings: RecipeSettings) -> Recipe:
    """The recipe that `settings` ask for, checked.

    Raises:
        KeyError: If there is no such recipe or part.
        ValueError: If the method does not have a setting, or its value is out of range.
    """
    file = recipe_file(settings.name)
    own = dict(settings.model_extra or {})
    where = f"recipe {settings.name}"
    variant = adapters.load(file.adapter) if file.adapter else None
    if variant is None:
        _refuse_settings(settings, own, where)
        spec = None
        targets: list[str] | str = []
    else:
        spec = _spec(variant, file, own, where)
        targets = settings.targets if settings.targets is not None else file.targets
        targets = [targets] if isinstance(targets, str) else list(targets)
    return Recipe(
        name=settings.name,
        file=file,
        settings=settings.model_copy(update={"targets": targets}),
        adapter=variant,
        spec=spec,
        optimizer=optimizers.load(file.optimizer.name)(**file.optimizer.settings)
        if file.optimizer
        else Optimizer(),
        penalties=tuple(penalties.load(part.name)(**part.settings) for part in file.penalties),
        controller=controllers.load(file.controller.name)(**file.controller.settings)
        if file.controller
        else Controller(),
        plan=plans.load(file.plan.name)(**file.plan.settings) if file.plan else Plan(),
    )


def _spec(variant: type[Adapter], file: RecipeFile, own: Mapping[str, Any], where: str) -> Spec:
    common = [name for name in RecipeSettings.model_fields if name != "name"]
    known = {*variant.spec_type.model_fields, *common}
    for key in own:
        if key not in known:
            raise ValueError(f"{where}: {unknown('setting', key, known)}")
    return validate(variant.spec_type, {**file.settings, **own}, where)


def _refuse_settings(settings: RecipeSettings, own: Mapping[str, Any], where: str) -> None:
    given = {
        name for name in ("targets", "layers", "ranks", "train_also") if getattr(settings, name)
    } | set(own)
    if given:
        raise ValueError(
            f"{where}: trains no adapters, so it has no setting {', '.join(sorted(given))}; "
            "remove it or choose another recipe"
        )
