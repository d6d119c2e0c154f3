"""Whose rows are whose, what is known of whom, and what users must not share between splits."""

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


def check_states(loaded: LoadedTask, size: int) -> None:
    """Refuse rows whose `state` is not what a mixture's gates read.

    Args:
        loaded: A task's rows.
        size: How many numbers the gates read; 0 reads none.

    Raises:
        ValueError: If a row has none, or another number; says which, and what to do.
    """
    name = loaded.settings.label
    for split, examples in loaded.splits.items():
        for example in examples:
            state = example.get("state")
            if len(state or ()) == size:
                continue
            if state is None:
                raise ValueError(
                    f"task {name}: mixture.state_size {size}, and row {example['id']} of {split} has no state; name "
                    "the column that holds it in the task's file, `columns: {state: THE_COLUMN}`"
                )
            raise ValueError(
                f"task {name}: mixture.state_size is {size}, and row {example['id']} of {split} has a state of "
                f"{len(state)} numbers; set mixture.state_size={len(state)}, or give each row as many"
            )
