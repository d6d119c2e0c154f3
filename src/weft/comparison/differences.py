"""Which recipes of a comparison differ from one of them by more than chance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weft.comparison.comparing import Cell, Grid, Row, examples_of, predictions_of
from weft.comparison.jobs import final_jobs
from weft.registry import unknown
from weft.runs import RunFolder
from weft.scoped import tell
from weft.tasks.scoring import RESAMPLES, Difference, holm, mean_difference

RESAMPLES_EACH = 200
"""Resamples for each contrast made, over the least: p values are multiples of 2 / (resamples + 1), and Holm's
correction multiplies the smallest by the number of contrasts, so 200 let it reach 0.01 however many there are."""


@dataclass(frozen=True)
class Contrast:
    """A recipe's distance from the baseline in the metric of one task."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, this contrast alone."""
    p_corrected: float
    """Holm's correction over all contrasts of the comparison, whatever task and base they are on."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def contrasts(
    grid: Grid, folder: str | Path, rows: Sequence[Row], baseline: str, *, family: int = 0
) -> dict[Cell, Contrast]:
    """Every recipe against `baseline` on its task and base, from the predictions in the run folders.

    Args:
        grid: What was compared.
        folder: Where its run folders are.
        rows: What `compare` returned.
        baseline: The recipe that the others are held against.
        family: Contrasts that these are corrected together with later, if they are more.

    Raises:
        KeyError: If the baseline is not among the rows of a task and base.
    """
    others = [row for row in rows if row.recipe != baseline]
    resamples = max(RESAMPLES, RESAMPLES_EACH * max(family, len(others)))
    found: dict[Cell, Difference] = {}
    for base, task in dict.fromkeys((row.base, row.task) for row in rows):
        tell(f"comparing recipes on {task}")
        own = {row.recipe: row for row in rows if (row.base, row.task) == (base, task)}
        if baseline not in own:
            raise KeyError(unknown("recipe of this comparison", baseline, own))
        runs = {name: _runs(grid, Path(folder), row) for name, row in own.items()}
        loaded = examples_of(runs[baseline][0])
        examples = loaded.splits["validation"]
        ids = [example["id"] for example in examples]
        said = {name: [predictions_of(run.path, ids) for run in own] for name, own in runs.items()}
        for name, row in own.items():
            if name != baseline:
                found[row.cell] = mean_difference(
                    loaded.task, said[name], said[baseline], examples, resamples=resamples
                )[row.metric]
    corrected = holm({_name(cell): difference.p for cell, difference in found.items()})
    return {
        cell: Contrast(**asdict(difference), p_corrected=corrected[_name(cell)])
        for cell, difference in found.items()
    }


def paired_with(
    grid: Grid, folder: str | Path, rows: Sequence[Row], baseline: str, *, family: int = 0
) -> dict[tuple[str, str], Contrast]:
    """`contrasts` of a grid with one base, by task and recipe; arguments as there.

    Raises:
        KeyError: If the baseline is not among the rows of a task.
        ValueError: If the grid has several bases.
    """
    if len(grid.bases) > 1:
        raise ValueError(
            f"the grid has the bases {grid.bases}; use contrasts, which tells them apart"
        )
    found = contrasts(grid, folder, rows, baseline, family=family)
    return {(cell.task, cell.recipe): contrast for cell, contrast in found.items()}


def _name(cell: Cell) -> str:
    return f"{cell.base}\n{cell.task}\n{cell.recipe}"


def _runs(grid: Grid, folder: Path, row: Row) -> list[RunFolder]:
    """The final runs of a row, seed by seed."""
    jobs = final_jobs(grid, folder, row.cell, row.learning_rate)
    return [RunFolder.open(job.folder) for job in jobs]
