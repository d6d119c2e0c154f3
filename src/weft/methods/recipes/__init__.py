"""Named methods: a composition of one variant and, where it needs them, optimizer, penalties, controller and plan.

A recipe is one short YAML file of this folder. `resolve` turns what a run says about its recipe into objects, with the
file's defaults filled in and every setting checked by the variant that owns it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import field_validator

from weft.config import RecipeSettings, Settings, read_yaml, validate
from weft.methods.adapters import adapters
from weft.methods.controllers import controllers
from weft.methods.optimizers import optimizers
from weft.methods.penalties import penalties
from weft.methods.plans import plans
from weft.registry import Registry, unknown

if TYPE_CHECKING:
    from weft.methods.adapters.contract import Adapter, Spec
    from weft.methods.controllers.contract import Controller
    from weft.methods.optimizers.contract import Optimizer
    from weft.methods.penalties.contract import Penalty
    from weft.methods.plans.contract import Plan

AnySettings = TypeVar("AnySettings", bound=Settings)

recipes: Registry[object] = Registry("weft.methods.recipes", suffix=".yaml")

HEAD_ONLY = "head"
"""The recipe of what owns a head and no adapters."""


PARTS: dict[str, Registry[Any]] = {
    "optimizer": optimizers,
    "penalties": penalties,
    "controller": controllers,
    "plan": plans,
}
"""The folders, beside `adapters`, that a recipe composes, by what its file calls them."""


class MeasuredRate(Settings):
    """The rate that was best on some targets."""

    targets: list[str]
    learning_rate: float


class RecipeFile(Settings):
    """What a recipe's YAML file says."""

    summary: str = ""
    paper: str = ""
    citation: str = ""
    cost: str = ""
    """Why its training takes longer than plain LoRA's, or more memory, where it does."""
    trains: Literal["adapters", "head", "base"] = "adapters"
    """What learns: adapters and head; the head alone; or all weights of a private copy of the base."""
    adapter: str | None = None
    settings: dict[str, Any] = {}
    """The method's defaults for the settings of its adapter and its other parts."""
    targets: list[str] | str = []
    optimizer: str | None = None
    penalties: list[str] = []
    controller: str | None = None
    plan: str | None = None
    training: dict[str, Any]
    """Measured defaults for training settings that a run leaves open, at `rates.REFERENCE_WIDTH`.

    The rate, and that of the head where the optimizer's steps are of another size than AdamW's, which the head takes.
    """

    @field_validator("training")
    @classmethod
    def _has_a_rate(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            # YAML 1.1 reads 1e-3 as text.
            rates = {name: float(value) for name, value in values.items()}
        except (TypeError, ValueError):
            rates = {}
        known = "learning_rate" in rates and rates.keys() <= {"learning_rate", "head_learning_rate"}
        if not known or not all(math.isfinite(rate) and rate > 0 for rate in rates.values()):
            raise ValueError(
                "expected {learning_rate: NUMBER}, the rate for a base whose states have 384 numbers, and "
                "head_learning_rate where the head's is another"
            )
        return rates

    rates_elsewhere: list[MeasuredRate] = []
    """Rates on other targets than its own: the fewer maps learn, the larger their steps may be."""


@dataclass(frozen=True)
class Recipe:
    """A method ready to train one expert."""

    name: str
    file: RecipeFile
    settings: RecipeSettings
    adapter: "type[Adapter] | None"
    spec: "Spec | None"
    optimizer: "Optimizer"
    penalties: "tuple[Penalty, ...]"
    controller: "Controller"
    plan: "Plan"

    @property
    def trains(self) -> str:
        return self.file.trains

    @property
    def learning_rate(self) -> float:
        """The rate for its targets, on a base of the width that rates were measured at."""
        wanted = set(self.settings.targets or [])
        for other in self.file.rates_elsewhere:
            if set(other.targets) == wanted:
                return other.learning_rate
        return float(self.file.training["learning_rate"])

    @property
    def head_learning_rate(self) -> float | None:
        """The head's rate where it is not the adapters', at the same width."""
        return self.file.training.get("head_learning_rate")

    def describe(self) -> RecipeSettings:
        """The settings with every default of the method written out."""
        values = self.settings.model_dump()
        for part in (self.spec, *(part.settings for part in self.parts)):
            values |= part.model_dump() if part else {}
        return RecipeSettings(**values)

    def again(self) -> "Recipe":
        """The same recipe for another expert: parts that remember (moments, masks) are its own."""
        return resolve(self.settings)

    @property
    def parts(self) -> "tuple[Optimizer | Penalty | Controller | Plan, ...]":
        """Everything beside the adapter that has settings."""
        return (self.optimizer, *self.penalties, self.controller, self.plan)


def settings_types(file: RecipeFile) -> list[type[Settings]]:
    """The settings of a recipe's adapter and of its other parts, in that order."""
    found: list[type[Settings]] = [adapters.load(file.adapter).spec_type] if file.adapter else []
    for kind, registry in PARTS.items():
        found += [registry.load(name).settings_type for name in parts_of(file, kind)]
    return found


def parts_of(file: RecipeFile, kind: str) -> list[str]:
    """The files of one of `PARTS` that a recipe names."""
    named = getattr(file, kind)
    return named if isinstance(named, list) else [named] if named else []


def recipe_file(name: str) -> RecipeFile:
    """The recipe called `name` as its file says it.

    Args:
        name: A recipe's name, or the path of a YAML file of the user's own.

    Raises:
        KeyError: If there is none; the message names the nearest.
        ValueError: If a file of the user's own is missing or wrong.
    """
    path = own_file(name)
    if path is not None:
        return validate(RecipeFile, read_yaml(path), str(path))
    return validate(RecipeFile, recipes.read(name), f"recipes/{name}.yaml")


def own_file(name: str) -> Path | None:
    """The user's own file that a recipe's name is or stands for; None where it is a recipe of weft's or a package's.

    It is the file of an including folder, or said by its path.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name).expanduser().absolute()
    return recipes.included(name)


def file_of(settings: RecipeSettings) -> RecipeFile:
    """The recipe that a run's or an expert's settings name, or hold.

    Raises:
        KeyError: If there is none; the message names the nearest.
        ValueError: If what they hold, or the file, is wrong.
    """
    if settings.spec is not None:
        return validate(RecipeFile, settings.spec, f"recipe {settings.name}: spec")
    return recipe_file(settings.name)


def self_contained(settings: RecipeSettings) -> RecipeSettings:
    """The settings with the description of a recipe of the user's own in them, so that its file may go."""
    path = own_file(settings.name) if settings.spec is None else None
    if path is None:
        return settings
    spec = file_of(settings).model_dump(mode="json")
    return settings.model_copy(update={"name": path.stem, "spec": spec})


def resolve(settings: RecipeSettings) -> Recipe:
    """The recipe that `settings` ask for, checked.

    Raises:
        KeyError: If there is no such recipe or part.
        ValueError: If the method does not have a setting, or its value is out of range.
    """
    # Named here and above as types alone: what recipes there are is asked more often than one is made.
    from weft.methods.controllers.contract import Controller
    from weft.methods.optimizers.contract import Optimizer
    from weft.methods.plans.contract import Plan

    settings = self_contained(settings)
    file = file_of(settings)
    own = dict(settings.model_extra or {})
    where = f"recipe {settings.name}"
    variant = adapters.load(file.adapter) if file.adapter else None
    targets: list[str] | str = []
    if variant is None:
        _refuse_settings(settings, own, where)
    else:
        targets = settings.targets if settings.targets is not None else file.targets
        targets = [targets] if isinstance(targets, str) else list(targets)
        _refuse_unknown(file, own, where)
    values = {**file.settings, **own}

    for name in parts_of(file, "optimizer"):
        reason = optimizers.load(name).refusal(variant) if variant else None
        if reason:
            raise ValueError(
                f"{where}: optimizer {name} does not fit adapter {file.adapter}: {reason}"
            )

    def made(kind: str) -> list[Any]:
        parts = [PARTS[kind].load(name) for name in parts_of(file, kind)]
        return [part(_chosen(part.settings_type, values, where)) for part in parts]

    return Recipe(
        name=settings.name,
        file=file,
        settings=settings.model_copy(update={"targets": targets}),
        adapter=variant,
        spec=_chosen(variant.spec_type, values, where) if variant else None,
        optimizer=next(iter(made("optimizer")), Optimizer()),
        penalties=tuple(made("penalties")),
        controller=next(iter(made("controller")), Controller()),
        plan=next(iter(made("plan")), Plan()),
    )


def _chosen(kind: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """Those of `values` that `kind` has."""
    own = {name: value for name, value in values.items() if name in kind.model_fields}
    return validate(kind, own, where)


def _refuse_unknown(file: RecipeFile, own: Mapping[str, Any], where: str) -> None:
    known = RecipeSettings.model_fields.keys() - {"name", "spec"}
    known |= {name for kind in settings_types(file) for name in kind.model_fields}
    for key in own:
        if key not in known:
            raise ValueError(f"{where}: {unknown('setting', key, known)}")


def _refuse_settings(settings: RecipeSettings, own: Mapping[str, Any], where: str) -> None:
    given = {
        name for name in ("targets", "layers", "ranks", "train_also") if getattr(settings, name)
    } | set(own)
    if given:
        raise ValueError(
            f"{where}: trains no adapters, so it has no setting {', '.join(sorted(given))}; "
            "remove it or choose another recipe"
        )
