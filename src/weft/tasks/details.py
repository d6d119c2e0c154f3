"""Scores class by class, and what was taken for what: what a mean hides."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from weft.tasks.metrics import f1, ratio


@dataclass(frozen=True)
class ClassScores:
    """How one class, or one type of entity, did."""

    label: str
    precision: float
    """Right ones among those said; 0 where none was said."""
    recall: float
    """Right ones among those there; 0 where none is there."""
    f1: float
    support: int
    """How many there are."""
    predicted: int
    """How many were said."""
    correct: int


@dataclass(frozen=True)
class Confusion:
    """What was taken for what."""

    labels: tuple[str, ...]
    """Classes in the order of the matrix."""
    counts: tuple[tuple[int, ...], ...]
    """A row for each class that is right, in it how often each class was said."""


@dataclass(frozen=True)
class Details:
    """What the scores of one split are made of."""

    unit: str
    """What a row of `classes` is: `class`, or `entity type`."""
    classes: tuple[ClassScores, ...]
    confusion: Confusion | None
    """None where a row may have several classes."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Details":
        """What `as_json` gave, read back."""
        matrix = values["confusion"]
        confusion = None
        if matrix is not None:
            counts = tuple(tuple(row) for row in matrix["counts"])
            confusion = Confusion(tuple(matrix["labels"]), counts)
        classes = tuple(ClassScores(**row) for row in values["classes"])
        return cls(values["unit"], classes, confusion)


def class_table(
    labels: Sequence[str], correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray
) -> tuple[ClassScores, ...]:
    """The scores of every class from its counts, each (classes,)."""
    columns = (
        ratio(correct, predicted).tolist(),
        ratio(correct, gold).tolist(),
        f1(correct, predicted, gold).tolist(),
        *(counts.astype(int).tolist() for counts in (gold, predicted, correct)),
    )
    return tuple(
        ClassScores(label, *values) for label, *values in zip(labels, *columns, strict=True)
    )


def confusion(labels: Sequence[str], gold: Sequence[str], said: Sequence[str]) -> Confusion:
    """How often each class was said where each was right; `gold` and `said` are one class a place."""
    place = {label: number for number, label in enumerate(labels)}
    size = len(labels)
    cells = [place[right] * size + place[own] for right, own in zip(gold, said, strict=True)]
    counts = np.bincount(np.array(cells, dtype=np.int64), minlength=size * size)
    return Confusion(
        tuple(labels), tuple(tuple(row) for row in counts.reshape(size, size).tolist())
    )
