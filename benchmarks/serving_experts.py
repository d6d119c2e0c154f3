"""Experts to serve: one trained for a step on each of three real sets, the others drawn; and real rows to ask them.

shelf/TASK-NN, shelf/mixed     what is served: 25 experts and a mixture of three
other/TASK-NN                  second versions of some, that replace the first
first/TASK                     what was trained
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import weft
from weft.config import TaskSettings
from weft.data.reading import load_task

COUNTS = {"wnut17": 9, "swag": 8, "squad": 8}
"""Experts by set: entities, choices of four, spans; CODAH is read as SWAG."""
ADAPTER = Path("expert") / "adapter_model.safetensors"
REPLACED = 3
"""Experts of each set that have a second version."""
SPREAD = 0.02
"""Standard deviation of a drawn map B: a change of the base about as large as a trained one."""


@dataclass(frozen=True)
class Ask:
    """A request of one input.

    Attributes:
        task: The input's set.
        expert: Who is asked.
        input: What is asked.
    """

    task: str
    expert: str
    input: dict[str, Any]


def names_of(task: str) -> list[str]:
    """The experts of a set."""
    return [f"{task}-{at:02}" for at in range(COUNTS[task])]


def make(data: Path, folder: Path) -> None:
    """Fill a folder with experts, unless they are there."""
    if (folder / "shelf" / "mixed").is_dir():
        return
    # Begun before and not ended.
    shutil.rmtree(folder, ignore_errors=True)
    common: dict[str, Any] = {
        "base": "minilm",
        "training": {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-3},
        "device": "cpu",
    }
    tasks = {task: _settings(task, data) for task in COUNTS}
    lora = {"name": "lora", "rank": 8, "targets": ["query", "value"]}
    for task, own in tasks.items():
        weft.train({**common, "task": own, "recipe": lora}, out=folder / "first" / task)
        for at, name in enumerate(names_of(task)):
            draw(folder / "first" / task, folder / "shelf" / name, seed=at)
            if at < REPLACED:
                draw(folder / "first" / task, folder / "other" / name, seed=100 + at)
    runs = [str(folder / "shelf" / names_of(task)[0]) for task in tasks]
    mixture = {"name": "xlora", "runs": runs, "baselines": False}
    mixed = {**common, "tasks": list(tasks.values()), "mixture": mixture}
    weft.train(mixed, out=folder / "drafted")
    (folder / "drafted").rename(folder / "shelf" / "mixed")


def _settings(task: str, data: Path) -> dict[str, Any]:
    return {
        "name": task,
        "data": str(data / task),
        "max_examples": {"train": 16, "validation": 4},
    }


def draw(source: Path, folder: Path, seed: int) -> None:
    """A run folder like another, its maps B drawn."""
    (folder / "expert").mkdir(parents=True)
    shutil.copy(source / "run.yaml", folder)
    shutil.copytree(source / "expert", folder / "expert", dirs_exist_ok=True)
    draws = torch.Generator().manual_seed(seed)
    tensors = load_file(source / ADAPTER)
    for name, value in tensors.items():
        if ".lora_B" in name:
            tensors[name] = SPREAD * torch.randn(value.shape, generator=draws)
    save_file(tensors, folder / ADAPTER, {"format": "pt"})


def rows_of(data: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """The first inputs of each set's validation rows, without their answers."""
    found = {}
    for task in COUNTS:
        settings = TaskSettings(
            name=task, data=str(data / task), max_examples={"validation": count}
        )
        loaded = load_task(settings, splits=["validation"], seed=0)
        hidden = {loaded.task.target, "id"}
        found[task] = [
            {key: value for key, value in row.items() if key not in hidden}
            for row in loaded.splits["validation"]
        ]
    return found


def traffic(
    rows: dict[str, list[dict[str, Any]]], count: int, seed: int, tasks: Sequence[str] = ()
) -> list[Ask]:
    """Requests in random order: experts drawn evenly among all of some sets, inputs among the set's rows."""
    draws = random.Random(seed)
    experts = [(task, name) for task in tasks or COUNTS for name in names_of(task)]
    found = []
    for _ in range(count):
        task, name = draws.choice(experts)
        found.append(Ask(task, name, draws.choice(rows[task])))
    return found


def every(rows: dict[str, list[dict[str, Any]]], seed: int) -> list[Ask]:
    """A request for each expert."""
    draws = random.Random(seed)
    return [Ask(task, name, draws.choice(rows[task])) for task in COUNTS for name in names_of(task)]


def to_one(asks: Sequence[Ask]) -> list[Ask]:
    """The same inputs, all asked of one expert for each set, set after set."""
    ordered = sorted(asks, key=lambda ask: list(COUNTS).index(ask.task))
    return [Ask(ask.task, names_of(ask.task)[0], ask.input) for ask in ordered]
