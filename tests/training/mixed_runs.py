"""Experts trained for a few steps on tiny bases, and mixtures of them; each once for all tests of a process."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.base.loading import load_base
from weft.model.heads import kind_of
from weft.runs import RunFolder
from weft.training.loop import train
from weft.training.settings import mix_config

ENCODER_KINDS = {
    "topic": "sequence_classification",
    "tags": "token_classification",
    "endings": "multiple_choice",
    "where": "span_extraction",
    "fill": "masked_lm",
}
DECODER_KINDS = {"topic": "sequence_classification", "tags": "token_classification"} | {
    "go_on": "causal_lm"
}
SHORT = {"batch_size": 4, "learning_rate": 5e-3, "base_dropout": 0.0}


class Runs:
    """Makes runs in one folder, and remembers them.

    Args:
        tiny_folder: From a model type to a checkpoint.
        tasks: Folder of the tiny tasks.
        folder: Where to.
    """

    def __init__(self, tiny_folder: Callable[[str], Path], tasks: Path, folder: Path) -> None:
        self.tiny_folder = tiny_folder
        self.tasks = tasks
        self.folder = folder
        self.experts = functools.cache(self._experts)
        self.mixture = functools.cache(self._mixture)

    def kinds(self, base: str) -> dict[str, str]:
        """The tasks that a base has heads for, with their kinds."""
        config = load_base(str(self.tiny_folder(base))).config
        kinds = DECODER_KINDS if base in ("gpt2", "llama") else ENCODER_KINDS
        return {task: kind for task, kind in kinds.items() if kind_of(kind).fits(config)}

    def settings(self, base: str, *tasks: str, **values: Any) -> dict[str, Any]:
        """A run that trains an expert for each task, in double precision."""
        names = [{"name": str(self.tasks / task / f"{task}.yaml")} for task in tasks]
        training = SHORT | {"max_steps": 3, "precision": "fp64"} | values.pop("training", {})
        recipe = {"name": "lora", "rank": 2}
        run = {"base": str(self.tiny_folder(base)), "tasks": names, "recipe": recipe, "seed": 3}
        return run | {"training": training} | values

    def _experts(self, base: str) -> RunFolder:
        """Experts of every task that a base has heads for."""
        run = self.settings(base, *self.kinds(base))
        return train(run, out=self.folder / f"experts-{base}")

    def _mixture(self, base: str, name: str, *overrides: str) -> RunFolder:
        """The experts of a base, one of every kind of head that fits it, mixed in two steps."""
        parts = [part.path for part in self.experts(base).parts()]
        config = mix_config(parts, name, [*steps(2), *overrides])
        return train(config, out=self.folder / f"{name}-{base}-{len(list(self.folder.iterdir()))}")


def steps(count: int) -> list[str]:
    """Overrides of a short training."""
    return [f"training.{key}={value}" for key, value in (SHORT | {"max_steps": count}).items()]


_SHARED: dict[Path, Runs] = {}
"""By the folder of the tasks, which a session has one of."""


def runs_of(
    tiny_folder: Callable[[str], Path], tasks: Path, factory: pytest.TempPathFactory
) -> Runs:
    """The runs that all test files of a process share."""
    if tasks not in _SHARED:
        _SHARED[tasks] = Runs(tiny_folder, tasks, factory.mktemp("mixtures"))
    return _SHARED[tasks]
