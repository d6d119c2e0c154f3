"""Whose rows are whose, and what users must not share between splits."""

from collections.abc import Sequence

from weft.config import Run
from weft.data.reading import LoadedTask
from weft.registry import unknown
from weft.tasks.contract import Example


def by_user(examples: Sequence[Example]) -> dict[str, list[int]]:
    """The places of every user's rows, users in the order of their names."""
    found: dict[str, list[int]] = {}
    for at, example in enumerate(examples):
        found.setdefault(example["user"], []).append(at)
    return dict(sorted(found.items()))


def check_apart(run: Run, loaded: LoadedTask) -> None:
    """Refuse splits that share what the run's protocol keeps apart.

    Raises:
        ValueError: If a column is none of the rows', or a value of one is in two splits; names both rows.
    """
    for column in run.personal.apart:
        seen: dict[str, tuple[str, str]] = {}
        for split, examples in loaded.splits.items():
            for example in examples:
                if column not in example:
                    raise ValueError(
                        f"personal.apart: {unknown('column', column, example)}; name the task's canonical columns"
                    )
                value = str(example[column])
                other, row = seen.setdefault(value, (split, example["id"]))
                if other != split:
                    raise ValueError(
                        f"personal.apart: {column} {value!r:.80} is in two splits, {other} (row {row}) and {split} "
                        f"(row {example['id']}), so scores would tell what was seen in training; split the rows by "
                        f"{column}, or take {column} out of `apart`"
                    )
