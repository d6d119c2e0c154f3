"""Which recipes of a comparison differ from one of them by more than chance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.comparison import Grid, Row, examples_of, final_job, predictions_of
from weft.registry import unknown
from weft.runs import RunFolder
from weft.scoring import holm, mean_difference


@dataclass(frozen=True)
class Contrast:
    """A recipe's distance from the baseline in the metric of one task."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, this contrast alone."""
    p_corrected: float
    """Holm's correction over all recipes contrasted on this task."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def paired_with(
    grid: Grid, folder: str | Path, rows: Sequence[Row], baseline: str
) -> dict[tuple[str, str], Contrast]:
    """Every recipe against `baseline`, by task and recipe, from the predictions in the run folders.

    Args:
        grid: What was compared.
        folder: Where its run folders are.
        rows: What `compare` returned.
        baseline: The recipe that the others are held against.

    Raises:
        KeyError: If the baseline is not among the rows of a task.
    """
    found: dict[tuple[str, str], Contrast] = {}
    for task in grid.tasks:
        own = {row.recipe: row for row in rows if row.task == task}
        if baseline not in own:
            raise KeyError(unknown("recipe of this comparison", baseline, own))
        runs = {name: _runs(grid, Path(folder), row) for name, row in own.items()}
        loaded = examples_of(runs[baseline][0])
        examples = loaded.splits["validation"]
        ids = [example["id"] for example in examples]
        said = {name: [predictions_of(run.path, ids) for run in own] for name, own in runs.items()}
        against = {
            name: mean_difference(loaded.task, said[name], said[baseline], examples)[row.metric]
            for name, row in own.items()
            if name != baseline
        }
        corrected = holm({name: difference.p for name, difference in against.items()})
        for name, difference in against.items():
            found[task, name] = Contrast(**asdict(difference), p_corrected=corrected[name])
    return found


def _runs(grid: Grid, folder: Path, row: Row) -> list[RunFolder]:
    """The final runs of a row, seed by seed."""
    cell = (row.task, row.recipe)
    return [
        RunFolder.open(final_job(grid, folder, cell, row.learning_rate, seed).folder)
        for seed in grid.seeds
    ]
