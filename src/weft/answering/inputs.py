"""What people ask about, in every form that Python holds it in."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from weft.answering.prediction import Input
from weft.data.formats import read_rows
from weft.data.layout import PLAIN
from weft.data.memory import is_table, table_rows
from weft.data.sources import layout_of
from weft.storage.loading import LoadedMixture, LoadedRun

Inputs = Iterable[Input] | Path
"""Texts or mappings of columns, a data frame, a `datasets.Dataset`, or a `Path` of a file of rows."""


def inputs_of(inputs: Inputs, asked: LoadedRun | LoadedMixture) -> Iterator[Input]:
    """Inputs in any of their forms, one after another.

    Raises:
        TypeError: If they are none of them: a text alone, or a mapping alone.
        ValueError: If a file is missing or malformed; while iterating.
    """
    if isinstance(inputs, Path):
        layout = layout_of(asked.task.spec) if isinstance(asked, LoadedRun) else PLAIN
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
