"""Recipes compared: rates searched on held-out rows, seeds at the best, nothing run twice."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weft.comparison import Grid, Job, compare
from weft.differences import paired_with
from weft.runs import RunFolder
from weft.training import Event, Interrupted, Report

Settings = Callable[..., dict[str, Any]]


def grid_of(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "base": run["base"],
        "tasks": {"topic": {"task": run["task"]}},
        "recipes": {
            "lora": {"recipe": {"name": "lora", "rank": 2}, "learning_rates": [1e-8, 1e-2]},
            "head": {"recipe": {"name": "head"}, "learning_rates": [1e-3]},
        },
        "seeds": [0, 1],
        "training": {"max_steps": 6, "batch_size": 4},
    }


def test_a_comparison_searches_on_held_out_rows_and_repeats_nothing(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"))
    told: list[Path] = []
    rows = compare(grid, tmp_path / "out", told=lambda job, number, total: told.append(job.folder))
    # Two rates searched for lora, one given for head; two seeds for each.
    assert len(told) == len(set(told)) == 2 + 2 + 2
    searched = [folder for folder in told if "search" in folder.parts]
    assert {row["split"] for folder in searched for row in RunFolder(folder).metrics} == {"holdout"}
    lora, head = rows
    best = max(lora.searched, key=lambda rate: lora.searched[rate])
    assert lora.learning_rate == float(best)
    assert lora.on_edge
    assert head.searched == {}
    for row in rows:
        value = row.scores[row.metric]
        assert value.value == pytest.approx(sum(row.by_seed) / 2, abs=1e-12)
        assert value.low <= value.value <= value.high
        assert row.n == 10
    assert compare(grid, tmp_path / "out", told=lambda job, *_: told.append(job.folder)) == rows
    assert len(told) == 6


def test_recipes_are_held_against_one_of_them(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"))
    rows = compare(grid, tmp_path / "out")
    found = paired_with(Grid.model_validate(grid), tmp_path / "out", rows, "head")
    lora, head = (row.scores[row.metric].value for row in rows)
    assert set(found) == {("topic", "lora")}
    contrast = found["topic", "lora"]
    assert contrast.value == pytest.approx(lora - head, abs=1e-12)
    assert contrast.low <= contrast.value <= contrast.high
    assert contrast.p_corrected == contrast.p
    with pytest.raises(KeyError, match=r"no recipe of this comparison named 'haed'\. Did you mean"):
        paired_with(Grid.model_validate(grid), tmp_path / "out", rows, "haed")


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    run_of: Settings, tmp_path: Path
) -> None:
    grid = grid_of(run_of("topic"))
    whole = compare(grid, tmp_path / "whole")

    def stop(job: Job, number: int, total: int) -> Report | None:
        def report(event: Event) -> None:
            if number == 2 and event.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

        return report

    with pytest.raises(Interrupted):
        compare(grid, tmp_path / "broken", told=stop)
    told: list[str] = []
    rows = compare(grid, tmp_path / "broken", told=lambda job, *_: told.append(str(job.folder)))
    assert len(told) == 4
    for found, expected in zip(rows, whole, strict=True):
        assert replace(found, seconds_per_epoch=0.0) == replace(expected, seconds_per_epoch=0.0)


def test_a_folder_of_another_grid_is_refused(run_of: Settings, tmp_path: Path) -> None:
    grid = grid_of(run_of("topic"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "grid.yaml").write_text("base: other\n")
    with pytest.raises(ValueError, match="another grid"):
        compare(grid, tmp_path / "out")
