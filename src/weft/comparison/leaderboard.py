"""The table of a comparison as JSON: rows from best to worst, what differs from the baseline, what the search saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.comparison.choice import Candidate, Gap, choose
from weft.comparison.comparing import Row
from weft.comparison.differences import contrasts
from weft.comparison.grid import Cell, Grid, cells_of
from weft.comparison.jobs import Job, score_of, search_jobs
from weft.data.reading import find_kind, find_spec
from weft.tasks.scoring import LEVEL


def leaderboard(
    grid: Grid,
    out: str | Path,
    rows: Sequence[Row],
    *,
    baseline: str | None = None,
    failed: Sequence[Job] = (),
) -> dict[str, Any]:
    """Rows of every task and base from best to worst, with what is needed to doubt them.

    Args:
        grid: What was compared.
        out: Where its run folders are.
        rows: What `compare` returned, or what `Unfinished` holds.
        baseline: The recipe that the others are held against; None contrasts nothing.
        failed: Runs that `Unfinished` names.

    Returns:
        `{grid, baseline, level, rows, choices, failed, remarks}`; a row is `Row.as_json` with its `place`, `search`
        (a list of `{learning_rate, value, low, high, n}`) and `from_baseline` (a `Contrast` or None).

    Raises:
        KeyError: If the grid has no recipe of the baseline's name.
    """
    folder = Path(out)
    bare: list[str] = []
    against = {}
    if baseline is not None:
        cells_of(grid, [baseline])
        known = {row.cell for row in rows}
        held = [row for row in rows if Cell(row.base, row.task, baseline) in known]
        against = contrasts(grid, folder, held, baseline)
        open_places = {(row.base, row.task) for row in rows} - {(r.base, r.task) for r in held}
        bare = [f"{task} on {base}: no row of {baseline}" for base, task in sorted(open_places)]
    lines = []
    for base, task in dict.fromkeys((cell.base, cell.task) for cell in cells_of(grid)):
        own = [row for row in rows if (row.base, row.task) == (base, task)]
        for place, row in enumerate(_sorted(grid, own), 1):
            contrast = against.get(row.cell)
            found = {"search": _searched(grid, folder, row), "place": place}
            found["from_baseline"] = contrast.as_json() if contrast else None
            lines.append(row.as_json() | found)
    return {
        "grid": grid.model_dump(mode="json"),
        "baseline": baseline,
        "level": LEVEL,
        "rows": lines,
        "choices": _choices(grid, folder, lines, rows),
        "failed": [
            {"run": job.folder.relative_to(folder).as_posix(), "error": job.failure}
            for job in failed
        ],
        "remarks": [*_unequal(grid, rows), *_edges(rows), *_lost(grid, folder, rows), *bare],
    }


def _choices(
    grid: Grid, folder: Path, lines: Sequence[dict[str, Any]], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Which recipe to take on each task and base, where there are several: `{base, task}` and a `Choice`."""
    found = []
    kinds = {name: find_kind(find_spec(entry.task)) for name, entry in grid.tasks.items()}
    for base, task in dict.fromkeys((line["base"], line["task"]) for line in lines):
        # The lines are sorted, best first.
        order = [line["recipe"] for line in lines if (line["base"], line["task"]) == (base, task)]
        own = {row.recipe: row for row in rows if (row.base, row.task) == (base, task)}
        if len(order) < 2:
            continue
        sign = -1 if kinds[task].higher_is_better else 1
        apart = contrasts(grid, folder, list(own.values()), order[0])
        gaps = {}
        for cell, one in apart.items():
            low, high = sorted((sign * one.low, sign * one.high))
            gaps[cell.recipe] = Gap(sign * one.value, low, high, one.p_corrected)
        candidates = [
            Candidate(name, own[name].trainable_parameters, own[name].seconds) for name in order
        ]
        choice = choose(candidates, gaps)
        if choice is not None:
            found.append({"base": base, "task": task, **choice.as_json()})
    return found


def _sorted(grid: Grid, rows: Sequence[Row]) -> list[Row]:
    """Best first; equal ones stay in the order of the grid."""
    if not rows:
        return []
    kind = find_kind(find_spec(grid.tasks[rows[0].task].task))
    sign = -1 if kind.higher_is_better else 1
    return sorted(rows, key=lambda row: sign * row.scores[row.metric].value)


def _searched(grid: Grid, folder: Path, row: Row) -> list[dict[str, Any]]:
    """The held-out score of every rate at which a training ended, lowest rate first."""
    found = []
    for rate, job in sorted(search_jobs(grid, folder, row.cell).items()):
        if job.is_lost:
            continue
        score = score_of(job.folder, row.metric)
        wanted = {key: score[key] for key in ("value", "low", "high", "n")}
        found.append({"learning_rate": rate, **wanted})
    return found


def _lost(grid: Grid, folder: Path, rows: Sequence[Row]) -> list[str]:
    """Rates of searches at which a training diverged."""
    return [
        f"{row.recipe} on {row.task}, {row.base}: training diverged at {rate:g}, which is out of its search"
        for row in rows
        for rate, job in sorted(search_jobs(grid, folder, row.cell).items())
        if job.is_lost
    ]


def _unequal(grid: Grid, rows: Sequence[Row]) -> list[str]:
    """Whether some recipes had more tries than others."""
    tried = {name: len(grid.recipes[name].learning_rates) for name in {r.recipe for r in rows}}
    if len(set(tried.values())) < 2:
        return []
    said = ", ".join(f"{name} {count}" for name, count in sorted(tried.items()))
    return [f"the searches were not equal; rates tried: {said}"]


def _edges(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row.recipe} on {row.task}, {row.base}: its best rate {row.learning_rate:g} is the first or "
        "the last tried; a better one may lie beyond"
        for row in rows
        if row.on_edge
    ]
