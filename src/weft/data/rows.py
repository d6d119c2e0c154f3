"""A run's tasks: their rows read, held apart and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass

from weft.base.loading import Base
from weft.config import Run, Split, TaskSettings
from weft.data.encoding import cache_folder, encode_examples
from weft.data.memory import Given
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


def load(run: Run, settings: TaskSettings, given: Given | None = None) -> LoadedTask:
    """A task with the splits that the run looks at; rows of its own, or those that are given."""
    wants_validation = run.training.evaluate_on == "validation" or (
        run.training.select_on == "validation" and _selects(run)
    )
    splits: list[Split] = ["train", "validation"] if wants_validation else ["train"]
    return load_task(settings, splits=splits, seed=run.seed, given=given)


def _selects(run: Run) -> bool:
    return run.training.early_stopping is not None or run.training.eval_every is not None


def encode(run: Run, loaded: LoadedTask, base: Base) -> Rows:
    """A task's rows for training, for stopping if the run stops early, and for the final score."""

    def encoded(examples: Sequence[Example]) -> list[Record]:
        return encode_examples(loaded.task, examples, base.tokenizer, cache=cache_folder())

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
