"""Rows that are there already: given in Python, or a `datasets` set saved to disk.

Given rows are `{split: rows}`; rows are a list of mappings, a pandas data frame, or a `datasets.Dataset`. A
`DatasetDict` is such a mapping. They are no settings: `run.yaml` keeps their digests, and nothing else of them.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from weft.config import Split
from weft.data.formats import with_class_names
from weft.data.layout import Placed, Row

Given = Mapping[Split, Any]
"""Rows of one task by split."""


def given_by_task(data: Any, tasks: Sequence[str], split: Split | None = None) -> dict[str, Given]:
    """The rows of each task by its label; {} where none are given.

    Args:
        data: `{split: rows}` of the one task, or `{task: {split: rows}}`.
        tasks: The labels of a run's tasks.
        split: What rows alone are, without a mapping; None refuses them.

    Raises:
        ValueError: If a key is neither, or a task is missing.
        TypeError: If `data` is no mapping.
    """
    if data is None:
        return {}
    splits = get_args(Split)
    if split is not None and (is_table(data) or isinstance(data, list | tuple)):
        data = {split: data}
    if not isinstance(data, Mapping):
        raise TypeError(
            f"data: expected {{'train': rows, 'validation': rows}} or a folder, got {type(data).__name__}"
        )
    if data and all(key in splits for key in data):
        if len(tasks) != 1:
            raise ValueError(f"data: this run has several tasks; give rows for each: {tasks}")
        return {tasks[0]: {key: data[key] for key in splits if key in data}}
    if set(data) != set(tasks):
        raise ValueError(
            f"data: expected splits ({', '.join(splits)}) or this run's tasks ({', '.join(tasks)}), got "
            f"{sorted(map(str, data))!r:.120}"
        )
    return {task: given_by_task(data[task], [task])[task] for task in tasks}


def given_rows(given: Given, split: Split) -> list[Placed]:
    """The rows of one split, values as JSON has them; what a table holds nothing in is None.

    Raises:
        ValueError: If the split was not given.
        TypeError: If its rows are none of the kinds that are read.
    """
    if split not in given:
        raise ValueError(f"data: no rows for the {split} split; given are {', '.join(given)}")
    where = f"data[{split!r}]"
    rows = given[split]
    if not is_table(rows) and (not isinstance(rows, Sequence) or isinstance(rows, str)):
        raise TypeError(
            f"{where}: expected a list of mappings, a pandas data frame or a datasets.Dataset, got "
            f"{type(rows).__name__}"
        )
    return [(row, f"{where}: row {number}") for number, row in enumerate(_rows(rows, where))]


def is_table(rows: Any) -> bool:
    """Whether rows are a pandas data frame or a `datasets.Dataset`."""
    return _is(rows, "pandas", "DataFrame") or _is(rows, "datasets", "Dataset")


def table_rows(rows: Any, where: str) -> Iterator[Row]:
    """The rows of what `is_table`, one after another, values as JSON has them.

    Args:
        rows: A data frame or a `Dataset`.
        where: What errors call it.
    """
    if _is(rows, "pandas", "DataFrame"):
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    else:
        rows = with_class_names(map(dict, rows), rows.features, where)
    return ({str(key): _plain(value) for key, value in row.items()} for row in rows)


def _rows(rows: Any, where: str) -> Iterator[Row]:
    if is_table(rows):
        yield from table_rows(rows, where)
        return
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"{where}: row {number}: expected a mapping, got {row!r:.60}")
        yield {str(key): _plain(value) for key, value in row.items()}


def _is(value: object, package: str, name: str) -> bool:
    """Whether a value is of a class of a package that may not be imported; then it is not."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, getattr(module, name))


def _plain(value: Any) -> Any:
    """Lists and Python's own numbers for arrays and their scalars."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def digest_of(rows: Iterable[Placed]) -> str:
    """SHA-256 of the rows, whatever held them."""
    digest = hashlib.sha256()
    for row, _ in rows:
        digest.update(json.dumps(row, sort_keys=True, default=repr).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def saved_rows(folder: Path, names: Sequence[str]) -> Iterator[Placed] | None:
    """The rows of a split that `datasets` saved to disk; None if the folder holds none.

    Args:
        folder: What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.
        names: What the split may be called.

    Raises:
        ValueError: If the split is not there, there are two, or the files are malformed.
    """
    found = [folder / name for name in names if (folder / name / _STATE).is_file()]
    if len(found) == 1:
        return _saved(found[0])
    if len(found) > 1:
        raise ValueError(
            f"{folder}: more than one saved set could be the {names[0]} split: {found}"
        )
    if (folder / _STATE).is_file():
        raise ValueError(
            f"{folder}: one saved Dataset; name the split it is: `files: {{{names[0]}: .}}`, or save a DatasetDict"
        )
    if (folder / "dataset_dict.json").is_file():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise ValueError(
            f"{folder}: the saved DatasetDict has no {names[0]} split; it has {', '.join(there)}"
        )
    return None


_STATE = "state.json"


def _saved(folder: Path) -> Iterator[Placed]:
    from datasets import Dataset, load_from_disk  # slow to import; only saved sets want it

    try:
        dataset = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: not a set that `datasets` saved: {error!s:.200}") from error
    assert isinstance(dataset, Dataset)  # a folder with the state of one
    rows = with_class_names(map(dict, dataset), dataset.features, str(folder))
    return ((row, f"{folder}: row {number}") for number, row in enumerate(rows))
