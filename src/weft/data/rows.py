"""A run's tasks: their settings complete, their rows read, held apart and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.base.loading import Base
from weft.base.tokens import check_tokens
from weft.config import Run, Split, TaskSettings
from weft.data.encoding import cache_folder, encode_examples
from weft.data.reading import LoadedTask, holdout, load_task
from weft.tasks.contract import Example, Record

HOLDOUT = 0.1
"""Share of train that stopping and searches look at, held out of training."""


@dataclass
class Rows:
    """One task's rows, encoded."""

    loaded: LoadedTask
    train: list[Record]
    held: tuple[list[Example], list[Record]] | None
    final: tuple[list[Example], list[Record]]


def task_settings(run: Run) -> list[TaskSettings]:
    """Every task's settings with its own data folder filled in, absolute."""
    found = []
    for task in [run.task] if run.task else run.tasks:
        assert task is not None
        data = task.data
        if data is None and run.data is not None:
            data = run.data if run.task else str(Path(run.data) / task.label)
        name = (
            str(Path(task.name).resolve()) if task.name.endswith((".yaml", ".yml")) else task.name
        )
        found.append(
            task.model_copy(
                update={
                    "name": name,
                    "data": None if data is None else str(Path(data).expanduser().resolve()),
                }
            )
        )
    return found


def load(run: Run, settings: TaskSettings) -> LoadedTask:
    """A task with the splits that the run looks at."""
    wants_validation = run.training.evaluate_on == "validation" or (
        run.training.select_on == "validation" and _selects(run)
    )
    splits: list[Split] = ["train", "validation"] if wants_validation else ["train"]
    return load_task(settings, splits=splits, seed=run.seed)


def _selects(run: Run) -> bool:
    return run.training.early_stopping is not None or run.training.eval_every is not None


def encode(run: Run, loaded: LoadedTask, base: Base) -> Rows:
    """A task's rows for training, for stopping if the run stops early, and for the final score."""

    def encoded(examples: Sequence[Example]) -> list[Record]:
        records = encode_examples(loaded.task, examples, base.tokenizer, cache=cache_folder())
        check_tokens(base, records)
        return records

    train = list(loaded.splits["train"])
    held: list[Example] | None = None
    if run.training.evaluate_on == "holdout" or (
        _selects(run) and run.training.select_on == "holdout"
    ):
        train, held = holdout(train, HOLDOUT, seed=run.seed)
    selection = held if run.training.select_on == "holdout" else loaded.splits.get("validation")
    final = held if run.training.evaluate_on == "holdout" else loaded.splits["validation"]
    assert final is not None
    final_records = encoded(final)
    if selection is final or selection is None:
        chosen = (final, final_records) if selection is not None else None
    else:
        chosen = (selection, encoded(selection))
    return Rows(
        loaded, encoded(train), chosen if _selects(run) else None, (list(final), final_records)
    )
