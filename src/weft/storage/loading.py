"""A run folder's expert on its base, ready to answer."""

from dataclasses import dataclass
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
from weft.tasks.contract import Task

DEVICES = ("auto", "cpu", "cuda", "mps")
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
) -> LoadedRun:
    """The expert of a run folder on its base, or a mixture with the head of one task.

    Args:
        path: The run folder.
        task: Which task, of a run that trained or mixed several.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's.
        rank: How many of an expert's ranks are used, where they are nested; None is all.

    Raises:
        ValueError: If it is no run folder, holds no expert, the expert does not fit its base, or was not trained for
            `rank`.
    """
    folder = _part(RunFolder.open(path), task)
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
    return LoadedRun(model.eval(), task_of(card), card, run, expert.name, where, precision, members)


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
    model = beside.model
    expert, card = load_expert(folder.expert, model.base, name=name or run.task.label)
    model.add(expert.to(beside.device))
    members = (expert.name,)
    return LoadedRun(
        model, task_of(card), card, run, expert.name, beside.device, beside.precision, members
    )


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
    folder = RunFolder.open(path)
    run = folder.run
    if run.mixture is None:
        raise ValueError(f"{path} holds an expert and no mixture; mix some with weft mix")
    if not folder.mixture.is_dir():
        raise ValueError(f"{path} holds no mixture yet; train it to its end first")
    where, precision, dtype = _settled(run, device, precision)
    base = _base_of(run, where, precision, dtype)
    mix, heads, extra = load_mixture(folder.mixture, base)
    model = Model(base)
    model.change(add=[own.to(where) for own in (mix, *(head for head, _ in heads.values()))])
    model.eval()
    settings = {part.run.task.label: part.run for part in folder.parts() if part.run.task}
    recogniser = Recogniser.of(list(heads), extra).to(where)
    if recogniser.weight.shape[1] != (wide := STATES * base.config.hidden_size):
        raise ValueError(
            f"{folder.mixture}: what recognises tasks reads {recogniser.weight.shape[1]} features, here a sequence has "
            f"{wide}; it is of another version: train the mixture again"
        )
    runs = {
        name: LoadedRun(
            model=model,
            task=task_of(card),
            card=card,
            run=settings.get(name, run),
            name=name,
            device=where,
            precision=precision,
            members=(mix.name,),
            recogniser=recogniser,
        )
        for name, (_, card) in heads.items()
    }
    return LoadedMixture(runs, mix, recogniser)


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
    )


def available_device() -> str:
    """The fastest kind of device this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
