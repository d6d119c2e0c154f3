"""A run folder's expert on its base, ready to answer."""

from dataclasses import dataclass
from pathlib import Path

import torch

from weft.base import attention_for, load_base
from weft.config import Run, validate
from weft.data import find_kind
from weft.expert import Card
from weft.lowrank.route import Members
from weft.model import Model
from weft.recipes import recipe_file
from weft.registry import unknown
from weft.runs import RunFolder
from weft.storage import load_expert, load_full, read_card
from weft.storage.mixture import load_mixture
from weft.tasks.base import Task, TaskSpec

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


def load_run_model(
    path: str | Path, *, device: str = "auto", precision: str | None = None
) -> LoadedRun:
    """The expert of a run folder on its base.

    Args:
        path: The run folder of one task.
        device: auto, cpu, cuda or mps.
        precision: fp32, bf16, fp16 or fp64; None takes the run's.

    Raises:
        ValueError: If it is no run folder, holds no expert, or the expert does not fit its base.
    """
    folder = RunFolder.open(path)
    run = folder.run
    if run.task is None:
        names = ", ".join(str(part.path) for part in folder.parts())
        raise ValueError(f"{path} trained several tasks; give the run folder of one: {names}")
    if run.mixture is None and not folder.expert.is_dir():
        raise ValueError(f"{path} holds no expert yet; train it to its end first")
    if device not in DEVICES:
        raise ValueError(f"device: {unknown('device', device, DEVICES)}")
    where = torch.device(available_device() if device == "auto" else device)
    precision = precision or run.training.precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {unknown('precision', precision, PRECISIONS)}")
    dtype = torch.float64 if precision == "fp64" else torch.float32
    if run.mixture is not None:
        loaded = _mixture_on(folder, where, dtype, precision)
        return loaded[run.task.label]
    card = read_card(folder.expert)
    if recipe_file(card.recipe["name"]).trains == "base":
        model, expert, card = load_full(folder.expert)
        model.to(device=where, dtype=dtype)
    else:
        attention = attention_for(where, half=precision in ("bf16", "fp16"))
        base = load_base(
            run.base, revision=run.revision, dtype=dtype, device=where, attention=attention
        )
        expert, card = load_expert(folder.expert, base)
        model = Model(base)
        # Before it is woven in: its factors are made where its weights are.
        model.add(expert.to(where))
    members = (expert.name,)
    return LoadedRun(model.eval(), task_of(card), card, run, expert.name, where, precision, members)


def _mixture_on(
    folder: RunFolder, device: torch.device, dtype: torch.dtype, precision: str
) -> dict[str, LoadedRun]:
    """Every task of a mixture, on one model."""
    run = folder.run
    if not folder.mixture.is_dir():
        raise ValueError(f"{folder.path} holds no mixture yet; train it to its end first")
    half = precision in ("bf16", "fp16")
    base = load_base(
        run.base,
        revision=run.revision,
        dtype=dtype,
        device=device,
        attention=attention_for(device, half=half),
    )
    mix, heads, _ = load_mixture(folder.mixture, base)
    model = Model(base)
    model.add(mix.to(device))
    for head, _ in heads.values():
        model.add(head.to(device))
    model.eval()
    return {
        name: LoadedRun(model, task_of(card), card, run, name, device, precision, (mix.name,))
        for name, (_, card) in heads.items()
    }


def task_of(card: Card) -> Task:
    """The task an expert was trained on, from its card alone."""
    spec = validate(TaskSpec, card.task, "the expert's task")
    return find_kind(spec)(spec, card.labels)


def available_device() -> str:
    """The fastest kind of device this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
