"""A run's tasks: their rows read, held apart and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weft.base.loading import Base
from weft.base.packing import check_packing
from weft.base.tokens import check_tokens
from weft.config import Run, Split, TaskSettings
from weft.data.encoding import cache_folder, encode_examples
from weft.data.memory import Given
from weft.data.reading import LoadedTask, holdout, load_task
from weft.data.replay import mixed, replayed
from weft.data.users import check_apart
from weft.tasks.contract import Example, Record
from weft.tasks.weights import check_class_weights, class_weights

HOLDOUT = 0.1
"""Share of train that stopping and searches look at, held out of training."""


@dataclass
class Rows:
    """One task's rows, encoded."""

    loaded: LoadedTask
    train: list[Record]
    held: tuple[list[Example], list[Record]] | None
    final: tuple[list[Example], list[Record]]
    class_weights: tuple[float, ...] | None = None
    """What each class counts in the loss; None is 1 everywhere."""


def load(run: Run, settings: TaskSettings, given: Given | None = None) -> LoadedTask:
    """A task with the splits that the run looks at; rows of its own, or those that are given."""
    wants_validation = run.training.evaluate_on == "validation" or (
        run.training.select_on == "validation" and _selects(run)
    )
    splits: list[Split] = ["train", "validation"] if wants_validation else ["train"]
    loaded = load_task(settings, splits=splits, seed=run.seed, given=given)
    if run.personal.apart:
        check_apart(run, loaded)
    if settings.replay is not None:
        loaded = replace(loaded, replay=replayed(loaded.task, settings.replay, run.seed))
    if settings.class_weights is not None:
        check_class_weights(loaded.task, settings.class_weights)
    return loaded


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
    records = encoded(train)
    if not any(record.get("weight", 1.0) for record in records):
        raise ValueError(
            f"task {loaded.settings.label}: all {len(records)} rows that are trained on have weight 0, so nothing "
            "would be learnt; take more rows, or give one more weight"
        )
    on_loss = run.training.early_stopping is not None and run.training.early_stopping_on == "loss"
    if on_loss and chosen and not any(record.get("weight", 1.0) for record in chosen[1]):
        raise ValueError(
            f"task {loaded.settings.label}: all {len(chosen[1])} rows that early stopping looks at have weight 0, so "
            "they have no loss; take more rows, or early_stopping_on: score"
        )
    if loaded.settings.replay is not None:
        others, share = encoded(loaded.replay), loaded.settings.replay.share
        records = mixed(records, others, share, seed=run.seed, name=loaded.settings.label)
    joined = loaded.task.packed(records)
    if joined is not records:
        if run.mixture is not None:
            raise ValueError(
                f"task {loaded.settings.label}: rows of a mixture cannot be packed, whose gates look at whole rows; "
                "set the task's option pack: false"
            )
        check_packing(base)
        records = joined
    wanted = loaded.settings.class_weights
    return Rows(
        loaded,
        records,
        chosen if _selects(run) else None,
        (list(final), final_records),
        None if wanted is None else class_weights(loaded.task, wanted, records),
    )
