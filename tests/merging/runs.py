"""Experts of tiny tasks as their run folders, without a training: random factors, heads that were drawn."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.methods.adapters.starts import move
from tests.methods.adapters.stored import card_of
from weft.base.loading import Base, load_base
from weft.config import RecipeSettings, Run, TaskSettings, to_yaml
from weft.data.reading import find_kind, find_spec
from weft.methods.recipes import resolve
from weft.model.expert import build
from weft.model.head import Head
from weft.storage.experts import save_expert


class Made:
    """Makes run folders in one folder.

    Args:
        folder: Where to.
        base: Folder of the base.
        tasks: Folder of the tiny tasks.
    """

    def __init__(self, folder: Path, base: Path, tasks: Path) -> None:
        self.folder = folder
        self.where = base
        self.tasks = tasks
        self.base: Base = load_base(str(base), dtype=torch.float64)

    def __call__(self, task: str, called: str | None = None, **recipe: Any) -> Path:
        """A run of a task, as if it was trained, in double precision; another name is another expert."""
        name = called or task
        file = self.tasks / task / f"{task}.yaml"
        return self._written(name, TaskSettings(name=str(file)), **recipe)

    def labelled(self, name: str, labels: list[str]) -> Path:
        """A run of a task called `topic` with other labels, whose rows are nowhere."""
        spec = {"kind": "sequence_classification", "labels": labels}
        return self._written(name, TaskSettings(name="topic", spec=spec))

    def _written(self, out: str, settings: TaskSettings, **recipe: Any) -> Path:
        seed = zlib.crc32(out.encode()) % 1000
        default = {"name": "lora", "rank": 2, "targets": ["query", "value"]}
        values = recipe if recipe.get("name") == "head" else default | recipe
        method = resolve(RecipeSettings(**values))
        spec = find_spec(settings)
        labels = tuple(spec.labels or ())
        classes = find_kind(spec)(spec, labels).num_labels
        head = Head(spec.kind, self.base, classes, seed=seed)
        expert = build(out, self.base, method, head, seed=seed)
        move(expert.trained().values(), by=0.3, seed=seed)
        card = card_of(
            expert,
            self.base,
            task=spec.model_dump(mode="json"),
            labels=labels,
            head=spec.kind,
            recipe=method.describe().model_dump(mode="json"),
            train_also=tuple(expert.copies),
        )
        folder = self.folder / out
        folder.mkdir()
        run = Run(
            base=str(self.where),
            task=settings,
            recipe=method.describe(),
            training={"precision": "fp64"},  # type: ignore[arg-type]
        )
        (folder / "run.yaml").write_text(to_yaml(run))
        save_expert(expert, card, self.base, folder / "expert")
        return folder


def made_on(
    tiny_folder: Callable[[str], Path], tasks: Path, folder: Path, base: str = "bert"
) -> Made:
    """The maker of runs on a tiny base."""
    return Made(folder, tiny_folder(base), tasks)
