"""A comparison takes its rows as training does: a folder, or rows in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from tests.comparison.grids import bare, grid_of
from weft.comparison.comparing import compare
from weft.comparison.workers import Processes, Workers
from weft.data.formats import read_rows


def test_rows_compare_as_their_files_do(
    run_of: Callable[..., dict[str, Any]], tasks_folder: Path, tmp_path: Path
) -> None:
    expected = bare(compare(grid_of(run_of("topic")), tmp_path / "files"))
    rows = {
        split: [row for row, _ in read_rows(tasks_folder / "topic" / f"{split}.csv")]
        for split in ("train", "validation")
    }
    spec = {"kind": "sequence_classification", "labels": ["animal", "thing"], "max_length": 48}
    grid = grid_of({**run_of("topic"), "task": {"name": "topic", "spec": spec}})
    frames = {split: pd.DataFrame(own) for split, own in rows.items()}
    sets = {
        "topic": datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in rows.items()})
    }
    for number, data in enumerate(
        (rows, frames, sets, str(tasks_folder / "topic"), tasks_folder / "topic")
    ):
        assert bare(compare(grid, tmp_path / str(number), data=data)) == expected
    # Again from the same rows: nothing is repeated, and the table is the same.
    assert bare(compare(grid, tmp_path / "0", data=rows)) == expected


def test_rows_of_this_process_are_not_for_others(
    run_of: Callable[..., dict[str, Any]], tasks_folder: Path, tmp_path: Path
) -> None:
    grid, rows = grid_of(run_of("topic")), {"train": [{"text": "a", "label": "animal"}]}
    with pytest.raises(ValueError, match="rows in memory are in this process alone"):
        compare(grid, tmp_path / "out", data=rows, runner=Workers(Processes(1), 1))
    said = {"name": str(tasks_folder / "topic" / "topic.yaml"), "data": str(tasks_folder)}
    with pytest.raises(ValueError, match=r"the grid says it as well \(tasks topic\); choose one"):
        compare(grid_of({**run_of("topic"), "task": said}), tmp_path / "out", data=tasks_folder)
    assert not (tmp_path / "out").exists()
