"""From run folders to a mixture: experts read, stacked map by map, and given gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from weft.adapters.base import Adapter, NotLowRank
from weft.base import Base
from weft.config import MixtureSettings, RecipeSettings, Run, TaskSettings, load_run, validate
from weft.expert import Card, Expert, check_rank
from weft.gates.frame import Frame
from weft.gates.settings import Spec, TrainedSpec
from weft.gates.stack import Part, Stack
from weft.heads import trained_dtype
from weft.kinds import KINDS
from weft.lowrank.attach import frozen_linear
from weft.lowrank.roles import resolve
from weft.mixed import Mix
from weft.mixtures import mixtures
from weft.mixtures.base import Mixture
from weft.recipes import recipe_file
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage import load_expert

HEAD_ONLY = "head"
"""The recipe of what owns a head and no adapters."""
MIX = "mix"
"""How routes call the mixture of a run."""


@dataclass(frozen=True)
class Ingredient:
    """A trained expert that is to be mixed."""

    expert: Expert
    card: Card
    folder: Path
    """Where it lies on disk."""


def method_of(settings: MixtureSettings) -> tuple[type[Mixture], Spec]:
    """A mixture's class and its settings, checked.

    Raises:
        KeyError: If there is no such mixture.
        ValueError: If it does not have a setting, or its value is out of range.
    """
    kind = mixtures.load(settings.name)
    own = settings.model_extra or {}
    return kind, validate(kind.settings_type, own, f"mixture {settings.name}")


def starts_from_experts(spec: Spec) -> bool:
    """Whether the experts are those of runs."""
    return not isinstance(spec, TrainedSpec) or spec.start == "experts"


def described(settings: MixtureSettings, spec: Spec) -> MixtureSettings:
    """The settings with every default of the method written out, and where the runs are."""
    runs, beside = (
        [str(Path(run).expanduser().resolve()) for run in own]
        for own in (settings.runs, settings.beside)
    )
    own = spec.model_dump(mode="json")
    return MixtureSettings(name=settings.name, runs=runs, beside=beside, **own)


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
        if recipe_file(part.run.recipe.name).trains != "adapters":
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


def frame_of(config: PreTrainedConfig) -> Frame:
    """What a mixture has to know of a trunk."""
    causal = KINDS["causal_lm"].fits(config)
    return Frame(config.model_type, config.hidden_size, config.num_hidden_layers, causal)


def make_mix(
    settings: MixtureSettings,
    base: Base,
    ingredients: Mapping[str, Ingredient],
    tasks: Sequence[str],
    seed: int,
) -> Mix:
    """A mixture as its training starts it.

    Args:
        settings: The method and its settings.
        base: The frozen base.
        ingredients: The experts by name; none where the method starts from nothing.
        tasks: Whose rows are answered.
        seed: Decides every random start value.

    Raises:
        ValueError: If there is no expert to mix, or the method cannot mix these; with the reason.
    """
    kind, spec = method_of(settings)
    generator = torch.Generator().manual_seed(seed)
    frame = frame_of(base.config)
    where = f"mixture {settings.name}"
    try:
        if starts_from_experts(spec):
            if not ingredients:
                raise ValueError("no expert to mix; give the run folders of at least one expert")
            experts = list(ingredients)
            stacks = _stacked(kind, spec, base, list(ingredients.values()), frame)
        else:
            assert isinstance(spec, TrainedSpec)
            experts = [f"expert{at}" for at in range(spec.num_experts)]
            stacks = _new(kind, spec, base, frame, generator)
        mixture = kind(experts, stacks, frame, spec, generator).to(trained_dtype(base))
        return Mix(MIX, mixture, () if starts_from_experts(spec) else tasks)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _stacked(
    kind: type[Mixture], spec: Spec, base: Base, owners: Sequence[Ingredient], frame: Frame
) -> dict[str, Stack]:
    """The experts' factors map by map, in the order of the trunk's modules."""
    dtype = trained_dtype(base)
    used = {module for owner in owners for module in owner.expert.adapters}
    stacks = {}
    for module in (name for name in resolve(base.trunk, sorted(used)) if name in used):
        weight = frozen_linear(base.trunk, module).weight
        parts = [
            _part(owner, adapter, weight, dtype)
            if (adapter := owner.expert.adapters.get(module))
            else None
            for owner in owners
        ]
        stacks[module] = kind.from_experts(module, parts, frame, spec).to(weight.device, dtype)
    return stacks


def _part(owner: Ingredient, adapter: Adapter, weight: torch.Tensor, dtype: torch.dtype) -> Part:
    """An expert's factors at one map; a plain LoRA keeps its scale apart, so that it can go on learning."""
    try:
        A, B = (value.detach().to(dtype) for value in adapter.to(weight.device).factors(weight))
    except NotLowRank as error:
        raise ValueError(
            f"{owner.folder} has no exact factors ({error}); bring it to a plain LoRA first: "
            "weft export --rank K, then weft import, or train it with another recipe"
        ) from error
    alpha = adapter.peft_alpha() if adapter.peft_magnitude() is None else None
    scale = 1.0 if alpha is None else alpha / adapter.rank
    return Part(A, B / scale, scale)


def _new(
    kind: type[Mixture],
    spec: TrainedSpec,
    base: Base,
    frame: Frame,
    generator: torch.Generator,
) -> dict[str, Stack]:
    """New experts on the maps that the settings target."""
    stacks = {}
    for module in resolve(base.trunk, spec.targets):
        weight = frozen_linear(base.trunk, module).weight
        check_rank(module, spec.rank, tuple(weight.shape))
        made = kind.from_nothing(module, weight, frame, spec, generator)
        stacks[module] = made.to(weight.device, trained_dtype(base))
    return stacks


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


def with_mixture(run: Run) -> Run:
    """A mixture's run with its tasks, its method's settings and its rate written out; others as they are."""
    if run.mixture is None:
        return run
    if run.recipe != RecipeSettings() and run.recipe.name != HEAD_ONLY:
        raise ValueError(
            f"recipe {run.recipe.name}: a mixture's experts are trained as `mixture` says; remove the recipe"
        )
    kind, spec = method_of(run.mixture)
    chosen = [run.task] if run.task else run.tasks
    tasks = tasks_of(run.mixture.runs, chosen) if run.mixture.runs else chosen
    rate = run.training.learning_rate or kind.learning_rate
    return run.model_copy(
        update={
            "task": None,
            "tasks": tasks,
            "recipe": RecipeSettings(name=HEAD_ONLY),
            "mixture": described(run.mixture, spec),
            "training": run.training.model_copy(update={"learning_rate": rate}),
        }
    )
