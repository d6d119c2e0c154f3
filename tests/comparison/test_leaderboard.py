"""The leaderboard: best first, held against a baseline, with what the searches saw."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.comparison.comparing import Row, compare
from weft.comparison.differences import RESAMPLES_EACH, contrasts, paired_with
from weft.comparison.grid import Cell, Grid
from weft.comparison.leaderboard import leaderboard
from weft.runs import RunFolder

Settings = Callable[..., dict[str, Any]]
Compared = tuple[Grid, Path, list[Row]]


@pytest.fixture(scope="module")
def compared(
    tiny_folder: Callable[[str], Path],
    tasks_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Compared:
    """Two tasks, one of which is better the lower, on two bases; rows come in the grid's order."""
    rates = {"search": {"max_steps": 2}, "training": {"max_steps": 5}}
    grid = Grid.model_validate(
        {
            "bases": [str(tiny_folder("bert")), str(tiny_folder("roberta"))],
            "tasks": {
                name: {"task": {"name": str(tasks_folder / name / f"{name}.yaml")}, **rates}
                for name in ("topic", "fill")
            },
            "recipes": {
                "plain": {"recipe": {"name": "lora", "rank": 1}, "learning_rates": [1e-3]},
                "lora": {
                    "recipe": {"name": "lora", "rank": 2},
                    "learning_rates": [3e-2, 1e-2, 1e-8],
                },
                "full": {"recipe": {"name": "full"}, "learning_rates": [1e-3, 1e-2]},
            },
            "seeds": [0, 1],
            "training": {"batch_size": 4},
            "device": "cpu",
        }
    )
    out = tmp_path_factory.mktemp("compared")
    return grid, out, compare(grid, out)


def test_rows_are_best_first_on_each_task_and_base(compared: Compared) -> None:
    grid, out, rows = compared
    board = leaderboard(grid, out, rows)
    assert len(board["rows"]) == len(rows) == 12
    for base in grid.bases:
        for task, sign in (("topic", -1), ("fill", 1)):
            own = [r for r in board["rows"] if (r["base"], r["task"]) == (base, task)]
            values = [sign * row["scores"][row["metric"]]["value"] for row in own]
            assert values == sorted(values)
            assert [row["place"] for row in own] == [1, 2, 3]
    assert board["baseline"] is None
    assert {row["from_baseline"] for row in board["rows"]} == {None}


def test_costs_are_those_of_the_runs(compared: Compared) -> None:
    _, out, rows = compared
    row = next(row for row in rows if row.recipe == "lora")
    finals = out / Path(row.base).name / "final" / row.task / row.recipe
    told = [RunFolder(path.parent).training or {} for path in finals.glob("*/training.json")]
    assert len(told) == 2
    assert row.peak_memory_mib == max(one["peak_memory_mib"] for one in told)
    assert row.seconds == pytest.approx(sum(one["seconds"] for one in told) / 2, rel=1e-12)


def test_the_search_is_shown_with_intervals_from_low_rates_to_high(compared: Compared) -> None:
    grid, out, rows = compared
    for row in leaderboard(grid, out, rows)["rows"]:
        points = row["search"]
        found = {f"{point['learning_rate']:g}": point["value"] for point in points}
        assert found == row["searched"]
        rates = [point["learning_rate"] for point in points]
        assert rates == sorted(rates)
        assert all(p["low"] <= p["value"] <= p["high"] and p["n"] > 0 for p in points)


def test_contrasts_are_corrected_over_the_whole_board(compared: Compared) -> None:
    grid, out, rows = compared
    found = contrasts(grid, out, rows, "plain")
    assert len(found) == 2 * 2 * 2
    by_cell = {row.cell: row.scores[row.metric].value for row in rows}
    for cell, contrast in found.items():
        other = by_cell[Cell(cell.base, cell.task, "plain")]
        assert contrast.value == pytest.approx(by_cell[cell] - other, abs=1e-12)
    # Holm's rule, written as in the paper: stop at the first P that is not below level / (m - k).
    ordered = sorted(found.values(), key=lambda contrast: contrast.p)
    for level in (0.01, 0.05, 0.2, 0.5):
        kept = [c.p <= level / (len(ordered) - k) for k, c in enumerate(ordered)]
        rejected = kept.index(False) if False in kept else len(kept)
        assert sum(c.p_corrected <= level for c in found.values()) == rejected
    finest = 2 / (max(1000, RESAMPLES_EACH * len(found)) + 1)
    assert all(
        math.isclose(c.p / finest, round(c.p / finest), rel_tol=1e-9) or c.p == 1 for c in ordered
    )
    assert finest * len(found) < 0.05
    # Of a larger family these are a part: the correction to come multiplies by its size.
    finer = 2 / (RESAMPLES_EACH * 100 + 1)
    more = [own.p / finer for own in contrasts(grid, out, rows, "plain", family=100).values()]
    assert all(math.isclose(p, round(p), rel_tol=1e-9) or p * finer == 1 for p in more)
    board = leaderboard(grid, out, rows, baseline="plain")
    for row in board["rows"]:
        contrast = found.get(Cell(row["base"], row["task"], row["recipe"]))
        assert row["from_baseline"] == (contrast.as_json() if contrast else None)
    with pytest.raises(ValueError, match="use contrasts"):
        paired_with(grid, out, rows, "plain")


def test_a_choice_is_of_the_best_and_its_gap_is_what_the_best_is_better_by(
    compared: Compared,
) -> None:
    grid, out, rows = compared
    board = leaderboard(grid, out, rows)
    assert [(own["base"], own["task"]) for own in board["choices"]] == list(
        dict.fromkeys((row["base"], row["task"]) for row in board["rows"])
    )
    for choice in board["choices"]:
        own = [
            r for r in board["rows"] if (r["base"], r["task"]) == (choice["base"], choice["task"])
        ]
        values = {row["recipe"]: row["scores"][row["metric"]]["value"] for row in own}
        assert choice["best"] == own[0]["recipe"]
        assert choice["take"] in (choice["best"], *choice["near"])
        beside, gap = choice["beside"], choice["gap"]
        better = abs(values[choice["best"]] - values[beside])
        assert gap["value"] == pytest.approx(better, abs=1e-9)
        assert gap["low"] <= gap["value"] + 1e-9
        assert gap["value"] <= gap["high"] + 1e-9
    alone = [row for row in rows if row.recipe == "lora"]
    assert leaderboard(grid, out, alone)["choices"] == []


def test_what_to_doubt_is_said(compared: Compared) -> None:
    grid, out, rows = compared
    without = [r for r in rows if (r.task, r.recipe) != ("fill", "plain")]
    said = "\n".join(leaderboard(grid, out, without, baseline="plain")["remarks"])
    assert "rates tried: full 2, lora 3, plain 1" in said
    assert said.count("no row of plain") == 2
    assert said.count("a better one may lie beyond") == sum(row.on_edge for row in rows)
    with pytest.raises(KeyError, match=r"named 'plian'\. Did you mean 'plain'"):
        leaderboard(grid, out, rows, baseline="plian")
