"""What people ask about, in all forms that Python holds it in, checked against the task that answers, without torch."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from weft.data.formats import read_rows
from weft.data.layout import PLAIN
from weft.data.memory import is_table, table_rows
from weft.data.reading import example_from_user
from weft.data.sources import layout_of
from weft.guard import parse_json
from weft.tasks.contract import Example, Task, TaskSpec

Input = str | Mapping[str, Any]
"""A text, where the kind takes a single one; or its columns by name, with or without an `id`."""
Inputs = Iterable[Input] | Path
"""Texts or mappings of columns, a data frame, a `datasets.Dataset`, or a `Path` of a file of rows."""


def inputs_of(inputs: Inputs, spec: TaskSpec | None) -> Iterator[Input]:
    """Inputs in any of their forms, one after another.

    Args:
        inputs: As somebody gave them.
        spec: Of the task that answers, which says how a file is laid out; None where each row's is yet to be found.

    Raises:
        TypeError: If they are none of them: a text alone, or a mapping alone.
        ValueError: If a file is missing or malformed; while iterating.
    """
    if isinstance(inputs, Path):
        layout = PLAIN if spec is None else layout_of(spec)
        if not inputs.is_file():
            raise ValueError(f"{inputs}: no such file; give a file of rows, or texts in a list")
        return (row for row, _ in read_rows(inputs, layout=layout))
    if is_table(inputs):
        return iter(table_rows(inputs, "inputs"))
    if isinstance(inputs, str | Mapping):
        what = "a text" if isinstance(inputs, str) else "a mapping"
        raise TypeError(
            f"inputs: expected several, got {what}: put it in a list, or give a file of rows as a pathlib.Path"
        )
    if not isinstance(inputs, Iterable):
        raise TypeError(
            "inputs: expected texts or mappings in a list, a data frame, a datasets.Dataset or a Path, got "
            f"{type(inputs).__name__}"
        )
    return iter(inputs)


def checked_input(task: Task, value: Input, number: int) -> Example:
    """One input as the task's checked example; numbered where it has no id.

    Raises:
        ValueError: If it is text where the kind takes several fields, or a field is wrong.
    """
    where = f"input {number}"
    if isinstance(value, str):
        if "text" not in (*task.columns, *task.optional):
            raise ValueError(
                f"{where}: {task.spec.kind} takes more than a text: "
                f"give a mapping with {fields(task)}"
            )
        value = {"text": value}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{where}: expected a text or a mapping with {fields(task)}, got {value!r:.60}"
        )
    # What the right answer would be is none of the expert's business, and may be in another form.
    hidden = {task.target, task.spec.columns.get(task.target or "")}
    given = {key: item for key, item in value.items() if key not in hidden}
    missing = [name for name in task.columns if not _holds(task, given, name)]
    if missing and not any(_holds(task, given, name) for name in task.optional):
        raise ValueError(
            f"{where}: {', '.join(missing)} is missing; {task.spec.kind} needs {fields(task)}, "
            f"the input has {', '.join(sorted(map(str, given))) or 'nothing'}"
        )
    return example_from_user(task, {"id": str(number), **given}, where)


def fields(task: Task) -> str:
    """What an input of the task must and may hold, for sentences."""
    may = [name for name in task.optional if name != "offsets"]
    return " and ".join(task.columns) + (f" (optional: {', '.join(may)})" if may else "")


def _holds(task: Task, given: Mapping[str, Any], name: str) -> bool:
    """Whether a column is there, by the kind's name or by the set's own."""
    own = task.spec.columns.get(name, name)
    return name in given or own in given or all(part in given for part in own.split(","))


def read_jsonl_lines(stream: Iterable[str]) -> Iterator[Input]:
    """The inputs in a stream of JSON lines, each an object or a string; empty lines do not count.

    Raises:
        ValueError: If a line is not JSON or something else; starts with `line n`.
    """
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _input(line, f"line {number}")
    except UnicodeDecodeError:
        # A stream decodes a block ahead, so this is the first line that it may be.
        raise ValueError(f"line {number + 1} or after: not UTF-8; send UTF-8") from None


def _input(line: str, where: str) -> Input:
    try:
        value = parse_json(line, where, whole=False)
    except ValueError as error:
        raise ValueError(f"{error}; give an object or a text in quotation marks a line") from None
    if not isinstance(value, dict | str):
        raise ValueError(f"{where}: expected an object or a string, got {line.strip():.60}")
    return value
