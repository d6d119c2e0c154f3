"""Replay: rows of another language, or of another set, learnt beside a task's own so that they are not forgotten.

    tokens replayed = share / (1 - share) * tokens of the task

per epoch, to the nearest whole row. LLiMba trains on 11.5 M tokens of the new language and 2.4 M of related ones, a
share of 17 %. Tokens are those that are learnt; all of them, where a kind draws anew which those are (masks). The mix
is drawn once, so every epoch has that share.
"""

from collections.abc import Sequence

import numpy as np

from weft.config import ReplaySettings, TaskSettings
from weft.data.reading import load_task
from weft.tasks.contract import Example, Record, Task
from weft.tasks.text import UNLABELLED

_DRAWS = 11
"""Keeps these draws apart from those of the rows' order."""


def replayed(task: Task, settings: ReplaySettings, seed: int) -> tuple[Example, ...]:
    """The training rows of the set that is replayed.

    Args:
        task: Beside whose rows they are learnt.
        settings: Which set, and where.
        seed: Of the run.

    Raises:
        ValueError: If the task has classes, or the set is of another kind.
    """
    if task.target is not None or "text" not in task.columns:
        raise ValueError(
            f"task {task.spec.name}: replay mixes texts of a language model; {task.spec.kind} has answers of its own: "
            "train several tasks instead (training.sampling says how they are mixed)"
        )
    other = TaskSettings(name=settings.name, spec=settings.spec, data=settings.data)
    loaded = load_task(other, splits=["train"], seed=seed)
    if loaded.task.spec.kind != task.spec.kind:
        raise ValueError(
            f"task {task.spec.name}: replay: {settings.name} is of kind {loaded.task.spec.kind}, the task of kind "
            f"{task.spec.kind}; replay a set of its kind"
        )
    return tuple({**row, "id": f"replay/{row['id']}"} for row in loaded.splits["train"])


def mixed(
    records: Sequence[Record], others: Sequence[Record], share: float, *, seed: int, name: str
) -> list[Record]:
    """The records, and behind them so many of the others that their share of all learnt tokens is `share`.

    Args:
        records: The task's own, all of which stay.
        others: Drawn from without repeating any.
        share: Over 0, under 1.
        seed: Of the draw.
        name: What errors call the task.

    Raises:
        ValueError: If the others are too few for that share.
    """
    size = learnt if any(map(learnt, records)) else _tokens
    wanted = share / (1 - share) * sum(map(size, records))
    sizes = np.array([size(record) for record in others], dtype=np.int64)
    if sizes.sum() < wanted:
        raise ValueError(
            f"task {name}: replay: a share of {share:g} is {wanted:,.0f} tokens, but there are {sizes.sum():,}; give "
            "more text, or lower the share"
        )
    order = np.random.default_rng([seed, _DRAWS]).permutation(len(others))
    filled = np.cumsum(sizes[order])
    count = int(np.searchsorted(filled, wanted, side="right"))
    chosen, rest = list(order[:count]), order[count:]
    missing = wanted - (filled[count - 1] if count else 0)
    while len(rest):
        at = int(np.abs(sizes[rest] - missing).argmin())
        if abs(sizes[rest[at]] - missing) >= abs(missing):
            break
        chosen.append(rest[at])
        missing -= sizes[rest[at]]
        rest = np.delete(rest, at)
    return [*records, *(others[row] for row in chosen)]


def learnt(record: Record) -> int:
    """How many tokens of a record are learnt."""
    return sum(label != UNLABELLED for labels in record["labels"] for label in labels)


def _tokens(record: Record) -> int:
    return sum(map(len, record["input_ids"]))
