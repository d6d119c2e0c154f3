"""The population of another run, taken over for users who came later."""

import shutil
from collections.abc import Mapping
from typing import Any

from weft.atomic import atomic_folder
from weft.config import Run
from weft.data.memory import given_by_task
from weft.data.rows import load
from weft.runs import RunFolder
from weft.storage.card import read_card


def adopt_population(run: Run, folder: RunFolder, data: Mapping[str, Any] | None) -> None:
    """A new run folder with the expert of a finished run as its population.

    Args:
        run: Complete; names the other run.
        folder: Does not exist.
        data: Rows in memory; None reads files.

    Raises:
        ValueError: If the other run has no expert of its own, or one of another base or other classes.
    """
    assert run.task is not None  # settings refuse a personal run of several
    source = RunFolder.open(str(run.personal.population))
    if not source.expert.is_dir() or source.training is None:
        raise ValueError(
            f"personal.population: {source.path} holds no finished expert; give a run that has trained one"
        )
    given = given_by_task(data, [run.task.label])
    read, card = load(run, run.task, given.get(run.task.label)), read_card(source.expert)
    for what, own, theirs in (
        ("base", (run.base, run.revision), (source.run.base, source.run.revision)),
        ("kind", read.task.spec.kind, card.head),
        ("classes", tuple(read.task.labels), card.labels),
    ):
        if own != theirs:
            raise ValueError(
                f"personal.population: {source.path} has another {what}, {theirs}, than this run, {own}; users stand "
                "on a population of the same"
            )
    with atomic_folder(folder.path) as draft:
        shutil.copytree(source.expert, draft / "expert")
        mine = RunFolder(draft)
        mine.write_config(run.model_copy(update={"task": read.settings}))
        mine.write_training(
            {name: value for name, value in source.training.items() if name != "users"}
        )
