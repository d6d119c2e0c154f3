"""A run, completed once: what the user said becomes settings that say everything.

Whoever trains, compares or mixes reads a complete run and asks nothing of it again. All that can be refused from
settings alone is refused here, before a row is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.base.loading import config_of
from weft.base.locate import ALIASES, is_here
from weft.base.quantised import check as check_bits
from weft.config import (
    SEARCH,
    MixtureSettings,
    PersonalSettings,
    RateSource,
    RecipeSettings,
    Run,
    TaskSettings,
    TrainingSettings,
    load_run,
)
from weft.data.reading import find_spec
from weft.methods.balances import balances
from weft.methods.gates.settings import Spec
from weft.methods.rates import Rate, rate_for
from weft.methods.recipes import HEAD_ONLY, Recipe, resolve
from weft.model.mixing import method_of, starts_from_experts
from weft.storage.ingredients import parts_of, tasks_of
from weft.tasks.sets import sets


@dataclass(frozen=True)
class Complete:
    """A run that leaves nothing open but what only its base can say."""

    run: Run
    """Every default written out, every path absolute, its tasks with their own data."""
    recipe: Recipe
    """How each expert is trained; a mixture's tasks own heads alone."""
    gates: Spec | None = None
    """A mixture's method, checked."""

    @property
    def tasks(self) -> list[TaskSettings]:
        """Its tasks, one or several."""
        return [self.run.task] if self.run.task else self.run.tasks

    @property
    def mixes_experts(self) -> bool:
        """Whether it is a mixture of experts that exist."""
        return self.gates is not None and starts_from_experts(self.gates)

    def head_only(self) -> Recipe:
        """The recipe of what owns a head and no adapters."""
        return resolve(RecipeSettings(name=HEAD_ONLY))


def completed(run: Run) -> Complete:
    """`run` with everything written out that is not said, or refused; completing it again changes nothing.

    Raises:
        KeyError: If a recipe, a mixture or a part of them is unknown.
        ValueError: If settings contradict each other: what came, what was expected, what to do.
    """
    gates = None
    if run.mixture is not None:
        run, gates = _mixed(run, run.mixture)
    recipe = resolve(run.recipe)
    tasks = _tasks(run)
    _refuse(run, recipe, len(tasks))
    values = {
        "base": _absolute(run.base),
        "init_from": _absolute(run.init_from) if run.init_from else None,
        "task": tasks[0] if run.task else None,
        "tasks": tasks if run.tasks else [],
        "data": None,
        "personal": _of_population(run.personal),
        "recipe": recipe.describe(),
        "training": _with_rate(run, recipe),
    }
    return Complete(run.model_copy(update=values), recipe, gates)


def _with_rate(run: Run, recipe: Recipe) -> TrainingSettings:
    """The training with its rates, and where they come from; `search` stays what it is."""
    training = run.training
    if training.head_learning_rate is None and recipe.head_learning_rate is not None:
        width = config_of(run.base, revision=run.revision).hidden_size
        head = rate_for(recipe.head_learning_rate, recipe.trains, width).value
        training = training.model_copy(update={"head_learning_rate": head})
    if training.learning_rate is not None:
        source = training.rate_from
        # A setting that was changed in a run that was complete is the user's own.
        kept = source if source is not None and source.rate == training.learning_rate else None
        return training.model_copy(update={"rate_from": kept})
    found = own_rate(run, recipe)
    source = RateSource(rate=found.value, said=found.said)
    return training.model_copy(update={"learning_rate": found.value, "rate_from": source})


def own_rate(run: Run, recipe: Recipe) -> Rate:
    """The rate of a run that says none.

    Raises:
        KeyError: If the base has a name that nothing has.
        ValueError: If the base is not there.
    """
    if run.mixture is not None:
        value = method_of(run.mixture)[0].learning_rate
        return Rate(value, f"the mixture's {value:g}, whatever the base's width")
    width = config_of(run.base, revision=run.revision).hidden_size
    return rate_for(recipe.learning_rate, recipe.trains, width)


def mix_config(runs: Sequence[str | Path], mixture: str, overrides: Sequence[str] = ()) -> Run:
    """The settings of a run that mixes the experts of `runs`.

    Base, tasks and data are theirs; so are precision and seed, where they agree.

    Args:
        runs: Run folders, each with one expert or several.
        mixture: A file of `mixtures/`.
        overrides: `a.b=c` settings on top, e.g. `mixture.top_k=2`.

    Raises:
        ValueError: If there is no run, or the runs have different bases.
    """
    if not runs:
        raise ValueError("no expert to mix; give the run folders of at least one expert")
    trained = [part.run for part in parts_of([str(run) for run in runs])]
    bases = {(run.base, run.revision) for run in trained}
    if len(bases) > 1:
        names = ", ".join(sorted(base for base, _ in bases))
        raise ValueError(f"experts of different bases cannot be mixed: {names}; mix those of one")
    precisions = {run.training.precision for run in trained}
    seeds = {run.seed for run in trained}
    base, revision = bases.pop()
    values: dict[str, Any] = {
        "base": base,
        "revision": revision,
        "mixture": {"name": mixture, "runs": [str(run) for run in runs]},
        "training": {"precision": precisions.pop()} if len(precisions) == 1 else {},
        **({"seed": seeds.pop()} if len(seeds) == 1 else {}),
    }
    return load_run(values, list(overrides))


def _mixed(run: Run, mixture: MixtureSettings) -> tuple[Run, Spec]:
    """A mixture's run with its tasks and its method's settings written out."""
    if run.recipe != RecipeSettings() and run.recipe.name != HEAD_ONLY:
        raise ValueError(
            f"recipe {run.recipe.name}: a mixture's experts are trained as `mixture` says; remove the recipe"
        )
    _, spec = method_of(mixture)
    _refuse_balance(mixture.name, spec)
    chosen = [run.task] if run.task else run.tasks
    values = {
        "task": None,
        "tasks": tasks_of(mixture.runs, chosen) if mixture.runs else chosen,
        "recipe": RecipeSettings(name=HEAD_ONLY),
        "mixture": _described(mixture, spec),
    }
    return run.model_copy(update=values), spec


def _refuse_balance(name: str, spec: Spec) -> None:
    balance = balances.load(spec.balance)
    if balance.measures == "expert" and not starts_from_experts(spec):
        raise ValueError(
            f"mixture {name}: balance {spec.balance} divides each task's loss by its own expert's, and experts that "
            "are trained from nothing are no task's own; choose balance: start, or start: experts"
        )


def _described(settings: MixtureSettings, spec: Spec) -> MixtureSettings:
    """The settings with every default of the method written out, and where the runs are."""
    runs, beside = (
        [str(Path(run).expanduser().resolve()) for run in own]
        for own in (settings.runs, settings.beside)
    )
    own = spec.model_dump(mode="json")
    return MixtureSettings(name=settings.name, runs=runs, beside=beside, **own)


def _tasks(run: Run) -> list[TaskSettings]:
    """Every task's settings with its own data folder filled in, absolute."""
    found = []
    for task in [run.task] if run.task else run.tasks:
        data = task.data
        if data is None and run.data is not None:
            data = run.data if run.task else str(Path(run.data) / task.label)
        values: dict[str, Any] = _placed(task.name, data)
        if task.replay is not None:
            own = _placed(task.replay.name, task.replay.data)
            values["replay"] = task.replay.model_copy(update=own)
        found.append(task.model_copy(update=values))
    return found


def _of_population(personal: PersonalSettings) -> PersonalSettings:
    """The settings of users with the absolute path of the run that their population comes from."""
    if personal.population is None:
        return personal
    where = str(Path(personal.population).expanduser().resolve())
    return personal.model_copy(update={"population": where})


def _placed(name: str, data: str | None) -> dict[str, str | None]:
    """A set's name and its folder, absolute where they are files."""
    name = str(sets.included(name) or name)
    is_file = name.endswith((".yaml", ".yml"))
    return {
        "name": str(Path(name).resolve()) if is_file else name,
        "data": None if data is None else str(Path(data).expanduser().resolve()),
    }


def _absolute(name: str) -> str:
    """The absolute path of a folder or a GGUF file; aliases and hub ids as they are."""
    # An alias is meant before a folder of its name, as where bases are looked up.
    own = name not in ALIASES.names() and is_here(name)
    return str(Path(name).expanduser().absolute()) if own else name


def _refuse(run: Run, recipe: Recipe, tasks: int) -> None:
    if run.merge is not None:
        raise ValueError(
            "this run's expert was made by `weft merge` of others and not trained: merge those again, or take `merge` "
            "out of the config to train one"
        )
    if recipe.trains == "base" and tasks > 1:
        raise ValueError(
            "recipe full trains a private copy of the base, which no two tasks share; train them apart"
        )
    check_bits(run.quantise, run.training.precision)
    if run.quantise is not None and recipe.trains == "base":
        raise ValueError(
            f"recipe {recipe.name} trains the base's own weights, which quantise: {run.quantise} rounds; choose a "
            "recipe with adapters, or leave quantise away"
        )
    if run.is_personal or (run.experts == "shared" and run.task is not None):
        _refuse_users(run, recipe)
    elif run.experts != "separate" and (tasks < 2 or recipe.adapter is None):
        raise ValueError(f"experts: {run.experts} needs several tasks and a recipe with adapters")
    if run.training.sampling is not None and (
        tasks < 2 or (run.across_tasks == "separate" and run.mixture is None)
    ):
        raise ValueError(
            "sampling draws a step's rows from several tasks for what they train together; use it with experts: "
            "shared or both, or with a mixture"
        )
    if run.training.learning_rate == SEARCH and run.training.evaluate_on == "holdout":
        raise ValueError(
            "training.learning_rate: search chooses on the rows that evaluate_on: holdout reports; evaluate on "
            "validation, or give a rate"
        )
    if run.training.trajectory and (
        run.task is None or run.mixture is not None or recipe.adapter is None
    ):
        raise ValueError(
            "training.trajectory keeps states of one expert with adapters; train one task with such a recipe, or leave "
            "trajectory at 0"
        )
    if run.experts == "both" and recipe.adapter is not None and not recipe.adapter.low_rank:
        raise ValueError(
            f"experts: both adds two experts up to one LoRA, and recipe {recipe.name} has no exact "
            "factors; choose another recipe, or experts: shared or separate"
        )


def _refuse_users(run: Run, recipe: Recipe) -> None:
    """Refuse experts of users where there are none, or where they cannot stand on the population's."""
    said = f"experts: {run.experts}"
    if run.task is None:
        raise ValueError(
            f"{said} is for users of one task; give `task: NAME`, and train other tasks apart"
        )
    if "user" not in find_spec(run.task).columns:
        raise ValueError(
            f"{said} is for several tasks, or for users of one, and task {run.task.label} names no column that says "
            "whose row each is: say it in the task's file, `columns: {user: THE_COLUMN}`"
        )
    if run.mixture is not None:
        raise ValueError(f"{said} trains experts and mixes none; leave `mixture` or `experts` away")
    if recipe.adapter is None or not recipe.adapter.low_rank:
        raise ValueError(
            f"{said} adds a user's factors to the population's, and recipe {recipe.name} has none; choose a recipe "
            "with exact factors (lora)"
        )
    if run.training.evaluate_on == "holdout" and run.is_personal:
        raise ValueError(
            f"{said} trains users on all their training rows, so none is held out to score on; give a validation split "
            "and evaluate_on: validation"
        )
