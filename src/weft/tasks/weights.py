"""What classes count in the loss: as the user says, or by how rare they are."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from weft.registry import unknown
from weft.tasks.contract import Record, Task
from weft.tasks.metrics import ratio

ClassWeights = Literal["balanced"] | Mapping[str, float]


def check_class_weights(task: Task, wanted: ClassWeights) -> None:
    """Refuse weights that do not fit a task.

    Raises:
        ValueError: If its kind has no classes to weigh, a class is unknown, or no class would count.
    """
    where = f"task {task.spec.name}: class_weights"
    if task.classes_per is None or not task.labels:
        raise ValueError(
            f"{where}: {task.spec.kind} has no classes here, so none can be weighed; weigh rows instead, by "
            "`columns: {weight: ...}` of the set"
        )
    if wanted == "balanced":
        return
    for label in wanted:
        if label not in task.labels:
            raise ValueError(f"{where}: {unknown('class', label, task.labels)}")
    if not any(wanted.get(label, 1.0) for label in task.labels):
        raise ValueError(f"{where}: all classes count 0, so nothing would be learnt; give one more")


def class_weights(task: Task, wanted: ClassWeights, records: Sequence[Record]) -> tuple[float, ...]:
    """The weight of every class, in class order.

    `balanced` gives every class the same total: labelled items / (classes that occur x items of the class), as
    scikit-learn's `compute_class_weight`; where a row has several classes, rows without the class / rows with it, as
    torch's `pos_weight` is meant. Rows count by their own weight. A class that does not occur counts 1.

    Args:
        task: Knows the classes.
        wanted: What the user said.
        records: The training rows.
    """
    if wanted != "balanced":
        return tuple(float(wanted.get(label, 1.0)) for label in task.labels)
    classes = len(task.labels)
    items, several = np.zeros(classes), False
    rows = 0.0
    for record in records:
        own, labels = record.get("weight", 1.0), np.asarray(_flat(record["labels"]))
        rows += own
        several = labels.dtype.kind == "f"
        if several:
            items += own * labels
        else:
            items += own * np.bincount(labels[labels >= 0], minlength=classes)
    if several:
        found = ratio(rows - items, items, empty=1.0)
    else:
        found = ratio(items.sum(), (items > 0).sum() * items, empty=1.0)
    return tuple(found.tolist())


def _flat(labels: object) -> list[float]:
    """A row's labels as one list: of one class, of several, or of every token of every window."""
    if not isinstance(labels, list):
        return [labels]  # type: ignore[list-item]
    return [label for part in labels for label in (part if isinstance(part, list) else [part])]
