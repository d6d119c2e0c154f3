"""A run folder's expert on its base, ready to answer."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from weft.base.loading import Base, attention_for, load_base
from weft.config import RecipeSettings, Run
from weft.lowrank.route import Members
from weft.methods.recipes import file_of
from weft.model.card import Card
from weft.model.factoring import cut
from weft.model.mixed import Mix
from weft.model.model import Model
from weft.model.recogniser import STATES, Recogniser
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage.card import task_of
from weft.storage.experts import load_expert, load_full, read_card
from weft.storage.mixture import load_mixture
from weft.storage.personal.experts import members_of, read_expert
from weft.storage.personal.opened import Population, opened, population_of
from weft.storage.personal.users import Users
from weft.tasks.contract import Task

DEVICES = ("auto", "cpu", "cuda", "mps")
POPULATIONS = 4
"""Of personal runs, kept on a model for users who come next."""
PRECISIONS = ("fp32", "bf16", "fp16", "fp64")


@dataclass(frozen=True)
class LoadedRun:
    """One expert on its base, and what it was trained to do."""

    model: Model
    task: Task
    """As it was when the expert was trained; needs no data."""
    card: Card
    run: Run
    name: str
    """How routes call the expert."""
    device: torch.device
    precision: str
    members: Members
    """What speaks for its rows: the expert itself, or the mixture whose head it is."""
    recogniser: Recogniser | None = None
    """Which of a mixture's tasks a row belongs to."""
    user: str | None = None
    """Whose expert it is; None is everybody's, also where somebody was asked for who has none."""


@dataclass(frozen=True)
class LoadedMixture:
    """A mixture on its base with the heads of all its tasks."""

    runs: dict[str, LoadedRun]
    """By task; all share one model."""
    mix: Mix
    recogniser: Recogniser


def load_run_model(
    path: str | Path,
    *,
    task: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    rank: int | None = None,
    user: str | None = None,
) -> LoadedRun:
    """The expert of a run folder on its base, or a mixture with the head of one task.

    Args:
        path: The run folder.
        task: Which task, of a run that trained or mixed several.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's.
        rank: How many of an expert's ranks are used, where they are nested; None is all.
        user: Whose expert, of a personal run; None is the population's, and whoever has none gets that one too.

    Raises:
        ValueError: If it is no run folder, holds no expert, the expert does not fit its base, was not trained for
            `rank`, or there are no users' experts and one is asked for.
    """
    folder = _part(RunFolder.open(path), task)
    users = None if user is None else Users(folder.path)
    run = folder.run
    assert run.task is not None  # a part has one
    if run.mixture is not None:
        if rank is not None:
            raise ValueError(
                f"rank {rank}: {path} holds a mixture, whose experts have their own; leave `rank` away"
            )
        return load_mixture_model(folder.path, device=device, precision=precision).runs[
            run.task.label
        ]
    if not folder.expert.is_dir():
        raise ValueError(f"{path} holds no expert yet; train it to its end first")
    where, precision, dtype = _settled(run, device, precision)
    card = read_card(folder.expert)
    if file_of(RecipeSettings(**card.recipe)).trains == "base":
        model, expert, card = load_full(folder.expert)
        if rank is not None:
            cut(expert, rank)
        model.to(device=where, dtype=dtype)
    else:
        base = _base_of(run, where, precision, dtype)
        expert, card = load_expert(folder.expert, base)
        if rank is not None:
            cut(expert, rank)
        model = Model(base)
        # Before it is woven in: its factors are made where its weights are.
        model.add(expert.to(where))
    members = (expert.name,)
    loaded = LoadedRun(
        model.eval(), task_of(card), card, run, expert.name, where, precision, members
    )
    if users is None or user is None or user not in users:
        return loaded
    return of_user(loaded, users, user)


def of_user(population: LoadedRun, users: Users, user: str) -> LoadedRun:
    """A user's expert beside the population's that is loaded, in its model.

    Args:
        population: Of the same run.
        users: The run's.
        user: Who has one.

    Raises:
        KeyError: If there is none.
        ValueError: If it is in the model already, or what is stored is damaged.
    """
    expert = read_expert(users, user, population.model.expert(population.name))
    population.model.add(expert.to(population.device))
    members = members_of(population.name, user, shared=users.index.shared)
    return replace(population, name=expert.name, members=members, user=user)


def load_beside(
    path: str | Path, beside: LoadedRun, *, task: str | None = None, name: str | None = None
) -> LoadedRun:
    """Another run's expert, woven into the model that has `beside` already.

    Args:
        path: The run folder.
        beside: What was loaded before; its base, device and precision are the other's too.
        task: Which task, of a run that trained several.
        name: How routes call it; None is its task's name.

    Raises:
        ValueError: If it holds no expert that can be woven in, was trained on another base, or its name is taken.
    """
    ground = Ground(beside.model, beside.device, beside.precision)
    return load_onto(path, ground, task=task, name=name)


@dataclass(frozen=True)
class Ground:
    """What experts are woven into: a model on their base, where it computes and in which arithmetic."""

    model: Model
    device: torch.device
    precision: str
    populations: dict[Path, Population] = field(default_factory=dict, compare=False, repr=False)
    """By run folder: what its users have in common, of the last few whose users were asked for."""

    @cached_property
    def storages(self) -> frozenset[int]:
        """Where the memory of the base's tensors begins."""
        base = self.model.base
        modules = [base.trunk, *([] if base.pooler is None else [base.pooler])]
        tensors = (
            value
            for module in modules
            for group in (module.parameters(), module.buffers())
            for value in group
        )
        return frozenset(value.untyped_storage().data_ptr() for value in tensors)


def ground_of(path: str | Path, *, device: str = "auto", precision: str | None = None) -> Ground:
    """A model on the base of a run, with no expert yet.

    Args:
        path: The run folder.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's.

    Raises:
        ValueError: If it is no run folder, or its base cannot be loaded.
    """
    run = RunFolder.open(path).run
    where, precision, dtype = _settled(run, device, precision)
    return Ground(Model(_base_of(run, where, precision, dtype)).eval(), where, precision)


def load_onto(
    path: str | Path, ground: Ground, *, task: str | None = None, name: str | None = None
) -> LoadedRun:
    """A run's expert, woven into a model that may have others; arguments and errors as of `load_beside`."""
    folder = RunFolder.open(path)
    if folder.run.mixture is not None:
        raise ValueError(
            f"{path} holds a mixture, which has its own model; load it by itself, or give the runs of its experts"
        )
    folder = _part(folder, task)
    run = folder.run
    assert run.task is not None  # a part has one
    if not folder.expert.is_dir():
        raise ValueError(f"{path} holds no expert yet; train it to its end first")
    model = ground.model
    _check_bits(folder, ground)
    expert, card = load_expert(folder.expert, model.base, name=name or run.task.label)
    model.add(expert.to(ground.device))
    return _loaded(ground, expert.name, card, run)


def load_user_onto(path: str | Path, ground: Ground, user: str, *, name: str) -> LoadedRun:
    """A user's expert with the population's factors beside its own, as one, woven into a model that may have others.

    Args:
        path: The run folder.
        ground: The model.
        user: Who has one.
        name: How routes call it.

    Raises:
        KeyError: If the user has none.
        ValueError: If a file is damaged, of another base, or the name is taken.
    """
    known = opened(Path(path))
    population = ground.populations.get(Path(path))
    if population is None or population.stamp != known.stamp:
        folder = RunFolder.open(path)
        _check_bits(folder, ground)
        population = population_of(folder, known.stamp, ground.model, ground.device)
        while len(ground.populations) >= POPULATIONS:
            ground.populations.pop(next(iter(ground.populations)))
        ground.populations[Path(path)] = population
    ground.model.add(population.with_user(known, user, name))
    found = _loaded(ground, name, population.card, population.run, population.task)
    return replace(found, user=user)


def load_mixture_model(
    path: str | Path, *, device: str = "auto", precision: str | None = None
) -> LoadedMixture:
    """The mixture of a run folder with all its tasks, on one model.

    Args:
        path: The mixture's run folder, or that of one of its tasks.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's.

    Raises:
        ValueError: If it holds no mixture, or one that is damaged or does not fit its base.
    """
    _mixture_folder(path)
    return load_mixture_onto(path, ground_of(path, device=device, precision=precision))


def load_mixture_onto(
    path: str | Path, ground: Ground, *, name: str | None = None
) -> LoadedMixture:
    """The mixture of a run folder with all its tasks, woven into a model that may have others.

    Args:
        path: As of `load_mixture_model`.
        ground: The model.
        name: How routes call it, and its heads by `name/task`; None: `mix`, and the tasks' names.

    Raises:
        ValueError: As of `load_mixture_model`; or if a name is taken.
    """
    folder = _mixture_folder(path)
    run, model, base = folder.run, ground.model, ground.model.base
    _check_bits(folder, ground)
    mix, heads, extra = load_mixture(folder.mixture, base)
    if name is not None:
        mix.name = name
        # Rows are labelled by who answers them.
        mix.labels = {f"{name}/{owner}": at for owner, at in mix.labels.items()}
        for task, (head, _) in heads.items():
            head.name = f"{name}/{task}"
    recogniser = Recogniser.of(list(heads), extra).to(ground.device)
    if recogniser.weight.shape[1] != (wide := STATES * base.config.hidden_size):
        raise ValueError(
            f"{folder.mixture}: what recognises tasks reads {recogniser.weight.shape[1]} features, here a sequence has "
            f"{wide}; it is of another version: train the mixture again"
        )
    model.change(
        add=[own.to(ground.device) for own in (mix, *(head for head, _ in heads.values()))]
    )
    settings = {part.run.task.label: part.run for part in folder.parts() if part.run.task}
    runs = {
        task: replace(
            _loaded(ground, head.name, card, settings.get(task, run)),
            members=(mix.name,),
            recogniser=recogniser,
        )
        for task, (head, card) in heads.items()
    }
    return LoadedMixture(runs, mix, recogniser)


def _mixture_folder(path: str | Path) -> RunFolder:
    folder = RunFolder.open(path)
    if folder.run.mixture is None:
        raise ValueError(f"{path} holds an expert and no mixture; mix some with weft mix")
    if not folder.mixture.is_dir():
        raise ValueError(f"{path} holds no mixture yet; train it to its end first")
    return folder


def _loaded(ground: Ground, name: str, card: Card, run: Run, task: Task | None = None) -> LoadedRun:
    return LoadedRun(
        model=ground.model,
        task=task or task_of(card),
        card=card,
        run=run,
        name=name,
        device=ground.device,
        precision=ground.precision,
        members=(name,),
    )


def _part(folder: RunFolder, task: str | None) -> RunFolder:
    """The run folder of one task."""
    parts = {part.run.task.label: part for part in folder.parts() if part.run.task is not None}
    if task is not None:
        if task not in parts:
            raise ValueError(f"{folder.path}: {unknown('task', task, parts)}")
        return parts[task]
    if len(parts) > 1 or folder.run.task is None:
        names = ", ".join(str(part.path) for part in parts.values())
        raise ValueError(
            f"{folder.path} trained several tasks; name one, or give the run folder of one: {names}"
        )
    return folder


def _check_bits(folder: RunFolder, ground: Ground) -> None:
    """An expert answers on the base that it was trained on, rounded or not."""
    own, here = folder.run.quantise, ground.model.base.quantised
    if own != here:
        raise ValueError(
            f"{folder.path} was trained on its base {_bits(own)}, and this one is {_bits(here)}; load it by itself, or "
            f"train it with quantise: {here or 'null'}"
        )


def _bits(bits: str | None) -> str:
    return f"in {bits}" if bits else "as it is"


def _settled(run: Run, device: str, precision: str | None) -> tuple[torch.device, str, torch.dtype]:
    """Where to compute, in which arithmetic, and the base's type."""
    if device not in DEVICES:
        raise ValueError(f"device: {unknown('device', device, DEVICES)}")
    where = torch.device(available_device() if device == "auto" else device)
    precision = precision or run.training.precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {unknown('precision', precision, PRECISIONS)}")
    return where, precision, torch.float64 if precision == "fp64" else torch.float32


def _base_of(run: Run, device: torch.device, precision: str, dtype: torch.dtype) -> Base:
    return load_base(
        run.base,
        revision=run.revision,
        dtype=dtype,
        device=device,
        attention=attention_for(device, half=precision in ("bf16", "fp16")),
        quantised=run.quantise,
    )


def available_device() -> str:
    """The fastest kind of device this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
