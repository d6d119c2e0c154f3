"""Run folders as plain data: what a report says of each task of each run, and what it cannot say."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.config import Run
from weft.data.reading import find_kind, find_spec
from weft.methods.recipes import file_of
from weft.model.card import Card
from weft.runs import CONFIG, RunFolder
from weft.storage.card import task_of
from weft.storage.experts import CARD, read_card
from weft.tasks.contract import Task
from weft.training.tracking import log_lines

SPLITS = ("validation", "test", "holdout", "train")
"""Which scores of a run a report is about: the first of these that it has."""
Points = tuple[tuple[int, float], ...]
"""(step, value), in the order of the log."""


@dataclass(frozen=True)
class TaskRun:
    """One run on one task."""

    run: str
    """What the report calls the run: its path, as far as the runs' paths differ."""
    folder: RunFolder
    task: str
    method: str
    """The recipe's name, or the mixture's or the merge's."""
    family: str
    """mixture, or what the recipe trains: adapters, head or base."""
    seed: int
    settings: dict[str, Any]
    """Everything that decides the result but the seed; equal for runs that only repeat each other."""
    together: tuple[str, ...]
    """The tasks that were trained in the same run; its time is that of all of them."""
    split: str | None
    metric: str
    higher_is_better: bool
    loss_unit: str
    scores: tuple[Mapping[str, Any], ...]
    """Rows of `metrics.json` of the split."""
    cost: Mapping[str, Any] | None
    """`training.json`."""
    loss: Points
    selection: Points
    """The metric on the rows that early stopping looks at, while training."""
    card: Card | None
    missing: tuple[str, ...]
    """What the folder lacks, as sentences."""
    merged: bool = False
    """Whether its expert was made of others and not trained."""

    @property
    def score(self) -> Mapping[str, Any] | None:
        """The metric's row."""
        return next((row for row in self.scores if row["name"] == self.metric), None)


def read_runs(paths: Sequence[str | Path]) -> list[TaskRun]:
    """Every task of every run in or below some folders, in the order given; each run once.

    Args:
        paths: Run folders, or folders with run folders somewhere below.

    Raises:
        ValueError: If there is no run folder in one of them, or a file in one is damaged.
    """
    folders = {folder.path.resolve(): folder for path in paths for folder in _found(Path(path))}
    shared = Path(os.path.commonpath([path.parent for path in folders]))
    return [
        _task_run(part, run, path.relative_to(shared))
        for path, folder in folders.items()
        for part, run in _parts(folder)
    ]


def _parts(folder: RunFolder) -> Iterator[tuple[RunFolder, Run]]:
    """The run folder and settings of every task; a run of several writes its tasks' folders at its end."""
    own = folder.run
    for part in folder.parts():
        if (part.path / CONFIG).is_file():
            yield part, part.run
        else:
            task = next(task for task in own.tasks if task.label == part.path.name)
            yield part, own.model_copy(update={"task": task, "tasks": [], "data": None})


def _found(path: Path) -> Iterator[RunFolder]:
    if (path / CONFIG).is_file():
        yield RunFolder.open(path)
        return
    below = sorted(config.parent for config in path.rglob(CONFIG))
    if not below:
        raise ValueError(
            f"{path} is no run folder and has none below it: no {CONFIG}; give folders that "
            "`weft train` or `weft mix` wrote"
        )
    # The folder of a run of several tasks has one for each of them in it.
    inner = {folder for folder in below if folder.parent in below}
    yield from (RunFolder.open(folder) for folder in below if folder not in inner)


def _task_run(part: RunFolder, run: Run, place: Path) -> TaskRun:
    if run.task is None:
        raise ValueError(f"{part.path}: its {CONFIG} names no task, so no training wrote it")
    missing: list[str] = []
    card = _card(part, run)
    task = _task(card, run)
    split = next((s for s in SPLITS if any(row["split"] == s for row in part.metrics)), None)
    scores = tuple(row for row in part.metrics if row["split"] == split)
    if task is None:
        missing.append(
            f"its task's description ({run.task.name}) is not there: its first score counts as its metric"
        )
    family = _family(run)
    if family is None:
        missing.append(
            f"its recipe's description ({run.recipe.name}) is not there: it counts as one of adapters"
        )
    if part.training is None:
        missing.append("training has not ended: no costs")
    if not scores:
        missing.append("it has not been scored: run `weft evaluate` on it")
    loss, selection = _curves(part, run.task.label)
    if not loss and run.merge is None:
        missing.append("no learning curve: its log has no losses")
    first = scores[0]["name"] if scores else "score"
    return TaskRun(
        run=place.as_posix(),
        folder=part,
        task=run.task.label,
        method=_method(run),
        family=family or "adapters",
        seed=run.seed,
        settings=settings_of(run),
        together=_together(part, run),
        split=split,
        metric=task.metric if task else first,
        higher_is_better=task.higher_is_better if task else True,
        loss_unit="squared label units" if _is_regression(task) else "nats",
        scores=scores,
        cost=part.training,
        loss=loss,
        selection=selection,
        card=card,
        missing=tuple(missing),
        merged=run.merge is not None,
    )


def _method(run: Run) -> str:
    if run.merge is not None:
        return f"{run.merge.name} merge"
    return run.mixture.name if run.mixture else run.recipe.name


def settings_of(run: Run) -> dict[str, Any]:
    """Everything that decides a run's result but its seed; of a mixture's experts, what decides theirs."""
    values = run.model_dump(mode="json", exclude={"seed", "device"})
    mixture = values["mixture"]
    if mixture is not None:
        mixture["runs"] = [_settings_at(path) for path in mixture["runs"]]
        del mixture["beside"]
    if values["merge"] is not None:
        values["merge"]["runs"] = [_settings_at(path) for path in values["merge"]["runs"]]
    return values


def _settings_at(path: str) -> Any:
    config = Path(path) / CONFIG
    return settings_of(RunFolder(Path(path)).run) if config.is_file() else path


def _family(run: Run) -> str | None:
    """What was trained; None where the recipe is not there any more."""
    if run.mixture is not None:
        return "mixture"
    try:
        return file_of(run.recipe).trains
    except KeyError:
        return None


def _together(part: RunFolder, run: Run) -> tuple[str, ...]:
    own = RunFolder(part.path.parent)
    if not (own.path / CONFIG).is_file() or not own.run.tasks:
        return (run.task.label,) if run.task else ()
    return tuple(task.label for task in own.run.tasks)


def _card(part: RunFolder, run: Run) -> Card | None:
    assert run.task is not None
    place = part.expert
    if run.mixture is not None:
        place = part.mixture / "heads" / run.task.label
    return read_card(place) if (place / CARD).is_file() else None


def _task(card: Card | None, run: Run) -> Task | None:
    """The task, which knows its metric; from the expert's card, else as it is described now."""
    assert run.task is not None
    if card is not None:
        return task_of(card)
    try:
        spec = find_spec(run.task.name)
    except (KeyError, ValueError):
        return None
    return find_kind(spec)(spec, spec.labels or ())


def _is_regression(task: Task | None) -> bool:
    return task is not None and task.spec.options.get("mode") == "regression"


def _curves(part: RunFolder, task: str) -> tuple[Points, Points]:
    """A task's losses and selection scores; the log lies in the folder of the whole run."""
    log = part.log if part.log.is_file() else RunFolder(part.path.parent).log
    rows = [json.loads(line) for line in log_lines(log)]
    loss, selection = (
        tuple((row["step"], row[key][task]) for row in rows if task in row.get(key, {}))
        for key in ("loss", "score")
    )
    return loss, selection
